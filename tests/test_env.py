"""The velocity task: resets, time-outs, faults of one robot, and the MPC's plan inside the step."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs import guidance as mpc
from envs.commands import CommandConfig, constant, sample
from envs.config import NO_PUSHES, NO_RANDOMIZATION, VelocityConfig
from envs.guidance import WEIGHTS, GuidanceConfig, GuidanceState
from envs.observations import yaw_rotation
from envs.task import average_error
from envs.velocity import make
from pimpc.centroidal import CentroidalConfig
from pimpc.plan import Plan

B, EVERY = 4, 2


@pytest.fixture(scope="module")
def env():
    return make(
        VelocityConfig(
            backend="jax",
            command=constant((0.4, 0.0, 0.0)),
            push=NO_PUSHES,
            randomization=dataclasses.replace(NO_RANDOMIZATION, mass=(0.9, 1.1)),
            guidance=GuidanceConfig(every=EVERY),
        )
    )


@pytest.fixture(scope="module")
def step(env):
    return jax.jit(env.step)


@pytest.fixture(scope="module")
def start(env):
    return jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), B))


@pytest.fixture(scope="module")
def after(step, start):
    return step(start, jnp.zeros((B, 29)))


def others(tree):
    """All robots but the first."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[1:], tree)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_reset_is_finite_and_of_the_announced_shape(env, start):
    assert {k: v.shape for k, v in start.obs.items()} == {k: (B, n) for k, n in env.observation_size.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(start):
        assert leaf.shape[0] == B, path
        assert bool(jnp.all(jnp.isfinite(leaf))), path


def test_the_first_targets_after_a_reset_are_near_the_robot(start, after):
    for state in (start, after):  # the command-integrated reference, then the first solve
        com = np.asarray(state.info["task"].guidance.plan.p_world_com)
        home = np.asarray(state.info["task"].home.p_world_com)
        assert np.all(np.abs(com[:, :, 2] - home[:, None, 2]) < 0.1)
        base = np.asarray(state.pipeline_state.qpos)[:, None, :2]
        assert np.all(np.linalg.norm(com[:, :, :2] - base, axis=-1) < 0.5)
    assert bool(after.info["task"].guidance.solved.all())


def test_the_mpc_knows_each_robot_or_only_the_published_one(env, start):
    params, state = jax.tree.map(lambda x: x[1], (start.info["task"].params, start.pipeline_state))
    params = dataclasses.replace(params, foot_friction=jnp.float32(0.35))
    guidance = dataclasses.replace(env.config.guidance, sees_randomization=False)
    blind = make(dataclasses.replace(env.config, guidance=guidance))
    kin = jax.jit(env.one.kinematics)(params, state)
    seen, published = (each.one.plan_inputs(params, kin, jnp.float32(0), jnp.zeros(3)) for each in (env, blind))
    assert float(seen.model.mass) == pytest.approx(float(params.body_mass.sum()))
    assert float(published.model.mass) == pytest.approx(env.robot.mass)
    assert abs(float(seen.model.mass - published.model.mass)) > 0.01
    frictions = [float(inputs.model.friction) for inputs in (seen, published)]
    assert frictions == pytest.approx([0.35, env.robot.robot.foot_friction])
    jax.tree.map(np.testing.assert_array_equal, seen.state, published.state)


def test_a_step_has_the_shape_of_a_reset_and_compiles_once(step, start, after):
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), start, after)
    assert all(jax.tree.leaves(same))
    step(after, jnp.ones((B, 29)))
    assert step._cache_size() == 1


def test_the_mpc_runs_when_it_is_due(step, start):
    ages, state = [], start
    for _ in range(4):
        state = step(state, jnp.zeros((B, 29)))
        ages.append(int(state.info["task"].guidance.age[0]))
    assert ages == [0, 1, 0, 1]  # the first step is the first solve


def test_a_solve_starts_from_the_one_before(step, after):
    """Two control steps later: the first solve had nothing to start from."""
    waiting = step(after, jnp.zeros((B, 29)))
    first, second = (s.info["task"].guidance for s in (after, step(waiting, jnp.zeros((B, 29)))))
    assert second.solved.all() and not second.age.any()
    assert second.iterations.mean() <= 0.85 * first.iterations.mean()


