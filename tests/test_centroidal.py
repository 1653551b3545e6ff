"""Properties of the gait clock, the footholds, the wrench cones and the centroidal MPC problem."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, nnls

import pimpc
from pimpc import centroidal, cones, footholds
from pimpc import gait as clock
from pimpc.centroidal import CentroidalConfig, build_problem, discretise, reference_plan, weight_share
from pimpc.footholds import FootholdConfig
from pimpc.gait import GaitConfig
from pimpc.plan import GRAVITY, CentroidalModel, CentroidalState, where_plan

DATA = Path(__file__).parent / "data"
MASS, HEIGHT, HALF_WIDTH = 33.34, 0.69, 0.12
SOLE = (0.12, 0.05, 0.03)
MIRROR = jnp.array([1.0, -1.0, 1.0])


def make_model(**changes):
    fields = {
        "mass": MASS,
        "friction": 0.6,
        "sole": SOLE,
        "foot_offset": ((0.0, HALF_WIDTH), (0.0, -HALF_WIDTH)),
        "com_height": HEIGHT,
        "inertia_zz": 0.6,
    }
    return CentroidalModel(**{k: jnp.asarray(v, float) for k, v in (fields | changes).items()})


def make_state(seed=None, scale=1.0):
    """Feet flat beside the CoM; with a seed, disturbed in every component."""
    state = CentroidalState(
        p_world_com=jnp.array([0.0, 0.0, HEIGHT]),
        linear_momentum=jnp.zeros(3),
        angular_momentum=jnp.zeros(3),
        p_world_foot=jnp.array([[0.0, HALF_WIDTH, 0.0], [0.0, -HALF_WIDTH, 0.0]]),
        R_world_foot=jnp.broadcast_to(jnp.eye(3), (2, 3, 3)),
        yaw=jnp.zeros(()),
        ground_height=jnp.zeros(()),
    )
    if seed is None:
        return state
    n = scale * np.random.default_rng(seed).standard_normal(20)
    tilt = jax.scipy.linalg.expm(centroidal.cross_matrix(jnp.asarray(0.1 * n[14:20].reshape(2, 3))))
    return replace(
        state,
        p_world_com=state.p_world_com + jnp.asarray([0.05, 0.05, 0.03] * n[:3]),
        linear_momentum=jnp.asarray([15.0, 8.0, 3.0] * n[3:6]),
        angular_momentum=jnp.asarray(n[6:9]),
        p_world_foot=state.p_world_foot.at[:, :2].add(jnp.asarray(0.03 * n[9:13].reshape(2, 2))),
        R_world_foot=tilt,
        ground_height=jnp.asarray(0.1 * n[13]),
    )


_build = jax.jit(build_problem)


def build(config, gait, model, state, phase, command, moving, u_prev=None):
    u_prev = weight_share(model, jnp.ones(2, bool)) if u_prev is None else u_prev
    return _build(config, gait, model, state, jnp.asarray(phase, float), jnp.asarray(command, float), moving, u_prev)


def rotate_state(state, yaw):
    R = footholds.rotation_z(jnp.asarray(yaw))
    return replace(
        state,
        p_world_com=R @ state.p_world_com,
        linear_momentum=R @ state.linear_momentum,
        angular_momentum=R @ state.angular_momentum,
        p_world_foot=state.p_world_foot @ R.T,
        R_world_foot=R @ state.R_world_foot,
        yaw=state.yaw + yaw,
    )


def mirror_state(state):
    """Reflects left and right: y changes sign, and so do the axial x and z; the feet swap."""
    M = jnp.diag(MIRROR)
    return replace(
        state,
        p_world_com=MIRROR * state.p_world_com,
        linear_momentum=MIRROR * state.linear_momentum,
        angular_momentum=-MIRROR * state.angular_momentum,
        p_world_foot=(MIRROR * state.p_world_foot)[::-1],
        R_world_foot=(M @ state.R_world_foot @ M)[::-1],
        yaw=-state.yaw,
    )


# --- Gait -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duty", [0.4, 0.5, 0.6, 0.75])
def test_each_foot_is_in_stance_for_its_duty_factor_and_the_pattern_repeats(duty):
    gait = GaitConfig(duty_factor=duty)
    phase = (jnp.arange(4000) + 0.5) / 4000
    feet = clock.stance(phase, gait)
    np.testing.assert_allclose(feet.mean(0), duty, atol=1e-3)
    both, none = feet.all(-1).mean(), (~feet).all(-1).mean()
    np.testing.assert_allclose([both, none], [max(2 * duty - 1, 0), max(1 - 2 * duty, 0)], atol=1e-3)
    np.testing.assert_array_equal(feet, clock.stance(phase + 1, gait))


@pytest.mark.parametrize("duty", [0.4, 0.5, 0.65])
def test_schedule_is_the_clock_at_the_knots_and_counts_its_touchdowns(duty):
    gait = GaitConfig(period=0.9, duty_factor=duty)
    stance = jax.jit(clock.stance)
    for phase in np.random.default_rng(0).random(20):
        fine = stance(jnp.asarray(phase + np.arange(0, 3.5, 1e-3) / 0.9, jnp.float32), gait)
        plan = clock.schedule(jnp.asarray(phase), gait, 0.07, 50, True)
        np.testing.assert_array_equal(plan, fine[::70])
        count = clock.touchdown_count(jnp.asarray(phase), gait, 0.07, 50, True)
        landed = np.cumsum(np.diff(fine.astype(int), axis=0, prepend=fine[:1].astype(int)) == 1, axis=0)
        np.testing.assert_array_equal(count, landed[::70])


def test_a_touchdown_that_falls_on_a_knot_is_not_late():
    gait = GaitConfig(period=0.7, duty_factor=0.5)  # ten knots of 0.07 s
    plan = clock.schedule(jnp.zeros(()), gait, 0.07, 400, True)
    expected = (np.arange(400) % 10 < 5)[:, None] ^ np.array([False, True])
    np.testing.assert_array_equal(plan, expected)


@pytest.mark.parametrize("duty", [0.4, 0.5, 0.6])
def test_stopping_lands_the_foot_then_stands_and_freezes(duty):
    gait = GaitConfig(duty_factor=duty)
    phase = jnp.asarray(np.random.default_rng(1).random(64), jnp.float32)
    command = jnp.zeros((64, 3))
    moving = jnp.zeros(64, bool)
    planned = jax.vmap(lambda p: clock.schedule(p, gait, 0.02, 42, False))(phase)
    step = jax.jit(lambda p: (clock.stance(p, gait, moving), clock.advance(p, gait, 0.02, moving, moving, command)))
    walked, phases = [], []
    for _ in range(42):
        phases.append(phase)
        feet, phase = step(phase)
        walked.append(feet)
    walked = np.stack(walked, 1)
    assert walked[:, -21:].all()  # half a period suffices
    assert not walked[:, 0].all()  # some started in the air
    # The plan says what then happens, but for the one tick in which the freezing phase reaches its touchdown early.
    assert (walked != np.asarray(planned)).any(-1).sum(-1).max() <= 1
    np.testing.assert_array_equal(phases[-1], phases[-5])
    resting = np.asarray(phases[-1])
    assert np.isin(resting, np.float32([0.0, 0.5])).all()


def test_the_foot_on_the_side_of_the_command_is_lifted_first():
    gait = GaitConfig()
    step = jax.jit(lambda *args: clock.advance(args[0], gait, 0.02, True, *args[1:]))
    # The foot lifted first (0 left, 1 right) when the left foot landed last (phase 0) and when the right one did (0.5).
    sides = {
        (0.1, 0.5, 0): (0, 0),
        (0.1, -0.5, 0): (1, 1),
        (0, 0, 0.5): (0, 0),
        (0, 0, -0.5): (1, 1),
        (1, 0, 0): (1, 0),
    }
    for command, first in sides.items():
        for rest, lifted in zip((0.0, 0.5), first, strict=True):
            phase, was_moving = jnp.asarray(rest), jnp.asarray(False)
            for _ in range(10):
                phase = step(phase, was_moving, jnp.asarray(command, float))
                was_moving = jnp.asarray(True)
                feet = np.asarray(clock.stance(phase, gait))
                if not feet.all():
                    break
            np.testing.assert_array_equal(np.nonzero(~feet)[0], [lifted])


def test_swing_fraction_rises_from_lift_off_to_touchdown():
    gait = GaitConfig(duty_factor=0.6)
    phase = jnp.linspace(0, 0.999, 997)
    swing, feet = clock.swing_fraction(phase, gait), clock.stance(phase, gait)
    left = clock.time_to_touchdown(phase, gait)
    assert (swing[feet] == 0).all()
    np.testing.assert_allclose(swing[~feet], 1 - left[~feet] / (0.4 * gait.period), atol=1e-3)
    standing = clock.time_to_touchdown(jnp.zeros(()), gait, False)
    assert jnp.isinf(standing).all()


def test_gait_rejects_what_no_clock_can_keep():
    with pytest.raises(ValueError, match="period"):
        GaitConfig(period=0.0)
    with pytest.raises(ValueError, match="duty_factor"):
        GaitConfig(duty_factor=1.2)


# --- Footholds --------------------------------------------------------------------------------------------------------


def contacts_of(state, phase, command, moving=True, horizon=10, gait=GaitConfig(), rule=FootholdConfig(), **model):  # noqa: B008
    return _contacts(rule, gait, make_model(**model), state, phase, command, moving, horizon)


def _contacts(rule, gait, model, state, phase, command, moving, horizon):
    return _plan_contacts(
        rule, gait, model, state, jnp.asarray(phase, float), jnp.asarray(command, float), moving, 0.07, horizon
    )


_plan_contacts = jax.jit(footholds.plan_contacts, static_argnums=8)


def test_command_path_integrates_the_command():
    command, yaw = np.array([0.8, -0.3, 1.2]), 0.4
    t = np.linspace(0, 2, 20001)
    psi = yaw + command[2] * t
    v = np.stack(
        [command[0] * np.cos(psi) - command[1] * np.sin(psi), command[0] * np.sin(psi) + command[1] * np.cos(psi)]
    )
    expected = np.concatenate([[[0.0], [0.0]], np.cumsum((v[:, 1:] + v[:, :-1]) / 2 * t[1], 1)], 1).T
    path, heading = footholds.command_path(jnp.asarray(yaw), jnp.asarray(command), jnp.asarray(t))
    np.testing.assert_allclose(path, expected, atol=1e-5)
    np.testing.assert_allclose(heading, psi, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), phase=st.floats(0, 0.99))
def test_footholds_hold_between_touchdowns_and_keep_their_distance(seed, phase):
    rng = np.random.default_rng(seed)
    command = rng.uniform([-0.5, -0.75, -1.0], [1.0, 0.75, 1.0])
    state = make_state(seed)
    rule = FootholdConfig()
    plan = contacts_of(state, phase, command, horizon=50, rule=rule)
    count = np.asarray(clock.touchdown_count(jnp.asarray(phase), GaitConfig(), 0.07, 50, True))
    p = np.asarray(plan.p_world_foothold)
    changed = np.abs(np.diff(p, axis=0)).max(-1) > 1e-5
    np.testing.assert_array_equal(changed, np.diff(count, axis=0) > 0)
    assert (count[-1] >= 4).all()  # several steps in the horizon
    np.testing.assert_allclose(p[count == 0], np.broadcast_to(state.p_world_foot, p.shape)[count == 0])
    np.testing.assert_allclose(p[count > 0][:, 2], state.ground_height, atol=1e-6)
    for k, foot in zip(*np.nonzero(np.diff(count, axis=0, prepend=0)), strict=True):
        y_axis = np.asarray(plan.R_world_foothold[k, foot])[:, 1]
        clearance = (1 - 2 * foot) * y_axis @ (p[k, foot] - p[k, 1 - foot])
        assert clearance > 0.9 * rule.min_separation


def test_landing_is_the_next_touchdown_of_each_foot():
    gait, state = GaitConfig(), make_state(3)
    swinging = contacts_of(state, 0.75, (0.5, 0.1, 0.2))  # the left foot is in the air, the right one stands
    assert not swinging.stance[0, 0] and swinging.stance[0, 1]
    assert swinging.landing_valid.all()
    for foot in range(2):
        lift = int(jnp.argmin(swinging.stance[:, foot])) if foot else 0
        touch = lift + int(jnp.argmax(swinging.stance[lift:, foot]))
        np.testing.assert_array_equal(swinging.landing[foot], swinging.p_world_foothold[touch, foot])
    landed = contacts_of(state, 0.0, (0.5, 0.1, 0.2))  # the left foot has just landed: next time in 0.8 s
    np.testing.assert_array_equal(landed.landing_valid, [False, True])
    np.testing.assert_array_equal(landed.landing[0], state.p_world_foot[0])
    resting = contacts_of(state, 0.0, (0.0, 0.0, 0.0), moving=False)
    assert resting.stance.all() and not resting.landing_valid.any()
    np.testing.assert_array_equal(resting.p_world_foothold, np.broadcast_to(state.p_world_foot, (10, 2, 3)))
    stopping = contacts_of(state, 0.7, (0.0, 0.0, 0.0), moving=False, gait=gait)
    np.testing.assert_array_equal(stopping.landing_valid, [True, False])
    assert stopping.stance[4:].all()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), phase=st.floats(0, 0.99))
def test_footholds_of_the_mirrored_robot_are_the_mirrored_footholds(seed, phase):
    command = jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, 3))
    offsets = jnp.array([[0.03, 0.11], [-0.01, -0.1]])
    plan = contacts_of(make_state(seed), phase, command, foot_offset=offsets)
    mirrored = contacts_of(
        mirror_state(make_state(seed)),
        (phase + 0.5) % 1.0,
        command * jnp.array([1.0, -1.0, -1.0]),
        foot_offset=(offsets * MIRROR[:2])[::-1],
    )
    np.testing.assert_array_equal(mirrored.stance, plan.stance[:, ::-1])
    np.testing.assert_array_equal(mirrored.landing_valid, plan.landing_valid[::-1])
    np.testing.assert_allclose(mirrored.p_world_foothold, (MIRROR * plan.p_world_foothold)[:, ::-1], atol=2e-5)
    np.testing.assert_allclose(mirrored.landing, (MIRROR * plan.landing)[::-1], atol=2e-5)


@pytest.mark.parametrize("command", [(0.8, 0.0, 0.0), (0.0, 0.3, 0.0), (0.4, -0.2, 0.0)])
def test_the_com_passes_over_the_middle_of_each_stance_at_steady_speed(command):
    """Walking on undisturbed, each foot stands where the path is, on average over its stance, plus its offset."""
    gait = GaitConfig(period=0.84, duty_factor=0.5)  # six knots of stance
    state = replace(make_state(), linear_momentum=MASS * jnp.array([*command[:2], 0.0]))
    plan = contacts_of(state, 0.25, command, horizon=50, gait=gait, rule=FootholdConfig(sway=0.0))
    count = np.asarray(clock.touchdown_count(jnp.asarray(0.25), gait, 0.07, 50, True))
    t_mid = (np.arange(50) + 0.5) * 0.07
    path = np.outer(t_mid, command[:2])
    spread = np.asarray(footholds._spread_offsets(FootholdConfig(), gait, make_model(), jnp.asarray(command)))
    for foot in range(2):
        down = np.asarray(plan.stance[:, foot]) & (count[:, foot] == 2)
        assert down.sum() == 6
        middle = path[down].mean(0) + spread[foot]
        # The clock meets the knots at up to half a knot's distance.
        np.testing.assert_allclose(
            plan.p_world_foothold[down, foot, :2].mean(0), middle, atol=0.04 * np.hypot(*command[:2])
        )


def test_velocity_error_moves_the_step_to_its_capture_point():
    rule = FootholdConfig(velocity_gain=1.0)
    state = make_state()
    pushed = replace(state, linear_momentum=MASS * jnp.array([0.3, 0.0, 0.0]))
    still, moved = (contacts_of(s, 0.75, (0.0, 0.0, 0.2), rule=rule).landing[0] for s in (state, pushed))
    np.testing.assert_allclose(moved - still, [0.3 * np.sqrt(HEIGHT / GRAVITY), 0, 0], atol=1e-6)


def test_lateral_sway_is_the_periodic_orbit_of_the_pendulum():
    gait = GaitConfig(period=0.8, duty_factor=0.6)
    separation, height = jnp.asarray(2 * HALF_WIDTH), jnp.asarray(HEIGHT)
    phase = jnp.linspace(0, 1, 4001)
    v = np.asarray(jax.vmap(lambda p: footholds.lateral_sway(p, gait, separation, height))(phase))
    y = np.cumsum(v) * 0.8 / 4000
    y -= y.mean()
    since_left = (np.asarray(phase) - 0.05) % 1.0
    foot = np.where(since_left < 0.5, HALF_WIDTH, -HALF_WIDTH)
    acceleration = np.gradient(v, 0.8 / 4000)
    smooth = np.abs(np.gradient(foot)) == 0
    np.testing.assert_allclose(acceleration[smooth], (GRAVITY / HEIGHT * (y - foot))[smooth], atol=0.02)
    assert np.isfinite(footholds.lateral_sway(jnp.asarray(0.3), GaitConfig(period=1e4), separation, height))


# --- Wrench cones -----------------------------------------------------------------------------------------------------


def corner_wrenches(mu):
    """The sixteen extreme rays of four corner contacts with friction pyramids, about the sole origin."""
    toe, heel, half_width = SOLE
    rays = []
    for x in (toe, -heel):
        for y in (half_width, -half_width):
            for sx in (mu, -mu):
                for sy in (mu, -mu):
                    f = np.array([sx, sy, 1.0])
                    rays.append(np.concatenate([f, np.cross([x, y, 0.0], f)]))
    return np.array(rays)


def test_full_cone_is_the_span_of_corner_contacts():
    mu, rng = 0.7, np.random.default_rng(0)
    G, h = cones.wrench_cone(mu, jnp.asarray(SOLE), 100.0, 0.1, "full")
    G, h = np.asarray(G, float), np.asarray(h)
    rays = corner_wrenches(mu)
    assert np.max(G @ rays.T - h[:, None]) <= 1e-6
    # Every face is touched by enough rays to be a facet of the cone, so none is slack and none is missing.
    faces = h == 0
    touching = np.abs(G @ rays.T)[faces] < 1e-6
    assert all(np.linalg.matrix_rank(rays[t], tol=1e-6) == 5 for t in touching)

    scale = np.array([0.7, 0.7, 1, 0.04, 0.15, 0.1])
    inside = outside = 0
    for _ in range(2000):
        w = scale * rng.uniform(-1, 1, 6)
        w[2] = 1.0
        violation = (G @ w)[faces].max()
        _, distance = nnls(rays.T, w)
        if violation < -1e-4:
            inside += 1
            assert distance < 1e-6
        elif violation > 1e-3:
            outside += 1
            assert distance > 1e-5
    assert inside > 100 and outside > 100


def test_decoupled_cone_has_the_rows_of_the_test_problems():
    data = np.load(DATA / "walk_n10.npz")
    G, h = cones.wrench_cone(0.6, jnp.asarray(SOLE), 700.0, 0.1)
    np.testing.assert_allclose(data["G"][0, 0, 12:, 6:], G, atol=1e-6)
    np.testing.assert_allclose(data["h"][0, 0, 12:], h)  # of the foot on the ground


@pytest.mark.parametrize("yaw", ["decoupled", "full"])
def test_cone_turns_with_the_foot(yaw):
    G, h = cones.wrench_cone(0.6, jnp.asarray(SOLE), 700.0, 0.1, yaw)
    R = jax.scipy.linalg.expm(centroidal.cross_matrix(jnp.array([0.3, -0.5, 1.1])))
    w = np.random.default_rng(0).standard_normal((50, 6)) * [100, 100, 300, 10, 20, 10]
    turned = np.concatenate([w[:, :3] @ R.T, w[:, 3:] @ R.T], 1)
    np.testing.assert_allclose(turned @ cones.rotate_cone(G, R).T, w @ G.T, atol=1e-3)
    assert h.shape == (G.shape[0],)
    assert (np.asarray(h) >= 0).all()


def test_boxes_are_the_smallest_around_the_cones():
    """Of feet that stand along the world's axes; in the air both are the zero wrench."""
    cone, box = (build(CentroidalConfig(boxes=b), GaitConfig(), make_model(), make_state(), 0.2, jnp.zeros(3), True)[0]
                 for b in (False, True))  # fmt: skip
    assert box.G.shape[1] == 0
    assert not np.asarray(cone.u_max[:, 2] > 0).all()  # some stages have the left foot in the air …
    on_ground = int(np.argmax(np.asarray(cone.u_max[:, 2] > 0)))  # … and this one has not
    G, h = np.asarray(cone.G[on_ground], float), np.asarray(cone.h[on_ground], float)
    for j in range(6):
        for sign, bound in ((1.0, box.u_max), (-1.0, box.u_min)):
            furthest = linprog(-sign * np.eye(12)[j], G, h, bounds=[(None, None)] * 6 + [(0, 0)] * 6)
            assert furthest.status == 0
            np.testing.assert_allclose(bound[on_ground, j], -sign * furthest.fun, atol=1e-2)
    air = np.asarray(cone.u_max) == 0
    assert np.all(np.asarray(box.u_min)[air] == 0) and np.all(np.asarray(box.u_max)[air] == 0)


