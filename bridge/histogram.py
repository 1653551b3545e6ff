"""How long things took: a histogram that costs an increment to add to, over nine decades of time."""

from __future__ import annotations

import math

import numpy as np

BINS_PER_DECADE = 50  # neighbouring bins differ by 5 %
SMALLEST, DECADES = 1e-7, 9  # s


class Histogram:
    """Counts of durations in logarithmic bins; quantiles are exact to the width of a bin."""

    def __init__(self) -> None:
        """An empty one."""
        self.counts = np.zeros(BINS_PER_DECADE * DECADES + 1, np.int64)
        self.largest = 0.0  # s

    def add(self, seconds: float) -> None:
        """Counts one duration [s]."""
        position = BINS_PER_DECADE * math.log10(max(seconds, SMALLEST) / SMALLEST)
        self.counts[min(int(position), len(self.counts) - 1)] += 1
        self.largest = max(self.largest, seconds)

    def quantile(self, share: float) -> float:
        """The duration [s] that `share` of all durations do not exceed: the upper edge of its bin; NaN if empty."""
        total = int(self.counts.sum())
        if not total:
            return math.nan
        index = int(np.searchsorted(np.cumsum(self.counts), math.ceil(share * total)))
        return min(SMALLEST * 10.0 ** ((index + 1) / BINS_PER_DECADE), self.largest)

    def __str__(self) -> str:
        """Quantiles in ms, and a bar for each fifth of a decade that holds anything."""
        total = int(self.counts.sum())
        if not total:
            return "nothing was measured"
        shares = {"median": 0.5, "p99": 0.99, "p99.9": 0.999}
        lines = [", ".join(f"{name} {1e3 * self.quantile(share):.3f} ms" for name, share in shares.items())]
        lines[0] += f", largest {1e3 * self.largest:.3f} ms, of {total}"
        step = BINS_PER_DECADE // 5
        for first in range(0, len(self.counts), step):
            count = int(self.counts[first : first + step].sum())
            if count:
                edge = 1e3 * SMALLEST * 10.0 ** (first / BINS_PER_DECADE)
                lines.append(f"{edge:10.4f} ms and more  {'#' * max(1, round(40 * count / total)):40s} {count}")
        return "\n".join(lines)
