"""A configuration made into a running training; and what a program, unlike a library, may set up before."""

from __future__ import annotations

import contextlib
import ctypes.util
import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.presets import TrainConfig
    from learning.result import TrainResult
    from learning.run import Callback

CACHE = Path.home() / ".cache" / "mpc-rl" / "jax"


def prepare() -> None:
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


def use_all_cores() -> None:
    """Lets JAX see every core of the CPU as a device, for one XLA program keeps barely more than one core busy."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX is in use already: then its devices are fixed, and as good
        jax.config.update("jax_num_cpu_devices", cores)
        # The newer partitioner crashes XLA on MJX's step over several CPU devices (jax 0.11.2, a segmentation fault).
        jax.config.update("jax_use_shardy_partitioner", False)


def writable(directory: Path, flag: str) -> Path:
    """A directory to write in, made if need be; better refused at the start than after the last episode.

    Args:
        directory: that was asked for.
        flag: that names it on the command line.

    Raises:
        OSError: it is a file, or cannot be made, or nothing can be written there.
    """
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"'{directory}' is a file; {flag} takes a directory.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"'{directory}' cannot be made ({error.strerror}); choose another directory with {flag}."
        ) from error
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"Nothing can be written in '{directory}'; choose another directory with {flag}.")
    return directory


def launch(config: TrainConfig, run_dir: Path, resume: bool = False, callback: Callback | None = None) -> TrainResult:
    """Trains in a directory.

    Args:
        config: everything that a run depends on; stored beside it.
        run_dir: the run's directory.
        resume: continue from its newest checkpoint.
        callback: see `learning.run.train`.
    """
    from envs import velocity
    from learning.run import train

    env = velocity.make(config.env)
    return train(
        env,
        config.ppo,
        run_dir,
        run=config.run,
        settings=dataclasses.asdict(config),
        resume=resume,
        callback=callback,
        metadata=policy_facts(env),
        devices=devices(config.ppo.num_envs),
    )


def devices(num_envs: int) -> list[Any]:
    """As many of the devices as can share the robots evenly, with enough robots each to be worth it."""
    import jax

    found = jax.local_devices()
    most = min(len(found), max(1, num_envs // 16))
    return found[: max(n for n in range(1, most + 1) if num_envs % n == 0)]


def policy_facts(env: Any) -> dict[str, Any]:
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
