"""Entry of a worker's process: ``python -I -B <this file> SOCKET MEMORY LIFELINE`` with inherited descriptors.

It runs as a file, so that the interpreter of a model's environment needs nothing of ours installed, and from the
worker's zip file (`rootstock-worker.pyz`).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path


def load_package() -> None:
    """Make ``rootstock`` importable from where this file is, and nothing else that lies there."""
    package = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "rootstock", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None  # a file whose name ends in .py always has one, and a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rootstock"] = module
    spec.loader.exec_module(module)


def end_with(lifeline: int) -> None:
    """End this process and its children, whatever they do, when the client writes to the pipe `lifeline` or closes it.

    The kernel closes the client's end when the client ends, however it ends. Linux then sends SIGKILL (signal-driven
    input, fcntl(2) F_SETSIG), which needs no interpreter: a model that computes in C, holds the interpreter's lock or
    has been stopped ends too. The signal goes to the whole group, which the worker leads and cannot leave; the guard
    ends the others (`rootstock.worker.descendants`).
    """
    try:
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):  # macOS; a sandbox that does not know of it
        import threading

        threading.Thread(target=lambda: (os.read(lifeline, 1), os._exit(1)), daemon=True).start()
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):  # it was closed before the kernel was asked
        os._exit(1)


def main(arguments: list[str]) -> None:
    """Serve the client that passed these descriptors."""
    socket_fd, memory_fd, lifeline = map(int, arguments)
    if __package__ != "rootstock.worker":
        load_package()
    from rootstock.worker.descendants import run_guarded

    run_guarded([socket_fd, memory_fd])  # it keeps the lifeline open, which a model may close with all others
    end_with(lifeline)

    import faulthandler

    faulthandler.enable()  # a crash leaves its traceback in the log
    from rootstock.worker.channel.endpoint import Endpoint
    from rootstock.worker.channel.memory import SharedMemory
    from rootstock.worker.channel.wakeup import WORKER, WakeupFlag
    from rootstock.worker.loop import serve
    from rootstock.worker.output import print_what_fits
    from rootstock.worker.signals import outlive

    outlive()
    print_what_fits()
    for fd in (socket_fd, memory_fd, lifeline):
        os.set_inheritable(fd, False)
    try:
        serve(Endpoint(socket.socket(fileno=socket_fd), WakeupFlag(memory_fd, WORKER)), SharedMemory(memory_fd))
    except BaseException:  # noqa: BLE001
        # At once: Python's own end waits for the threads of a model, and the client would wait for that.
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
