"""Signals to a command: the first one ends it, wherever it comes, and what the command does at its end is whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rootstock.cli.command import Command

TO_END = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
LONG_S = 0.7  # in which a signal that was lost comes again


def ended(callback: Callable[[], object]) -> Result:
    return CliRunner().invoke(Command("command", callback=callback))


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # the handler runs here


def wait() -> None:
    """Wait for an interruption."""
    for _ in range(1000):
        time.sleep(0.01)
    raise AssertionError("None came.")


class Deaf:
    """An object of which some methods swallow what is raised in them, as Python or numpy does."""

    def __init__(self, number: int) -> None:
        self.number, self.came = number, False

    def in_destructor(self) -> None:
        class Object:
            def __del__(_) -> None:  # noqa: N805
                send(self.number)

        Object()

    def in_attribute(self) -> None:
        class Number(int):
            def __getattr__(_, name: str) -> None:  # noqa: N805
                if not self.came:
                    self.came = True
                    send(self.number)
                raise AttributeError(name)

        np.arange(3) == Number(1)  # noqa: B015
        assert self.came


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", [Deaf.in_destructor, Deaf.in_attribute])
def test_an_interruption_that_is_swallowed_comes_again(where: Callable[[Deaf], None], number: int) -> None:
    """And what the command does at its end is not cut by that."""
    whole = []

    def callback() -> None:
        where(Deaf(number))
        try:
            wait()
        finally:
            time.sleep(LONG_S)
            whole.append(True)

    done = ended(callback)
    assert (done.exit_code, whole) == (130, [True])
    assert done.stderr.startswith("Interrupted. ")


def test_what_is_left_behind_is_closed() -> None:
    """A generator that was left is closed where no exception is seen."""
    whole = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            time.sleep(LONG_S)
            whole.append(True)

    def callback() -> None:
        for _ in numbers():
            send(signal.SIGTERM)
            wait()

    assert (ended(callback).exit_code, whole) == (130, [True])


@pytest.mark.parametrize("number", TO_END)
def test_only_another_ctrl_c_cuts_what_a_command_does_at_its_end(number: int) -> None:
    whole = []

    def callback() -> None:
        try:
            send(signal.SIGTERM)
            wait()
        finally:
            send(number)
            whole.append(True)

    assert (ended(callback).exit_code, bool(whole)) == (130, number != signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in TO_END]

    def callback() -> None:
        assert [signal.getsignal(number) for number in TO_END] != before
        send(signal.SIGTERM)
        wait()

    assert ended(callback).exit_code == 130
    time.sleep(LONG_S)  # another one would end this process
    assert [signal.getsignal(number) for number in TO_END] == before
