"""Kinematics and the physics step against C MuJoCo, contact forces, randomization; both backends.

One program is compiled for each of physics and kinematics, for a batch of eight, and shared by all tests.
"""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import replay
from envs.kinematics import Kinematics, centroidal_inertia, kinematics
from envs.physics import ModelParams, PhysicsState, make_physics, nominal_params
from envs.robots import compile_robot, get_robot

BATCH = 8
# Enough iterations for the contact solvers of all backends to converge: unconverged, each stops somewhere else.
ROBOT = compile_robot(get_robot("g1"), iterations=20, ls_iterations=20)
FEET = np.concatenate(ROBOT.foot_geom_ids)


@pytest.fixture(scope="module")
def physics():
    return make_physics(ROBOT, "jax")


@pytest.fixture(scope="module")
def step(physics):
    jitted = jax.jit(physics.step, static_argnames="num_substeps")
    return lambda params, state, ctrl: jitted(params, state, ctrl, num_substeps=1)


@pytest.fixture(scope="module")
def measure():
    def one(params, qpos, qvel):
        return kinematics(params, ROBOT, qpos, qvel), centroidal_inertia(params, ROBOT, qpos)

    return jax.jit(jax.vmap(one))


def batched(params: ModelParams) -> ModelParams:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (BATCH, *x.shape)), params)


def randomized(seed: int = 0) -> ModelParams:
    rng = np.random.default_rng(seed)

    def scaled(x):
        return x * jnp.asarray(rng.uniform(0.7, 1.3, x.shape), x.dtype)

    params = jax.tree.map(scaled, batched(nominal_params(ROBOT)))
    shift = rng.uniform(-0.03, 0.03, (BATCH, 3))
    return params.replace(body_ipos=params.body_ipos.at[:, ROBOT.base_body_id].add(shift))


def c_model(params: ModelParams, i: int) -> mujoco.MjModel:
    """A C model with the parameters of robot i."""
    return replay.c_model(ROBOT, jax.tree.map(lambda x: x[i], params))


