"""Left and right exchanged: what a robot that mirrors another one would observe and do.

A biped is its own mirror image in the plane y = 0 of its base's yaw frame. A reflection turns vectors (x, y, z) into
(x, −y, z) and axial vectors, such as rates and momenta of rotation, into (−x, y, −z); joints change places with their
counterparts, and turn the other way where the reflected axis does. Which joint is whose counterpart, and how it turns,
is measured on the compiled model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, Int

from envs.observations import actor_layout, privileged_layout
from envs.robots.robot import RobotModel

PLACE_TOLERANCE = 5e-3  # m, between a joint's anchor and its counterpart's reflection
AXIS_TOLERANCE = 1e-2  # rad, between their axes
VECTOR, AXIAL = (1.0, -1.0, 1.0), (-1.0, 1.0, -1.0)


class Swap(NamedTuple):
    """A reflection of numbers x: sign · x[index]."""

    index: Int[np.ndarray, " n"]
    sign: Float[np.ndarray, " n"]

    def __call__(self, x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """Reflects the last axis."""
        return jnp.asarray(self.sign, x.dtype) * x[..., self.index]


@dataclasses.dataclass(frozen=True, eq=False)
class Mirror:
    """How actions and each observation of a task are reflected."""

    action: Swap
    observations: Mapping[str, Swap]

    def observation(self, obs: dict[str, Float[Array, "*batch _"]]) -> dict[str, Float[Array, "*batch _"]]:
        """Reflects all observations."""
        return {name: self.observations[name](value) for name, value in obs.items()}


def mirror(robot: RobotModel, guided: bool = True) -> Mirror:
    """The reflection of a robot's actions and observations; without an MPC the critic sees no plan.

    Raises:
        ValueError: The robot is not its own mirror image.
    """
    joints = joint_swap(robot)
    vector, axial = (Swap(np.arange(3), np.array(signs)) for signs in (VECTOR, AXIAL))
    parts = {
        **dict.fromkeys(("joint_position", "joint_velocity", "last_action"), joints),
        **dict.fromkeys(("gyro", "angular_momentum"), axial),
        **dict.fromkeys(("projected_gravity", "velocity", "com", "com_velocity"), vector),
        "command": Swap(np.arange(3), np.array([1.0, -1.0, -1.0])),
        "phase_clock": Swap(np.arange(2), -np.ones(2)),  # half a cycle later
        "height": Swap(np.arange(1), np.ones(1)),
        **dict.fromkeys(("foot_height", "contact"), Swap(np.array([1, 0]), np.ones(2))),
        "foot_force": Swap(np.array([3, 4, 5, 0, 1, 2]), np.array(VECTOR * 2)),
    }
    critic = privileged_layout(robot.num_joints, guided)
    layouts = {"state": actor_layout(robot.num_joints), "privileged_state": critic}
    return Mirror(joints, {name: _join([parts[part] for part in layout]) for name, layout in layouts.items()})


def joint_swap(robot: RobotModel) -> Swap:
    """Each joint's counterpart, and whether it turns the other way.

    Raises:
        ValueError: A joint has none, or the two differ in their default position or action scale.
    """
    model = robot.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0  # joints at zero: a default pose may be anything
    mujoco.mj_forward(model, data)
    frame = data.xmat[robot.base_body_id].reshape(3, 3)
    place = (data.xanchor[robot.joint_ids] - data.xpos[robot.base_body_id]) @ frame
    axis = data.xaxis[robot.joint_ids] @ frame
    far = np.linalg.norm(place[:, None] - place * VECTOR, axis=-1)
    along = axis @ (axis * AXIAL).T
    fits = (far <= PLACE_TOLERANCE) & (np.abs(along) >= np.cos(AXIS_TOLERANCE))
    for name, row in zip(robot.joint_names, fits, strict=True):
        if row.sum() != 1:
            count = "no joint" if not row.any() else "more than one joint"
            raise ValueError(f"Robot {robot.robot.name!r} is not its own mirror image: {count} mirrors {name!r}.")
    index = fits.argmax(axis=1)
    sign = np.sign(along[np.arange(len(index)), index])
    for what, value, expected in (
        ("default position", robot.default_joint_pos, sign * robot.default_joint_pos[index]),
        ("action scale", robot.action_scale, robot.action_scale[index]),
    ):
        if not np.allclose(value, expected, atol=1e-3):
            name = robot.joint_names[int(np.abs(value - expected).argmax())]
            raise ValueError(f"Robot {robot.robot.name!r} is not its own mirror image in the {what} of {name!r}.")
    return Swap(index, sign)


def _join(parts: list[Swap]) -> Swap:
    """Reflections of parts of a vector as one of the whole."""
    starts = np.cumsum([0] + [len(part.sign) for part in parts[:-1]])
    index = [start + part.index for start, part in zip(starts, parts, strict=True)]
    return Swap(np.concatenate(index), np.concatenate([part.sign for part in parts]))