def test_centre_of_pressure_is_where_the_force_acts():
    R = footholds.rotation_z(jnp.asarray(0.8))
    point, force = jnp.array([0.07, -0.02, 0.0]), jnp.array([30.0, -20.0, 250.0])
    cop = cones.centre_of_pressure(force, jnp.cross(R @ point, force), R)
    np.testing.assert_allclose(cop, point[:2], atol=1e-6)
    np.testing.assert_array_equal(cones.centre_of_pressure(jnp.zeros(3), jnp.zeros(3), R), [0.0, 0.0])


def test_cone_rejects_an_unknown_description():
    with pytest.raises(ValueError, match="decoupled"):
        cones.wrench_cone(0.6, jnp.asarray(SOLE), 700.0, 0.1, "exact")  # pyright: ignore[reportArgumentType]


# --- The problem ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["walk_n10", "double_support_n10", "flight_n10"])
def test_dynamics_are_those_of_the_test_problems(name):
    data = np.load(DATA / f"{name}.npz")
    stance = jnp.asarray(data["u_max"][..., [0, 6]] > 0)
    moment_rows = data["B"][..., 6:9, :].reshape(*data["B"].shape[:2], 3, 2, 6)[..., :3] / 0.07
    arm = np.stack([moment_rows[..., 2, :, 1], moment_rows[..., 0, :, 2], moment_rows[..., 1, :, 0]], -1)
    assert not stance.all()
    A, B, e = jax.vmap(lambda r, s: discretise(MASS, 0.07, r, s))(jnp.asarray(arm), stance)
    np.testing.assert_allclose(A, data["A"], atol=1e-7)
    np.testing.assert_allclose(B, data["B"], atol=1e-7)
    np.testing.assert_allclose(e, data["e"], rtol=1e-6, atol=1e-7)


