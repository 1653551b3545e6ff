"""PD gains of joints from the inertia that they move: the one place that they come from.

A joint of inertia J under a PD loop is a second-order system, J q̈ = kp (q_target - q) - kd q̇. Choosing its natural
frequency ω and damping ratio ζ gives

    kp = J ω²,    kd = 2 ζ J ω.

J is either the armature alone, the rotor's inertia seen at the joint, as in BeyondMimic (Liao et al., 2025), or the
effective inertia M_ii(q) + armature_i of the whole robot at its nominal pose (Li et al., arXiv 2606.05687, section
IV-D). With low gear ratios the limb outweighs the rotor by far, and a loop tuned for the rotor alone is much slower and
less damped than it claims.
"""

from __future__ import annotations

from typing import Literal

import mujoco
import numpy as np
from jaxtyping import Float, Int

Inertia = Literal["armature", "effective"]


def stiffness(inertia: Float[np.ndarray, "*n"] | float, frequency: float | np.ndarray) -> Float[np.ndarray, "*n"]:
    """Stiffness kp [N m/rad] of joints.

    Args:
        inertia: J [kg m²].
        frequency: ω [rad/s].
    """
    return np.asarray(inertia * frequency**2)


def damping(
    inertia: Float[np.ndarray, "*n"] | float, frequency: float | np.ndarray, ratio: float | np.ndarray
) -> Float[np.ndarray, "*n"]:
    """Damping kd [N m s/rad] of joints.

    Args:
        inertia: J [kg m²].
        frequency: ω [rad/s].
        ratio: ζ.
    """
    return np.asarray(2.0 * ratio * inertia * frequency)


def natural_frequency(kp: Float[np.ndarray, "*n"], inertia: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """ω [rad/s] that a stiffness [N m/rad] gives an inertia [kg m²]."""
    return np.asarray(np.sqrt(kp / inertia))


def damping_ratio(
    kp: Float[np.ndarray, "*n"], kd: Float[np.ndarray, "*n"], inertia: Float[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n"]:
    """ζ that gains [N m/rad, N m s/rad] give an inertia [kg m²]."""
    return np.asarray(kd / (2.0 * np.sqrt(kp * inertia)))


def effective_inertia(
    model: mujoco.MjModel, qpos: Float[np.ndarray, " nq"], dof_adr: Int[np.ndarray, " nj"]
) -> Float[np.ndarray, " nj"]:
    """The diagonal of the joint-space mass matrix, armature included as MuJoCo adds it itself [kg m²].

    It is the torque per acceleration of one joint while all others, and the base, are held.

    Args:
        model: the robot.
        qpos: configuration.
        dof_adr: of the joints.
    """
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_makeM(model, data)
    dense = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, dense)
    return np.diag(dense)[dof_adr]


def step_response(time: Float[np.ndarray, " T"], frequency: float, ratio: float) -> Float[np.ndarray, " T"]:
    """Position of a second-order system at rest at 0 whose target steps to 1, in closed form.

    Args:
        time: since the step [s].
        frequency: ω [rad/s].
        ratio: ζ; below, at and above 1.
    """
    # At critical damping both roots coincide; a part in 1e-6 beside it is indistinguishable and not singular.
    ratio = ratio + 1e-6 if abs(ratio - 1.0) < 1e-6 else ratio
    root = np.sqrt(complex(ratio**2 - 1.0))
    fast, slow = -frequency * (ratio + root), -frequency * (ratio - root)
    moved = 1.0 + (slow * np.exp(fast * time) - fast * np.exp(slow * time)) / (fast - slow)
    return np.real(moved)
