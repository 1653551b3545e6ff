"""Drawings of one MPC plan for notebooks: contact schedule, view from above, forces. Axes are matplotlib's."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pimpc import CentroidalModel, CentroidalState, ContactPlan, Plan

FEET = (("left", "#2f72d0"), ("right", "#d0413a"))
COM = "#c98a00"


def schedule(axes: Any, stance: Bool[np.ndarray, "N 2"], dt: float) -> None:
    """Bars where a foot carries load.

    Args:
        axes: to draw on.
        stance: of a plan.
        dt: stage length [s].
    """
    for row, (name, color) in enumerate(FEET):
        stages = np.flatnonzero(np.asarray(stance)[:, row])
        axes.broken_barh([(k * dt, dt) for k in stages], (-row - 0.35, 0.7), color=color, label=name)
    axes.set(xlim=(0, len(stance) * dt), yticks=(0, -1), yticklabels=[name for name, _ in FEET])
    axes.set_xlabel("time [s]")


def from_above(
    axes: Any, model: CentroidalModel, state: CentroidalState, plan: Plan, contacts: ContactPlan | None = None
) -> None:
    """The CoM's path over the soles: filled where a foot is now, outlined where it is going to land.

    Args:
        axes: to draw on.
        model: the robot.
        state: where the plan starts.
        plan: its solution.
        contacts: with the orientations of the footholds; those of the present feet are taken without it.
    """
    toe, heel, half = np.asarray(model.sole)
    corners = np.array([[toe, half], [toe, -half], [-heel, -half], [-heel, half]])
    for foot, (name, color) in enumerate(FEET):
        here = np.asarray(state.p_world_foot[foot, :2]) + corners @ np.asarray(state.R_world_foot[foot, :2, :2]).T
        axes.fill(*here.T, color=color, alpha=0.75, label=f"{name} foot now")
        places, first = np.unique(np.asarray(plan.p_world_foothold[:, foot, :2]).round(4), axis=0, return_index=True)
        for place, stage in zip(places, first, strict=True):
            R = state.R_world_foot[foot] if contacts is None else contacts.R_world_foothold[stage, foot]
            outline = place + corners @ np.asarray(R[:2, :2]).T
            axes.fill(*outline.T, facecolor="none", edgecolor=color, linewidth=1.2)
    com = np.asarray(plan.p_world_com)
    axes.plot(com[:, 0], com[:, 1], ".-", color=COM, markersize=4, label="CoM, a dot a stage")
    axes.set(xlabel="x [m]", ylabel="y [m]", aspect="equal")


def normal_forces(
    axes: Any, force: Float[np.ndarray, "N 2 3"], weight: float, dt: float, limit: float | None = None
) -> None:
    """Vertical force on each foot, held over its stages.

    Args:
        axes: to draw on.
        force: of a plan [N].
        weight: of the robot [N], drawn as a line.
        dt: stage length [s].
        limit: largest normal force of a foot [N], drawn as a line.
    """
    edges = dt * np.arange(len(force) + 1)
    for foot, (name, color) in enumerate(FEET):
        axes.stairs(np.asarray(force)[:, foot, 2], edges, color=color, linewidth=1.8, label=name)
    axes.stairs(np.asarray(force)[:, :, 2].sum(1), edges, color="0.4", linewidth=1.0, label="sum")
    axes.axhline(weight, color="0.4", linestyle=":", linewidth=1.0, label="weight")
    if limit is not None:
        axes.axhline(limit, color="0.7", linestyle="--", linewidth=1.0, label="limit of a foot")
    axes.set(xlabel="time [s]", ylabel="vertical force [N]", xlim=(0, edges[-1]))
