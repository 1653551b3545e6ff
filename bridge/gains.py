"""What the gains of a robot do to its joints, by the effective inertia, and what other gains would: `bridge gains`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from envs.robots import RobotModel, gains


@dataclasses.dataclass(frozen=True, eq=False)
class GainSet:
    """Gains of all joints and what follows from them for the effective inertia."""

    name: str
    kp: Float[np.ndarray, " nj"]  # N m/rad
    kd: Float[np.ndarray, " nj"]  # N m s/rad
    frequency: Float[np.ndarray, " nj"]  # Hz
    damping_ratio: Float[np.ndarray, " nj"]
    saturation: Float[np.ndarray, " nj"]  # rad, position error at which the torque limit is reached


@dataclasses.dataclass(frozen=True, eq=False)
class GainReport:
    """The robot's own gains and two alternatives at one natural frequency and damping ratio for each joint."""

    joint_names: tuple[str, ...]
    armature: Float[np.ndarray, " nj"]  # kg m²
    effective: Float[np.ndarray, " nj"]  # kg m², armature included
    wanted_frequency: Float[np.ndarray, " nj"]  # Hz, of the alternatives
    wanted_ratio: Float[np.ndarray, " nj"]
    own: GainSet
    by_effective: GainSet
    by_armature: GainSet


def report(robot: RobotModel, frequency: float | None = None, ratio: float | None = None) -> GainReport:
    """Works out gains.

    Args:
        robot: the compiled robot.
        frequency: natural frequency for all joints [Hz]; by default each joint group's own, or, where a group gives
            its gains as numbers, the median of what they amount to for its joints.
        ratio: damping ratio for all joints, with the same default.

    Raises:
        ValueError: frequency or ratio is not positive.
    """
    for name, value in (("frequency", frequency), ("damping ratio", ratio)):
        if value is not None and not value > 0:
            raise ValueError(f"The {name} must be positive, got {value}.")
    inertia = gains.effective_inertia(robot.mj_model, robot.default_qpos, robot.dof_adr)

    def gain_set(name: str, kp: Float[np.ndarray, " nj"], kd: Float[np.ndarray, " nj"]) -> GainSet:
        frequencies = gains.natural_frequency(kp, inertia) / (2 * np.pi)
        return GainSet(name, kp, kd, frequencies, gains.damping_ratio(kp, kd, inertia), robot.effort / kp)

    own = gain_set("the robot's own", robot.kp, robot.kd)
    wanted_frequency, wanted_ratio = _by_group(robot, own)
    if frequency is not None:
        wanted_frequency = np.full_like(wanted_frequency, frequency)
    if ratio is not None:
        wanted_ratio = np.full_like(wanted_ratio, ratio)
    omega = 2 * np.pi * wanted_frequency
    alternatives = [
        gain_set(name, gains.stiffness(J, omega), gains.damping(J, omega, wanted_ratio))
        for name, J in (("effective inertia", inertia), ("armature only", robot.armature))
    ]
    return GainReport(
        robot.joint_names,
        robot.armature,
        inertia,
        wanted_frequency,
        wanted_ratio,
        own,
        alternatives[0],
        alternatives[1],
    )


def _by_group(robot: RobotModel, own: GainSet) -> tuple[Float[np.ndarray, " nj"], Float[np.ndarray, " nj"]]:
    """Natural frequency [Hz] and damping ratio that each joint's group asks for."""
    frequency, ratio = own.frequency.copy(), own.damping_ratio.copy()
    first = [next(g for g in robot.robot.joint_groups if re.fullmatch(g.pattern, name)) for name in robot.joint_names]
    for group in robot.robot.joint_groups:
        members = np.array([found is group for found in first])
        if not members.any():
            continue
        if group.frequency is not None and group.damping_ratio is not None:
            frequency[members], ratio[members] = group.frequency / (2 * np.pi), group.damping_ratio
        else:
            frequency[members], ratio[members] = (np.median(x[members]) for x in (own.frequency, own.damping_ratio))
    return frequency, ratio


def table(found: GainReport) -> str:
    """The report as text: one line a joint; frequencies and damping ratios are those of the effective inertia."""
    width = max(map(len, found.joint_names))
    sets = (found.own, found.by_effective, found.by_armature)
    titles = f"{'':{width}s}  {'J [g m²]':>17s}  {'wanted':>11s}" + "".join(f"  | {s.name:^36s}" for s in sets)
    names = f"{'joint':{width}s}  {'rotor':>8s} {'all':>8s}  {'Hz':>5s} {'ζ':>5s}"
    lines = [titles, names + "  |       kp      kd     Hz      ζ    rad" * 3]
    for i, joint in enumerate(found.joint_names):
        line = f"{joint:{width}s}  {1e3 * found.armature[i]:8.2f} {1e3 * found.effective[i]:8.2f}"
        line += f"  {found.wanted_frequency[i]:5.1f} {found.wanted_ratio[i]:5.2f}"
        for s in sets:
            line += f"  | {s.kp[i]:8.2f} {s.kd[i]:7.3f} {s.frequency[i]:6.2f}"
            line += f" {s.damping_ratio[i]:6.2f} {s.saturation[i]:6.2f}"
        lines.append(line)
    lines.append("rad: the position error at which the torque limit is reached")
    return "\n".join(lines)


def plot(found: GainReport, path: Path, seconds: float = 1.0) -> None:
    """Draws each joint's answer to a step of its target, other joints and the base held, torque not limited."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = 5
    rows = -(-len(found.joint_names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(16, 2 * rows), sharex=True, sharey=True, squeeze=False)
    time = np.linspace(0.0, seconds, 400)
    for i, (axis, joint) in enumerate(zip(axes.flat, found.joint_names, strict=False)):
        for s in (found.own, found.by_effective, found.by_armature):
            response = gains.step_response(time, 2 * np.pi * s.frequency[i], s.damping_ratio[i])
            axis.plot(time, response, lw=1, label=s.name)
        axis.set_title(joint, fontsize=8)
        axis.tick_params(labelsize=6)
    for axis in axes.flat[len(found.joint_names) :]:
        axis.set_axis_off()
    axes[0, 0].legend(fontsize=6)
    figure.supxlabel("s after a unit step of the target")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