def test_solves_far_apart_or_by_other_methods_start_from_nothing():
    dt = 0.02  # stages are 70 ms long
    assert [GuidanceConfig(every=k).starts_warm(dt) for k in (1, 3, 4, 10)] == [True, True, False, False]
    assert not GuidanceConfig(admm_iterations=200).starts_warm(dt)
    assert not GuidanceConfig(optimize=False).starts_warm(dt)


def test_a_fall_ends_the_episode_of_one_robot_only(step, start, after):
    fallen_qpos = start.pipeline_state.qpos.at[0, 3:7].set(jnp.array([0.5**0.5, 0.0, 0.5**0.5, 0.0]))
    state = step(start.replace(pipeline_state=start.pipeline_state.replace(qpos=fallen_qpos)), jnp.zeros((B, 29)))
    assert state.done.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert state.info["truncation"].sum() == 0
    gravity = slice(3, 6)
    assert state.info["final_obs"]["privileged_state"][0, gravity][2] > -0.3  # lying, before the reset
    np.testing.assert_allclose(state.obs["privileged_state"][0, gravity], [0, 0, -1], atol=1e-5)  # upright, after
    assert int(state.info["task"].steps[0]) == 0
    assert_equal(others(state), others(after))


def test_a_fresh_robot_that_waits_for_its_first_solve_has_not_failed(step, after):
    lying = after.pipeline_state.qpos.at[0, 3:7].set(jnp.array([0.5**0.5, 0.0, 0.5**0.5, 0.0]))
    state = step(after.replace(pipeline_state=after.pipeline_state.replace(qpos=lying)), jnp.zeros((B, 29)))
    assert state.info["task"].guidance.solved.tolist() == [False, True, True, True]  # tick 1: no solve is due
    assert state.metrics["mpc/failed"].tolist() == [0.0] * B
    plan_of_nan = after.info["task"].params.replace(body_mass=after.info["task"].params.body_mass.at[1].set(jnp.inf))
    task = state.info["task"].replace(params=plan_of_nan)
    state = step(state.replace(info=state.info | {"task": task}), jnp.zeros((B, 29)))
    assert state.metrics["mpc/failed"].tolist() == [0.0, 1.0, 0.0, 0.0]  # tick 2


def test_the_replay_of_a_step_is_that_step(env, step, after):
    """What is left for C MuJoCo to repeat ends where the environment's own step ends, on the robot's own body."""
    action = 0.3 * jax.random.normal(jax.random.PRNGKey(3), (B, 29))
    stepped = step(after, action)
    one = jax.tree.map(lambda leaf: leaf[2:3], (after, action))
    model, substeps, inputs = env.replay_inputs(*jax.device_get(one))  # as `learning.replay` has them
    np.testing.assert_array_equal(model.body_mass, np.asarray(after.info["task"].params.body_mass[2], float))
    model.opt.iterations, data = 50, mujoco.MjData(model)
    for name, value in inputs.items():
        getattr(data, name)[:] = value
    mujoco.mj_step(model, data, substeps)
    np.testing.assert_allclose(data.qpos, stepped.pipeline_state.qpos[2], atol=1e-3)
    np.testing.assert_allclose(data.qvel, stepped.pipeline_state.qvel[2], atol=3e-2)
    assert np.abs(data.qvel - inputs["qvel"]).max() > 0.3