def integrate(c, l, k, points, force, moment, duration, steps=2000):
    """The continuous centroidal dynamics by the midpoint rule, with the true lever arms."""
    dt = duration / steps
    g = np.array([0, 0, -GRAVITY])
    for _ in range(steps):
        l_next = l + dt * (force.sum(0) + MASS * g)
        c_mid = c + dt * (3 * l + l_next) / 8 / MASS
        k = k + dt * (np.cross(points - c_mid, force).sum(0) + moment.sum(0))
        c = c + dt * (l + l_next) / 2 / MASS
        l = l_next
    return np.concatenate([c, l, k])


def test_a_stage_is_the_integral_of_the_external_wrench():
    """Momentum changes by the impulse of the wrenches; the straight-line lever arm errs by O(dt³) in the angular."""
    rng = np.random.default_rng(0)
    errors = []
    for dt in (0.07, 0.035):
        points = np.array([[0.1, 0.12, 0.0], [-0.05, -0.1, 0.02]])
        c, l, k = np.array([0.02, -0.01, 0.68]), np.array([20.0, -5.0, 3.0]), rng.standard_normal(3)
        force, moment = np.array([[30, -20, 250.0], [-50, 10, 120]]), rng.standard_normal((2, 3)) * 5
        truth = integrate(c, l, k, points, force, moment, dt)
        with jax.enable_x64(True):
            arm = points - (c + l / MASS * dt / 2)
            A, B, e = discretise(MASS, dt, jnp.asarray(arm[None]), jnp.ones((1, 2), bool))
            x = A[0] @ np.concatenate([c, l, k]) + B[0] @ np.concatenate([force, moment], 1).reshape(12) + e[0]
        x = np.asarray(x)
        np.testing.assert_allclose(x[:6], truth[:6], rtol=1e-9, atol=1e-9)
        errors.append(np.abs(x[6:] - truth[6:]).max())
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 6


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), yaw=st.floats(-3, 3), moving=st.booleans(), full=st.booleans())
def test_the_problem_turns_with_the_robot(seed, yaw, moving, full):
    """Everything that defines the optimum is the same in the turned frame: dynamics, references, cones, contacts."""
    rng = np.random.default_rng(seed)
    config = CentroidalConfig(yaw="full" if full else "decoupled")
    phase, command = rng.random(), rng.uniform(-1, 1, 3)
    state, model = make_state(seed), make_model()
    problem, contacts = build(config, GaitConfig(), model, state, phase, command, moving)
    turned, turned_contacts = build(config, GaitConfig(), model, rotate_state(state, yaw), phase, command, moving)
    R = np.asarray(footholds.rotation_z(jnp.asarray(yaw)))
    X, U = np.kron(np.eye(3), R), np.kron(np.eye(4), R)
    np.testing.assert_allclose(turned.x_ref, problem.x_ref @ X.T, atol=1e-4)
    np.testing.assert_allclose(turned.x0, X @ problem.x0, atol=1e-4)
    np.testing.assert_allclose(turned.B, X @ problem.B @ U.T, atol=1e-5)
    np.testing.assert_allclose(turned.G @ U, problem.G, atol=1e-5)
    np.testing.assert_allclose(turned_contacts.landing, contacts.landing @ R.T, atol=1e-5)
    for name in ("A", "e", "Q", "R", "S", "h", "u_ref", "u_min", "u_max"):
        np.testing.assert_allclose(getattr(turned, name), getattr(problem, name), atol=1e-5, err_msg=name)
    for weights in (problem.Q, problem.R, problem.S):  # isotropic in the plane, hence independent of the frame
        blocks = np.asarray(weights).reshape(10, -1, 3)
        np.testing.assert_array_equal(blocks[..., 0], blocks[..., 1])


