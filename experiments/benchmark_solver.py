"""Time against accuracy: our MPC methods and the quadratic programming packages that one would use instead.

    uv run experiments/benchmark_solver.py                      ours, and what else is installed
    uv run --group benchmark experiments/benchmark_solver.py    with all competitors

Every method solves the same recorded walking problems in batches, at several settings of its own. Points are added to
`<out>/benchmark_<backend>.json` as they are measured; a point that is measured again replaces the old one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.util
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.solver_methods import Method, Prepared, Run, Setting
    from experiments.solver_problems import ProblemSet
    from experiments.solver_records import Point

PILOT = 64  # problems with which a method that cannot be interrupted is tried before a large batch
GROWTH = 3.0  # power of N with which the time of a solve grows at worst


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure; by default what suits the device."""

    methods: tuple[str, ...] = ()
    """Names, or beginnings of names in any case; empty for all."""
    settings: tuple[str, ...] = ()
    """Their labels, such as 1e-03; empty for all."""
    batches: tuple[int, ...] = ()
    """Batch sizes at the first horizon; empty for 1 16 64 on a CPU, 1 16 256 4096 16384 on a GPU."""
    horizons: tuple[int, ...] = ()
    """Numbers of stages; empty for 10 50 on a CPU, 10 50 100 400 on a GPU."""
    horizon_batch: int = 0
    """Batch size at the other horizons; 0 for 16 on a CPU, 4096 on a GPU."""
    repeats: int = 10
    """Timed passes for each point, as far as the budget allows; at least one."""
    budget_seconds: float = 10.0
    """Time for the passes of one point. What is too slow is measured on fewer problems, and the point says so."""
    out: Path = Path(__file__).parent / "results" / "solver"
    """Directory of the results."""
    data: Path = Path(__file__).parents[1] / "tests" / "data"
    """Directory of the recorded problems."""


class Pace:
    """How long the passes of one setting have taken, for deciding how many problems to try next."""

    def __init__(self) -> None:
        self._known: list[tuple[int, int, float]] = []  # N, problems, seconds

    def saw(self, N: int, problems: int, seconds: float) -> None:
        """Takes note of a pass."""
        self._known.append((N, problems, seconds))

    def _bound(self, N: int, problems: int) -> float:
        """Seconds that a pass will hardly exceed, as if all work were done one after the other."""
        here = [(n, b, t) for n, b, t in self._known if n == N] or self._known
        bounds = [t * max(1.0, problems / b) * max(1.0, N / n) ** GROWTH for n, b, t in here]
        return min(bounds, default=float("inf"))

    def size(self, N: int, batch: int, budget: float) -> int:
        """The whole batch if it will fit the budget; else a pilot, and after that as much as will fit."""
        if self._bound(N, batch) <= budget:
            return batch
        if not any(n == N for n, _, _ in self._known):
            easy = not self._known or self._bound(N, min(batch, PILOT)) <= 10 * budget
            return min(batch, PILOT) if easy else 1
        fits = batch
        while fits > 1 and self._bound(N, fits) > budget:
            fits //= 2
        return fits


def main(arguments: list[str] | None = None) -> int:
    """Measures; mistakes of the user end in one sentence and exit code 2."""
    import tyro

    config = tyro.cli(BenchmarkConfig, args=arguments, description=__doc__)
    try:
        benchmark(config)
    except (ValueError, OSError) as error:
        print(f"benchmark_solver.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the points so far are on disk.")
        return 130
    return 0


def benchmark(config: BenchmarkConfig) -> None:
    """Measures everything that was asked for, then draws the figure and prints the table."""
    import jax

    from experiments.solver_records import Records, environment, table

    backend = jax.default_backend()
    config = _completed(config, backend)
    grid = [(config.horizons[0], batch) for batch in sorted(config.batches)]
    grid += [(N, config.horizon_batch) for N in sorted(config.horizons[1:])]
    chosen = _chosen(config.methods)
    path = config.out / f"benchmark_{backend}.json"
    records = Records(path, environment())
    jobs = [
        (method, setting, N, batch)
        for method in chosen
        for N, batch in grid
        for setting in method.settings(batch, backend)
        if not config.settings or setting.label in config.settings
    ]
    if not jobs:
        raise ValueError(f"None of these methods has a setting {' or '.join(map(repr, config.settings))}.")
    paces: dict[tuple[str, str], Pace] = {}
    start = time.monotonic()
    for done, (method, setting, N, batch) in enumerate(jobs):
        point = _point(config, method, setting, N, batch, paces.setdefault((method.name, setting.label), Pace()))
        records.put(point)
        left = (time.monotonic() - start) / (done + 1) * (len(jobs) - done - 1)
        print(f"[{done + 1}/{len(jobs)}, about {left / 60:.1f} min left] {_line(point)}", flush=True)
    names = {method.name for method in chosen}
    _draw(path)
    print("\n" + table(point for point in records.points if point["method"] in names))


