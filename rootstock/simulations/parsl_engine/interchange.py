"""Parsl's interchange, which ends with the program that has started it.

Parsl's own goes on without it: managers would compute what it still holds, and never end.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

from rootstock.root.signals import start_thread

_LOOK_S = 1.0
MODULE = "parsl.executors.high_throughput.interchange"


def main() -> None:
    """Run the interchange; its one argument is the process that starts it."""
    head = int(sys.argv.pop(1))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a terminal and a batch system send them to all; the head decides
    start_thread(threading.Thread(target=_end_with, args=(head,), name="rootstock-head", daemon=True))
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


def _end_with(head: int) -> None:
    while os.getppid() == head:
        time.sleep(_LOOK_S)
    os._exit(1)
