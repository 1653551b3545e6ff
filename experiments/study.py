"""The paper's comparisons, one command each: trains every variant with every seed, judges the policies, draws.

    uv run --extra cuda13 --extra warp experiments/study.py guidance
    uv run experiments/study.py --help

Runs are kept under `runs/studies/VARIANT_seedN`, shared by all studies; a run that is there and whole is not repeated,
and one that was cut short goes on where it stopped. So the same command, given again, finishes a study. Given several
times at once, say with `CUDA_VISIBLE_DEVICES` of 0 and of 1, the processes share the runs among them. The figure, the
table and a JSON are made anew after every run, from what there is, in `runs/studies/report`; those of the project's own
results were made with `--out experiments/results/studies`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments.launch import launch, prepare, use_all_cores, writable

if TYPE_CHECKING:
    from experiments.presets import TrainConfig
    from learning.result import TrainResult

Name = Literal["guidance", "landmarks", "horizon", "rate", "solver", "terms", "randomization"]
STUDIES: dict[str, tuple[str, ...]] = {
    # Does the MPC help, and is it the optimization that does?
    "guidance": ("mpc", "base", "reference"),
    # Weights of the predictions, and predictions for now against the released look-ahead
    "landmarks": ("mpc", "uniform", "next_step", "look_ahead"),
    "horizon": ("horizon_5", "mpc", "horizon_20", "horizon_50"),
    "rate": ("mpc", "rate_10", "rate_25", "rate_50"),
    # Cones and a converged solve against boxes and 200 iterations that are not
    "solver": ("mpc", "released_solver"),
    "terms": (
        "mpc",
        "without_mpc_com",
        "without_mpc_lin_vel",
        "without_mpc_ang_vel",
        "without_mpc_ang_mom",
        "without_mpc_foot",
        "without_mpc_grf",
    ),
    # An MPC that knows each robot's mass and friction, or only the published ones
    "randomization": ("mpc", "blind"),
}
FINISHED = "finished"  # a file in the directory of a run that need not go on


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Which comparison, and how much of it."""

    study: Annotated[Name, tyro.conf.Positional]
    """The comparison."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the trainings; each variant is trained with each."""
    preset: Literal["auto", "cpu", "gpu"] = "auto"
    """Of the trainings."""
    env_steps: int = 0
    """Of each training; 0 for the preset's."""
    num_envs: int = 0
    """Robots of each training; 0 for the preset's."""
    snapshots: int = 8
    """Policies kept of each training, evenly spread, among which the first that passes the gate is looked for."""
    episodes: int = 256
    """Of the gate; 0 for no gate."""
    runs: Path = Path("runs/studies")
    """Where the runs are."""
    out: Path | None = None
    """Where figure, table and JSON go; by default the directory `report` beside the runs."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty: a study needs at least one.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: each can be given once.")
        for name, least in (("env_steps", 0), ("num_envs", 0), ("snapshots", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {least}.")


def main(arguments: list[str] | None = None) -> int:
    """Runs a study; mistakes of the user end in one sentence and exit code 2, an interruption in 130."""
    config = tyro.cli(StudyConfig, args=arguments, prog="study.py", description=__doc__)
    prepare()
    use_all_cores()
    from experiments.study_report import report
    from experiments.study_runs import judge_run
    from learning.checkpoint import CheckpointError
    from learning.gate import GateConfig
    from learning.health import NonFiniteError

    try:
        if config.episodes:
            GateConfig(episodes=config.episodes)  # which knows how few are too few, before anything is trained
        runs = writable(config.runs, "--runs")
        out = writable(config.out or runs / "report", "--out")
        for seed in config.seeds:  # all variants with one seed before the next: an early stop leaves a comparison
            for variant in STUDIES[config.study]:
                run_dir = runs / f"{variant}_seed{seed}"
                with claim(run_dir) as mine:
                    if not mine:
                        print(f"{run_dir.name}: another process is at it")
                        continue
                    if not train(settings(config, variant, seed), run_dir, config.snapshots):
                        print(f"Stopped. The same command goes on with '{run_dir}'.")
                        return 130
                    if config.episodes:
                        judge_run(run_dir, config.episodes)
                    print(report(config.study, STUDIES[config.study], config.seeds, runs, out))
    except KeyboardInterrupt:
        print("\nstudy.py: interrupted. The same command goes on.", file=sys.stderr)
        return 130
    except (ValueError, OSError, CheckpointError, NonFiniteError) as error:
        print(f"study.py: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def claim(run_dir: Path) -> Iterator[bool]:
    """Whether this process may work on a run; until the end of the context, or of the process, no other one may."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with run_dir.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def settings(config: StudyConfig, variant: str, seed: int) -> TrainConfig:
    """The training of one variant with one seed."""
    from experiments import variants
    from experiments.presets import preset

    start = preset(config.preset)
    ppo = dataclasses.replace(start.ppo, seed=seed, num_envs=config.num_envs or start.ppo.num_envs)
    total = config.env_steps or start.run.total_env_steps
    iterations = -(-total // ppo.samples_per_iteration)
    every = max(1, iterations // config.snapshots)
    run = dataclasses.replace(
        start.run, total_env_steps=total, max_minutes=None, checkpoint_iterations=every, keep_checkpoints=1
    )
    return variants.apply(dataclasses.replace(start, ppo=ppo, run=run, video_seconds=0.0), variant)


Trainer = Callable[..., "TrainResult"]


def train(config: TrainConfig, run_dir: Path, snapshots: int, trainer: Trainer = launch) -> bool:
    """Trains, goes on with a training, or finds it done.

    Args:
        config: of the training.
        run_dir: its directory, which may hold an earlier part of it.
        snapshots: policies to keep.
        trainer: `experiments.launch.launch`, or what is called like it.

    Returns:
        Whether the training is finished; if not, it was interrupted.

    Raises:
        ValueError: the directory holds a training with other settings.
    """
    from experiments.study_runs import check_same, keep_policy
    from learning.checkpoint import list_checkpoints

    begun = bool(list_checkpoints(run_dir))
    if begun:
        check_same(config, run_dir)
    if (run_dir / FINISHED).exists():
        return True
    print(f"{run_dir.name}: {'going on' if begun else 'training'}")
    result = trainer(config, run_dir, resume=begun, callback=keep_policy(run_dir))
    if result.stopped_by == "signal":
        return False
    keep_policy(run_dir)(result.policy, result.env_steps)
    (run_dir / FINISHED).touch()
    return True


if __name__ == "__main__":
    sys.exit(main())
