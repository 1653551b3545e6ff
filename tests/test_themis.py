"""THEMIS against the figures published with MPC-RL, its symmetry, and its first step in the velocity task.

One program is compiled: a reset, one control step of eight robots, and the kinematics of eight random states.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import symmetry, velocity
from envs.config import NO_PUSHES, NO_RANDOMIZATION, ResetConfig, VelocityConfig
from envs.physics import PhysicsState, nominal_params
from envs.robots import THEMIS, RobotModel, compile_robot, get_robot
from learning.policy import load_policy

BATCH = 8
# Released with arXiv 2606.05687: range [rad], Kp [N m/rad], Kd [N m s/rad], torque limit [N m], armature [kg m^2], and
# the diagonal of the joint-space inertia in the walking pose without armature [kg m^2], as measured on that model.
SIDE = {
    "hip_yaw": (-3.14, 3.14, 35, 5, 67, 0.0297, 0.799),
    "hip_roll": (-1.56, 1.56, 35, 5, 67, 0.0297, 0.308),
    "hip_pitch": (-1.56, 1.56, 35, 8, 180, 0.1153, 0.646),
    "knee": (0, 3.14, 35, 8, 180, 0.1153, 0.110),
    "ankle_pitch": (-0.8, 0.8, 20, 3, 36, 0.009, 0.004),
    "ankle_roll": (-0.5, 0.5, 20, 3, 36, 0.009, 0.0016),
    "shoulder_pitch": (-3.14, 3.14, 15, 2, 20, 0.009, 0.356),
    "shoulder_roll": (-3.14, 3.14, 15, 2, 20, 0.009, 0.364),
    "shoulder_yaw": (-3.14, 3.14, 15, 2, 20, 0.009, 0.014),
    "elbow_pitch": (-3.14, 3.14, 15, 2, 20, 0.009, 0.091),
    "elbow_yaw": (-3.14, 3.14, 15, 2, 20, 0.009, 0.001),
    "wrist_pitch": (-3.14, 3.14, 15, 2, 20, 0.009, 0.016),
    "wrist_yaw": (-3.14, 3.14, 15, 2, 20, 0.009, 0.0005),
}
HEAD = {
    "head_yaw": (-3.14, 3.14, 10, 1, 10.5, 0.0182, 0.003),
    "head_pitch": (-3.14, 3.14, 10, 1, 10.5, 0.0182, 0.005),
}
# Mass of each part [kg].
MASSES = {
    "base_link": 12.72,
    "hip": 0.83264,
    "hip_abad": 2.78794,
    "femur": 3.75384,
    "tibia": 1.27716,
    "ankle": 0.006946,
    "foot": 0.41628,
    "upper_shoulder": 0.43611,
    "lower_shoulder": 0.35798,
    "upper_arm": 0.51544,
    "elbow": 0.37853,
    "forearm": 0.47694,
    "upper_wrist": 0.37004,
    "lower_wrist": 0.42,
    "neck": 0.34044,
    "head": 0.67367,
}
# What shapes without a stated mass add to the released model: where [m, in the body's frame] and how much [kg].
UNSTATED = {"lower_wrist": ((0.15, 0, 0), 0.268), "foot": ((0.05, 0, -0.06), 0.004)}
SIDES = ("left_", "right_")


def part(name: str) -> str:
    """A body's or joint's name without its side."""
    return name.removeprefix("left_").removeprefix("right_")


@pytest.fixture(scope="module")
def robot() -> RobotModel:
    return compile_robot(get_robot("themis"), iterations=50, ls_iterations=50)


@pytest.fixture(scope="module")
def nominal(robot: RobotModel) -> mujoco.MjData:
    data = mujoco.MjData(robot.mj_model)
    data.qpos[:] = robot.default_qpos
    mujoco.mj_forward(robot.mj_model, data)
    return data


def test_the_recorded_policy_is_for_this_robot(robot: RobotModel):
    policy = load_policy(Path(__file__).parents[1] / "experiments" / "results" / "themis_walk" / "policy.npz")
    assert policy.metadata["robot"] == "themis"
    assert tuple(policy.metadata["joint_names"]) == tuple(robot.joint_names)
    for name in ("action_scale", "kp", "kd", "default_joint_pos"):
        np.testing.assert_allclose(policy.metadata[name], getattr(robot, name), rtol=1e-5, atol=1e-6)


def test_joints_and_masses_are_the_published_ones(robot: RobotModel):
    table = {f"{side}{name}_joint": row for side in SIDES for name, row in SIDE.items()}
    table |= {f"{name}_joint": row for name, row in HEAD.items()}
    assert robot.mj_model.nv == 34 and set(robot.joint_names) == set(table)
    figures = np.array([table[name] for name in robot.joint_names])
    found = np.column_stack([robot.joint_limits, robot.kp, robot.kd, robot.effort, robot.armature])
    np.testing.assert_allclose(found, figures[:, :6], rtol=1e-12)
    model = robot.mj_model
    bodies = [model.body(i).name for i in range(1, model.nbody)]
    assert {part(name) for name in bodies} == set(MASSES)
    np.testing.assert_allclose(model.body_mass[1:], [MASSES[part(name)] for name in bodies], rtol=1e-12)
    assert robot.mass == pytest.approx(37.79, abs=5e-3)


def test_with_its_unstated_masses_it_is_the_released_model(robot: RobotModel):
    """Centre of mass, inertia about it and about the base, and joint-space inertia, to the digits published."""
    spec = mujoco.MjSpec.from_file(str(THEMIS.mjcf))
    for side in SIDES:
        for name, (place, mass) in UNSTATED.items():
            # The wrist's inertia is stated: the extra mass needs a body of its own.
            extra = spec.body(side + name).add_body(pos=place)
            extra.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=(0.04, 0, 0), mass=mass)
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[:] = robot.default_qpos
    mujoco.mj_forward(model, data)
    assert model.body_mass.sum() == pytest.approx(38.337, abs=2e-3)
    R = data.ximat.reshape(-1, 3, 3)

    def inertia_about(p):
        r = data.xipos - p
        own = np.einsum("bij,bj,bkj->ik", R, model.body_inertia, R)
        return own + np.einsum(
            "b,bij->ij", model.body_mass, (r**2).sum(1)[:, None, None] * np.eye(3) - r[:, :, None] * r[:, None]
        )

    base = data.body("base_link").xpos
    com = data.body("base_link").subtree_com
    np.testing.assert_allclose(com - base, [-0.079, 0, -0.266], atol=6e-4)
    np.testing.assert_allclose(inertia_about(com)[[0, 1, 2, 0], [0, 1, 2, 2]], [4.18, 3.81, 0.74, 0.08], atol=6e-3)
    np.testing.assert_allclose(inertia_about(base)[[0, 1, 2, 0], [0, 1, 2, 2]], [6.90, 6.76, 0.98, -0.72], atol=8e-3)
    M, row = np.zeros((model.nv, model.nv)), np.zeros(model.nv)
    for i in range(model.nv):
        mujoco.mj_mulM(model, data, row, np.eye(model.nv)[i])
        M[i] = row
    for name in robot.joint_names:
        published = (SIDE | HEAD)[part(name).removesuffix("_joint")][6]
        i = model.joint(name).dofadr[0]
        assert M[i, i] == pytest.approx(published, rel=0.02, abs=5e-4), name


def test_hands_are_where_the_published_pushing_pose_has_them(robot: RobotModel):
    data = mujoco.MjData(robot.mj_model)
    data.qpos[:7] = (0, 0, 1.17, 1, 0, 0, 0)
    for side, sign in (("left", 1), ("right", -1)):
        for joint, angle in (("shoulder_pitch", 0.1), ("shoulder_roll", 0.2 * sign), ("shoulder_yaw", -0.04 * sign)):
            data.joint(f"{side}_{joint}_joint").qpos[0] = angle
    mujoco.mj_kinematics(robot.mj_model, data)
    for side, sign in (("left", 1), ("right", -1)):
        wrist = data.body(f"{side}_lower_wrist")
        hand = wrist.xpos + wrist.xmat.reshape(3, 3) @ UNSTATED["lower_wrist"][0]
        np.testing.assert_allclose(hand, [0.229, 0.192 * sign, 1.015], atol=6e-4)


def test_the_sides_are_exact_mirror_images(robot: RobotModel, nominal: mujoco.MjData):
    index, sign = symmetry.joint_swap(robot)
    for i, name in enumerate(robot.joint_names):
        assert robot.joint_names[index[i]] == name.replace("left", "?").replace("right", "left").replace("?", "right")
        assert sign[i] == (1 if "pitch" in name or "knee" in name else -1)
    model, vector = robot.mj_model, np.array(symmetry.VECTOR)

    def tensor(body: int) -> np.ndarray:
        R = nominal.ximat[body].reshape(3, 3)
        return R @ np.diag(model.body_inertia[body]) @ R.T

    for body in range(1, model.nbody):
        name = model.body(body).name
        other = model.body(f"right_{part(name)}").id if name.startswith("left_") else body
        if name.startswith("right_"):
            continue
        np.testing.assert_allclose(nominal.xipos[other], vector * nominal.xipos[body], atol=1e-12, err_msg=name)
        np.testing.assert_allclose(tensor(other), np.outer(vector, vector) * tensor(body), atol=1e-12, err_msg=name)
    left, right = (np.array([nominal.geom_xpos[g] for g in foot]) for foot in robot.foot_geom_ids)
    assert {tuple(p) for p in np.round(left * vector, 12)} == {tuple(p) for p in np.round(right, 12)}
    for name in {model.geom(int(g)).name for g in robot.limb_geom_ids.ravel()}:
        if name.startswith("left_"):
            ours, theirs = model.geom(name).id, model.geom(f"right_{part(name)}").id
            np.testing.assert_allclose(nominal.geom_xpos[theirs], vector * nominal.geom_xpos[ours], atol=1e-12)
            assert np.all(model.geom_size[theirs] == model.geom_size[ours])


def test_the_soles_are_flat_on_the_floor_under_the_centre_of_mass(robot: RobotModel, nominal: mujoco.MjData):
    feet = np.concatenate(robot.foot_geom_ids)
    np.testing.assert_allclose(nominal.geom_xpos[feet, 2], robot.mj_model.geom_size[feet, 0], atol=1e-12)
    np.testing.assert_allclose(nominal.site_xpos[robot.foot_site_ids, 2], 0.0, atol=1e-12)
    # The released pose has the base at 1.17 m and the soles 1.6 mm over the floor, the ankles 0.12 m behind it.
    assert robot.base_height == pytest.approx(1.17 - 0.0016, abs=1e-4)
    ankles = [nominal.body(f"{side}ankle").xpos - nominal.body("base_link").xpos for side in SIDES]
    np.testing.assert_allclose(np.array(ankles)[:, :2], [[-0.12, 0.0915], [-0.12, -0.0915]], atol=1e-3)
    assert np.abs(robot.foot_offset_com[:, 0]).max() < 0.1 * robot.sole[:2].min()
    gaps = [mujoco.mj_geomDistance(robot.mj_model, nominal, int(a), int(b), 9.0, None) for a, b in robot.limb_geom_ids]
    assert min(gaps) > 0.08


def stand(robot: RobotModel, targets: np.ndarray, seconds: float) -> np.ndarray:
    """Lowest height of the base [m] up to each time, from the nominal pose at rest, joints told to be at `targets`."""
    data = mujoco.MjData(robot.mj_model)
    data.qpos[:], data.ctrl[:] = robot.default_qpos, targets
    heights = []
    for _ in range(round(seconds / robot.mj_model.opt.timestep)):
        mujoco.mj_step(robot.mj_model, data)
        heights.append(data.qpos[2])
    return np.minimum.accumulate(heights)


def test_it_stands_where_its_gains_can_hold_it(robot: RobotModel, nominal: mujoco.MjData):
    # Joint torques of the pose at rest: gravity's, less what the soles' corners carry.
    model = robot.mj_model
    columns, jacobian = [], np.zeros((3, model.nv))
    for geom in np.concatenate(robot.foot_geom_ids):
        point = nominal.geom_xpos[geom] - [0, 0, model.geom_size[geom, 0]]
        mujoco.mj_jac(model, nominal, jacobian, None, point, model.geom_bodyid[geom])
        columns.append(jacobian[2].copy())
    A, gravity = np.array(columns).T, nominal.qfrc_bias
    load = np.linalg.lstsq(A[:6], gravity[:6], rcond=None)[0]
    assert np.all(load > 0) and load.sum() == pytest.approx(robot.mass * 9.81)
    torque = (gravity - A @ load)[robot.dof_adr]
    assert np.all(np.abs(torque) < 0.25 * robot.effort)
    # Targets off by as much as the soft gains need for it: an equilibrium, if an unstable one, kept for two seconds.
    held = stand(robot, robot.default_joint_pos + torque / robot.kp, 2.0)
    assert held[-1] > robot.base_height - 0.02
    # Told to keep the pose itself it sinks at the knees and falls: nothing but a policy keeps it up.
    told = stand(robot, robot.default_joint_pos, 2.0)
    assert told[100] > robot.base_height - 0.15 and told[-1] < robot.termination_height


@pytest.fixture(scope="module")
def env() -> velocity.VelocityEnv:
    calm = VelocityConfig(robot="themis", backend="jax", push=NO_PUSHES, randomization=NO_RANDOMIZATION)
    return velocity.make(dataclasses.replace(calm, start=ResetConfig(height=(-0.001, 0.001))))


@pytest.fixture(scope="module")
def inputs(env: velocity.VelocityEnv):
    """Actions, and random states for the kinematics."""
    rng, model = np.random.default_rng(0), env.robot.mj_model
    qpos = np.column_stack([rng.normal(size=(BATCH, 7)), rng.uniform(-1.5, 1.5, (BATCH, env.action_size))])
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    return 0.4 * rng.normal(size=(BATCH, env.action_size)), qpos, rng.normal(size=(BATCH, model.nv))


@pytest.fixture(scope="module")
def outputs(env: velocity.VelocityEnv, inputs):
    """The state after a reset, that after one step, and the kinematics of the random states."""

    def program(keys, action, qpos, qvel):
        state = env.reset(keys)
        physics = PhysicsState(qpos, qvel, jnp.zeros_like(qvel))
        kin = jax.vmap(env.one.kinematics, in_axes=(None, 0))(nominal_params(env.robot), physics)
        return state, env.step(state, action), kin

    arguments = (jax.random.split(jax.random.PRNGKey(0), BATCH), *(jnp.asarray(x, jnp.float32) for x in inputs))
    # Compiled without optimisation: it runs once.
    return (
        jax.jit(program).lower(*arguments).compile(compiler_options={"xla_backend_optimization_level": 0})(*arguments)
    )


def test_a_first_step_is_finite_and_planned(env: velocity.VelocityEnv, outputs):
    start, after, _ = outputs
    for path, leaf in jax.tree_util.tree_leaves_with_path((start, after)):
        assert bool(jnp.all(jnp.isfinite(leaf))), path
    assert not np.any(after.done) and not np.any(after.metrics["mpc/failed"])
    guidance = after.info["task"].guidance
    assert bool(guidance.solved.all())
    com = np.asarray(guidance.plan.p_world_com)
    home = np.asarray(after.info["task"].home.p_world_com)
    np.testing.assert_allclose(home[:, 2], env.robot.com_height, atol=1e-3)
    assert np.all(np.abs(com[..., 2] - env.robot.com_height) < 0.1)
    assert np.all(np.asarray(guidance.plan.force)[:, :, :, 2] >= -1.0)


def test_the_default_solver_steps_as_a_converged_one(env: velocity.VelocityEnv, robot: RobotModel, inputs, outputs):
    start, after, _ = outputs
    contact = 0
    for i in range(BATCH):
        data = mujoco.MjData(robot.mj_model)
        data.qpos[:], data.qvel[:] = start.pipeline_state.qpos[i], start.pipeline_state.qvel[i]
        data.ctrl[:] = robot.default_joint_pos + robot.action_scale * inputs[0][i]
        for _ in range(env.config.decimation):
            mujoco.mj_step(robot.mj_model, data)
        contact += data.ncon > 0
        np.testing.assert_allclose(after.pipeline_state.qvel[i], data.qvel, atol=0.01 * np.abs(data.qvel).max())
        np.testing.assert_allclose(after.pipeline_state.qpos[i], data.qpos, atol=1e-4)
    assert contact > BATCH // 2


def test_kinematics_agree_with_c_mujoco(robot: RobotModel, inputs, outputs):
    _, qpos, qvel = inputs
    kin, model = outputs[2], robot.mj_model
    for i in range(BATCH):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        gaps = [mujoco.mj_geomDistance(model, data, int(a), int(b), 9.0, None) for a, b in robot.limb_geom_ids]
        for found, expected in (
            (kin.p_world_com, data.subtree_com[robot.base_body_id]),
            (kin.linear_momentum, robot.mass * data.subtree_linvel[robot.base_body_id]),
            (kin.angular_momentum, data.subtree_angmom[robot.base_body_id]),
            (kin.p_world_foot, data.site_xpos[robot.foot_site_ids]),
            (kin.limb_gaps, gaps),
        ):
            np.testing.assert_allclose(found[i], expected, atol=1e-5 * max(1.0, np.abs(expected).max()))
