"""How long a policy step takes, and how long it takes to get to the first one: `bridge benchmark`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from bridge.controller import Controller
from bridge.loop import no_collection
from bridge.mujoco_robot import MujocoRobot, load_model
from bridge.robot import PDTarget

WARM_UP = 200  # steps


def measure(policy: Path, steps: int) -> dict[str, Any]:
    """Times policy steps: read the state, build the observation, run the network, hand over the targets.

    Physics is stepped in between, so that every observation is a new one, and is not timed; nor are the loop's checks.

    Args:
        policy: an exported policy, its model beside it.
        steps: how many.

    Returns:
        Quantiles in ms, over all steps and over those that the scheduler did not take the processor away from; how
        busy the machine was; and what it is.
    """
    controller = Controller(policy)
    deployment = controller.deployment
    robot = MujocoRobot(load_model(policy.with_suffix(".zip")), deployment, command_timeout=np.inf)
    command, zero = np.array([0.5, 0.0, 0.2]), np.zeros(deployment.num_joints)
    taken, preempted = np.zeros(steps), np.zeros(steps, bool)
    with no_collection():
        for k in range(-WARM_UP, steps):
            switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
            begin = time.perf_counter()
            target = controller.step(robot.read(), command)
            robot.send(PDTarget(q=target, qd=zero, kp=deployment.kp, kd=deployment.kd, tau=zero))
            if k >= 0:
                taken[k] = time.perf_counter() - begin
                preempted[k] = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw > switches
            robot.step()
            if not np.isfinite(target).all() or robot.data.qpos[2] < 0.5 * deployment.base_height:
                robot.reset()
                controller.reset()
    return {
        "policy_step_ms": _quantiles(taken),
        "policy_step_ms_not_preempted": _quantiles(taken[~preempted]),
        "steps": steps,
        "preempted_steps": int(preempted.sum()),
        "load_average": round(os.getloadavg()[0], 2),
        "cores": len(os.sched_getaffinity(0)),
        "start_up_s": start_up(policy),
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "mujoco", "onnxruntime")},
    }


def _quantiles(taken: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Quantiles in ms of durations in s."""
    ms = 1e3 * np.quantile(taken, [0.5, 0.99, 0.999, 1.0])
    return dict(zip(("median", "p99", "p99.9", "max"), ms.round(4).tolist(), strict=True))


def start_up(policy: Path, repeats: int = 5) -> dict[str, float]:
    """Wall-clock of a process that starts, does one tick of the loop and ends [s]: more than a start-up takes."""
    command = [sys.executable, "-m", "bridge", "sim", str(policy), "--fast", "--seconds", "0"]
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=60)
        taken.append(time.perf_counter() - begin)
    return {"median": round(float(np.median(taken)), 3), "max": round(max(taken), 3)}


def cpu_model() -> str:
    """Name of the processor, as Linux has it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(found: dict[str, Any], path: Path) -> None:
    """Writes the result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
