"""Reward terms at states where their value is known."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewards import (
    BASE_RL,
    NO_GUIDANCE,
    BaseWeights,
    Context,
    Guidance,
    GuidanceWeights,
    RegularizationWeights,
    Tables,
    evaluate,
    guidance,
    terms,
    weighted_terms,
)

NJ, L = 4, 3


def make_context(**changes) -> Context:
    """A robot that stands where the plan wants it, joints at home, commanded to walk, both feet down as scheduled."""
    plan = Guidance(
        p_world_com=jnp.tile(jnp.array([1.0, 2.0, 0.7]), (L, 1)),
        linear_momentum=jnp.zeros((L, 3)),
        angular_momentum=jnp.zeros((L, 3)),
        angular_momentum_rate=jnp.zeros((L, 3)),
        weight=jnp.array([0.6, 0.3, 0.1]),
        p_world_landing=jnp.array([[1.3, 2.1, 0.0], [1.3, 1.9, 0.0]]),
        landing_valid=jnp.ones(2, bool),
        f_world_foot=jnp.tile(jnp.array([0.0, 0.0, 150.0]), (2, 1)),
        solved=jnp.ones((), bool),
    )
    values = {
        "command": jnp.array([0.5, 0.0, 0.0]),
        "moving": jnp.ones((), bool),
        "scheduled_stance": jnp.ones(2, bool),
        "swing_fraction": jnp.zeros(2),
        "v_base": jnp.zeros(3),
        "w_base": jnp.zeros(3),
        "w_world": jnp.zeros(3),
        "mean_error": jnp.zeros(3),
        "gravity_base": jnp.array([0.0, 0.0, -1.0]),
        "q": jnp.zeros(NJ),
        "q_default": jnp.zeros(NJ),
        "q_std": jnp.full(NJ, 0.1),
        "q_lower": -jnp.ones(NJ),
        "q_upper": jnp.ones(NJ),
        "action": jnp.zeros(NJ),
        "last_action": jnp.zeros(NJ),
        "mass": jnp.array(30.0),
        "inertia": jnp.diag(jnp.array([3.0, 2.5, 0.5])),
        "p_world_com": jnp.array([1.0, 2.0, 0.7]),
        "linear_momentum": jnp.zeros(3),
        "angular_momentum": jnp.zeros(3),
        "angular_momentum_rate": jnp.zeros(3),
        "p_world_foot": jnp.array([[1.0, 2.1, 0.0], [1.0, 1.9, 0.0]]),
        "v_world_foot": jnp.zeros((2, 3)),
        "tilt_foot": jnp.zeros(2),
        "contact": jnp.ones(2, bool),
        "touchdown": jnp.zeros(2, bool),
        "peak_height": jnp.zeros(2),
        "foot_height": jnp.zeros(2),
        "f_world_foot": jnp.tile(jnp.array([0.0, 0.0, 150.0]), (2, 1)),
        "limb_gaps": jnp.array([0.1, 0.02]),
        "guidance": plan,
    }
    return Context(**(values | changes))


def with_plan(ctx: Context, **changes) -> Context:
    return dataclasses.replace(ctx, guidance=dataclasses.replace(ctx.guidance, **changes))


OURS = RegularizationWeights(foot_swing=1.0, mean_lin_vel=1.0, mean_ang_vel=1.0)
ALL_ON = Tables(base=BASE_RL, regularization=OURS)


def test_costs_vanish_and_rewards_peak_where_nothing_is_wrong():
    ctx = make_context(v_base=jnp.array([0.5, 0.0, 0.0]))
    for name, (weight, term) in weighted_terms(ALL_ON).items():
        expected = 1.0 if weight > 0 else 0.0
        assert float(term(ctx)) == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize(
    ("term", "changes", "expected"),
    [
        (terms.lin_vel, {}, np.exp(-1.0)),  # 0.5 m/s short: exp(−0.25/0.25)
        (terms.lin_vel, {"v_base": jnp.array([0.5, 0.0, 0.5])}, np.exp(-1.0)),  # bouncing counts as well
        (terms.ang_vel, {"command": jnp.array([0.0, 0.0, 1.0])}, np.exp(-2.0)),
        (terms.ang_vel_reg, {"w_base": jnp.array([3.0, 4.0, 9.0])}, 25.0),
        (terms.ang_mom_reg, {"angular_momentum": jnp.array([1.0, 2.0, 2.0])}, 9.0),
        (terms.foot_slip, {"v_world_foot": jnp.array([[1.0, 1.0, 5.0], [0.0, 0.0, 0.0]])}, 2.0),
        (terms.upright, {"gravity_base": jnp.array([0.6, 0.0, -0.8])}, np.exp(-1.8)),
        (terms.pose, {"q": jnp.array([0.1, -0.1, 0.1, -0.1])}, np.exp(-1.0)),
        (terms.gait, {"contact": jnp.array([True, False])}, 0.5),
        (terms.gait, {"moving": jnp.zeros((), bool)}, 0.0),
        (terms.foot_flat, {"tilt_foot": jnp.array([0.3, 0.3])}, np.exp(-0.3)),
        (terms.foot_clear, {"v_world_foot": jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])}, 0.75),  # 0.15 m · 5 m/s
        (terms.foot_height, {"touchdown": jnp.array([True, False]), "peak_height": jnp.array([0.05, 0.3])}, 0.25),
        (terms.foot_swing, {"swing_fraction": jnp.array([0.5, 0.0])}, 0.5 + 0.5 * np.exp(-((0.1 / 0.07) ** 2))),
        (terms.mean_lin_vel, {"mean_error": jnp.array([0.09, 0.12, 9.0])}, 0.5),  # one σ off
        (terms.mean_ang_vel, {"mean_error": jnp.array([9.0, 9.0, 0.5])}, 0.2),  # two
        (terms.stand_still, {"q": jnp.full(NJ, 0.5)}, 0.0),
        (terms.stand_still, {"q": jnp.full(NJ, 0.5), "moving": jnp.zeros((), bool)}, 1.0),
        (terms.action_rate, {"action": jnp.full(NJ, 2.0)}, 16.0),
        (terms.joint_lim, {"q": jnp.array([1.25, -1.5, 0.0, 1.0])}, 0.75),
        (terms.soft_land, {"touchdown": jnp.array([False, True])}, 150.0),
        (terms.self_coll, {"limb_gaps": jnp.array([-0.01, 0.02, -0.2])}, 2.0),
        (terms.feet_near, {"p_world_foot": jnp.array([[0.0, 0.05, 0.0], [0.0, 0.0, 0.5]])}, 0.10),
    ],
)
def test_term_at_an_analytic_state(term, changes, expected):
    assert float(term(make_context(**changes))) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_mpc_terms_at_analytic_states():
    ctx = make_context(p_world_com=jnp.array([1.0, 2.0, 0.8]), linear_momentum=jnp.array([15.0, 0.0, 0.0]))
    assert float(guidance.mpc_com(ctx, scale=10.0)) == pytest.approx(np.exp(-0.1), rel=1e-5)
    assert float(guidance.mpc_lin_vel(ctx, scale=4.0)) == pytest.approx(np.exp(-1.0), rel=1e-5)
    turning = make_context(w_world=jnp.array([0.0, 0.0, 1.0]))
    assert float(guidance.mpc_ang_vel(turning, scale=2.0)) == pytest.approx(np.exp(-2.0), rel=1e-5)
    planned = with_plan(turning, angular_momentum=jnp.tile(jnp.array([0.0, 0.0, 0.5]), (L, 1)))
    assert float(guidance.mpc_ang_vel(planned, scale=2.0)) == pytest.approx(1.0, rel=1e-5)  # I_zz ω = k̂
    assert float(guidance.mpc_ang_mom(planned)) == pytest.approx(0.25, rel=1e-5)
    inertia = jnp.array([[3.0, 0.4, -0.2], [0.4, 2.5, 0.3], [-0.2, 0.3, 0.5]])
    tumbling = make_context(inertia=inertia, w_world=jnp.array([0.3, -0.2, 1.0]))
    planned_too = with_plan(tumbling, angular_momentum=jnp.tile(inertia @ tumbling.w_world, (L, 1)))
    assert float(guidance.mpc_ang_vel(planned_too, scale=1e6)) == pytest.approx(1.0, rel=1e-5)
    swing = make_context(scheduled_stance=jnp.array([True, False]))  # the right foot hangs 0.3 m behind its target
    assert float(guidance.mpc_foot(swing, sigma=0.3)) == pytest.approx(np.exp(-1.0), rel=1e-5)
    unloaded = make_context(f_world_foot=jnp.zeros((2, 3)))
    assert float(guidance.mpc_grf(unloaded)) == pytest.approx(150.0 / np.sqrt(3.0), rel=1e-5)


def test_landmarks_are_weighted_by_confidence():
    ctx = make_context()
    for landmark, alpha in enumerate([0.6, 0.3, 0.1]):
        shifted = with_plan(ctx, p_world_com=ctx.guidance.p_world_com.at[landmark, 0].add(1.0))
        assert float(guidance.mpc_com(shifted, scale=1.0)) == pytest.approx(np.exp(-alpha), rel=1e-5)


@pytest.mark.parametrize("changes", [{"solved": jnp.zeros((), bool)}, {"weight": jnp.zeros(L)}])
def test_an_instance_without_a_plan_earns_no_guidance(changes):
    ctx = with_plan(make_context(p_world_com=jnp.array([9.0, 9.0, 9.0])), **changes)
    for name, (_, term) in weighted_terms(Tables(regularization=RegularizationWeights())).items():
        if name in ("mpc_com", "mpc_lin_vel", "mpc_ang_vel", "mpc_ang_mom"):
            assert float(term(ctx)) == 0.0, name
    if "solved" in changes:
        assert float(guidance.mpc_foot(ctx, sigma=0.2)) == 0.0
        assert float(guidance.mpc_grf(ctx)) == 0.0


def test_the_tables_name_every_term_once():
    written = {n for n, f in inspect.getmembers(terms, inspect.isfunction) if f.__module__ == terms.__name__}
    blocks = (*dataclasses.fields(BaseWeights), *dataclasses.fields(RegularizationWeights))
    assert written == {f.name for f in blocks if not f.name.endswith("_scale")}
    mpc = {n for n, f in inspect.getmembers(guidance, inspect.isfunction) if f.__module__ == guidance.__name__}
    weights = {f.name for f in dataclasses.fields(GuidanceWeights) if not f.name.endswith(("_scale", "_sigma"))}
    assert {n for n in mpc if not n.startswith("_")} == weights


def test_reward_is_the_weighted_sum_times_the_period():
    ctx = make_context(q=jnp.full(NJ, 0.1), action=jnp.ones(NJ))
    total, parts = evaluate(ALL_ON, ctx, 0.02)
    by_hand = sum(weight * float(term(ctx)) for weight, term in weighted_terms(ALL_ON).values())
    assert float(total) == pytest.approx(0.02 * by_hand, rel=1e-5)
    assert sum(float(v) for v in parts.values()) == pytest.approx(by_hand, rel=1e-5)


def test_a_zero_weight_switches_a_term_off():
    names = set(weighted_terms(Tables(mpc=NO_GUIDANCE)))
    assert not any(name.startswith("mpc_") for name in names)
    assert {"upright", "pose", "gait"} <= names


def test_terms_do_not_depend_on_heading():
    """Turning the world about the vertical changes no reward."""
    angle = 0.7
    R = jnp.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    key = jax.random.key(0)
    noise = lambda i, *shape: 0.3 * jax.random.normal(jax.random.fold_in(key, i), shape)  # noqa: E731
    ctx = make_context(
        p_world_com=noise(0, 3), linear_momentum=noise(1, 3), angular_momentum=noise(2, 3), w_world=noise(3, 3),
        p_world_foot=noise(4, 2, 3), v_world_foot=noise(5, 2, 3), f_world_foot=noise(6, 2, 3),
        foot_height=noise(4, 2, 3)[:, 2], contact=jnp.array([False, True]),
    )  # fmt: skip
    ctx = with_plan(ctx, p_world_com=noise(7, L, 3), p_world_landing=noise(8, 2, 3))
    vectors = [
        f.name for f in dataclasses.fields(Context) if f.name.startswith(("p_world", "v_world", "f_world", "w_world"))
    ]
    vectors += ["linear_momentum", "angular_momentum", "angular_momentum_rate"]
    turned = dataclasses.replace(ctx, **{n: getattr(ctx, n) @ R.T for n in vectors}, inertia=R @ ctx.inertia @ R.T)
    planned = ["p_world_com", "linear_momentum", "angular_momentum", "angular_momentum_rate"]
    planned += ["p_world_landing", "f_world_foot"]
    turned = with_plan(turned, **{n: getattr(ctx.guidance, n) @ R.T for n in planned})
    for name, (_, term) in weighted_terms(ALL_ON).items():
        assert float(term(turned)) == pytest.approx(float(term(ctx)), rel=1e-4, abs=1e-6), name
