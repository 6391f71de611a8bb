"""What to cite with a model of a root. Only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rootstock.client.methods import Methods, methods_of
from rootstock.config.citations import bibtex
from rootstock.config.model_string import model_string
from rootstock.errors import RootstockError
from rootstock.reports.find_environment import find_environment
from rootstock.root.layout import RootLayout


@dataclass(frozen=True)
class Citation:
    """What to cite with a model.

    Attributes
    ----------
    model : str
        The model string.
    methods : Methods
    damaged : Mapping[str, RootstockError]
        Records that cannot be read, by their paths in the root.
    """

    model: str
    methods: Methods
    damaged: Mapping[str, RootstockError]

    def to_json(self) -> dict[str, Any]:
        """Return it for programs; ``schema`` changes when a key changes its meaning."""
        works = self.methods.works
        return {
            "schema": 1,
            "model": self.model,
            "methods": self.methods.sentence,
            "works": [{"key": key, **work} for key, work in works.items()],
            "bibtex": bibtex(works),
        }


def read_citation(layout: RootLayout, model: str) -> Citation:
    """Return what to cite with a model; the build is the one in use.

    Parameters
    ----------
    layout : RootLayout
    model : str
        A model string, or an alias.

    Raises
    ------
    UnknownEnvironmentError
        If the root has no such environment; with models that are spelt like it.
    ConfigurationError
        If the environment has no such model.
    RootError
        If the folder is no root, or you may not read it.
    """
    environment, argument = find_environment(layout, model)
    source = environment.source
    hashes = [file.sha256 for file in environment.weights_files(argument)]
    methods = methods_of(source, argument, environment.record, hashes)
    return Citation(model_string(source.name, argument), methods, environment.damaged)
