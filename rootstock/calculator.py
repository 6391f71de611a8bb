"""The ASE calculator."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from rootstock.channel.memory import PROPERTY_BITS
from rootstock.clusters import find_root, require_root
from rootstock.environment import EnvironmentManager
from rootstock.errors import ConfigurationError, UnsupportedPropertyError
from rootstock.inputs import Inputs
from rootstock.layout import personal_root
from rootstock.records import read_build
from rootstock.session import Session, WorkerSpec
from rootstock.sources import read_source


class RootstockCalculator(Calculator):
    """A machine-learned potential that runs in its own environment, as an ASE calculator.

    The model runs in a worker process, which is started on first use and ends with this process, with `close`, or at
    the end of a ``with`` block. Energies, forces and stress are those of the same calculator in this process, bit for
    bit (numbers of lower precision arrive as float64).

    Parameters
    ----------
    model : str
        ``{environment}`` or ``{environment}-{model}``, as ``rootstock list`` shows them: ``mace-medium``, ``chgnet``,
        ``mace-/path/to/my.model``. With `environment`, it is passed to the environment as it is.
    cluster : str, optional
        A registered cluster, whose root is used.
    root : path, optional
        A root. With neither: ``ROOTSTOCK_ROOT``, ``ROOTSTOCK_CLUSTER``, or the default cluster of the user's registry.
    device : str
        Passed to the model: ``cuda``, ``cuda:1``, ``cpu``.
    environment : path or str, optional
        An environment file, or the name of a registered one.
    setup_kwargs : Mapping[str, Any], optional
        Further arguments of the environment's ``setup()``, such as ``{"default_dtype": "float64"}`` for MACE.
    launch : {'auto', 'build', 'uv-run'}
        Start the environment's build, or let uv make one in a root of your own. ``auto`` takes a build if there is one.
    threads : int, optional
        Threads of the worker's numerical libraries. By default ``OMP_NUM_THREADS``, or else the processors that this
        process may use, shared among its workers.
    start_timeout : float
        Seconds from the start of the worker until the model is loaded.
    timeout : float
        Seconds for one evaluation.
    log : path, optional
        File for what the worker prints. By default it is kept in a private temporary folder, and only if the worker
        fails.

    Raises
    ------
    ValueError
        If no root is named, two are, or an argument is wrong.
    FileNotFoundError
        If the environment does not exist.
    RootError
        If the root cannot be used, or holds no build of the environment.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from rootstock import RootstockCalculator
    >>> atoms = bulk("Cu")
    >>> atoms.calc = RootstockCalculator(cluster="della", model="mace-medium")  # doctest: +SKIP
    >>> atoms.get_potential_energy()  # doctest: +SKIP
    """

    nolabel = True  # `ase run` passes a label to every calculator that does not say this

    def __init__(
        self,
        model: str = "mace-medium",
        cluster: str | None = None,
        root: str | os.PathLike[str] | None = None,
        device: str = "cuda",
        environment: str | os.PathLike[str] | None = None,
        *,
        setup_kwargs: Mapping[str, Any] | None = None,
        launch: str = "auto",
        threads: int | None = None,
        start_timeout: float = 600.0,
        timeout: float = 3600.0,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        spec = _find_worker(model, cluster, root, environment, device=device, options=_portable(setup_kwargs),
                            mode=launch, threads=threads, start_timeout=start_timeout, timeout=timeout,
                            log=None if log is None else Path(log).absolute())  # fmt: skip
        self._arguments = {
            "model": model, "root": str(spec.manager.layout.root), "device": device,
            "environment": None if environment is None else os.fspath(environment), "setup_kwargs": spec.options,
            "launch": launch, "threads": threads, "start_timeout": start_timeout, "timeout": timeout, "log": log,
        }  # fmt: skip
        self.parameters.update(
            {key: self._arguments[key] for key in ("model", "root", "device") if self._arguments[key]},
            **({"setup_kwargs": dict(spec.options)} if spec.options else {}),
        )
        self._inputs = Inputs()
        self._results_for = self._inputs.state
        self._asked = self._usual = 0  # properties asked of these atoms, and of those before
        self._session = Session(spec)
        self._session.users.add(self)

    # -- ASE's interface

    @property
    def implemented_properties(self) -> list[str]:  # type: ignore[override]
        """What the model can compute. Asking starts the worker."""
        return self._session.client().properties

    def _get_name(self) -> str:
        return "rootstock"

    @property
    def atoms(self) -> Atoms | None:
        """The atoms that `results` are for."""
        return self._inputs.atoms() if self._inputs else None

    @atoms.setter
    def atoms(self, atoms: Atoms | None) -> None:
        self._inputs = Inputs()
        if atoms is not None:
            self._inputs.update(atoms)
        self._results_for = self._inputs.state

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:  # noqa: ARG002  # ASE's signature
        """Return what differs between `atoms` and those that `results` are for; exact, `tol` is not used."""
        return self._inputs.changes_to(atoms) if self._inputs else list(all_changes)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property, computing it if it is not known for these atoms.

        Parameters
        ----------
        name : str
            One of ASE's standard properties.
        atoms : ase.Atoms, optional
            By default those of the last call.
        allow_calculation : bool
            Whether to compute what is not known. If not, None is returned for it.

        Raises
        ------
        PropertyNotImplementedError
            If the model has no such property, or these atoms have none (stress without a periodic cell).
        WorkerError
            If the model failed or the worker was lost; the next call starts anew.
        """
        if atoms is not None:
            self._inputs.update(atoms)
            if self._inputs.state != self._results_for:
                self._forget()
        if allow_calculation:
            self._asked |= PROPERTY_BITS.get(name, 0)
        if name not in self.results:
            if not allow_calculation:
                return None
            self._compute([name])
        value = self.results[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,  # noqa: ARG002  # ASE's signature
    ) -> None:
        """Compute properties into `results`. What changed is found by comparison, not taken from `system_changes`."""
        if atoms is not None:
            self._inputs.update(atoms)
        self._forget()
        self._compute(properties)

    def _forget(self) -> None:
        self.results = {}
        self._usual, self._asked = self._asked, 0
        self._results_for = self._inputs.state

    def _compute(self, properties: Sequence[str]) -> None:
        if not self._inputs:
            raise ConfigurationError("This calculator has no atoms yet.", "Set atoms.calc = calc, and ask the atoms.")
        bits = 0
        for name in properties:
            if name not in PROPERTY_BITS:
                raise PropertyNotImplementedError(f"{name} is not a property that Rootstock carries.")
            bits |= PROPERTY_BITS[name]
        self._asked |= bits
        # Most simulations ask the same of every step, one property after the other. What was asked of the last atoms
        # is computed together for these: a relaxation of the cell asks for forces, then for stress, and pays once.
        usual = bits | self._usual if bits & self._usual == bits else bits
        try:
            self.results |= self._evaluate(usual, bits)
        except UnsupportedPropertyError as error:
            raise PropertyNotImplementedError(error.message) from error

    def _evaluate(self, usual: int, needed: int) -> dict[str, Any]:
        try:
            return self._session.evaluate(self._inputs, usual)
        except UnsupportedPropertyError:
            if usual == needed:
                raise
            return self._session.evaluate(self._inputs, needed)

    # -- the worker

    def start(self) -> Self:
        """Start the worker now, if it is not running, and wait until the model is loaded."""
        self._session.users.add(self)
        self._session.client()
        return self

    def close(self) -> None:
        """End the worker, unless copies of this calculator still use it. `results` stay."""
        self._session.release(self)

    def info(self) -> dict[str, Any]:
        """Return what computes: environment, build, versions, device, node, and how long the start took."""
        client = self._session.client()
        build = client.launch.build
        record = read_build(build) if build else None
        return {
            "environment": client.launch.name,
            "launch": client.launch.mode,
            "build": record.digest if record else None,
            "lock_sha256": record.lock_sha256 if record else None,
            "model": self._session.spec.model,
            "device": self._session.spec.device,
            "start_s": client.start_s,
            "log": str(client.log),
            **{
                key: client.ready.get(key) for key in ("calculator", "host", "pid", "executable", "setup_s", "versions")
            },
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- copies: they share the worker, not the results (NEB makes one for each image)

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.parameters = type(self.parameters)(self.parameters)
        copy.results, copy._inputs = dict(self.results), self._inputs.copy()
        if self in self._session.users:
            self._session.users.add(copy)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = self.__copy__()
        copy.results = {
            name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self.results.items()
        }
        memo[id(self)] = copy
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"results": self.results, "_inputs": self._inputs, "_results_for": self._results_for}
        return _rebuild, (type(self), self._arguments), state