def random_states(seed: int, height: float, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Eight states around the nominal pose, all over the plane, at any heading, tilted a little."""
    rng = np.random.default_rng(seed)
    qpos = np.tile(ROBOT.default_qpos, (BATCH, 1))
    qpos[:, :2] = rng.uniform(-20, 20, (BATCH, 2))
    qpos[:, 2] += height
    for q, yaw, tilt in zip(qpos, rng.uniform(-3, 3, BATCH), 0.1 * spread * rng.normal(size=(BATCH, 2)), strict=True):
        rotation, lean = np.zeros(4), np.zeros(4)
        mujoco.mju_axisAngle2Quat(rotation, np.array([0.0, 0, 1]), yaw)
        mujoco.mju_axisAngle2Quat(lean, np.array([np.cos(yaw), np.sin(yaw), 0]), tilt[0])
        mujoco.mju_mulQuat(q[3:7], lean, rotation)
    qpos[:, ROBOT.qpos_adr] += 0.2 * spread * rng.normal(size=(BATCH, 29))
    return qpos, spread * rng.normal(size=(BATCH, 35))


def close(actual, expected, tolerance: float, what: str = ""):
    """Largest error, relative to the size of the expected array, under the tolerance."""
    expected = np.asarray(expected)
    scale = max(np.abs(expected).max(), 1e-6)
    assert np.abs(np.asarray(actual, np.float64) - expected).max() <= tolerance * scale, what


def c_kinematics(model: mujoco.MjModel, qpos: np.ndarray, qvel: np.ndarray) -> dict[str, np.ndarray]:
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    mujoco.mj_forward(model, data)
    mujoco.mj_subtreeVel(model, data)
    base, feet = ROBOT.base_body_id, ROBOT.foot_site_ids
    R = data.xmat[base].reshape(3, 3)
    velocity = np.zeros((2, 6))
    for i, site in enumerate(feet):
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, site, velocity[i], 0)
    gyro = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, ROBOT.imu_site_id, gyro, 1)
    base_velocity = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, base, base_velocity, 0)
    return {
        "p_world_com": data.subtree_com[base],
        "linear_momentum": model.body_mass.sum() * data.subtree_linvel[base],
        "angular_momentum": data.subtree_angmom[base],
        "p_world_base": data.xpos[base],
        "R_world_base": R,
        "v_world_base": base_velocity[3:],
        "w_base": gyro[:3],
        "projected_gravity": R.T @ model.opt.gravity / np.linalg.norm(model.opt.gravity),
        "p_world_foot": data.site_xpos[feet],
        "R_world_foot": data.site_xmat[feet].reshape(2, 3, 3),
        "v_world_foot": velocity[:, 3:],
        "yaw": np.arctan2(R[1, 0], R[0, 0]),
    }


@pytest.mark.parametrize("params", [batched(nominal_params(ROBOT)), randomized()], ids=["nominal", "randomized"])
def test_kinematics_agree_with_c_mujoco(measure, params: ModelParams):
    qpos, qvel = random_states(seed=1, height=0.3, spread=2.0)
    kin, inertia = measure(params, jnp.asarray(qpos, jnp.float32), jnp.asarray(qvel, jnp.float32))
    for i in range(BATCH):
        model = c_model(params, i)
        expected = c_kinematics(model, qpos[i], qvel[i])
        assert set(expected) | {"limb_gaps"} == set(Kinematics.__dataclass_fields__)  # gaps: test_robot.py
        for name, value in expected.items():
            close(getattr(kin, name)[i], value, 3e-6, name)  # float32, positions up to 20 m from the origin
        # A locked spin is a motion of the base alone: its angular momentum is the inertia's column.
        data = mujoco.MjData(model)
        data.qpos[:] = qpos[i]
        mujoco.mj_forward(model, data)
        R = data.xmat[ROBOT.base_body_id].reshape(3, 3)
        for axis in np.eye(3):
            data.qvel[3:6] = R.T @ axis
            mujoco.mj_comVel(model, data)
            mujoco.mj_subtreeVel(model, data)
            close(inertia[i] @ axis, data.subtree_angmom[ROBOT.base_body_id], 1e-5, "inertia")


def test_momentum_is_the_mass_matrix_times_velocity(measure):
    # The base's rows of M(q) qvel: linear momentum, and angular momentum about the base's origin in the base's axes.
    params = randomized(3)
    qpos, qvel = random_states(seed=2, height=0.3)
    kin, _ = measure(params, jnp.asarray(qpos, jnp.float32), jnp.asarray(qvel, jnp.float32))
    for i in range(BATCH):
        model = c_model(params, i)
        model.dof_armature[:] = 0.0  # the rotors' inertia is not in the bodies' momentum
        data = mujoco.MjData(model)
        data.qpos[:] = qpos[i]
        mujoco.mj_forward(model, data)
        momentum = np.zeros(model.nv)
        mujoco.mj_mulM(model, data, momentum, qvel[i])
        close(kin.linear_momentum[i], momentum[:3], 5e-6)
        R, lever = np.asarray(kin.R_world_base[i]), np.asarray(kin.p_world_com[i] - kin.p_world_base[i])
        about_base = kin.angular_momentum[i] + np.cross(lever, kin.linear_momentum[i])
        close(R.T @ about_base, momentum[3:6], 2e-5)


def to_state(qpos, qvel, warmstart) -> PhysicsState:
    return PhysicsState(*(jnp.asarray(x, jnp.float32) for x in (qpos, qvel, warmstart)))


def c_foot_forces(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    forces, wrench = np.zeros((2, 3)), np.zeros(6)
    for k in range(data.ncon):
        contact = data.contact[k]
        mujoco.mj_contactForce(model, data, k, wrench)
        # The contact frame's first axis points from the first geom to the second, on which the force acts.
        force = contact.frame.reshape(3, 3).T @ wrench[:3]
        for foot, geoms in enumerate(ROBOT.foot_geom_ids):
            forces[foot] += force * (np.isin(contact.geom[1], geoms) * 1.0 - np.isin(contact.geom[0], geoms))
    return forces


def test_steps_and_foot_forces_agree_with_c_mujoco(step):
    """Each step from C's state, in float32, over a rollout that lands, slips and falls, on eight different robots."""
    params = randomized(5)
    models = [c_model(params, i) for i in range(BATCH)]
    datas = [mujoco.MjData(model) for model in models]
    rng = np.random.default_rng(0)
    qpos, qvel = random_states(seed=3, height=0.03, spread=0.5)
    for data, q, v in zip(datas, qpos, qvel, strict=True):
        data.qpos[:], data.qvel[:] = q, v
        data.qpos[:2] = 0.0
    touched = np.zeros((BATCH, 2), int)
    errors, force_errors = [], []
    for _ in range(40):
        ctrl = ROBOT.default_joint_pos + 0.3 * rng.normal(size=(BATCH, 29))
        before = [np.stack([getattr(d, name) for d in datas]) for name in ("qpos", "qvel", "qacc_warmstart")]
        state, contacts = step(params, to_state(*before), jnp.asarray(ctrl, jnp.float32))
        for i, (model, data) in enumerate(zip(models, datas, strict=True)):
            data.ctrl[:] = ctrl[i]
            mujoco.mj_step(model, data)
            change = np.linalg.norm(data.qvel - before[1][i])
            errors.append(np.abs(np.asarray(state.qvel[i]) - data.qvel).max() / change)
            np.testing.assert_allclose(state.qpos[i], data.qpos, atol=2e-4)
            expected = c_foot_forces(model, data)
            force_errors.append(np.abs(np.asarray(contacts.force_world[i]) - expected).max() / (ROBOT.mass * 9.81))
            in_contact = [bool(np.isin([c.geom[1] for c in data.contact], g).any()) for g in ROBOT.foot_geom_ids]
            assert contacts.in_contact[i].tolist() == in_contact
            touched[i] += in_contact
    # Each foot is on the floor and off it for a good part of the steps.
    assert np.all(touched.sum(0) > 40) and np.all(touched.sum(0) < 40 * BATCH - 40)
    assert np.max(errors) < 2e-3 and np.median(errors) < 1e-4
    assert np.max(force_errors) < 5e-3 and np.median(force_errors) < 1e-4


def standing(seconds: float, step, params: ModelParams):
    """Nominal pose, held by the joints; the trajectory of states and contacts."""
    qpos = jnp.broadcast_to(jnp.asarray(ROBOT.default_qpos, jnp.float32), (BATCH, 36))
    state = to_state(qpos, np.zeros((BATCH, 35)), np.zeros((BATCH, 35)))
    ctrl = jnp.broadcast_to(jnp.asarray(ROBOT.default_joint_pos, jnp.float32), (BATCH, 29))
    states, contacts = [state], []
    for _ in range(round(seconds / ROBOT.mj_model.opt.timestep)):
        state, contact = step(params, state, ctrl)
        states.append(state)
        contacts.append(contact)
    return states, contacts


def test_feet_carry_the_weight(step, measure):
    params = randomized(7).replace(foot_friction=jnp.full(BATCH, 1.0, jnp.float32))
    states, contacts = standing(0.5, step, params)
    start, end = states[40], states[-1]
    assert all(np.all(c.in_contact) for c in contacts[40:])
    vertical = np.stack([c.force_world[..., 2] for c in contacts[40:]])
    assert np.all(vertical > 0)
    # Impulse of the floor = change of momentum + impulse of gravity, whatever the robot weighs.
    momentum = [measure(params, s.qpos, s.qvel)[0].linear_momentum for s in (start, end)]
    h = ROBOT.mj_model.opt.timestep
    impulse = h * np.stack([c.force_world.sum(1) for c in contacts[40:]]).sum(0)
    duration = h * len(contacts[40:])
    weight = np.asarray(params.body_mass.sum(1)) * 9.81
    expected = np.asarray(momentum[1] - momentum[0]) + weight[:, None] * duration * np.array([0, 0, 1.0])
    assert np.abs(impulse - expected).max() < 0.01 * (weight * duration).min()
    np.testing.assert_allclose(vertical.sum(-1).mean(0), weight, rtol=0.03)  # nearly at rest


def test_friction_holds_and_slips(step):
    # A push sideways: on ice the feet's tangential force stays within the cone and the robot keeps its speed.
    friction = jnp.asarray(np.linspace(0.02, 1.2, BATCH), jnp.float32)
    params = batched(nominal_params(ROBOT)).replace(foot_friction=friction)
    states, _ = standing(0.1, step, params)
    state = states[-1].replace(qvel=states[-1].qvel.at[:, 1].add(0.5))
    ctrl = jnp.broadcast_to(jnp.asarray(ROBOT.default_joint_pos, jnp.float32), (BATCH, 29))
    state, contacts = step(params, state, ctrl)
    normal = np.asarray(contacts.force_world[..., 2])
    tangential = np.linalg.norm(contacts.force_world[..., :2], axis=-1)
    assert np.all(tangential <= np.asarray(friction)[:, None] * normal * 1.01 + 1e-2)
    assert np.all(np.diff(tangential.sum(1)) > 0)


@pytest.mark.parametrize("field", ModelParams.__dataclass_fields__)
def test_every_parameter_acts_on_its_own_robot_only(step, field: str):
    nominal = batched(nominal_params(ROBOT))
    value = getattr(nominal, field)
    changed = nominal.replace(**{field: value.at[3].multiply(1.3)})
    qpos, qvel = random_states(seed=11, height=-0.005, spread=0.3)
    qpos[:, :2] = 0.0
    state = to_state(qpos, qvel, np.zeros_like(qvel))
    ctrl = jnp.broadcast_to(jnp.asarray(ROBOT.default_joint_pos, jnp.float32), (BATCH, 29))
    one, other = step(nominal, state, ctrl)[0], step(changed, state, ctrl)[0]
    differs = np.any(np.asarray(one.qvel != other.qvel), axis=1)
    np.testing.assert_array_equal(differs, np.arange(BATCH) == 3)


def test_parameters_may_be_shared_by_all_robots(physics):
    qpos, qvel = random_states(seed=4, height=0.1)
    state = to_state(qpos, qvel, np.zeros_like(qvel))
    ctrl = jnp.zeros((BATCH, 29))
    shared = jax.eval_shape(lambda s, c: jax.tree.leaves(physics.step(nominal_params(ROBOT), s, c, 2)), state, ctrl)
    shapes = [(BATCH, 36), (BATCH, 35), (BATCH, 35), (BATCH, 2, 3), (BATCH, 2)]  # state, then contacts
    assert [x.shape for x in shared] == shapes


def test_init_is_a_cold_start(physics):
    qpos, qvel = random_states(seed=4, height=0.1)
    state = physics.init(jnp.asarray(qpos), jnp.asarray(qvel))
    assert state.qacc_warmstart.shape == (BATCH, 35) and not np.any(state.qacc_warmstart)


@pytest.mark.parametrize(
    ("backend", "accuracy"),
    [
        # Of qpos [m, rad], of qvel [m/s, rad/s], of forces [weights]: float32, ten times what is measured, or more.
        ("jax", (2e-4, 1e-2, 2e-3)),
        pytest.param(
            "warp",
            (1e-5, 5e-4, 1e-4),
            marks=pytest.mark.skipif(importlib.util.find_spec("warp") is None, reason="Warp is optional"),
        ),
    ],
    ids=["jax", "warp"],
)
def test_rollouts_of_both_backends_agree_with_c_mujoco(step, backend: str, accuracy: tuple[float, float, float]):
    """0.1 s from one start, never set right, in which randomized robots land: what each step adds adds up."""
    params = randomized(5)
    datas = [mujoco.MjData(c_model(params, i)) for i in range(BATCH)]
    qpos, qvel = random_states(seed=3, height=0.0, spread=0.3)
    qpos[:, :2] = 0.0
    for data, q, v in zip(datas, qpos, qvel, strict=True):
        data.qpos[:], data.qvel[:] = q, v
    state, rng = to_state(qpos, qvel, np.zeros_like(qvel)), np.random.default_rng(0)
    warp = backend == "warp"
    advance = jax.jit(partial(make_physics(ROBOT, "warp").step, num_substeps=4)) if warp else step
    landed = []
    for _ in range(5):
        ctrl = ROBOT.default_joint_pos + 0.1 * rng.normal(size=(BATCH, 29))
        for data, targets in zip(datas, ctrl, strict=True):
            data.ctrl[:] = targets
            mujoco.mj_step(data.model, data, 4)
        for _ in range(1 if warp else 4):
            state, contacts = advance(params, state, jnp.asarray(ctrl, jnp.float32))
        touching = [[np.isin([c.geom[1] for c in d.contact], g).any() for g in ROBOT.foot_geom_ids] for d in datas]
        np.testing.assert_array_equal(contacts.in_contact, touching)
        np.testing.assert_allclose(state.qpos, [d.qpos for d in datas], rtol=0, atol=accuracy[0])
        np.testing.assert_allclose(state.qvel, [d.qvel for d in datas], rtol=0, atol=accuracy[1])
        forces = [c_foot_forces(d.model, d) for d in datas]
        np.testing.assert_allclose(contacts.force_world, forces, rtol=0, atol=accuracy[2] * ROBOT.mass * 9.81)
        landed.append(np.sum(touching))
    assert 0 < landed[0] < landed[-1] < 2 * BATCH  # feet in the air, feet on the floor, and feet that come down


def test_an_unknown_backend_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="no physics backend 'cuda'"):
        make_physics(ROBOT, "cuda")  # type: ignore[arg-type]


def test_auto_is_jax_without_a_gpu():
    if jax.default_backend() == "cpu":
        assert make_physics(ROBOT, "auto").backend == "jax"
