"""The command line: train a walking policy under MPC guidance, watch it, measure it.

    train.py [train] [--preset cpu|gpu] [--env.… --ppo.… --run.…]    a run directory under runs/
    train.py play [RUN] [--out walk.mp4] [--command 0.5 0 0]         a film of a policy with the MPC's plan drawn in
    train.py eval [RUN] [--out DIR]                                  the quality gate in C MuJoCo: gate.json, gate.png

RUN is a run directory or a policy file; without it, the policy that ships with the project is used. Every field of the
configuration is a flag; `train.py train --help` lists them all.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import dataclasses
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.config import VelocityConfig
    from experiments.presets import TrainConfig
    from learning.policy import Policy

SHIPPED_POLICY = Path(__file__).parent / "experiments" / "results" / "g1_walk" / "policy.npz"
Command = tuple[float, float, float]
CACHE = Path.home() / ".cache" / "mpc-rl" / "jax"


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand; mistakes of the user end in one sentence and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"train": train, "play": play, "eval": evaluate}
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "train"
    if name not in commands:
        print(f"train.py: there is no subcommand {name!r}; there are train, play and eval.", file=sys.stderr)
        return 2
    _prepare()
    from learning.checkpoint import CheckpointError
    from learning.health import NonFiniteError

    try:
        return commands[name](arguments)
    except (ValueError, OSError, CheckpointError, NonFiniteError) as error:
        print(f"train.py {name}: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 2


def _prepare() -> None:
    """What a program may set and a library may not: headless rendering, a cache for the next start, a quiet XLA."""
    if not os.environ.get("DISPLAY") and "MUJOCO_GL" not in os.environ:
        # MuJoCo cannot even be imported for a library that is not there.
        libraries = {"egl": "EGL", "osmesa": "OSMesa"}
        found = (name for name, library in libraries.items() if ctypes.util.find_library(library))
        os.environ["MUJOCO_GL"] = next(found, "disable")
    # A program from the cache makes XLA print kilobytes of CPU features; what goes wrong still comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    CACHE.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 2.0)
    if importlib.util.find_spec("warp"):
        import warp

        warp.config.quiet = True  # else it prints a line for each of its hundred kernels


# --- train ---------------------------------------------------------------------------------------------------------


def train(arguments: list[str]) -> int:
    """Trains, then leaves a curve and a film in the run directory."""
    import tyro

    from experiments.presets import TrainConfig, preset

    _use_all_cores()
    earlier = _peek(arguments, "--resume", "")
    default = _stored(Path(earlier)) if earlier else preset(_peek(arguments, "--preset", "auto"))
    config = tyro.cli(TrainConfig, args=arguments, default=default, prog="train.py train")
    print(f"Preset {config.preset}: {config.ppo.num_envs} robots ({config.env.robot})")
    from envs import velocity
    from learning import record
    from learning.run import train as run_training

    env = velocity.make(config.env)
    run_dir = config.resume or record.new_run_directory(config.name, config.runs)
    result = run_training(
        env,
        config.ppo,
        run_dir,
        run=config.run,
        settings=dataclasses.asdict(config),
        resume=config.resume is not None,
        metadata=_policy_facts(env),
        devices=_devices(config.ppo.num_envs),
    )
    print(f"Learning curve: {result.run_dir / 'learning_curve.png'}")
    if config.video_seconds > 0:
        _film(result.policy, config.env, result.run_dir / "policy.mp4", config.video_seconds, (0.5, 0.0, 0.0))
    return 0


def _use_all_cores() -> None:
    """Lets JAX see every core of the CPU as a device, for one XLA program keeps barely more than one core busy."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX is in use already: then its devices are fixed, and as good
        jax.config.update("jax_num_cpu_devices", cores)
        # The newer partitioner crashes XLA on MJX's step over several CPU devices (jax 0.11.2, a segmentation fault).
        jax.config.update("jax_use_shardy_partitioner", False)


