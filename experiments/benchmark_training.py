"""What training costs: control steps per second with guidance and without, and where the time goes.

    uv run --extra cuda13 --extra warp experiments/benchmark_training.py

Each number of robots is measured in a process of its own. All of them compile first, side by side; then they run one
after the other, alone on the device. Guidance is compared with the same training without any MPC (base-RL: other
tracking terms, the same regularization). Figures go to `<out>/training_<backend>.json`.
"""

from __future__ import annotations

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
    iterations: int = 5
    """Timed iterations of training."""
    out: Path = Path(__file__).parent / "results" / "training"
    """Directory of the results."""
    worker: int = 0
    """Internal: the number of robots that this process measures."""


def main(arguments: list[str] | None = None) -> int:
    """Measures all sizes, writes the figures and prints the table; exit code 2 if there is nowhere to write."""
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
    for row in measure_all(config, sizes):
        rows.append(row)
        path.write_text(json.dumps({"environment": here, "rows": rows}, indent=1) + "\n")
        print(table([row], head=len(rows) == 1), flush=True)
    print(f"Figures: {path}")
    return 0


def measure_all(config: TrainingBenchmarkConfig, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """One process a size: all compile at once, then each has the device to itself."""
    command = [sys.executable, "-m", "experiments.benchmark_training", "--iterations", str(config.iterations)]
    command += ["--tolerance", str(config.tolerance), "--every", *(str(k) for k in config.every)]
    command += ["--bfloat16"] if config.bfloat16 else []
    workers = {}
    for size in sizes:
        arguments = [*command, "--worker", str(size)]
        workers[size] = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for size, worker in workers.items():
            _answer(worker, size)
            print(f"{size} robots: compiled", flush=True)
        for size, worker in workers.items():
            assert worker.stdin
            print("go", file=worker.stdin, flush=True)
            yield json.loads(_answer(worker, size))
            worker.wait()
    finally:
        for worker in workers.values():
            worker.kill()


def _answer(worker: subprocess.Popen[str], size: int) -> str:
    """The next line that a worker prints.

    Raises:
        RuntimeError: it has ended instead.
    """
    assert worker.stdout
    for line in worker.stdout:
        if line.startswith(MARK):  # libraries print, too
            return line.removeprefix(MARK)
    raise RuntimeError(f"The measurement of {size} robots ended without a result; its error is above.")


def work(config: TrainingBenchmarkConfig) -> int:
    """The process of one size: compiles, says so, waits for its turn, measures, prints one line of JSON."""
    from experiments.training_cost import compile_cost

    measure = compile_cost(config.worker, config.every, config.tolerance, config.bfloat16)
    print(f"{MARK}compiled", flush=True)
    sys.stdin.readline()
    print(f"{MARK}{json.dumps(measure(config.iterations))}", flush=True)
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