def test_a_foot_in_the_air_carries_nothing_and_a_foot_on_the_ground_may_carry_the_weight():
    for duty in (0.4, 0.5, 0.65):
        gait = GaitConfig(duty_factor=duty)
        problem, contacts = build(CentroidalConfig(), gait, make_model(), make_state(), 0.3, (0.5, 0, 0), True)
        stance = np.repeat(np.asarray(contacts.stance), 6, axis=1)
        u_max, u_ref = np.asarray(problem.u_max), np.asarray(problem.u_ref)
        assert (u_max[~stance] == 0).all() and (u_max[stance] > 0).all()
        np.testing.assert_array_equal(problem.u_min, -u_max)
        supported = np.asarray(contacts.stance).any(1)
        np.testing.assert_allclose(u_ref[:, [2, 8]].sum(1), supported * MASS * GRAVITY, rtol=1e-6)
        assert (np.einsum("kmu,ku->km", problem.G, u_ref) <= np.asarray(problem.h) + 1e-3).all()
        assert (np.asarray(problem.h) >= 0).all()  # u = 0 is feasible
        assert problem.structure.pins_only
        pimpc.validate(problem)  # it is what it is declared to be


def test_standing_is_asked_over_the_middle_of_the_soles():
    state = make_state(5)
    problem, contacts = build(CentroidalConfig(), GaitConfig(), make_model(), state, 0.0, (1.0, 1.0, 1.0), False)
    middle = state.p_world_foot + state.R_world_foot @ jnp.array([(SOLE[0] - SOLE[1]) / 2, 0, 0])
    np.testing.assert_allclose(problem.x_ref[:, :2], np.broadcast_to(middle.mean(0)[:2], (10, 2)), atol=1e-6)
    np.testing.assert_array_equal(problem.x_ref[:, 3:], np.zeros((10, 6)))
    assert contacts.stance.all()