def _rebuild(kind: type[RootstockCalculator], arguments: Mapping[str, Any]) -> RootstockCalculator:
    return kind(**arguments)


def _find_worker(
    model: str,
    cluster: str | None,
    root: str | os.PathLike[str] | None,
    environment: str | os.PathLike[str] | None,
    **rest: Any,
) -> WorkerSpec:
    if not isinstance(model, str):
        raise ConfigurationError(f"model must be a string, not {model!r}.", "For example: model='mace-medium'")
    path = require_root(cluster, root) if environment is None else find_root(cluster, root) or personal_root()
    manager = EnvironmentManager(path)
    if environment is not None:
        given = os.fspath(environment)
        is_path = given.endswith(".py") or os.sep in given
        source = read_source(Path(given).expanduser().absolute()) if is_path else manager.find(given)
    else:
        source, model = manager.find_model(model)
        manager.used_source(source).check_model(model)
    return WorkerSpec(manager, source, model, **rest)


def _portable(options: Mapping[str, Any] | None) -> dict[str, Any]:
    options = dict(options or {})
    try:
        json.dumps(options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"setup_kwargs must hold numbers, strings, lists and dicts of them: {error}.",
            "They travel to another process as JSON.",
        ) from error
    if taken := {"model", "device"} & set(options):
        raise ConfigurationError(f"{taken.pop()!r} is an argument of its own, not one of setup_kwargs.")
    return options
