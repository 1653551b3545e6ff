"""What a simulation makes of the joint targets of a logged run, beside what the robot made of them.

The log knows the base's orientation and rate, not where it is or how fast it moves. So a replay starts with the lowest
foot on the floor and at rest there, and as errors of an open loop grow, it starts anew every `window` seconds.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Bool, Float

from bridge.deployment import Deployment
from bridge.machine import Mode
from bridge.mujoco_robot import MujocoRobot
from bridge.robot import PDTarget


def simulate(
    rows: np.ndarray, deployment: Deployment, model: mujoco.MjModel, window: float
) -> tuple[Float[np.ndarray, "T nj"], Bool[np.ndarray, " T"]]:
    """The joints of a simulated robot that is told what the logged one was told.

    Args:
        rows: consecutive control steps of a log, of `bridge.recorder.row_type`.
        deployment: of the policy.
        model: of the robot on its floor.
        window: s between two starts from the log.

    Returns:
        Joint positions [rad] of each row, and which rows are starts (there they are the logged ones).

    Raises:
        ValueError: the window is not positive.
    """
    if not window > 0:
        raise ValueError(f"A window of {window:g} s: it must be positive.")
    robot = MujocoRobot(model, deployment, command_timeout=np.inf)
    every = max(2, round(window / deployment.control_dt))  # a start compares nothing
    q = np.zeros_like(rows["q"], dtype=float)
    starts = np.zeros(len(rows), bool)
    zero, begin = np.zeros(deployment.num_joints), 0.0
    for k, row in enumerate(rows):
        if k % every == 0:
            _start(robot, row)
            starts[k], begin = True, float(row["time"])
        q[k] = robot.read().q
        robot.send(PDTarget(q=row["target"], qd=zero, kp=row["kp"], kd=row["kd"], tau=zero))
        following = rows[k + 1]["time"] if k + 1 < len(rows) else row["time"] + deployment.control_dt
        robot.sleep_until(float(following) - begin)
    return q, starts


def _start(robot: MujocoRobot, row: np.void) -> None:
    """Puts the simulated robot where a row says, its lowest foot on the floor and at rest."""
    model, data = robot.model, robot.data
    qpos, qvel = model.qpos0.copy(), np.zeros(model.nv)
    qpos[:3] = 0.0
    qpos[3:7] = row["quaternion"] / np.linalg.norm(row["quaternion"])
    qpos[robot.qpos_adr] = row["q"]
    qvel[3:6], qvel[robot.dof_adr] = row["gyro"], row["qd"]
    robot.put(qpos, qvel)
    feet = np.flatnonzero((model.geom_conaffinity > 0) & (model.geom_bodyid > 0))
    bottom = data.geom_xpos[feet, 2] - model.geom_size[feet, 0]
    lowest = feet[np.argmin(bottom)]
    velocity = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_GEOM, lowest, velocity, 0)
    qpos[2] -= bottom.min()
    qvel[:3] -= velocity[3:]
    robot.put(qpos, qvel)


def policy_rows(rows: np.ndarray) -> np.ndarray:
    """The longest stretch of a log during which the policy moved the robot.

    Raises:
        ValueError: there is none.
    """
    under = np.concatenate([[False], rows["mode"] == Mode.POLICY, [False]])
    edges = np.flatnonzero(np.diff(under.astype(int)))
    if not len(edges):
        raise ValueError("The policy never moved the robot in this log.")
    first, last = max(zip(edges[::2], edges[1::2], strict=True), key=lambda pair: pair[1] - pair[0])
    return rows[first:last]


def errors(q_log: Float[np.ndarray, "T nj"], q: Float[np.ndarray, "T nj"]) -> dict[str, Float[np.ndarray, " nj"]]:
    """Root mean square and largest difference of each joint [rad]."""
    difference = q_log - q
    return {"rms": np.sqrt(np.mean(difference**2, axis=0)), "max": np.abs(difference).max(axis=0)}


def plot(
    rows: np.ndarray,
    q: Float[np.ndarray, "T nj"],
    starts: Bool[np.ndarray, " T"],
    deployment: Deployment,
    path: Path,
) -> None:
    """Draws each joint as logged and as simulated; dots are starts from the log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = 5
    lines = -(-deployment.num_joints // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(18, 2.1 * lines), sharex=True, squeeze=False)
    time = rows["time"] - rows["time"][0]
    for axis, name, logged, simulated in zip(axes.flat, deployment.joint_names, rows["q"].T, q.T, strict=False):
        axis.plot(time, logged, label="log")
        axis.plot(time, np.where(np.append(starts[1:], False), np.nan, simulated), lw=1, label="simulation")
        axis.plot(time[starts], simulated[starts], ".", ms=2, color="black")
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=6)
    axes[0, 0].legend(fontsize=6)
    axes[0, 0].set_ylabel("rad")
    figure.supxlabel("s")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
