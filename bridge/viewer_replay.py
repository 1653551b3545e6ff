"""A log in the browser: the robot as it was, at the pace of then, over and over."""

from __future__ import annotations

import time

import mujoco
import numpy as np

from bridge.deployment import Deployment
from bridge.viewer import Viewer, base_velocity

LONGEST_GAP = 0.5  # s: a longer one between two rows (the robot was silent) is cut short


def play(rows: np.ndarray, deployment: Deployment, model: mujoco.MjModel, viewer: Viewer) -> None:
    """Shows the rows of a log, as often as it takes until Ctrl-C comes or the viewer dies.

    Args:
        rows: of `bridge.recorder.row_type`, at least one.
        deployment: of the policy.
        model: of the robot on its floor.
        viewer: that runs.
    """
    adr = np.array([model.joint(name).qposadr[0] for name in deployment.joint_names])
    qpos, resets = model.qpos0.copy(), 0
    gaps = np.clip(np.diff(rows["time"], append=rows["time"][-1]), 0.0, LONGEST_GAP)
    k, due = 0, time.monotonic()
    while viewer.alive:
        if viewer.paused:
            time.sleep(0.02)
            due = time.monotonic()
            continue
        if viewer.orders["reset"][0] != resets:
            resets, k = int(viewer.orders["reset"][0]), 0
        if viewer.due():
            viewer.show(**_fields(rows[k], qpos, adr))
        due += gaps[k]
        time.sleep(max(due - time.monotonic(), 0.0))
        k = (k + 1) % len(rows)


def _fields(row: np.void, qpos: np.ndarray, adr: np.ndarray) -> dict:
    """What a view has of a row; a log does not know where the base was nor how fast it moved."""
    qpos[:3], qpos[3:7], qpos[adr] = np.nan, row["quaternion"], row["q"]
    turning = base_velocity(qpos, np.concatenate([np.zeros(3), row["gyro"]]))[2]
    fields = {name: row[name] for name in ("time", "command", "mode", "fault")}
    return fields | {"qpos": qpos, "velocity": np.array([np.nan, np.nan, turning])}
