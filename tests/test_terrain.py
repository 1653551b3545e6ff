"""Rough ground: its heights are MuJoCo's, its contacts C MuJoCo's, and robots find their level on it.

Physics is compiled once, for eight robots; the task once, with physics that only puts robots somewhere.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import velocity
from envs.config import NO_PUSHES, NO_RANDOMIZATION, ResetConfig, VelocityConfig
from envs.guidance import GuidanceConfig
from envs.physics import Contacts, PhysicsState, foot_contacts, make_physics, nominal_params
from envs.robots import compile_robot, get_robot
from envs.terrain import Terrain, TerrainConfig, Walk, log_walk, make_terrain

BATCH = 8
QUICK = {"xla_backend_optimization_level": 0}  # most of the time is compilation
ROUGH = TerrainConfig(kind="rough", levels=3, lanes=2, tile=3.0, border=1.0, start_levels=2)


@pytest.fixture(scope="module")
def env():
    """With few iterations of the contact solver and no MPC, as only the ground is looked at."""
    return velocity.make(
        VelocityConfig(
            backend="jax",
            terrain=ROUGH,
            push=NO_PUSHES,
            randomization=NO_RANDOMIZATION,
            guidance=GuidanceConfig(optimize=False),
            start=ResetConfig(random_phase=False),
        )
    )


@pytest.fixture(scope="module")
def terrain(env) -> Terrain:
    return env.one.terrain


@pytest.fixture(scope="module")
def start(env):
    return jax.jit(env.reset, compiler_options=QUICK)(jax.random.split(jax.random.PRNGKey(0), BATCH))


def test_heights_are_those_that_mujoco_collides_with(env, terrain):
    model = env.robot.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = env.robot.default_qpos
    data.qpos[2] = 50.0  # out of the rays' way
    mujoco.mj_forward(model, data)
    points = np.random.default_rng(0).uniform(-1, 1, (500, 2)) * terrain.half_size
    hit, rays = np.zeros(1, np.int32), []
    for point in points:
        rays.append(mujoco.mj_ray(model, data, np.array([*point, 10.0]), np.array([0, 0, -1.0]), None, 1, -1, hit))
        assert hit[0] == env.robot.floor_geom_id
    np.testing.assert_allclose(terrain.height(jnp.asarray(points)), 10.0 - np.array(rays), atol=1e-6)


def test_levels_grow_from_flat_ground_to_the_roughness_asked_for(terrain):
    def roughness(level):
        lane = np.arange(ROUGH.lanes)
        tile = 0.4 * ROUGH.tile * np.random.default_rng(1).uniform(-1, 1, (4000, 1, 2))
        return np.abs(terrain.height(jnp.asarray(tile + terrain.origin(np.full_like(lane, level), lane)))).max()

    found = [float(roughness(level)) for level in range(ROUGH.levels)]
    assert found[0] == 0.0
    assert found == sorted(found)
    assert 0.9 * ROUGH.roughness < found[-1] <= ROUGH.roughness
    assert not terrain.outside(terrain.origin(np.array([0, 2]), np.array([0, 1]))).any()
    np.testing.assert_array_equal(make_terrain(ROUGH).heights, terrain.heights)


def falling_robots(robot, terrain: Terrain) -> list[mujoco.MjData]:
    rng = np.random.default_rng(1)
    datas = [mujoco.MjData(robot.mj_model) for _ in range(BATCH)]
    for data in datas:
        data.qpos[:] = robot.default_qpos
        data.qpos[:2] = rng.uniform(-1, 1, 2) * terrain.half_tiles
        data.qpos[2] += float(terrain.height(jnp.asarray(data.qpos[:2]))) + 0.03
        data.qpos[robot.qpos_adr] += 0.1 * rng.normal(size=robot.num_joints)
        data.qvel[:] = 0.5 * rng.normal(size=robot.mj_model.nv)
    return datas


def c_foot_forces(robot, data: mujoco.MjData) -> np.ndarray:
    forces, wrench = np.zeros((2, 3)), np.zeros(6)
    for k in range(data.ncon):
        contact = data.contact[k]
        mujoco.mj_contactForce(robot.mj_model, data, k, wrench)
        for foot, geoms in enumerate(robot.foot_geom_ids):
            forces[foot] += contact.frame.reshape(3, 3).T @ wrench[:3] * np.isin(contact.geom[1], geoms)
    return forces


def test_steps_and_foot_forces_agree_with_c_mujoco(terrain):
    """From C's state, step by step, while robots land and fall on rough ground.

    Where triangles meet a sphere touches several of them, of which MJX keeps those within a millimetre of the deepest:
    one step in ten may differ a little, and one in a hundred by more.
    """
    robot = compile_robot(get_robot("g1"), iterations=20, ls_iterations=20, terrain=terrain)
    weight = robot.mass * 9.81
    step = jax.jit(make_physics(robot, "jax").step, static_argnames="num_substeps", compiler_options=QUICK)
    read_sensors = jax.jit(jax.vmap(lambda sensordata: foot_contacts(robot, sensordata).force_world))
    params = nominal_params(robot)
    datas, rng = falling_robots(robot, terrain), np.random.default_rng(2)
    errors, force_errors, touching, several = [], [], [], 0
    for _ in range(50):
        before = [np.stack([getattr(d, name) for d in datas]) for name in ("qpos", "qvel", "qacc_warmstart")]
        ctrl = robot.default_joint_pos + 0.3 * rng.normal(size=(BATCH, robot.num_joints))
        state = PhysicsState(*(jnp.asarray(x, jnp.float32) for x in before))
        state, contacts = jax.device_get(step(params, state, jnp.asarray(ctrl, jnp.float32), num_substeps=1))
        for i, data in enumerate(datas):
            data.ctrl[:] = ctrl[i]
            mujoco.mj_step(robot.mj_model, data)
        read = np.asarray(read_sensors(np.array([data.sensordata for data in datas], np.float32)))
        for i, data in enumerate(datas):
            expected = c_foot_forces(robot, data)
            # our reading of the sensors misses none of a sphere's contacts
            np.testing.assert_allclose(read[i], expected, atol=1e-4 * weight)
            several += data.ncon > len(np.unique([c.geom[1] for c in data.contact]))
            errors.append(np.abs(state.qvel[i] - data.qvel).max() / np.linalg.norm(data.qvel - before[1][i]))
            force_errors.append(np.abs(contacts.force_world[i] - expected).max() / weight)
            in_contact = [bool(np.isin([c.geom[1] for c in data.contact], g).any()) for g in robot.foot_geom_ids]
            assert contacts.in_contact[i].tolist() == in_contact
            touching.append(any(in_contact))
    assert 0.5 < np.mean(touching) < 0.95 and several > 50
    assert np.median(errors) < 1e-5 and np.quantile(errors, 0.9) < 5e-3 and np.max(errors) < 0.1
    assert np.median(force_errors) < 1e-4 and np.quantile(force_errors, 0.9) < 0.02


def test_robots_start_on_their_level_with_their_feet_on_the_ground(env, terrain, start):
    walk, qpos = start.info["task"].walk, np.asarray(start.pipeline_state.qpos, float)
    assert np.all(walk.level < ROUGH.start_levels) and len(np.unique(walk.level)) > 1
    tile = np.floor((qpos[:, :2] + terrain.half_tiles) / ROUGH.tile)
    np.testing.assert_array_equal(tile[:, 0], walk.level)
    assert len(np.unique(tile[:, 1])) == ROUGH.lanes
    data, deepest = mujoco.MjData(env.robot.mj_model), []
    for q in qpos:
        data.qpos[:] = q
        data.qpos[2] -= env.config.start.height[1]
        mujoco.mj_forward(env.robot.mj_model, data)
        deepest.append(min((c.dist for c in data.contact), default=np.inf))
    assert min(deepest) > -env.config.start.height[1] - 2e-3 and np.isfinite(deepest).any()


@dataclasses.dataclass(frozen=True, eq=False)
class PutAt:
    """Physics that moves the first robot to a place, at its height over the ground, and leaves the others alone."""

    terrain: Terrain
    xy: jax.Array
    sink: jax.Array

    def step(self, params, state, ctrl, num_substeps):
        shift = self.terrain.height(self.xy) - self.terrain.height(state.qpos[0, :2]) - self.sink
        qpos = state.qpos.at[0, :2].set(self.xy).at[0, 2].add(shift)
        batch = len(state.qpos)
        return state.replace(qpos=qpos), Contacts(jnp.zeros((batch, 2, 3)), jnp.ones((batch, 2), bool))


def test_heights_count_from_the_ground_and_leaving_it_is_a_time_out(env, terrain, start):
    @partial(jax.jit, compiler_options=QUICK)
    def put(xy, sink):
        moved = dataclasses.replace(env, physics=PutAt(terrain, xy, sink))
        return moved.step(start, jnp.zeros((BATCH, env.action_size)))

    def stepped(xy, sink=0.0):
        return put(jnp.array(xy, jnp.float32), jnp.float32(sink))

    peak = np.unravel_index(np.argmax(terrain.heights), terrain.heights.shape)
    x, y = (np.array(peak[::-1]) * ROUGH.cell - terrain.half_size).tolist()
    on_peak = stepped((x, y))
    seen = np.asarray(on_peak.info["final_obs"]["privileged_state"])
    begin = seen.shape[1] - (3 + 3 + 3 + 6 + 2 + 2 + 1)  # height, foot heights, and what follows them
    assert float(on_peak.done[0]) == float(terrain.outside(jnp.array([x, y])))
    before = np.asarray(start.obs["privileged_state"])[0, begin]
    np.testing.assert_allclose(seen[0, begin], before, atol=1e-5)  # of the base, on a peak of 5 cm
    kin = jax.vmap(env.one.kinematics)(start.info["task"].params, start.pipeline_state)
    ground = terrain.height(kin.p_world_foot[1:, :, :2])
    np.testing.assert_allclose(seen[1:, begin + 1 : begin + 3], kin.p_world_foot[1:, :, 2] - ground, atol=1e-6)
    inputs = env.one.plan_inputs(*jax.tree.map(lambda x: x[1], (start.info["task"].params, kin)), 0.0, jnp.zeros(3))
    assert float(inputs.state.ground_height) == pytest.approx(float(terrain.height(kin.p_world_base[1, :2])))

    # half a millimetre over the fall height, measured from the ground, and half below it
    over = float(before) - env.robot.termination_height
    assert [float(stepped((x, y), over - s).metrics["episode/fallen"][0]) for s in (5e-4, -5e-4)] == [0.0, 1.0]

    left = stepped((terrain.half_tiles[0] + 0.1, 0.0))
    assert left.done.tolist() == left.info["truncation"].tolist() == [1.0] + [0.0] * (BATCH - 1)
    level = np.floor((left.pipeline_state.qpos[0, 0] + terrain.half_tiles[0]) / ROUGH.tile)
    assert level == float(left.info["task"].walk.level[0]) == left.metrics["terrain/level"][0]


def test_levels_rise_with_success_and_fall_with_failure(terrain):
    n = 4000
    rng = np.random.default_rng(0)
    asked = jnp.asarray(rng.uniform(0, 10, n))
    walk = Walk(jnp.asarray(rng.integers(0, ROUGH.levels, n)), asked, asked * rng.uniform(-0.2, 1.2, n))
    fallen, rest = jnp.asarray(rng.random(n) < 0.3), jnp.asarray(rng.uniform(0, 10, n))
    keys = jax.random.split(jax.random.PRNGKey(0), n)
    after = jax.vmap(terrain.next_walk)(keys, walk, fallen, rest)
    level, share = np.asarray(walk.level), np.asarray(walk.walked / asked)
    due = np.where(fallen, asked + rest, asked)
    tells = due >= ROUGH.tile / 4
    good, bad = tells & ~fallen & (share >= 0.75), tells & (walk.walked < 0.5 * due)
    top = level == ROUGH.levels - 1
    np.testing.assert_array_equal(after.level[good & ~top], level[good & ~top] + 1)
    np.testing.assert_array_equal(after.level[bad], np.maximum(level[bad] - 1, 0))
    np.testing.assert_array_equal(after.level[~good & ~bad], level[~good & ~bad])
    mastered = np.bincount(after.level[good & top], minlength=ROUGH.levels)
    assert len(mastered) == ROUGH.levels and mastered.min() > 0.25 * mastered.sum()  # anywhere
    assert not np.any(after.asked) and not np.any(after.walked)


def test_the_way_along_the_command_is_what_counts():
    walk = Walk(jnp.zeros((), int), jnp.zeros(()), jnp.zeros(()))
    ahead = log_walk(walk, jnp.array([0.6, 0.8, 0.5]), jnp.array([0.3, 0.4, 9.0]), 0.1)
    assert (float(ahead.asked), float(ahead.walked)) == pytest.approx((0.1, 0.05))
    aside = log_walk(ahead, jnp.array([0.0, 1.0, 0.0]), jnp.array([1.0, 0.0, 0.0]), 0.1)
    assert (float(aside.asked), float(aside.walked)) == pytest.approx((0.2, 0.05))
    still = log_walk(aside, jnp.array([0.0, 0.0, 1.0]), jnp.array([1.0, 1.0, 0.0]), 0.1)
    assert (float(still.asked), float(still.walked)) == pytest.approx((0.2, 0.05))


def test_flat_ground_is_as_if_there_were_no_terrain():
    assert make_terrain(TerrainConfig()) is None
    env = velocity.make(VelocityConfig(backend="jax"))
    model = env.robot.mj_model
    assert model.nhfield == 0 and model.geom("floor").type == mujoco.mjtGeom.mjGEOM_PLANE
    assert velocity.on_flat_ground(env) is env
    assert "terrain/level" not in env.metric_names
    state = jax.eval_shape(env.reset, jax.ShapeDtypeStruct((2, 2), jnp.uint32))
    assert state.info["task"].walk is None
    # heights are subtracted, and what is subtracted is a zero that compilation removes
    lowered = jax.jit(env.one.ground).lower(jax.eval_shape(lambda s: s, state.info["task"].home)).as_text()
    assert "gather" not in lowered


def test_the_gate_walks_on_flat_ground(env):
    flat = velocity.on_flat_ground(env)
    assert flat.robot.mj_model.nhfield == 0 and flat.config == dataclasses.replace(env.config, terrain=TerrainConfig())
    own, grown = (r.robot.mj_model.geom_size[r.robot.foot_geom_ids[0], 0] for r in (flat, env))
    assert np.all(own == 0.005) and np.all(grown == 0.02)
    np.testing.assert_allclose(flat.robot.default_qpos, env.robot.default_qpos, atol=1e-6)  # as high as before
    np.testing.assert_allclose(flat.robot.sole, env.robot.sole, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "hilly"}, "there are 'flat' and 'rough'"),
        ({"levels": 1}, "two levels"),
        ({"start_levels": 9}, "start_levels"),
        ({"cell": 0.0}, "cell"),
        ({"demote": 0.9}, "demote"),
        ({"roughness": 0.0}, "roughness"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TerrainConfig(**change)
