"""What a model asks for before it computes, as its file says: elements, what `needs` lists, and dispersion once only.

Checkpoints of a user's own are not in the file: nothing is asked of them, but for the meaning of ``dispersion``.
"""

from __future__ import annotations

import os
import reprlib
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from glob import glob
from typing import Any

from rootstock.config.capabilities import SYMBOLS, compress
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.model_string import is_path, model_string
from rootstock.errors import ConfigurationError

# Entries of atoms.info: what each is, and a value for examples.
INFO = {"charge": ("the total charge", 0), "spin": ("the spin multiplicity", 1), "mult": ("the spin multiplicity", 1)}
# Arrays of the atoms: how each is set.
ARRAYS = {
    "initial_charges": "atoms.set_initial_charges([0.0] * len(atoms))",
    "initial_magmoms": "atoms.set_initial_magnetic_moments([1.0] * len(atoms))",
}
GPU = "gpu"
OFFERED, INCLUDED = DISPERSION = ("offered", "included")


def setup_words(needs: Collection[str]) -> list[str]:
    """Return what of `needs` is an argument of ``setup()``: every word that has no other meaning."""
    return [name for name in needs if name not in (*INFO, *ARRAYS, GPU)]


def example_info(needs: Collection[str]) -> dict[str, int]:
    """Return entries of ``atoms.info`` such as a model needs."""
    return {name: INFO[name][1] for name in needs if name in INFO}


def example_lines(needs: Collection[str]) -> list[str]:
    """Return the lines of Python that give atoms what a model needs."""
    info = [f'atoms.info["{name}"] = {value}' for name, value in example_info(needs).items()]
    return info + [ARRAYS[name] for name in needs if name in ARRAYS]


def is_checkpoint(source: EnvironmentSource, model: str) -> bool:
    """Tell whether a model is a checkpoint of a user's own, of which the file says nothing.

    Parameters
    ----------
    source : EnvironmentSource
    model : str
        Argument of ``setup()``.
    """
    return is_path(model) or (model not in source.models and (os.path.exists(model) or bool(glob(model))))


def listed_properties(source: EnvironmentSource, model: str) -> list[str] | None:
    """Return the properties that a model may offer; None for all that its calculator declares.

    Parameters
    ----------
    source, model
        As `is_checkpoint`.
    """
    said = source.capabilities(model)
    return None if is_checkpoint(source, model) or not said.properties else [*said.properties, *said.optional]


@dataclass(frozen=True)
class Demands:
    """What a model asks of a structure.

    Attributes
    ----------
    model : str
        Its model string.
    elements : tuple of str
        Those that it knows; empty if the file does not say, or it takes any.
    needs : tuple of str
        The entries of ``atoms.info`` and the arrays that a structure must have.
    """

    model: str
    elements: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def refuse_elements(self, numbers: Collection[int]) -> None:
        """Refuse elements that the model does not know.

        Parameters
        ----------
        numbers : collection of int
            Atomic numbers.

        Raises
        ------
        ConfigurationError
            With those that it knows.
        """
        names = [
            SYMBOLS[number - 1] if 0 < number <= len(SYMBOLS) else f"number {number}" for number in sorted(numbers)
        ]
        strange = [name for name in names if name not in self.elements] if self.elements else []
        if strange:
            several = "s" if len(strange) > 1 else ""
            raise ConfigurationError(
                f"Model {self.model} does not know the element{several} {', '.join(strange)}: nothing was computed. "
                f"It knows {compress(self.elements)}.",
                "'rootstock list' shows other models.",
            )

    def refuse_lack(self, given: Collection[str]) -> None:
        """Refuse a structure that lacks something which the model reads.

        Parameters
        ----------
        given : collection of str
            The names of what it has, of `INFO` and `ARRAYS`.

        Raises
        ------
        ConfigurationError
            With the lines of Python that set it.
        """
        if missing := [name for name in self.needs if name not in given]:
            info = [name for name in missing if name in INFO]
            what = [f'{INFO[name][0]} in atoms.info["{name}"]' if name in INFO else name for name in missing]
            in_file = f"\nIn an extended XYZ file: {' '.join(f'{n}={INFO[n][1]}' for n in info)} in the second line."
            raise ConfigurationError(
                f"Model {self.model} needs {' and '.join(what)}, which the structure lacks: nothing was computed.",
                f"For example: {'; '.join(example_lines(missing))}{in_file if info else ''}",
            )

    def refuse_info(self, info: Mapping[str, Any]) -> None:
        """Refuse entries of ``atoms.info`` that are to be numbers and are none: a library may take another one.

        Parameters
        ----------
        info : Mapping of str to Any

        Raises
        ------
        ConfigurationError
            With what the first one is.
        """
        for name in self.needs:
            if name in INFO and name in info and not _is_number(info[name]):
                raise ConfigurationError(
                    f'Model {self.model} needs {INFO[name][0]} as a number: atoms.info["{name}"] is '
                    f"{reprlib.repr(info[name])}. Nothing was computed.",
                    f"For example: {'; '.join(example_lines([name]))}",
                )


