"""How long evaluations took."""

from __future__ import annotations

from collections import deque

from rootstock.client.threads import ThreadWatch


class Timings:
    """How long evaluations took, from the question to the answer."""

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0
        self._recent: deque[float] = deque(maxlen=1000)
        self.watch = ThreadWatch()
        self.add_recent = self._recent.append

    def summary(self) -> dict[str, float]:
        """Return the number of evaluations and their mean, and of the last thousand the median, 95 % and maximum."""
        if not self.count:
            return {"count": 0}
        recent = sorted(self._recent)
        return {
            "count": self.count,
            "mean_s": self.total / self.count,
            "median_s": recent[len(recent) // 2],
            "p95_s": recent[len(recent) * 95 // 100],
            "max_s": recent[-1],
        }
