"""What is read off a compiled robot at its nominal pose."""

from collections.abc import Sequence

import mujoco
import numpy as np
from jaxtyping import Float, Int


def nominal_data(
    model: mujoco.MjModel,
    joint_ids: Int[np.ndarray, " nu"],
    joint_pos: Float[np.ndarray, " nu"],
    foot_geom_ids: Int[np.ndarray, " n"],
) -> mujoco.MjData:
    """The default pose, base upright over the origin, the lowest point of the feet on the floor."""
    data = mujoco.MjData(model)
    data.qpos[:7] = (0, 0, 0, 1, 0, 0, 0)
    data.qpos[model.jnt_qposadr[joint_ids]] = joint_pos
    mujoco.mj_kinematics(model, data)
    data.qpos[2] = -np.min(data.geom_xpos[foot_geom_ids, 2] - model.geom_size[foot_geom_ids, 0])
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    return data


def shrink(limits: Float[np.ndarray, "nu 2"], factor: float) -> Float[np.ndarray, "nu 2"]:
    """Joint ranges scaled about their centres; those of unlimited joints stay infinite."""
    centre = np.array([np.mean(pair) if np.isfinite(pair).all() else 0.0 for pair in limits])[:, None]
    return centre + factor * (limits - centre)


def sole(
    data: mujoco.MjData, site_ids: Int[np.ndarray, " 2"], geom_ids: Sequence[Int[np.ndarray, " n"]]
) -> Float[np.ndarray, " 3"]:
    """(toe, heel, half_width) of the largest rectangle in the site's frame that both feet can press on.

    A sphere under a flat foot touches the floor below its centre: its radius adds nothing to where pressure can be.
    """
    extents = []
    for site, geoms in zip(site_ids, geom_ids, strict=True):
        p_site = (data.geom_xpos[geoms] - data.site_xpos[site]) @ data.site_xmat[site].reshape(3, 3)
        toe, heel = p_site[:, 0].max(), -p_site[:, 0].min()
        extents.append((toe, heel, np.abs(p_site[:, 1]).min()))
    return np.min(extents, axis=0)


def inertia_about_com(
    model: mujoco.MjModel, data: mujoco.MjData, p_com: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "3 3"]:
    """Rotational inertia of the whole body about its centre of mass, joints locked, world axes, kg m^2."""
    r = data.xipos - p_com
    R = data.ximat.reshape(-1, 3, 3)
    own = np.einsum("bij,bj,bkj->ik", R, model.body_inertia, R)
    return own + np.einsum(
        "b,bij->ij", model.body_mass, (r**2).sum(1)[:, None, None] * np.eye(3) - r[:, :, None] * r[:, None]
    )