def _completed(config: BenchmarkConfig, backend: str) -> BenchmarkConfig:
    """The configuration with the defaults of the device."""
    gpu = backend != "cpu"
    return dataclasses.replace(
        config,
        batches=config.batches or ((1, 16, 256, 4096, 16384) if gpu else (1, 16, 64)),
        horizons=config.horizons or ((10, 50, 100, 400) if gpu else (10, 50)),
        horizon_batch=config.horizon_batch or (4096 if gpu else 16),
    )


def _chosen(names: tuple[str, ...]) -> list[Method]:
    """The methods asked for, without those that are not installed.

    Raises:
        ValueError: There is no such method.
    """
    from experiments.solver_methods import methods

    everything = methods()
    wanted: set[str] = set() if names else set(everything)
    for name in names:
        found = {known for known in everything if known.lower().startswith(name.lower())}
        if not found:
            raise ValueError(f"There is no method {name!r}; there are {', '.join(everything)}.")
        wanted |= {name} if name in everything else found
    chosen = []
    for known, method in everything.items():
        if known not in wanted:
            continue
        if importlib.util.find_spec(method.package) is None:
            print(f"Skipping {known}: the package {method.package} is not installed (uv run --group benchmark …).")
        else:
            chosen.append(method)
    return chosen


def _point(config: BenchmarkConfig, method: Method, setting: Setting, N: int, batch: int, pace: Pace) -> Point:
    """Measures one setting on one batch, or on as many of its problems as budget and memory allow."""
    from experiments.solver_methods import TooLargeError
    from experiments.solver_problems import load

    problems = load(N, config.data)
    point: Point = {"method": method.name, "setting": setting.label, "N": N, "batch": batch}
    point |= {"options": dict(setting.options), "origin": problems.origin, "date": datetime.date.today().isoformat()}
    measurement: Point = {}
    size = batch if method.interruptible else pace.size(N, batch, config.budget_seconds)
    while True:
        try:
            measurement, run = _measure(config, method, problems, setting, size)
        except (TooLargeError, RuntimeError) as error:  # JAX raises kinds of RuntimeError when an allocation fails
            if not isinstance(error, TooLargeError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            if measurement:
                return {**point, **measurement, "note": reason}
            if size <= PILOT:
                return {**point, "skipped": reason}
            size = PILOT
            continue
        pace.saw(N, run.problems, run.seconds)
        larger = batch if method.interruptible else pace.size(N, batch, config.budget_seconds)
        if larger <= size:
            if measurement["measured"] < batch:
                measurement["note"] = f"more than {config.budget_seconds:g} s for the whole batch"
            return {**point, **measurement}
        size = larger


def _measure(
    config: BenchmarkConfig, method: Method, problems: ProblemSet, setting: Setting, size: int
) -> tuple[Point, Run]:
    """Runs a batch a few times, and judges the answers of the last pass."""
    from experiments.solver_accuracy import measure
    from experiments.solver_jax import peak_memory

    before = peak_memory()
    with _prepared(method, problems, size, setting) as prepared:
        runs = [prepared.run(config.budget_seconds)]
        affordable = int(config.budget_seconds / max(runs[0].seconds, 1e-9))
        if affordable >= 2 and config.repeats > 1:  # the first pass only warms up, unless it is all there is time for
            runs = [prepared.run(config.budget_seconds) for _ in range(min(affordable - 1, config.repeats))]
        answer = prepared.answer()
    rates = [run.seconds / run.problems for run in runs]
    point: Point = {
        "measured": runs[-1].problems,
        "repeats": len(runs),
        "seconds_per_problem": statistics.median(rates),
        "seconds_median": statistics.median(run.seconds for run in runs),
        "seconds_min": min(run.seconds for run in runs),
        **prepared.facts,
        "accuracy": measure(problems, answer),
    }
    peak = peak_memory()
    if peak is not None and peak != before:
        point["peak_bytes"] = peak  # otherwise an earlier point needed more, and nobody knows
    return point, max(runs, key=lambda run: run.seconds)


@contextlib.contextmanager
def _prepared(method: Method, problems: ProblemSet, size: int, setting: Setting) -> Iterator[Prepared]:
    prepared = method.prepare(problems, size, setting)
    try:
        yield prepared
    finally:
        prepared.close()


def _line(point: Point) -> str:
    """One point in one line."""
    from experiments.solver_records import time_of

    what = f"{point['method']} ({point['setting']}), N = {point['N']}, batch {point['batch']}: "
    if "skipped" in point:
        return f"{what}skipped, {point['skipped']}"
    fewer = "" if point["measured"] == point["batch"] else f", measured on {point['measured']} problems only"
    accuracy = point["accuracy"]
    return (
        f"{what}{time_of(point['seconds_per_problem'])} a problem{fewer}, "
        f"input error {accuracy['input_error_median']:.0e}, at worst {accuracy['input_error_worst']:.0e}"
    )


def _draw(path: Path) -> None:
    """Draws the figure next to the results, if matplotlib is there."""
    if importlib.util.find_spec("matplotlib") is None:
        print("There is no figure: matplotlib is not installed.")
        return
    from experiments.solver_plots import plot

    print(f"{path} and {plot(path).name}")


if __name__ == "__main__":
    sys.exit(main())