def _is_number(value: Any) -> bool:
    value = value.item() if getattr(value, "size", 0) == 1 else value  # an array of one, and numpy's own numbers
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def demands_of(source: EnvironmentSource, model: str) -> Demands:
    """Return what a model asks of structures.

    Parameters
    ----------
    source, model
        As `is_checkpoint`.
    """
    name = model_string(source.name, model)
    if is_checkpoint(source, model):
        return Demands(name)
    said = source.capabilities(model)
    return Demands(name, said.elements, tuple(word for word in said.needs if word in INFO or word in ARRAYS))


def setup_arguments(
    source: EnvironmentSource, model: str, device: str, options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return what ``setup()`` is given; refuse arguments with which a model would not compute, or not what was meant.

    ``"dispersion": False`` asks for nothing, and so does not reach a ``setup()`` that may not know the word.

    Parameters
    ----------
    source, model
        As `is_checkpoint`.
    device : str
        What it is to compute on.
    options : Mapping[str, Any]
        Further arguments of its ``setup()``.

    Raises
    ------
    ConfigurationError
        If an argument is missing that the model needs, it needs a GPU, or dispersion would be added that the model
        holds already, or does not offer.
    """
    if not source.rootstock:
        return options
    name, own = model_string(source.name, model), is_checkpoint(source, model)
    needs = () if own else source.capabilities(model).needs
    if missing := [word for word in setup_words(needs) if word not in options]:
        given = ", ".join(f'"{word}": "NAME"' for word in missing)
        raise ConfigurationError(
            f"Model {name} needs {' and '.join(map(repr, missing))} among its setup_kwargs.",
            f"In Python: setup_kwargs={{{given}}}; on a command line: "
            f'--calc-kwargs "{{{given.replace(chr(34), chr(39))}}}". What can be given: rootstock show {name}',
        )
    if GPU in needs and device == "cpu":
        raise ConfigurationError(
            f"Model {name} computes on a GPU only, and the device is 'cpu'.",
            "In Python: device='cuda'; on a command line: --device cuda",
        )
    for fault in _of_dispersion(options, None if own else source.capabilities(model).dispersion):
        raise ConfigurationError(f"Model {name}: {fault}")
    return {key: value for key, value in options.items() if key != "dispersion" or value is not False}


def _of_dispersion(options: Mapping[str, Any], said: str | None) -> Iterator[str]:
    """Yield what is wrong with the arguments about dispersion; `said` is what the file says, None of a checkpoint."""
    wanted, details = options.get("dispersion", False), options.get("dispersion_kwargs", {})
    if not isinstance(wanted, bool):
        yield f"dispersion must be True or False, not {wanted!r}; its arguments go into dispersion_kwargs."
    if not isinstance(details, Mapping):
        yield f"dispersion_kwargs must be a dict, not {details!r}."
    if "dispersion_kwargs" in options and not wanted:
        yield "dispersion_kwargs is of no use without 'dispersion': True."
    if wanted and said == INCLUDED:
        yield (
            "its data, or its code, hold dispersion already; 'dispersion': True would count it twice. Leave it out of "
            "setup_kwargs."
        )
    if wanted and said == "":
        yield "it offers no dispersion correction. Leave 'dispersion' out of setup_kwargs."
