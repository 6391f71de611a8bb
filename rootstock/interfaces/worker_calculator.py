"""The worker of a calculator: which one it uses, when it starts, and what it says of itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.client.inputs import Inputs
from rootstock.client.method_call import method_call
from rootstock.client.mpi import worker_session
from rootstock.client.session import WorkerSession, WorkerSpec
from rootstock.client.sharing import share_equal
from rootstock.config.model_string import model_string
from rootstock.errors import RootstockError, UnsupportedPropertyError
from rootstock.interfaces.arguments import with_absolute_paths
from rootstock.interfaces.many import ManyCalculator


class WorkerCalculator(ManyCalculator):
    """The part of a calculator that knows its worker."""

    _comm: Any
    _shared = False  # pickles of before 2026.12 hold none

    def _session_for(self, spec: WorkerSpec, arguments: Mapping[str, Any]) -> WorkerSession:
        session = worker_session(lambda: spec, self._comm)
        # Ranks of an MPI program would not let go of it at the same time; they have one worker for all of them anyway.
        if not self._shared or type(session) is not WorkerSession:
            return session
        origin = f"{spec.model.build_name} {spec.model.source.sha256}"
        return share_equal(origin, with_absolute_paths(arguments), lambda: session)

    def start(self) -> Self:
        """Start the worker now, if it is not running, and wait until the model is loaded."""
        self._sync_parameters()
        self._session.join(self)
        self._session.properties()
        return self

    def check_atoms(self, atoms: Atoms) -> None:
        """Refuse atoms that the model cannot compute. A calculation does the same; this starts no worker.

        Parameters
        ----------
        atoms : ase.Atoms

        Raises
        ------
        ConfigurationError
            If its environment file says that it does not know an element, or that it needs something which they lack.
        """
        self._sync_parameters()
        inputs = Inputs()
        inputs.update(atoms)
        self._session.refuse(inputs)

    @property
    def model_name(self) -> str:
        """The model string of what computes, where `parameters` have an alias too; with `environment`, its argument."""
        written: str = self._arguments["model"]
        if self._arguments["environment"] is not None:
            return written
        model = self._session.spec.model
        return written if model.argument == "" else model_string(model.source.name, model.argument)

    @property
    def device(self) -> str:
        """What computes; as long as no worker runs, what was asked for. A model may ignore its device."""
        return self._session.device

    def info(self) -> dict[str, Any]:
        """Return what computes: all that a methods section needs, as JSON can hold it. Asking starts the worker.

        Returns
        -------
        dict
            Environment, build and lock (by their hashes), the versions of every package, model and options, device
            and GPU, node, threads, and seconds: of the start, and of the calls (`Timings.summary`). ``methods`` is a
            sentence with all that; ``rootstock cite`` prints the works that it names.
        """
        self._sync_parameters()
        return self._session.info()

    @property
    def extra_results(self) -> dict[str, Any]:
        """Results of the last calculation that are none of ASE's properties, as the environment file declares them.

        Each is a float or an array, for the atoms that `results` are for; empty where there are no results, or the
        model left none. Results that ASE has names for are in `results`.
        """
        state = self._states.seen()
        return state.extra_results if state.current else {}

    @property
    def extra_properties(self) -> dict[str, str]:
        """The names that `extra_results` may have, each with its shape; asking does not start the worker."""
        self._sync_parameters()
        return dict(self._session.spec.capabilities.extra_properties)

    if not TYPE_CHECKING:  # or no misspelt attribute would be found

        def __getattr__(self, name: str) -> Any:
            """Return a method of the model's calculator that its environment file lists."""
            session = self.__dict__.get("_session")
            # ASE asks each calculator for set_atoms: that is no reason to look for the root of one out of a pickle.
            if session is not None and not name.startswith("_") and name != "set_atoms":
                try:
                    listed = session.spec.capabilities.methods
                except RootstockError as error:  # out of a pickle, where the root is not there
                    raise AttributeError(
                        f"{type(self).__name__!r} object has no attribute {name!r}: {error}"
                    ) from error
                if name in listed:
                    return functools.partial(self._call_method, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _call_method(self, method: str, /, *arguments: Any, **keywords: Any) -> Any:
        self._sync_parameters()
        request = method_call(method, arguments, keywords)
        try:
            return self._session.call_method(request)
        except UnsupportedPropertyError as error:
            raise PropertyNotImplementedError(error.message) from error

    def __enter__(self) -> Self:
        return self.start()
