"""Which models of a root are asked for: by elements, properties, licences, functionals and families."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rootstock.config.licences import each_functional
from rootstock.config.model_string import did_you_mean
from rootstock.errors import ConfigurationError
from rootstock.reports.model import Model

_MOST = 3  # of names in a line


@dataclass(frozen=True)
class Criterion:
    """Something that a model must have: an option, the values of which it must have one, and what a model has."""

    option: str
    values: tuple[str, ...]
    of: Callable[[Model], Sequence[str]]

    def __str__(self) -> str:
        return " ".join(f"{self.option} {value}" for value in self.values)

    def test(self, model: Model) -> bool:
        """Tell whether a model has one of the values."""
        return bool({value.lower() for value in self.values} & {each.lower() for each in self.of(model)})

    def instead(self, model: Model) -> str:
        """Say what a model has that lacks them."""
        has_many = self.option in ("--element", "--property")
        return f"no {self.values[0]}" if has_many else ", ".join(self.of(model)) or "not stated"


def criteria(
    elements: Sequence[str] = (),
    properties: Sequence[str] = (),
    licences: Sequence[str] = (),
    functionals: Sequence[str] = (),
    families: Sequence[str] = (),
) -> list[Criterion]:
    """Return what a model must have: all of the elements and properties, one of the licences, functionals, families.

    Parameters
    ----------
    elements : sequence of str
        A model that does not say which ones it knows has none of them.
    properties : sequence of str
        In ASE's words, or of its extra results.
    licences : sequence of str
        Classes.
    functionals, families : sequence of str
        In small letters or capitals.
    """
    one_of: dict[str, tuple[Sequence[str], Callable[[Model], Sequence[str]]]] = {
        "--licence": (licences, lambda model: [model.licence_class]),
        "--functional": (functionals, lambda model: each_functional(model.functional)),
        "--family": (families, lambda model: [model.family]),
    }
    return [
        *(Criterion("--element", (symbol,), lambda model: model.elements) for symbol in elements),
        *(Criterion("--property", (name,), _results) for name in properties),
        *(Criterion(option, tuple(values), of) for option, (values, of) in one_of.items() if values),
    ]


def _results(model: Model) -> list[str]:
    return [*model.properties, *model.extra_properties]


def check_properties(properties: Sequence[str], models: Sequence[Model]) -> None:
    """Refuse properties that are neither ASE's nor an extra result of a model.

    Parameters
    ----------
    properties : sequence of str
    models : sequence of Model
        Those of the root.

    Raises
    ------
    ConfigurationError
        If there is such a one.
    """
    if not properties:
        return
    from rootstock.worker.channel.memory import PROPERTY_BITS  # here, since it loads numpy

    known = {*PROPERTY_BITS, *(name for model in models for name in model.extra_properties)}
    for name in properties:
        if name not in known:
            meant = did_you_mean(name, known).strip() or f"Properties: {', '.join(sorted(known))}."
            raise ConfigurationError(f"No model has a property {name!r}.", meant)


def chosen(models: Sequence[Model], wanted: Sequence[Criterion], *, unbuilt: bool) -> list[Model]:
    """Return the models that have all that is wanted.

    Parameters
    ----------
    models : sequence of Model
    wanted : sequence of Criterion
    unbuilt : bool
        Whether those are among them that are not built.
    """
    return [model for model in models if (unbuilt or model.built_for) and all(each.test(model) for each in wanted)]


def advice(models: Sequence[Model], wanted: Sequence[Criterion], *, unbuilt: bool) -> Iterator[str]:
    """Yield what to do where no model has all that is wanted: what to leave out, or which model comes near.

    Parameters
    ----------
    models, wanted, unbuilt
        As for `chosen`.
    """
    yield f"No {'' if unbuilt else 'built '}model has {' '.join(map(str, wanted))}."
    if not unbuilt and (found := chosen(models, wanted, unbuilt=True)):
        yield f"Not built here: {_names(found)}. An administrator builds them: rootstock-site install --env NAME"
    without = []
    for left_out in wanted if len(wanted) > 1 else ():
        if found := chosen(models, [each for each in wanted if each is not left_out], unbuilt=unbuilt):
            has = Counter(map(left_out.instead, found)).most_common(1)[0][0]
            without.append(f"Without {left_out}: {_names(found)} ({has})")
    yield from without
    candidates = chosen(models, (), unbuilt=unbuilt)
    nowhere = [each for each in wanted if not any(map(each.test, candidates))]
    named = [each for each in nowhere if each.option in ("--functional", "--family")]
    for each in named:
        values = sorted({value for model in candidates for value in each.of(model)}, key=str.lower)
        yield f"{each.option[2:].capitalize()} here: {', '.join(values) or 'none is stated'}"
    if candidates and not without and not named and len(wanted) > 1:
        nearest = min(candidates, key=lambda model: sum(not each.test(model) for each in wanted))
        lacks = [f"{each} ({each.instead(nearest)})" for each in wanted if not each.test(nearest)]
        yield f"Nearest: {nearest.model}, which lacks {', '.join(lacks)}"


def _names(models: Sequence[Model]) -> str:
    names = [model.model for model in models[:_MOST]]
    return ", ".join(names) + (f" and {len(models) - _MOST} more" if len(models) > _MOST else "")
