"""The one line that says how a run is doing, on a terminal and in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO


def format_count(value: float) -> str:
    """A count with three digits: 950, 12.3 k, 98.3 M, 1.47 G."""
    for limit, scale, unit in ((1e3, 1.0, ""), (1e6, 1e3, " k"), (1e9, 1e6, " M"), (float("inf"), 1e9, " G")):
        if value < limit * 0.9995:
            return f"{value / scale:.3g}{unit}"
    raise ValueError(f"Not a finite count: {value}.")


def format_duration(seconds: float) -> str:
    """A duration with two units: 42 s, 9 min 05 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def progress_line(row: Mapping[str, float], env_steps: int, total: int, seconds_left: float) -> str:
    """How far the run is, how fast, how good, and how long it still takes.

    Args:
        row: Metrics of the last iteration.
        env_steps: Taken so far.
        total: To be taken.
        seconds_left: Estimate.
    """
    episode = (row["train/episode_return"], row["train/episode_length"])
    episode_return, length = ("-" if math.isnan(x) else f"{x:.4g}" for x in episode)
    return (
        f"iteration {row['iteration']} | {format_count(env_steps)} of {format_count(total)} steps | "
        f"{format_count(row['perf/env_steps_per_second'])} steps/s | reward {row['train/reward']:.3g} | "
        f"return {episode_return} | length {length} | ETA {format_duration(max(seconds_left, 0.0))}"
    )


class Failures:
    """Counts, over the iterations of a process, the steps in which something of the environment's failed."""

    def __init__(self, names: Sequence[str]) -> None:
        """Counts the metrics `names`, each 0 or 1 in every step of every environment."""
        self._counts = dict.fromkeys(names, 0.0)
        self._steps = 0

    def add(self, row: Mapping[str, float], env_steps: int) -> None:
        """Counts an iteration of `env_steps` steps, of which `row` holds the means."""
        self._steps += env_steps
        for name in self._counts:
            self._counts[name] += row[name] * env_steps

    def rates(self) -> dict[str, float]:
        """Share of the steps; NaN before the first."""
        return {name: count / self._steps if self._steps else math.nan for name, count in self._counts.items()}

    def sentences(self, since: str = "") -> list[str]:
        """One for each metric; `since` says of which steps, if not of all."""
        steps = f"{format_count(self._steps)} steps{since}"
        rates = self.rates() if self._steps else {}
        return [
            f"{name}: {100 * rate:.3g} % of {steps} ({format_count(self._counts[name])})."
            for name, rate in rates.items()
        ]


class Progress:
    """Shows a line that is rewritten on a terminal, and repeated every `interval` seconds elsewhere."""

    def __init__(self, interval: float, stream: TextIO | None = None) -> None:
        """Writes to `stream`, by default to the standard output of the time of the call."""
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._interval = 0.1 if self._terminal else interval  # seconds
        self._last = float("-inf")
        self._shown = ""
        self._line_open = False

    def update(self, line: str, force: bool = False) -> None:
        """Shows the state of the run if the last showing is long enough ago, or if forced."""
        now = time.monotonic()
        if line == self._shown or (not force and now - self._last < self._interval):
            return
        self._last, self._shown = now, line
        if self._terminal:
            self._stream.write(f"\r{line}\x1b[K")  # the escape clears what a longer line has left
            self._stream.flush()
            self._line_open = True
        else:
            self.say(line)

    def say(self, line: str) -> None:
        """Writes a line that stays."""
        self._stream.write(("\n" if self._line_open else "") + line + "\n")
        self._stream.flush()
        self._line_open = False
