"""The command line: train a walking policy under MPC guidance, watch it, measure it.

    train.py [train] [--preset cpu|gpu] [--variant base|…] [--env.… --ppo.… --run.…]    a run directory under runs/
    train.py play [RUN] [--out walk.mp4] [--command 0.5 0 0]    a film of a policy with the MPC's plan drawn in
    train.py play [RUN] --viewer    the same live in a browser, under commands that its page gives
    train.py eval [RUN] [--out DIR]    the quality gate in C MuJoCo: gate.json, gate.png

RUN is a run directory or a policy file; without it, the policy that ships with the project is used. Every field of the
configuration is a flag; `train.py train --help` lists them all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.launch import launch, prepare, use_all_cores, writable

if TYPE_CHECKING:
    from envs.config import VelocityConfig
    from envs.velocity import VelocityEnv
    from experiments.presets import TrainConfig
    from learning.policy import Policy

SHIPPED_POLICY = Path(__file__).parent / "experiments" / "results" / "g1_walk" / "policy.npz"
FILMS = (".mp4", ".mov", ".mkv")  # what holds H.264
Command = tuple[float, float, float]


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand; mistakes of the user end in one sentence and exit code 2, an interruption in 130."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"train": train, "play": play, "eval": evaluate}
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "train"
    if name not in commands:
        print(f"train.py: there is no subcommand {name!r}; there are train, play and eval.", file=sys.stderr)
        return 2
    prepare()
    from learning.checkpoint import CheckpointError
    from learning.health import NonFiniteError

    try:
        return commands[name](arguments)
    except KeyboardInterrupt:
        print(f"\ntrain.py {name}: interrupted.", file=sys.stderr)  # on a line of its own, below that of the progress
        return 130
    except (ValueError, OSError, CheckpointError, NonFiniteError) as error:
        print(f"train.py {name}: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 2


# --- train ---------------------------------------------------------------------------------------------------------


def train(arguments: list[str]) -> int:
    """Trains, then leaves a curve and a film in the run directory."""
    import tyro

    from experiments import variants
    from experiments.presets import TrainConfig, preset

    use_all_cores()
    earlier = _peek(arguments, "--resume", "")
    fresh = variants.apply(preset(_peek(arguments, "--preset", "auto")), _peek(arguments, "--variant", "mpc"))
    default = _stored(Path(earlier)) if earlier else fresh
    config = tyro.cli(TrainConfig, args=arguments, default=default, prog="train.py train")
    print(f"Preset {config.preset}, variant {config.variant}: {config.ppo.num_envs} robots ({config.env.robot})")
    from learning import record

    if config.resume is None:
        writable(config.runs, "--runs")
    run_dir = config.resume or record.new_run_directory(config.name or config.env.robot.rpartition(":")[2], config.runs)
    try:
        result = launch(config, run_dir, resume=config.resume is not None)
    except BaseException:
        with contextlib.suppress(OSError):
            run_dir.rmdir()  # only if it is empty: nothing had begun
        raise
    curve = result.run_dir / "learning_curve.png"
    if curve.exists():  # it does not if time was up before the first iteration
        print(f"Learning curve: {curve}")
    if config.video_seconds > 0:
        _film(result.policy, config.env, result.run_dir / "policy.mp4", config.video_seconds, (0.5, 0.0, 0.0))
    return 0


def _stored(run_dir: Path) -> TrainConfig:
    """The configuration of an earlier run, which its continuation starts from."""
    from experiments.presets import TrainConfig
    from learning.record import CONFIG
    from learning.serialize import from_json

    path = run_dir / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"'{run_dir}' is no run directory: it has no {CONFIG}.")
    return from_json(TrainConfig, path.read_text())


def _peek(arguments: list[str], flag: str, default: str) -> str:
    """The value of a flag that decides what the other flags default to."""
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
    return default


# --- play and eval -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PlayConfig:
    """Films a policy, with the MPC's plan drawn in, or shows it live in a browser."""

    policy: Path = SHIPPED_POLICY
    """Run directory or policy file."""
    out: Path = Path("walk.mp4")
    """Where the film goes: an .mp4, .mov or .mkv."""
    seconds: float = 10.0
    """The film's length; more than 0."""
    command: Command = (0.5, 0.0, 0.0)
    """Forward and leftward velocity (m/s), turning rate (rad/s)."""
    viewer: bool = False
    """Show the robot and the plan in a browser, live, instead of filming; the page commands, from `command` on."""
    viewer_address: str = "127.0.0.1:8080"
    """Host and port of the page."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Judges a policy in C MuJoCo: falls, tracking, kicks, effort. Exit code 0 if it passes the gate, 1 if it fails."""

    policy: Path = SHIPPED_POLICY
    """Run directory or policy file."""
    episodes: int = 256
    """Without kicks, and again for each strength of kicks; the gate takes 256, fewer are a look and never pass."""
    seed: int = 0
    """Of headings, noise and kicks; at least 0."""
    out: Path | None = None
    """Directory for gate.json and gate.png; by default the policy's own. One of more episodes is not replaced."""