def _devices(num_envs: int) -> list[Any]:
    """As many of the devices as can share the robots evenly, with enough robots each to be worth it."""
    import jax

    devices = jax.local_devices()
    most = min(len(devices), max(1, num_envs // 16))
    return devices[: max(n for n in range(1, most + 1) if num_envs % n == 0)]


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


def _policy_facts(env: Any) -> dict[str, Any]:
    """What has to travel with a policy for it to be played or deployed."""
    from envs.observations import actor_layout

    robot = env.robot
    return {
        "env": dataclasses.asdict(env.config),
        "robot": robot.robot.name,
        "joint_names": list(robot.joint_names),
        "default_joint_pos": robot.default_joint_pos.tolist(),
        "action_scale": robot.action_scale.tolist(),
        "kp": robot.kp.tolist(),
        "kd": robot.kd.tolist(),
        "observation": actor_layout(robot.num_joints),
        "control_dt": env.dt,
        "gait_period": env.gait.period,
    }


# --- play and eval -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PlayConfig:
    """Films a policy, with the MPC's plan drawn in."""

    policy: Path = SHIPPED_POLICY
    """Run directory or policy file."""
    out: Path = Path("walk.mp4")
    """Where the film goes."""
    seconds: float = 10.0
    """Its length."""
    command: Command = (0.5, 0.0, 0.0)
    """Forward and leftward velocity (m/s), turning rate (rad/s)."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Judges a policy in C MuJoCo: falls, tracking, kicks, effort. Exit code 0 if it passes the gate, 1 if it fails."""

    policy: Path = SHIPPED_POLICY
    """Run directory or policy file."""
    episodes: int = 256
    """Without kicks, and again for each strength of kicks; the gate takes 256, fewer are a look and never pass."""
    seed: int = 0
    """Of headings, noise and kicks."""
    out: Path | None = None
    """Directory for gate.json and gate.png; by default the policy's own."""


def play(arguments: list[str]) -> int:
    """Films a policy."""
    config = _parse(PlayConfig, arguments, "play")
    policy, env_config = _load(config.policy)
    _film(policy, env_config, config.out, config.seconds, config.command)
    return 0


def evaluate(arguments: list[str]) -> int:
    """Prints, and writes, what the quality gate finds."""
    config = _parse(EvalConfig, arguments, "eval")
    policy, env_config = _load(config.policy)
    from envs import velocity
    from learning import gate, gate_report, record
    from learning.progress import Progress

    run_dir = config.policy if config.policy.is_dir() else config.policy.parent
    out = _writable(config.out or run_dir)
    started = time.monotonic()
    env = velocity.make(dataclasses.replace(env_config, backend="jax"))
    episodes, bars = gate.GateConfig(episodes=config.episodes, seed=config.seed), gate.Bars()
    result = gate.run_gate(env, policy, episodes, bars, Progress(interval=10.0))
    facts = {
        "robot": env.robot.robot.name,
        "policy": config.policy.name,
        **record.training_facts(run_dir),
        "versions": record.versions(),
        "gate_seconds": time.monotonic() - started,
    }
    gate_report.write(result, gate_report.to_record(result, episodes, bars, facts), out)
    print(gate_report.table(result), f"Figures: {out / gate_report.JSON_FILE}, {out / gate_report.FIGURE}", sep="\n")
    return 0 if result.passed else 1


def _writable(directory: Path) -> Path:
    """The directory, made if need be; better refused now than after the last episode."""
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"'{directory}' is a file; --out takes a directory.")
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"Nothing can be written in '{directory}'; choose another directory with --out.")
    return directory


def _parse(kind: type, arguments: list[str], name: str) -> Any:
    import tyro

    if arguments and not arguments[0].startswith("-"):
        arguments = ["--policy", *arguments]
    return tyro.cli(kind, args=arguments, prog=f"train.py {name}")


def _load(path: Path) -> tuple[Policy, VelocityConfig]:
    """A policy, and the task that it was trained on, on whatever physics this machine has."""
    from envs.config import VelocityConfig
    from learning.policy import load_policy
    from learning.serialize import from_json

    policy = load_policy(path)
    if "env" not in policy.metadata:
        raise ValueError(f"'{path}' does not say which task it was trained on, so it cannot be played.")
    config = from_json(VelocityConfig, json.dumps(policy.metadata["env"]))
    return policy, dataclasses.replace(config, backend="auto")


def _film(policy: Policy, config: VelocityConfig, path: Path, seconds: float, command: Command) -> None:
    """A robot that obeys one command, undisturbed, on its nominal body."""
    import jax

    from envs import velocity
    from envs.commands import constant
    from envs.config import NO_PUSHES, NO_RANDOMIZATION
    from learning.video import film, record

    facing = dataclasses.replace(config.start, yaw=0.0)  # towards the camera
    calm = dataclasses.replace(
        config,
        command=constant(command),
        push=NO_PUSHES,
        randomization=NO_RANDOMIZATION,
        start=facing,
        backend="jax",
    )
    env = velocity.make(calm)
    snapshots = record(env, lambda obs, key: policy(obs), jax.random.PRNGKey(0), round(seconds / env.dt))
    # Every second control step is enough to the eye, and half the time where a CPU draws.
    how = film(env.robot.mj_model, snapshots[::2], path, round(0.5 / env.dt), (480, 360))
    print(f"Film ({how}): {path}")


if __name__ == "__main__":
    sys.exit(main())
