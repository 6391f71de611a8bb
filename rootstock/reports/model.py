"""What is known of a model of a root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Verified:
    """What the last verification of a build saw, of this model or of all.

    Attributes
    ----------
    at, device : str
        When it was, on what; empty if there was none.
    passed, missed, not_run : int
        Number of checks.
    """

    at: str = ""
    device: str = ""
    passed: int = 0
    missed: int = 0
    not_run: int = 0

    def __str__(self) -> str:
        if not self.passed + self.missed:
            return "no" if not self.not_run else "not run"
        return f"{self.at[:10]} {f'{self.missed} FAILED' if self.missed else f'{self.passed} passed'}"


@dataclass(frozen=True)
class Model:
    """A model that a root offers.

    Attributes
    ----------
    model : str
        The exact string for ``RootstockCalculator(model=...)``.
    environment, argument : str
        What it is made of.
    description : str
        A line about it.
    package, version : str
        The library that it comes with, and which version is installed; empty if the environment is not built.
    properties, elements, needs : tuple of str
        See `Capabilities`.
    licence : str
        Of its weights; empty if there are none, or nobody says.
    licence_class : str
        What that allows, or the code's licence where there are no weights: see `rootstock.config.licences`.
    family : str
        The name under which it is grouped.
    aliases : tuple of str
        Names by which the field knows it.
    training_set, functional, gated, dispersion, conservative, extra_properties, methods
        See `Capabilities`.
    built_for : tuple of str
        Platform and accelerator of each build; empty if there is none.
    weights : {'package', 'yes', 'none', 'missing', 'unknown'}
        Whether they are here: ``package`` if they are part of an installed package, ``none`` if it has none,
        ``unknown`` if nobody has recorded what they are.
    weights_bytes : int
    verified : Verified
    """

    model: str
    environment: str
    argument: str
    description: str
    package: str
    version: str
    properties: tuple[str, ...]
    elements: tuple[str, ...]
    needs: tuple[str, ...]
    licence: str
    licence_class: str
    family: str
    training_set: str
    functional: str
    gated: str
    dispersion: str
    conservative: bool
    aliases: tuple[str, ...]
    extra_properties: Mapping[str, str]
    methods: tuple[str, ...]
    built_for: tuple[str, ...]
    weights: str
    weights_bytes: int
    verified: Verified