def test_standing_is_possible_while_the_capture_point_is_between_the_soles():
    state, model = rotate_state(make_state(), 0.7), make_model()
    frame, tau = np.asarray(footholds.rotation_z(jnp.asarray(0.7))), np.sqrt(HEIGHT / GRAVITY)
    can_stand = jax.jit(centroidal.can_stand)
    ahead = (SOLE[0] - SOLE[1]) / 2 + 0.8 * (SOLE[0] + SOLE[1]) / 2
    aside = HALF_WIDTH + 0.8 * SOLE[2]
    for direction, reach in [((1.0, 0, 0), ahead), ((0, 1.0, 0), aside), ((0, -1.0, 0), aside)]:
        for share, expected in [(0.98, True), (1.02, False)]:
            velocity = frame @ np.asarray(direction) * share * reach / tau
            moving = replace(state, linear_momentum=jnp.asarray(MASS * velocity, jnp.float32))
            assert can_stand(model, moving) == expected


def test_randomized_robots_share_one_compiled_program():
    masses, frictions = jnp.array([25.0, 33.34, 45.0]), jnp.array([0.3, 0.6, 1.2])
    u_prev = jnp.zeros(12)

    def one(mass, friction):
        model = replace(make_model(), mass=mass, friction=friction)
        args = (jnp.asarray(0.0), jnp.array([0.5, 0.0, 0.0]), True, u_prev)
        return build_problem(CentroidalConfig(), GaitConfig(), model, make_state(), *args)[0]

    batch = jax.jit(jax.vmap(one))(masses, frictions)
    np.testing.assert_allclose(batch.e[:, 0, 5], -masses * 0.07 * GRAVITY, rtol=1e-6)
    np.testing.assert_allclose(batch.A[:, 0, 0, 3], 0.07 / masses, rtol=1e-6)
    np.testing.assert_allclose(batch.G[:, 0, 0, 2], -0.8 * frictions, rtol=1e-6)
    np.testing.assert_allclose(batch.x_ref[:, 0, 3], 0.5 * masses, rtol=1e-6)


