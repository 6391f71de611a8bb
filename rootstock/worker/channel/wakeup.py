"""Flags in the shared memory by which an end that is still awake sees that a frame was sent.

A flag is a hint and nothing more. Frames come through the socket, in the kernel's order, so flags need no memory
barriers; and whatever a flag says, a frame is waited for in the same way.
"""

from __future__ import annotations

import mmap

from rootstock.worker.channel.spin import AdaptiveSpin

ROOM = 128  # bytes at the beginning of the shared memory: a cache line for each end
CLIENT, WORKER = 0, 64


class WakeupFlag:
    """One end's view of the two flags: a count of the frames that each end sent.

    Parameters
    ----------
    fd : int
        Descriptor of the shared memory.
    end : int
        `CLIENT` or `WORKER`.
    """

    def __init__(self, fd: int, end: int) -> None:
        self._flags = mmap.mmap(fd, ROOM)
        self._mine, self._theirs = end, CLIENT + WORKER - end
        self._sent = self._seen = 0
        self._adaptive_spin = AdaptiveSpin()

    def notify(self) -> None:
        """Say that a frame was sent."""
        self._sent = sent = (self._sent + 1) & 0xFF
        self._flags[self._mine] = sent

    def spin(self) -> None:
        """Look for a frame of the other end for a moment, if that is worth while."""
        self._adaptive_spin.until(self._is_set)

    def _is_set(self) -> bool:
        return self._flags[self._theirs] != self._seen

    def acknowledge(self) -> None:
        """Take note that a frame was received: the next one is told from it."""
        self._seen = self._flags[self._theirs]

    def close(self) -> None:
        """Let go of the memory."""
        self._flags.close()
