"""What training costs: control steps per second with guidance and without, and where the time goes.

    uv run --extra cuda13 --extra warp experiments/benchmark_training.py

Each training is measured in a process of its own, as `train.py` is one. All of them compile first, side by side; then
they run one after the other, alone on the device. Guidance is compared with the same training without any MPC (base-RL:
other tracking terms, the same regularization). The parts of a guided iteration are timed as programs of their own.
Figures go to `<out>/training_<backend>.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.launch import writable

MARK = "result: "  # begins the lines by which a worker answers
UNGUIDED = 0  # in place of the control steps between solves


@dataclasses.dataclass(frozen=True)
class TrainingBenchmarkConfig:
    """What to measure; by default what suits the device."""

    num_envs: tuple[int, ...] = ()
    """Robots; empty for 64 on a CPU, 1024 to 16384 on a GPU."""
    every: tuple[int, ...] = (1, 10)
    """Control steps between solves; 1 is guidance at control rate."""
    tolerance: float = 1e-3
    """Of the solver."""
    bfloat16: bool = False
    """Hidden layers of the networks in bfloat16, as with `train.py --ppo.bfloat16`."""
    double_buffer: bool = False
    """Loops compiled as with `train.py --ppo.double-buffer`."""
    iterations: int = 5
    """Timed iterations of training."""
    out: Path = Path(__file__).parent / "results" / "training"
    """Directory of the results."""
    worker: int = 0
    """Internal: the number of robots that this process measures, solved every `every` control steps, 0 for never."""

    def __post_init__(self) -> None:
        for name, least in (("num_envs", 1), ("every", 0 if self.worker else 1)):
            if any(value < least for value in getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {least} each.")
        if not self.every or self.iterations < 1:
            raise ValueError("every and iterations: at least one is needed of each.")


def main(arguments: list[str] | None = None) -> int:
    """Measures all sizes, writes the figures and prints the table; what ends it early ends in one sentence."""
    import tyro

    config = tyro.cli(TrainingBenchmarkConfig, args=arguments, prog="benchmark_training.py", description=__doc__)
    if config.worker:
        return work(config)
    try:
        writable(config.out, "--out")
    except OSError as error:
        print(f"benchmark_training.py: {error}", file=sys.stderr)
        return 2
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the GPU's memory
    from experiments.solver_records import environment

    here = environment("0: weights, robots, actions")
    sizes = config.num_envs or ((64,) if here["backend"] == "cpu" else (1024, 2048, 4096, 8192, 16384))
    path = config.out / f"training_{here['backend']}.json"
    rows = []
    try:
        for row in measure_all(config, sizes):
            rows.append(row)
            path.write_text(json.dumps({"environment": here, "rows": rows}, indent=1) + "\n")
            print(table([row], head=len(rows) == 1), flush=True)
    except RuntimeError as error:
        print(f"benchmark_training.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nStopped; {f'what was measured is in {path}' if rows else 'nothing was measured'}.", file=sys.stderr)
        return 130
    print(f"Figures: {path}")
    return 0


def measure_all(config: TrainingBenchmarkConfig, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """One process a training: all compile at once, then each has the device to itself."""
    rates = (UNGUIDED, *config.every)
    workers = {(size, every): _start(config, size, every) for size in sizes for every in rates}
    try:
        compiled = {}
        for (size, every), worker in workers.items():
            compiled[size, every] = _answer(worker, size)
            print(f"{size} robots, {f'solved every {every}' if every else 'without guidance'}: compiled", flush=True)
        for size in sizes:
            timed = {every: _go(workers[size, every], size) for every in rates}
            for every in config.every:
                _tell(workers[size, every])  # to compile its parts, beside the others
            for every in config.every:
                _answer(workers[size, every], size)
            parts = {every: _go(workers[size, every], size) for every in config.every}
            seconds = max(compiled[size, every]["compile_seconds"] for every in rates)
            yield {"num_envs": size, "compile_seconds": seconds} | summary(config, timed, parts)
            for every in rates:
                _tell(workers[size, every])
                workers[size, every].wait()
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()  # closes the pipes


def summary(
    config: TrainingBenchmarkConfig, timed: dict[int, dict[str, Any]], parts: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """What was measured of one number of robots, by the control steps between solves."""
    base = timed[UNGUIDED]
    rows = []
    for every, each in parts.items():
        seconds, steps = timed[every]["iteration_seconds"], timed[every]["unroll_length"]
        rows.append(
            {
                "every": every,
                "iteration_seconds": seconds,
                "steps_per_second": timed[every]["steps_per_second"],
                "guidance_cost": 1.0 - base["iteration_seconds"] / seconds,
                **each,
                "shares": shares(each["part_seconds"], seconds, steps, every),
            }
        )
    peaks = [one["peak_bytes"] for one in timed.values()]
    return {
        "mirror": base["mirror"],
        "bfloat16": config.bfloat16,
        "double_buffer": config.double_buffer,
        "tolerance": config.tolerance,
        "unguided_steps_per_second": base["steps_per_second"],
        "guided": rows,
        "peak_bytes": None if None in peaks else max(peaks),
    }


def shares(each: dict[str, float], iteration: float, steps: int, every: int) -> dict[str, float]:
    """Of an iteration; the rest is kinematics, rewards, observations, resets and bookkeeping."""
    times = {"physics": 1, "mpc": steps / every, "policy": steps, "update": 1}
    found = {name: each[name] * count / iteration for name, count in times.items()}
    return {**found, "rest": 1.0 - sum(found.values())}


def _start(config: TrainingBenchmarkConfig, size: int, every: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments.benchmark_training", "--worker", str(size), "--every", str(every)]
    command += ["--iterations", str(config.iterations), "--tolerance", str(config.tolerance)]
    command += ["--bfloat16"] if config.bfloat16 else []
    command += ["--double-buffer"] if config.double_buffer else []
    # In a session of its own, Ctrl-C reaches this process alone, which then ends the others.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _tell(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin
    with contextlib.suppress(BrokenPipeError):  # its end shows when it is to answer
        print("go", file=worker.stdin, flush=True)


def _go(worker: subprocess.Popen[str], size: int) -> dict[str, Any]:
    """Lets a worker do its next stage, and waits for what it finds."""
    _tell(worker)
    return _answer(worker, size)


def _answer(worker: subprocess.Popen[str], size: int) -> dict[str, Any]:
    """The next line that a worker prints.

    Raises:
        RuntimeError: it has ended instead.
    """
    assert worker.stdout
    for line in worker.stdout:
        if line.startswith(MARK):  # libraries print, too
            return json.loads(line.removeprefix(MARK))
    raise RuntimeError(f"The measurement of {size} robots ended without a result; its error is above.")


def work(config: TrainingBenchmarkConfig) -> int:
    """The process of one training: a line of JSON after each stage, and a line to wait for before the next."""
    from experiments.training_cost import Training, stages

    (every,) = config.every
    training = Training(
        num_envs=config.worker,
        every=every,
        tolerance=config.tolerance,
        bfloat16=config.bfloat16,
        double_buffer=config.double_buffer,
        iterations=config.iterations,
    )
    for found in stages(training):
        print(f"{MARK}{json.dumps(found)}", flush=True)
        if not sys.stdin.readline():
            return 1  # nobody is there any more
    return 0


def table(rows: list[dict[str, Any]], head: bool = True) -> str:
    """Speeds and shares, a line for each number of robots and rate of guidance."""
    lines = [
        "| robots | solved every | steps/s | without guidance | guidance costs "
        "| physics | MPC | policy | update | rest | peak memory |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines = lines if head else []
    for row in rows:
        peak = f"{row['peak_bytes'] / 2**30:.1f} GiB" if row["peak_bytes"] else "–"
        for run in row["guided"]:
            shares = " | ".join(f"{run['shares'][part]:.0%}" for part in ("physics", "mpc", "policy", "update", "rest"))
            lines.append(
                f"| {row['num_envs']} | {run['every']} | {run['steps_per_second']:,.0f} | "
                f"{row['unguided_steps_per_second']:,.0f} | {run['guidance_cost']:.1%} | {shares} | {peak} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