def test_extreme_inputs_stay_finite():
    for scale in (1e3, 1e5):
        state = make_state(0, scale)
        state = replace(state, R_world_foot=make_state().R_world_foot, yaw=jnp.asarray(scale))
        for command in ((0.0, 0.0, 0.0), (scale, -scale, scale)):
            for moving in (True, False):
                problem, contacts = build(CentroidalConfig(), GaitConfig(), make_model(), state, 0.3, command, moving)
                plan = reference_plan(problem, contacts)
                assert not jnp.isnan(problem.u_min).any() and not jnp.isnan(problem.u_max).any()
                rest = replace(problem, u_min=None, u_max=None)
                assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((rest, contacts, plan)))


def test_reference_plan_is_the_reference_and_replaces_a_failed_plan_entirely():
    problem, contacts = build(CentroidalConfig(), GaitConfig(), make_model(), make_state(), 0.3, (0.5, 0.1, 0.2), True)
    plan = reference_plan(problem, contacts)
    np.testing.assert_array_equal(plan.p_world_com[1:], problem.x_ref[:, :3])
    np.testing.assert_array_equal(plan.p_world_com[0], problem.x0[:3])
    np.testing.assert_array_equal(centroidal.input_at(plan, 0.15, 0.07), problem.u_ref[2])
    np.testing.assert_array_equal(centroidal.input_at(plan, 9.0, 0.07), problem.u_ref[-1])
    broken = jax.tree.map(lambda a: a if a.dtype == bool else a * jnp.nan, plan)
    for a, b in zip(jax.tree.leaves(where_plan(jnp.asarray(False), broken, plan)), jax.tree.leaves(plan), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_standing_plan_carries_the_weight_within_the_soles_and_a_walking_one_turns_with_the_robot():
    config, model, angle = CentroidalConfig(), make_model(), 2.0
    R = np.asarray(footholds.rotation_z(jnp.asarray(angle)))

    @jax.jit
    @jax.vmap
    def plan(state, command, moving):
        u_prev = weight_share(model, jnp.ones(2, bool))
        problem, contacts = build_problem(config, GaitConfig(), model, state, jnp.asarray(0.7), command, moving, u_prev)
        solution = pimpc.solve(problem)
        return centroidal.to_plan(solution.x, solution.u, contacts), solution.status, contacts.R_world_foothold

    standing, walking = replace(make_state(), p_world_com=jnp.array([0.01, 0.02, HEIGHT])), make_state(7)
    states = jax.tree.map(lambda *s: jnp.stack(s), standing, walking, rotate_state(walking, angle))
    commands = jnp.array([[0.0, 0.0, 0.0], [0.5, 0.1, 0.3], [0.5, 0.1, 0.3]])
    states = replace(states, yaw=states.yaw.astype(jnp.float32))
    plans, status, R_world_foot = plan(states, commands, jnp.array([False, True, True]))
    assert (status <= pimpc.Status.SOLVED_INACCURATE).all()

    stand, walk, turned = (jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), plans) for i in range(3))
    late = stand.stance.all(1)  # the robot lands its swing foot first
    assert late.sum() >= 4
    weight = stand.force[late].sum(1)
    np.testing.assert_allclose(weight[-1], [0, 0, MASS * GRAVITY], atol=0.05 * MASS * GRAVITY)
    for p in (stand, walk):
        f, tau = (np.einsum("kfji,kfj->kfi", R_world_foot[0 if p is stand else 1], w) for w in (p.force, p.moment))
        slack = 0.1  # N m, of up to 40
        assert (np.abs(tau[..., 0]) <= SOLE[2] * f[..., 2] + slack).all()
        assert (tau[..., 1] <= SOLE[1] * f[..., 2] + slack).all() and (
            -tau[..., 1] <= SOLE[0] * f[..., 2] + slack
        ).all()
        assert np.abs(p.force[~p.stance]).max() == 0
    np.testing.assert_allclose(turned.p_world_com, walk.p_world_com @ R.T, atol=2e-3)
    np.testing.assert_allclose(turned.linear_momentum, walk.linear_momentum @ R.T, atol=0.1)
    np.testing.assert_allclose(turned.force, walk.force @ R.T, atol=6.0)


