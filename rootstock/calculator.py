"""The ASE calculator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import TracebackType
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from rootstock.arguments import DEFAULT_MODEL, DEFAULTS, NAMES, PATIENCE, changed, resolve
from rootstock.channel.memory import PROPERTY_BITS
from rootstock.errors import ConfigurationError, UnsupportedPropertyError
from rootstock.inputs import Inputs
from rootstock.parallel import session


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
    checkpoint : str, optional
        Another name of `model`, by which workflow programs call it.
    setup_kwargs : Mapping[str, Any], optional
        Further arguments of the environment's ``setup()``, such as ``{"default_dtype": "float64"}`` for MACE.
    launch : {'auto', 'build', 'uv-run'}
        Start the environment's build, or let uv make one in a root of your own. ``auto`` takes a build if there is one.
    threads : int, optional
        Threads of the worker's numerical libraries. By default ``OMP_NUM_THREADS``, or else the processors that this
        process may use, shared with your other workers there.
    start_timeout : float
        Seconds from the start of the worker until the model is loaded.
    timeout : float
        Seconds for one evaluation.
    log : path, optional
        File for what the worker prints. By default it is kept in a private temporary folder, and only if the worker
        fails.
    comm : communicator, optional
        In an MPI program, the ranks that compute the same together; the worker is on the first. By default
        `ase.parallel.world`. ``MPI.COMM_SELF`` gives each rank a worker of its own, for atoms of its own.

    Attributes
    ----------
    parameters : dict
        These arguments. A change, here or by `set`, holds from the next call on.

    Raises
    ------
    TypeError
        If there is no such argument.
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

    default_parameters = DEFAULTS

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        cluster: str | None = None,
        root: str | os.PathLike[str] | None = None,
        device: str = "cuda",
        environment: str | os.PathLike[str] | None = None,
        *,
        checkpoint: str | None = None,
        setup_kwargs: Mapping[str, Any] | None = None,
        launch: str = "auto",
        threads: int | None = None,
        start_timeout: float = 600.0,
        timeout: float = 3600.0,
        log: str | os.PathLike[str] | None = None,
        comm: Any = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        spec, self._arguments = resolve({
            "model": model, "cluster": cluster, "root": root, "device": device, "environment": environment,
            "checkpoint": checkpoint, "setup_kwargs": setup_kwargs, "launch": launch, "threads": threads,
            "start_timeout": start_timeout, "timeout": timeout, "log": log,
        })  # fmt: skip
        self._show_arguments()
        self._inputs = Inputs()
        self._results_for = self._inputs.state
        self._asked = self._usual = 0  # properties asked of these atoms, and of those before
        self._comm = comm
        self._session = session(spec, comm)
        self._session.users.add(self)

    def __repr__(self) -> str:
        said = {name: self._arguments[name] for name in NAMES if self._arguments[name] != DEFAULTS.get(name)}
        return f"RootstockCalculator({', '.join(f'{name}={value!r}' for name, value in said.items())})"

    # -- ASE's interface

    @property
    def implemented_properties(self) -> list[str]:  # type: ignore[override]
        """What the model can compute. Asking starts the worker."""
        self._follow()
        return self._session.properties()

    def _get_name(self) -> str:
        return "rootstock"

    def get_spin_polarized(self) -> bool:
        """Return False: there are no electrons."""
        return False  # without this method, ASE gives each object one of its own, which keeps the object alive

    def set(self, **changes: Any) -> dict[str, Any]:
        """Change arguments; the next call starts a worker for them. Copies keep theirs.

        Parameters
        ----------
        **changes
            By the names of the class.

        Returns
        -------
        dict
            What is new.
        """
        if not changes:  # as ASE's own constructor calls it
            return {}
        spec, arguments = resolve(changed(self._arguments, changes))
        new = {name: value for name, value in arguments.items() if value != self._arguments[name]}
        self._arguments = arguments
        self._show_arguments()
        if set(new) <= PATIENCE:
            self._session.spec = spec
        else:
            old, self._session = self._session, session(spec, self._comm)
            if self in old.users:
                old.release(self)
                self._session.users.add(self)
            self.reset()  # type: ignore[no-untyped-call]
        return new

    def _show_arguments(self) -> None:
        self.parameters = type(self.parameters)({**self.parameters, **deepcopy(self._arguments)})
        self._seen = {**self.parameters, **self._arguments}

    def _follow(self) -> None:
        """Take over what was changed in `parameters`. Entries that are no arguments are the caller's own."""
        if self.parameters != self._seen:
            there = self.parameters
            self.set(**{name: there.get(name) for name in NAMES if there.get(name) != self._arguments[name]})
            self._show_arguments()

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
        self._follow()
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
        self._follow()
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
            self.results |= self._session.evaluate(self._inputs, usual, bits)
        except UnsupportedPropertyError as error:
            raise PropertyNotImplementedError(error.message) from error

    # -- the worker

    def start(self) -> Self:
        """Start the worker now, if it is not running, and wait until the model is loaded."""
        self._follow()
        self._session.users.add(self)
        self._session.properties()
        return self

    def close(self) -> None:
        """End the worker, unless copies of this calculator still use it. `results` stay."""
        self._session.release(self)

    def info(self) -> dict[str, Any]:
        """Return what computes: all that a methods section needs, as JSON can hold it. Asking starts the worker.

        Returns
        -------
        dict
            Environment, build and lock (by their hashes), the versions of every package, model and options, device
            and GPU, node, threads, and seconds: of the start, and of the calls (`Timings.summary`).
        """
        self._follow()
        return self._session.info()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- copies: they share the worker, not the results (NEB makes one for each image)

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._show_arguments()
        twin.results, twin._inputs = dict(self.results), self._inputs.copy()
        if self in self._session.users:
            self._session.users.add(twin)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = twin = self.__copy__()
        twin.results = deepcopy(self.results)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "results": self.results, "_inputs": self._inputs, "_results_for": self._results_for,
            "parameters": self.parameters,
        }  # fmt: skip
        return _rebuild, (type(self), self._arguments), state


def _rebuild(kind: type[RootstockCalculator], arguments: Mapping[str, Any]) -> RootstockCalculator:
    return kind(**arguments)