def play(arguments: list[str]) -> int:
    """Films a policy, or shows it."""
    config = _parse(PlayConfig, arguments, "play")
    if not config.viewer:
        _check_film(config.out, config.seconds)
    from experiments.judge import load

    policy, env_config = load(config.policy)
    if config.viewer:
        from experiments.watch import watch

        watch(_undisturbed(env_config), policy, config.viewer_address, config.command)
        return 0
    _film(policy, env_config, config.out, config.seconds, config.command)
    return 0


def _check_film(path: Path, seconds: float) -> None:
    """Refuses before the robot walks what could not be filmed or written after it."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"--seconds {seconds:g}: the length of a film is positive.")
    if path.suffix.lower() not in FILMS or path.is_dir():
        raise ValueError(
            f"--out {path}: it takes the name of a film, which ends in {', '.join(FILMS[:-1])} or {FILMS[-1]}."
        )
    writable(path.parent, "--out")


def evaluate(arguments: list[str]) -> int:
    """Prints, and writes, what the quality gate finds."""
    config = _parse(EvalConfig, arguments, "eval")
    from experiments.judge import judge
    from learning import gate_report

    out = writable(config.out or (config.policy if config.policy.is_dir() else config.policy.parent), "--out")
    stem = gate_report.stem_for(out, config.episodes)
    result = judge(config.policy, out, episodes=config.episodes, seed=config.seed, stem=stem)
    print(gate_report.table(result), f"Figures: {out / stem}.json, {out / stem}.png", sep="\n")
    if stem != gate_report.STEM:
        print(f"'{out / gate_report.JSON_FILE}' is of more episodes and stays.")
    return 0 if result.passed else 1


def _parse(kind: type, arguments: list[str], name: str) -> Any:
    import tyro

    if arguments and not arguments[0].startswith("-"):
        arguments = ["--policy", *arguments]
    return tyro.cli(kind, args=arguments, prog=f"train.py {name}")


def _undisturbed(config: VelocityConfig) -> VelocityEnv:
    """A policy's task for one robot to be looked at: nominal body, no kicks, facing the camera."""
    from envs import velocity
    from envs.config import NO_PUSHES, NO_RANDOMIZATION

    start = dataclasses.replace(config.start, yaw=0.0)
    return velocity.make(
        dataclasses.replace(config, push=NO_PUSHES, randomization=NO_RANDOMIZATION, start=start, backend="jax")
    )


def _film(policy: Policy, config: VelocityConfig, path: Path, seconds: float, command: Command) -> None:
    """A robot that obeys one command."""
    import jax

    from envs.commands import constant
    from learning.video import film, record

    env = _undisturbed(dataclasses.replace(config, command=constant(command)))
    steps = max(1, round(seconds / env.dt))
    snapshots = record(env, lambda obs, key: policy(obs), jax.random.PRNGKey(0), steps)
    # Every second control step is enough to the eye, and half the time where a CPU draws.
    how = film(env.robot.mj_model, snapshots[::2], path, round(0.5 / env.dt), (480, 360))
    print(f"Film ({how}): {path}")


if __name__ == "__main__":
    sys.exit(main())
