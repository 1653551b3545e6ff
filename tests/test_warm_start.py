"""Shifting an answer along the horizon, and what a warm start saves: iterations if it is good, never soundness."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import mpc_problems
import numpy as np
import pytest
from mpc_problems import edited

import pimpc
from experiments import benchmark_warm_start, simulated_walk
from pimpc import InteriorPoint, Status

ROBOTS, STEPS = 4, 40


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


@functools.cache
def solver(method=InteriorPoint()):  # noqa: B008
    return jax.jit(jax.vmap(lambda problem, start: pimpc.solve(problem, method, start)))


@functools.cache
def walking():
    """Recorded walking problems and their cold solutions."""
    problem, _ = mpc_problems.recorded("walk_n10", np.float32, 24)
    cold = jax.vmap(InteriorPoint().cold_start)(problem)
    return jax.device_get(problem), cold, jax.device_get(solver()(problem, cold))


# --- Shifting ---------------------------------------------------------------------------------------------------------


def answer(N=8, nu=3, m=2, seed=0, fixed=()):
    """A problem whose inputs are fixed at zero at given (stage, input), and an answer that may be its."""
    rng = np.random.default_rng(seed)
    bound = edited(np.ones((N, nu)), *((index, 0.0) for index in fixed))
    problem = mpc_problems.random_problem(seed, np.float32, N=N, nu=nu, m=m)
    problem = replace(problem, u_min=jnp.asarray(-bound, jnp.float32), u_max=jnp.asarray(bound, jnp.float32))
    sign = rng.choice([-1.0, 1.0], (N, nu))
    arrays = sign * rng.random((N, nu)), rng.random((N, m)), sign * rng.random((N, nu)), rng.normal(size=(N, 4))
    u, rows, inputs, states = (jnp.asarray(a, jnp.float32) for a in arrays)
    u, inputs = jnp.where(bound > 0, u, 0), jnp.where(bound > 0, inputs, 0)
    start = pimpc.interior_point.WarmStart(u, pimpc.residuals.Multipliers(rows, inputs, states))
    return problem, start


def assert_trees(actual, expected, **kwargs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **kwargs), actual, expected)


@pytest.mark.parametrize("stages", [0, 1, 3, 7, 8, 1e9, np.inf])
def test_whole_stages_slice_and_repeat_the_last_one(stages):
    problem, start = answer(fixed=[(2, 0), (5, 1)])
    index = np.minimum(np.arange(8) + min(stages, 8), 7).astype(int)
    assert_trees(pimpc.shift(start, stages, problem), take(start, index), rtol=0)


def test_a_shift_by_almost_a_whole_stage_is_one():
    problem, start = answer()
    assert_trees(pimpc.shift(start, 7 * np.float32(2 / 7), problem), take(start, np.minimum(np.arange(8) + 2, 7)))


def test_a_fraction_averages_over_the_new_stage():
    problem, start = answer()
    later = np.minimum(np.arange(8) + 1, 7)
    expected = jax.tree.map(lambda a: 0.7 * a + 0.3 * a[later], start)
    assert_trees(pimpc.shift(start, 0.3, problem), expected, atol=1e-6)


def test_forces_do_not_cross_a_switch_of_contacts():
    """Input 0 is at work up to stage 3; the next problem has it end there still, one stage earlier, or one later."""
    late = [(k, 0) for k in range(4, 8)]
    _, start = answer(fixed=late)
    for fixed, whole in ((late, 3), ([(3, 0), *late], 4)):
        problem, _ = answer(fixed=fixed)
        moved = pimpc.shift(start, 0.3, problem)
        assert_trees(take(moved, 3), take(start, whole), rtol=0)  # all of it, and none of the other
        assert_trees(take(moved, 1), jax.tree.map(lambda a: 0.7 * a[1] + 0.3 * a[2], start), atol=1e-6)
    problem, _ = answer(fixed=[(3, 1), *late])  # neither stage fits: whatever acted in one of them acts
    moved = pimpc.shift(start, 0.3, problem)
    np.testing.assert_array_equal(moved.u[3, 0], start.u[3, 0])
    np.testing.assert_allclose(moved.u[3, 2], 0.7 * start.u[3, 2] + 0.3 * start.u[4, 2], rtol=1e-6)


def test_multipliers_keep_their_signs():
    problem, start = answer()
    for stages in np.linspace(0, 9, 37):
        assert (pimpc.shift(start, stages, problem).multipliers.rows >= 0).all()


def test_a_horizon_repeats_its_own_last_stage():
    problem, start = answer(fixed=[(k, i) for k in range(5, 8) for i in range(3)])
    problem = replace(problem, u_max=jnp.ones((8, 3)), u_min=-jnp.ones((8, 3)), horizon=jnp.asarray(5))
    moved = pimpc.shift(start, 2, problem)
    assert_trees(take(moved, slice(0, 5)), take(start, np.array([2, 3, 4, 4, 4])), rtol=0)
    assert_trees(take(moved, slice(5, 8)), jax.tree.map(np.zeros_like, take(start, slice(5, 8))))


def test_every_instance_has_its_own_shift_and_reset():
    problem, start = answer()
    batch = jax.tree.map(lambda a: jnp.stack([a] * 4), start)
    batch = replace(batch, u=batch.u.at[3].set(jnp.nan))
    stages, reset = jnp.array([0.0, 0.5, 2.0, 0.5]), jnp.array([False, False, True, True])
    moved = jax.jit(jax.vmap(pimpc.shift, in_axes=(0, 0, None, 0)))(batch, stages, problem, reset)
    assert_trees(take(moved, 0), start, rtol=0)
    assert_trees(take(moved, 1), pimpc.shift(start, 0.5, problem), rtol=1e-6)
    cold = InteriorPoint().cold_start(problem)
    for i in (2, 3):
        assert_trees(take(moved, i), cold, rtol=0)


# --- Warm starts ------------------------------------------------------------------------------------------------------


def bad_starts():
    problem, _, cold = walking()
    start, rng = cold.warm_start, np.random.default_rng(0)
    dual, tree = start.multipliers, jax.tree.map
    other = rng.permutation(len(problem.x0))
    return {
        "another problem's": take(start, other),
        "random": tree(lambda a: (np.abs(a).max() * rng.standard_normal(a.shape)).astype(np.float32), start),
        "opposite": replace(start, u=-start.u),
        "no inputs": replace(start, u=0 * start.u),
        "huge inputs": replace(start, u=np.float32(1e3) * start.u),
        "huge multipliers": replace(start, multipliers=tree(lambda a: np.float32(1e6) * a, dual)),
        "wrong signs": replace(start, multipliers=tree(lambda a: -a, dual)),
        "enormous": tree(lambda a: np.full_like(a, 1e30), start),
        "not finite": tree(lambda a: np.full_like(a, np.nan), start),
    }


def test_bad_warm_starts_cost_little_and_no_soundness():
    problem, _, cold = walking()
    for name, start in bad_starts().items():
        warm = jax.device_get(solver()(problem, start))
        assert np.all(warm.status == Status.SOLVED), name
        assert np.all(warm.iterations <= cold.iterations + 3), name
        assert warm.iterations.mean() <= cold.iterations.mean() + 0.5, name
        np.testing.assert_allclose(warm.cost, cold.cost, rtol=3e-5, err_msg=name)


def test_a_warm_start_proves_no_feasible_problem_infeasible_and_hides_no_infeasible_one():
    problem, cold_start, cold = walking()
    starved = replace(problem, h=edited(problem.h, (np.s_[:, :, [4, 16]], -800.0)))  # f_z ≥ 800 N against f_z ≤ 700 N
    for start in (cold_start, cold.warm_start):
        assert np.all(solver()(starved, start).status == Status.INFEASIBLE)


def test_the_nearer_the_start_the_fewer_the_iterations():
    problem, cold_start, cold = walking()
    size = np.float32([0.01, 0.01, 0.005, 3, 3, 2, 1, 1, 0.5])
    noise = size * np.random.default_rng(0).standard_normal(problem.x0.shape).astype(np.float32)
    limits = {0.01: 0.35, 0.1: 0.6, 1.0: 0.9}
    for scale, share in limits.items():
        moved = replace(problem, x0=problem.x0 + np.float32(scale) * noise)
        warm, other = solver()(moved, cold.warm_start), solver()(moved, cold_start)
        assert np.all(warm.status == Status.SOLVED)
        assert np.mean(warm.iterations) <= share * np.mean(other.iterations)
        np.testing.assert_allclose(warm.cost, other.cost, rtol=3e-5)


def walk(tolerance):
    """Robots that walk, are pushed and change their command, each solve from a cold start and from the last answer."""
    rng = np.random.default_rng(1)
    commands = np.repeat(simulated_walk.random_commands(rng, 2, ROBOTS), STEPS // 2, axis=0)
    pushes = np.zeros((STEPS, ROBOTS, 3))
    pushes[STEPS // 4] = rng.uniform(-12, 12, (ROBOTS, 3)) * [1, 1, 0.3]  # N s
    walkers = jax.vmap(simulated_walk.start)(jnp.asarray(rng.random(ROBOTS), jnp.float32))
    told = jnp.asarray(commands, jnp.float32), jnp.asarray(pushes, jnp.float32)
    return jax.device_get(simulated_walk.walk(walkers, *told, InteriorPoint(tolerance=tolerance)))


def test_a_walk_takes_two_thirds_of_the_iterations_from_the_last_answer():
    """At 50 Hz, stages of 70 ms and a tolerance of 1e-3."""
    _, cold, warm = walk(1e-3)
    assert np.abs(warm.x[:, :, 0, 2] - 0.69).max() < 0.05  # they walk on
    cold, warm = (jax.tree.map(lambda a: a[1:], s) for s in (cold, warm))
    assert np.all(warm.status == Status.SOLVED)
    assert warm.iterations.mean() <= 0.75 * cold.iterations.mean()
    assert np.mean(warm.iterations > cold.iterations) <= 0.02
    assert np.all(warm.iterations.astype(int) <= cold.iterations + 3)
    np.testing.assert_allclose(warm.cost, cold.cost, rtol=3e-3)


def test_the_benchmark_times_both_starts_of_the_same_problems():
    row = benchmark_warm_start.measure(batch=2, horizon=6, tolerance=1e-3, moments=1, repeats=1)
    assert row["N"] == 6 and row["warm"]["solved"] == 1
    assert min(row[kind][time] for kind in ("cold", "warm") for time in ("seconds", "seconds_in_a_row")) > 0
    assert row["warm"]["iterations"] < row["cold"]["iterations"]
    assert row["cost_difference"] < 3e-3