@pytest.mark.parametrize("path", ["CentroidalConfig", "FootholdConfig", "GaitConfig"])
def test_every_setting_changes_the_problem(path):
    """No dead knob: each field, moved a little, moves the problem, the contacts or the gait's decisions."""
    state = replace(make_state(2), linear_momentum=jnp.array([60.0, 60.0, 0.0]))
    command = jnp.array([0.4, 0.5, 0.1])

    def outcome(config, gait):
        problem = build(config, gait, make_model(), state, 0.7, command, True)
        return jax.tree.leaves((problem, clock.is_moving(jnp.array([0.1001, 0.0, 0.0]), gait)))

    base_config, base_gait = CentroidalConfig(), GaitConfig()
    base = outcome(base_config, base_gait)
    target = {"CentroidalConfig": base_config, "FootholdConfig": base_config.footholds, "GaitConfig": base_gait}[path]
    for f in dataclasses.fields(target):
        value = getattr(target, f.name)
        if dataclasses.is_dataclass(value):
            continue
        if f.name == "yaw":
            changed = "full"
        elif isinstance(value, tuple):
            changed = tuple(1.1 * v + 0.03 for v in value)
        else:
            changed = value + 1 if isinstance(value, int) else 1.1 * value
        moved = replace(target, **{f.name: changed})
        if path == "GaitConfig":
            after = outcome(base_config, moved)
        elif path == "FootholdConfig":
            after = outcome(replace(base_config, footholds=moved), base_gait)
        else:
            after = outcome(moved, base_gait)
        same = all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(base, after, strict=True))
        assert not same, f"{path}.{f.name} changes nothing"
