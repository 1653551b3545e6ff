"""One randomized robot as a C MuJoCo model."""

from __future__ import annotations

import copy

import mujoco
import numpy as np

from envs.physics import ModelParams
from envs.robots import RobotModel


def c_model(robot: RobotModel, params: ModelParams) -> mujoco.MjModel:
    """A copy of the robot's model with the parameters of one robot, and nothing else changed.

    As in `envs.physics.apply_params`, what MuJoCo derives from masses when it compiles a model stays nominal.

    Args:
        robot: the compiled robot.
        params: one instance's parameters.
    """
    model = copy.deepcopy(robot.mj_model)
    # C's bounding volumes are in the compiled model's inertial frames: with a shifted body_ipos they miss contacts.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_MIDPHASE
    model.geom_friction[np.concatenate(robot.foot_geom_ids), 0] = params.foot_friction
    model.body_mass[:], model.body_inertia[:] = params.body_mass, params.body_inertia
    model.body_ipos[:] = params.body_ipos
    model.actuator_gainprm[:, 0] = params.kp
    model.actuator_biasprm[:, 1], model.actuator_biasprm[:, 2] = -np.asarray(params.kp), -np.asarray(params.kd)
    model.dof_armature[robot.dof_adr] = params.armature
    model.body_subtreemass[:] = model.body_mass
    for body in range(model.nbody - 1, 0, -1):  # children come after their parents
        model.body_subtreemass[model.body_parentid[body]] += model.body_subtreemass[body]
    return model
