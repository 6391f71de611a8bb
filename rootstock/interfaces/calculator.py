"""The ASE calculator."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.client.extra_results import extras_of
from rootstock.client.mpi import worker_session
from rootstock.client.session import WorkerSession
from rootstock.client.timeouts import EVALUATION_S, START_S
from rootstock.errors import UnsupportedPropertyError, WorkerError
from rootstock.interfaces.arguments import (
    DEFAULT_MODEL,
    DEFAULTS,
    NAMES,
    PATIENCE,
    check_arguments,
    require_build,
    with_absolute_paths,
    with_changes,
    worker_spec,
)
from rootstock.interfaces.thread_state import ThreadState, ThreadStates
from rootstock.interfaces.worker_calculator import WorkerCalculator
from rootstock.worker.channel.memory import PROPERTY_BITS


class RootstockCalculator(WorkerCalculator):
    """A machine-learned potential that runs in its own environment, as an ASE calculator.

    The model runs in a worker process, which is started on first use and ends with this process, with `close`, or at
    the end of a ``with`` block. Energies, forces and stress are those of the same calculator in this process, bit for
    bit (numbers of lower precision arrive as float64).

    Threads may share a calculator: each sees the values of its own atoms. Copies share the worker, not the results (NEB
    makes one for each image). A pickle holds arguments, atoms and results; the copies that come out of it in one
    process share one worker, which outlives the last of them by some seconds. Calculators that are made separately have
    workers of their own, unless they are `shared`. Every worker that a calculator starts runs the build that was in use
    when it was made; one that is made anew, also out of a pickle in another process, takes what is in use then.

    Parameters
    ----------
    model : str
        ``{environment}`` or ``{environment}-{model}``, as ``rootstock list`` shows them: ``mace-medium``, ``chgnet``,
        ``mace-/path/to/my.model``; or an alias, such as ``mace-mp-0-medium``. With `environment`, it is passed to the
        environment as it is.
    cluster : str, optional
        A registered cluster, whose root is used; ``auto`` for the one that this machine's name fits.
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
        They travel as JSON: numbers, strings, lists, and dicts with strings as keys; tuples become lists.
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
        File for what the worker prints; it is appended to, and never shortened. By default it is a file in a private
        temporary folder, kept only if the worker or the model fails, and of which only the first and last half
        megabyte stay when it has become longer than 2 MB.
    build : str, optional
        The build that must compute, as `parameters` name it, in use or not. If the root no longer holds it, that is an
        error.
    comm : communicator, optional
        In an MPI program, the ranks that compute the same together; the worker is on the first. By default
        `ase.parallel.world`. ``MPI.COMM_SELF`` gives each rank a worker of its own, for atoms of its own.
    shared : bool
        Use one worker with all others of this process that are made with the same arguments and this, for programs that
        make a calculator for each task. The worker outlives the last of them by some seconds, until the next task.

    Attributes
    ----------
    parameters : dict
        These arguments, ``build`` being the one that computes. A change, here or by `set`, holds from the next call on.

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

    __module__ = "rootstock.calculator"  # where it is imported from; pickles and databases record it

    default_parameters = DEFAULTS

    _not_pickled = (*WorkerCalculator._not_pickled, "_comm", "_last_parameters", "_named")
    _session: WorkerSession
    _pinned: str | None = None  # the build that was asked for
    _named: WorkerSession | None  # whose build `parameters` name

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
        start_timeout: float = START_S,
        timeout: float = EVALUATION_S,
        log: str | os.PathLike[str] | None = None,
        build: str | None = None,
        comm: Any = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self._arguments = check_arguments({
            "model": model, "cluster": cluster, "root": root, "device": device, "environment": environment,
            "checkpoint": checkpoint, "setup_kwargs": setup_kwargs, "launch": launch, "threads": threads,
            "start_timeout": start_timeout, "timeout": timeout, "log": log,
        })  # fmt: skip
        spec = worker_spec(self._arguments, build)
        self._pinned = build
        self.parameters, self._last_parameters = self._with_arguments(self._arguments, spec.model.build_name)
        self._comm, self._shared = comm, shared
        self._use(self._session_for(spec, self._arguments))
        self._named = self._session

    def _restore(self) -> None:
        self._arguments = check_arguments(self._arguments)
        self._last_parameters = {**self.parameters, **self._arguments}
        self._comm = self._named = None  # the build of the results stays named, until others are computed

    def _new_session(self) -> WorkerSession:
        # What a pickle holds can be read where no worker could run: it is looked for when it is needed.
        return worker_session(functools.partial(worker_spec, with_absolute_paths(self._arguments), self._pinned))

    def __repr__(self) -> str:
        changed = {name: self._arguments[name] for name in NAMES if self._arguments[name] != DEFAULTS.get(name)}
        return f"RootstockCalculator({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    # -- ASE's interface

    @property
    def implemented_properties(self) -> list[str]:  # type: ignore[override]
        """What the model can compute. Asking starts the worker."""
        self._sync_parameters()
        return self._session.properties()

    def _get_name(self) -> str:
        return "rootstock"

    def set(self, **changes: Any) -> dict[str, Any]:
        """Change arguments; the next call starts a worker for them. Copies keep theirs.

        `start_timeout` and `timeout` are those of the worker, for all copies that share it; it goes on.

        Parameters
        ----------
        **changes
            By the names of the class.

        Returns
        -------
        dict
            What is new.
        """
        while changes:  # none, as ASE's own constructor calls it
            session = self._session
            with session.own_lock():  # calls of other threads come to their end first
                if session is self._session:  # and so did another thread's change
                    return self._change(changes)
        return {}

    def _change(self, changes: dict[str, Any]) -> dict[str, Any]:
        asked, build = changes.pop("build", None), self._last_parameters.get("build")
        if asked == build:
            asked = None
        arguments = check_arguments(with_changes(self._arguments, changes))
        new = {name: value for name, value in arguments.items() if value != self._arguments[name]}
        old = following = self._session
        states, named = self._states, self._named
        if set(new) <= PATIENCE:  # of a session that is kept, nothing is looked for again
            if asked is not None:  # `parameters` may still name the build of results that came in a pickle
                require_build(asked, old.spec.model.build_name)
            old.set_patience(**new)
        else:
            spec = worker_spec(arguments)
            require_build(asked, build := spec.model.build_name)
            following = named = self._session_for(spec, arguments)
            states = ThreadStates()
            self._pinned = None  # other arguments take what is in use
        # All at once: no interruption leaves arguments that are not those of the worker.
        (self.parameters, self._last_parameters), self._session, self._named, self._arguments, self._states = (
            self._with_arguments(arguments, build), following, named, arguments, states,
        )  # fmt: skip
        if following is not old and self in old.users:
            following.join(self)
            old.release(self)
        return new

    def _with_arguments(self, arguments: dict[str, Any], build: str | None) -> tuple[Any, dict[str, Any]]:
        """Return `parameters` with these arguments, and what shows later whether somebody has changed them."""
        parameters = type(self.parameters)({**self.parameters, **deepcopy(arguments), "build": build})
        return parameters, {**parameters, **arguments}

    def _sync_parameters(self) -> None:
        """Take over what was changed in `parameters`. Entries that are no arguments are the caller's own."""
        current = self.parameters
        try:
            same = current == self._last_parameters
        except ValueError:  # arrays, among the caller's own
            same = False
        if not same:
            known = {**self._arguments, "build": self._last_parameters.get("build")}
            self.set(**{name: current.get(name) for name in known if current.get(name) != known[name]})
            build = self._last_parameters.get("build")
            self.parameters, self._last_parameters = self._with_arguments(self._arguments, build)

    def _compute(self, state: ThreadState, properties: Sequence[str]) -> None:
        bits = 0
        for name in properties:
            bit = PROPERTY_BITS.get(name)
            if bit is None:
                raise PropertyNotImplementedError(f"{name} is not a property that Rootstock carries.")
            bits |= bit
        state.requested |= bits
        # Most simulations ask the same of every step, one property after the other. What was asked of the last atoms
        # is computed together for these: a relaxation of the cell asks for forces, then for stress, and pays once.
        predicted = bits | state.predicted if bits & state.predicted == bits else bits
        session = self._session
        try:
            results = session.evaluate(state.inputs, predicted, bits)
            if extra := extras_of(results):
                state.extra_results = {**state.extra_results, **extra}
            state.results |= results
            if self._named is not session:
                self._name_build(session)
        except WorkerError as error:
            if session is not self._session:  # another thread has changed the arguments meanwhile
                self._compute(state, properties)
            elif isinstance(error, UnsupportedPropertyError):
                raise PropertyNotImplementedError(error.message) from error
            else:
                raise

    def _name_build(self, session: WorkerSession) -> None:
        """Let `parameters` name the build that computes, and stay as they are otherwise: somebody may change them."""
        with session.own_lock():
            if session is self._session:
                build = {"build": session.spec.model.build_name}
                self._last_parameters = {**self._last_parameters, **build}
                self.parameters.update(build)
                self._named = session
