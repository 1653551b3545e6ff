"""What the centroidal MPC takes and gives: robot, state, contacts and plan, as pytrees of one instance.

Feet are ordered (left, right). Wrenches are in the world frame, moments about the origin of the foot's sole frame.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

GRAVITY = 9.81  # m/s², along −z of the world


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CentroidalModel:
    """A robot as the centroidal MPC sees it; every leaf may differ per instance (domain randomization).

    Attributes:
        mass: kg.
        friction: Coulomb coefficient between sole and ground.
        sole: m, (toe, heel, half_width): the sole is [−heel, toe] × [−half_width, half_width] in its frame (x forward).
        foot_offset: m, nominal sole origins (left, right) from the CoM, x and y in the base's yaw frame.
        com_height: m, nominal height of the CoM over the ground.
        inertia_zz: kg m², yaw inertia about the CoM.
    """

    mass: Float[Array, ""]
    friction: Float[Array, ""]
    sole: Float[Array, "3"]
    foot_offset: Float[Array, "2 2"]
    com_height: Float[Array, ""]
    inertia_zz: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CentroidalState:
    """The measured state the MPC starts from.

    Attributes:
        p_world_com: m.
        linear_momentum: kg m/s, world.
        angular_momentum: kg m²/s, about the CoM, world.
        p_world_foot: m, sole origins (left, right).
        R_world_foot: sole orientations (left, right); columns are the sole's axes in the world, z along its normal.
        yaw: rad, heading of the base.
        ground_height: m, z of the ground under the robot.
    """

    p_world_com: Float[Array, "3"]
    linear_momentum: Float[Array, "3"]
    angular_momentum: Float[Array, "3"]
    p_world_foot: Float[Array, "2 3"]
    R_world_foot: Float[Array, "2 3 3"]
    yaw: Float[Array, ""]
    ground_height: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ContactPlan:
    """Where and when the feet carry load over the horizon.

    Attributes:
        stance: whether a foot carries load in stage k.
        p_world_foothold: m, sole origin in stage k: measured until the foot's next touchdown, then its foothold.
        R_world_foothold: its orientation: measured until the next touchdown, then flat and along the predicted heading.
        landing: m, the next touchdown of each foot; its measured position where there is none in the horizon.
        landing_valid: whether `landing` is a touchdown.
    """

    stance: Bool[Array, "N 2"]
    p_world_foothold: Float[Array, "N 2 3"]
    R_world_foothold: Float[Array, "N 2 3 3"]
    landing: Float[Array, "2 3"]
    landing_valid: Bool[Array, "2"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """A predicted motion on the knots k·dt, k = 0 … N, with the wrenches held between them.

    Attributes:
        p_world_com: m, at the knots; the first is the measured one.
        linear_momentum: kg m/s, world, at the knots.
        angular_momentum: kg m²/s, about the CoM, world, at the knots.
        force: N, on each foot in stage k, world.
        moment: N m, on each foot in stage k, world, about the sole origin.
        stance: whether a foot carries load in stage k.
        p_world_foothold: m, sole origin in stage k.
        landing: m, the next touchdown of each foot.
        landing_valid: whether `landing` is a touchdown (else it is where the foot is).
    """

    p_world_com: Float[Array, "N+1 3"]
    linear_momentum: Float[Array, "N+1 3"]
    angular_momentum: Float[Array, "N+1 3"]
    force: Float[Array, "N 2 3"]
    moment: Float[Array, "N 2 3"]
    stance: Bool[Array, "N 2"]
    p_world_foothold: Float[Array, "N 2 3"]
    landing: Float[Array, "2 3"]
    landing_valid: Bool[Array, "2"]


def assemble_plan(x: Float[Array, "N+1 9"], u: Float[Array, "N 12"], contacts: ContactPlan) -> Plan:
    """Names the entries of a state and an input trajectory."""
    wrench = u.reshape(-1, 2, 2, 3)
    return Plan(
        p_world_com=x[:, :3],
        linear_momentum=x[:, 3:6],
        angular_momentum=x[:, 6:],
        force=wrench[:, :, 0],
        moment=wrench[:, :, 1],
        stance=contacts.stance,
        p_world_foothold=contacts.p_world_foothold,
        landing=contacts.landing,
        landing_valid=contacts.landing_valid,
    )


def where_plan(accept: Bool[Array, ""], plan: Plan, fallback: Plan) -> Plan:
    """`plan` where `accept`, else `fallback`; nothing of the rejected one leaks through, not even a NaN."""
    return jax.tree.map(lambda a, b: jnp.where(accept, a, b), plan, fallback)