def test_a_diverged_robot_harms_no_neighbour(step, start, after):
    qvel = start.pipeline_state.qvel.at[0, 7].set(jnp.nan)
    state = step(start.replace(pipeline_state=start.pipeline_state.replace(qvel=qvel)), jnp.zeros((B, 29)))
    assert state.metrics["episode/diverged"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert float(state.done[0]) == 1.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert bool(jnp.all(jnp.isfinite(leaf))), path
    assert_equal(others(state), others(after))


def test_a_time_out_is_a_truncation(env, step, start):
    task = start.info["task"]
    late = task.replace(steps=task.steps.at[1].set(env.max_steps - 1))
    state = step(start.replace(info=start.info | {"task": late}), jnp.zeros((B, 29)))
    assert float(state.done[1]) == 1.0
    assert float(state.info["truncation"][1]) == 1.0
    assert bool(jnp.any(state.info["final_obs"]["state"][1] != state.obs["state"][1]))
    running = np.asarray(state.done) == 0
    assert running.any()
    for name, value in state.obs.items():
        np.testing.assert_array_equal(state.info["final_obs"][name][running], value[running])


def test_a_robot_stands_on_its_joint_targets(step, start):
    state = start
    for _ in range(20):
        state = step(state, jnp.zeros((B, 29)))
    assert float(state.done.sum()) == 0
    weight = np.asarray(state.info["task"].params.body_mass.sum(-1)) * 9.81
    assert np.all(weight > 250)  # the planned forces carry each robot's own randomized weight
    planned = np.asarray(state.info["task"].guidance.plan.force[..., 2].sum(-1)[:, 0])
    np.testing.assert_allclose(planned, weight, rtol=0.35)


# --- Landmarks: pure functions, no physics ---------------------------------------------------------------------------


def line_plan(config: GuidanceConfig, tick: float, dt: float) -> Plan:
    """A plan whose CoM, momentum and k are known functions of absolute time, made at `tick`."""
    horizon = config.centroidal.horizon
    t = (tick * dt + config.centroidal.dt * jnp.arange(horizon + 1))[:, None]
    axes = jnp.array([[1.0, 2.0, 3.0]])
    blank = jnp.zeros((horizon, 2, 3))
    return Plan(
        p_world_com=t * axes, linear_momentum=2 * t * axes, angular_momentum=3 * t * axes,
        force=blank, moment=blank, stance=jnp.ones((horizon, 2), bool), p_world_foothold=blank,
        landing=jnp.zeros((2, 3)), landing_valid=jnp.zeros(2, bool),
    )  # fmt: skip


def empty(config: GuidanceConfig, dt: float) -> GuidanceState:
    offsets = config.offsets(dt)
    return GuidanceState(
        plan=line_plan(config, 0, dt), age=jnp.zeros((), jnp.int32), solved=jnp.ones((), bool),
        iterations=jnp.zeros((), jnp.int32), slots=jnp.full((max(offsets) + 1, len(offsets), 12), jnp.nan),
        slots_valid=jnp.zeros((max(offsets) + 1, len(offsets)), bool),
    )  # fmt: skip


@pytest.mark.parametrize("every", [1, 5])
def test_landmarks_are_past_predictions_for_the_present(every):
    """Whatever solve a landmark came from, a plan that is right about the future agrees with the present."""
    config, dt = GuidanceConfig(every=every), 0.02
    state, seen = empty(config, dt), []
    for tick in range(60):
        if tick % every == 0:
            state = dataclasses.replace(state, plan=line_plan(config, tick, dt), age=jnp.zeros((), jnp.int32))
        state = mpc.remember(config, state, jnp.array(tick), dt)
        state = dataclasses.replace(state, age=state.age + 1)
        now = mpc.recall(config, state, jnp.array(tick + 1), dt)
        present = (tick + 1) * dt
        heard = np.asarray(now.weight) > 0
        seen.append(int(heard.sum()))
        expected = np.broadcast_to(present * np.array([1.0, 2.0, 3.0]), (heard.sum(), 3))
        np.testing.assert_allclose(now.p_world_com[heard], expected, rtol=1e-4)
        np.testing.assert_allclose(now.angular_momentum_rate[heard, 0], 3.0, rtol=1e-3)
        assert float(now.weight.sum()) == pytest.approx(1.0 if heard.any() else 0.0, abs=1e-6)
    offsets = config.offsets(dt)
    first = [sum(tick + 1 >= offset for offset in offsets) for tick in range(min(offsets) + every)]
    assert seen[0] == 0 and seen[: len(first)] <= first  # missing landmarks are omitted at the start
    assert max(seen) == len(offsets)


def test_an_episode_hears_nothing_of_the_one_before_it():
    config, dt = GuidanceConfig(), 0.02
    ended = dataclasses.replace(empty(config, dt), slots_valid=jnp.ones_like(empty(config, dt).slots_valid))
    fresh = dataclasses.replace(empty(config, dt), slots=jnp.zeros_like(ended.slots))
    both = [fresh, mpc.keep_slots(fresh, ended)]
    for tick in range(17, 80):
        both = [mpc.remember(config, state, jnp.array(tick), dt) for state in both]
        alone, after = (mpc.recall(config, state, jnp.array(tick + 1), dt) for state in both)
        jax.tree.map(np.testing.assert_array_equal, after, alone)


def test_the_mean_error_keeps_an_offset_and_leaves_out_the_sway(env, start):
    """A robot that is 0.2 m/s and 0.3 rad/s off, and sways by as much at the frequency of its gait."""
    task = jax.tree.map(lambda leaf: leaf[0], start.info["task"])
    kin = env.one.kinematics(task.params, env.one.at_home())
    kin = kin.replace(yaw=jnp.asarray(0.7))
    R = yaw_rotation(kin.yaw)

    @jax.jit
    def later(mean_error, t):
        sway = jnp.sin(2 * jnp.pi * t / env.gait.period)
        velocity = task.command + jnp.array([0.2, 0.0, 0.3]) + jnp.array([0.0, 0.2, 0.3]) * sway
        moving = kin.replace(v_world_base=R @ velocity.at[2].set(0.1), w_base=jnp.array([0.5, 0.5, velocity[2]]))
        mean_error = average_error(task.replace(mean_error=mean_error), moving, env.gait, env.dt)
        return mean_error, mean_error

    seen = np.asarray(jax.lax.scan(later, jnp.zeros(3), env.dt * jnp.arange(400))[1])[-80:]
    np.testing.assert_allclose(seen.mean(0), [0.2, 0.0, 0.3], atol=2e-3)
    assert np.ptp(seen, axis=0).max() < 0.4 * 0.6  # the sway of ± 0.3 comes through to less than two fifths


def test_an_overshoot_practises_the_extremes():
    config = CommandConfig(standing=0.0, turning=0.0, overshoot=0.25)
    drawn = np.asarray(jax.vmap(lambda key: sample(key, config))(jax.random.split(jax.random.PRNGKey(0), 6000)))
    for axis, (low, high) in zip(drawn.T, (config.v_x, config.v_y, config.w_z), strict=True):
        assert axis.min() == pytest.approx(low) and axis.max() == pytest.approx(high)
        for end in (low, high):
            assert np.mean(np.isclose(axis, end)) == pytest.approx(0.25 / 1.5, abs=0.02)


def test_a_failed_solve_leaves_no_landmark():
    config, dt = GuidanceConfig(), 0.02
    state = dataclasses.replace(empty(config, dt), solved=jnp.zeros((), bool))
    for tick in range(40):
        state = mpc.remember(config, state, jnp.array(tick), dt)
        now = mpc.recall(config, state, jnp.array(tick + 1), dt)
        assert float(now.weight.sum()) == 0.0
        assert not bool(now.has_landmark)


def test_the_look_ahead_variant_reads_the_future():
    config, dt = GuidanceConfig(schedule="look_ahead"), 0.02
    now = mpc.recall(config, empty(config, dt), jnp.array(0), dt)
    np.testing.assert_allclose(now.p_world_com[:, 0], np.array(config.offsets(dt)) * dt, rtol=1e-5)


def test_landmark_weights_are_the_published_ones():
    for name, weights in WEIGHTS.items():
        assert sum(weights) == pytest.approx(1.0), name
        assert list(weights) == sorted(weights, reverse=True), name  # eq. (14): horizon-monotone


# --- Commands --------------------------------------------------------------------------------------------------------


def test_commands_stay_in_range_and_stand_as_often_as_asked():
    config = CommandConfig(standing=0.2, turning=0.3)
    commands = jax.vmap(lambda key: sample(key, config))(jax.random.split(jax.random.PRNGKey(0), 4000))
    low, high = np.array([config.v_x, config.v_y, config.w_z]).T
    assert np.all(commands >= low) and np.all(commands <= high)
    standing = np.all(commands == 0, axis=1)
    turning = np.all(commands[:, :2] == 0, axis=1) & ~standing
    assert standing.mean() == pytest.approx(0.2, abs=0.03)
    assert turning.mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: CommandConfig(v_x=(1.0, -1.0)), "lower bound comes first"),
        (lambda: CommandConfig(standing=0.8, turning=0.8), "shares"),
        (lambda: GuidanceConfig(every=0), "at least 1"),
        (lambda: CentroidalConfig(horizon=0), "horizon = 0: it counts stages, so at least 1"),
        (lambda: VelocityConfig(decimation=0), "decimation = 0"),
        (lambda: VelocityConfig(physics_dt=-1.0), "positive"),
    ],
)
def test_bad_settings_are_named(make_config, message):
    with pytest.raises(ValueError, match=message):
        make_config()
