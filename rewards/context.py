"""What a reward term may look at: one control step of one robot, as arrays.

Feet are ordered (left, right). Frames are in the names: `p_world_foot` is a position in world coordinates, `w_base` an
angular velocity in base coordinates. c, l and k are the centroidal state of the papers: centre of mass, linear and
angular momentum about it, all in world coordinates.
"""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Bool, Float


def _pytree(cls: type) -> type:
    """Registers a frozen dataclass of arrays as a pytree."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@_pytree
class Guidance:
    """What the MPC said about the present time (arXiv 2606.05687, section II-C).

    The L landmarks are predictions that earlier solves made for now; `weight` is α of eq. (14) with missing landmarks
    omitted and the rest rescaled to sum to one.
    """

    p_world_com: Float[Array, "L 3"]  # ĉ(t | t−δ_ℓ) [m]
    linear_momentum: Float[Array, "L 3"]  # l̂ [kg m/s]
    angular_momentum: Float[Array, "L 3"]  # k̂ about the CoM [kg m²/s]
    angular_momentum_rate: Float[Array, "L 3"]  # dk̂/dt [N m]
    weight: Float[Array, " L"]  # [-]
    p_world_landing: Float[Array, "2 3"]  # next touchdown of each foot [m]
    landing_valid: Bool[Array, " 2"]
    f_world_foot: Float[Array, "2 3"]  # planned force on each foot, now [N]
    solved: Bool[Array, ""]  # the plan behind all this came from a solve that succeeded

    @property
    def has_landmark(self) -> Bool[Array, ""]:
        """Whether any landmark of a successful solve speaks of the present."""
        return self.solved & (self.weight.sum() > 0)


@_pytree
class Context:
    """The realised motion at the end of a control step, and what was asked for."""

    command: Float[Array, " 3"]  # v_x, v_y [m/s], ω_z [rad/s], base yaw frame
    moving: Bool[Array, ""]  # the command is more than a stand
    scheduled_stance: Bool[Array, " 2"]  # from the phase clock
    swing_fraction: Float[Array, " 2"]  # share of each foot's swing that has passed, by the clock [-]
    # Base
    v_base: Float[Array, " 3"]  # linear velocity of the base, in its yaw frame [m/s]
    w_base: Float[Array, " 3"]  # angular velocity, base frame [rad/s]
    w_world: Float[Array, " 3"]  # the same, world frame [rad/s]
    mean_error: Float[Array, " 3"]  # v_base_xy [m/s] and w_base_z [rad/s] minus the command, mean over about a cycle
    gravity_base: Float[Array, " 3"]  # unit gravity direction, base frame [-]
    # Joints
    q: Float[Array, " nj"]  # [rad]
    q_default: Float[Array, " nj"]  # [rad]
    q_std: Float[Array, " nj"]  # how far a joint may stray at this speed [rad]
    q_lower: Float[Array, " nj"]  # soft limits [rad]
    q_upper: Float[Array, " nj"]
    action: Float[Array, " nj"]  # [-]
    last_action: Float[Array, " nj"]
    # Centroidal
    mass: Float[Array, ""]  # [kg]
    inertia: Float[Array, "3 3"]  # about the CoM, world frame [kg m²]
    p_world_com: Float[Array, " 3"]  # c [m]
    linear_momentum: Float[Array, " 3"]  # l [kg m/s]
    angular_momentum: Float[Array, " 3"]  # k [kg m²/s]
    angular_momentum_rate: Float[Array, " 3"]  # finite difference over the control step [N m]
    # Feet
    p_world_foot: Float[Array, "2 3"]  # sole centres [m]
    foot_height: Float[Array, " 2"]  # of the sole centres over the ground beneath them [m]
    v_world_foot: Float[Array, "2 3"]  # [m/s]
    tilt_foot: Float[Array, " 2"]  # sine of the angle between the sole normal and the vertical [-]
    contact: Bool[Array, " 2"]
    touchdown: Bool[Array, " 2"]  # contact began in this step
    peak_height: Float[Array, " 2"]  # highest sole height since lift-off [m]
    f_world_foot: Float[Array, "2 3"]  # measured contact force on each foot [N]
    limb_gaps: Float[Array, " P"]  # between limbs that must not touch, negative where they overlap [m]
    guidance: Guidance
