"""The published πⁿMPC: parity with its recorded iterates, and what was mended."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpc_problems import DATA, clarabel_inputs, edited, input_errors, random_problem, recorded

import pimpc
from pimpc import PiADMM, Status
from pimpc.lifting import lift
from pimpc.pi_admm import iterate
from pimpc.projection import make_polyhedron, project


@pytest.mark.parametrize("accelerate", [False, True])
def test_iterates_match_the_published_ones(accelerate):
    trace = np.load(DATA / "pimpc_trace_walk_n10.npz")
    kind = "accel" if accelerate else "plain"
    method = PiADMM(cones=False, accelerate=accelerate)
    with jax.enable_x64(True):
        problem, _ = recorded("walk_n10", jnp.float64, len(trace[f"x_{kind}"]))
        boxes = dataclasses.replace(problem, G=None, h=None)
        data = jax.vmap(lambda p: lift(p, method.penalty))(boxes)
        state, done = jax.vmap(method.cold_start)(boxes), 0
        advance = jax.jit(jax.vmap(lambda d, s, n: iterate(method, d, s, n), in_axes=(0, 0, None)))
        for i, count in enumerate(trace["iterations"]):
            state, done = advance(data, state, int(count) - done), int(count)
            lifted = np.asarray(state.lifted / data.unit[:, None])  # x and u of the primal copy
            np.testing.assert_allclose(lifted[..., :9], trace[f"x_{kind}"][:, i], rtol=0, atol=1e-6)
            np.testing.assert_allclose(lifted[..., 9:], trace[f"u_{kind}"][:, i], rtol=0, atol=1e-6)


@functools.cache
def solver(method):
    return jax.jit(jax.vmap(lambda problem, start: pimpc.solve(problem, method, start)))


def solve_batch(problem, method, start=None):
    start = jax.vmap(method.cold_start)(problem) if start is None else start
    return jax.device_get(solver(method)(problem, start))


def test_other_penalties_converge_to_the_optimum():
    """The released gain of Δu is right for a penalty of one only."""
    with jax.enable_x64(True):
        problems = [random_problem(s, jnp.float64, N=4, nx=2, nu=2, m=3, state_bounds=False) for s in range(8)]
        problems = [dataclasses.replace(p, R=p.R + 0.1, Q=p.Q + 0.1) for p in problems]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
        method = PiADMM(max_iterations=20000, round_iterations=500, tolerance=1e-8, penalty=0.3)
        solution = solve_batch(batch, method)
        assert np.all(solution.status == Status.SOLVED), solution.status
        np.testing.assert_allclose(solution.u, np.stack([clarabel_inputs(p) for p in problems]), atol=1e-3)


def test_returned_plan_is_consistent_and_keeps_the_cones_whatever_its_status():
    problem, data = recorded("walk_n10", jnp.float32, 4)
    method = PiADMM(max_iterations=200)
    solution = solve_batch(problem, method)
    assert np.all(solution.status == Status.MAX_ITERATIONS)  # as published it is far from optimal, and it says so
    assert np.all(solution.primal_residual <= 1e-5)
    assert np.all(solution.dual_residual > 1e-2)
    excess = np.einsum("bkij,bkj->bki", data["G"], np.asarray(solution.u, float)) - data["h"]
    assert excess.max() <= 0.01
    # Instances are independent: neither momentum nor stopping looks at a neighbour.
    poisoned = dataclasses.replace(problem, x0=edited(problem.x0, (2, np.nan)))
    others = [0, 1, 3]
    together = solve_batch(poisoned, method)
    assert together.status[2] == Status.NONFINITE_INPUT
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(lambda v: v[others], s) for s in (together, solution)))
    # A warm start continues where the last solve ended.
    warm = solve_batch(problem, method, solution.warm_start)
    error, better = input_errors(solution.u, data["u_opt"]), input_errors(warm.u, data["u_opt"])
    assert np.median(better) < np.median(error)


def test_boxes_alone_leave_the_cones_violated_and_the_status_tells():
    problem, _ = recorded("walk_n10", jnp.float32, 4)
    solution = solve_batch(problem, PiADMM(max_iterations=200, cones=False, early_stop=False))
    assert np.all(solution.primal_residual > 1e-3)
    assert np.all(solution.status == Status.MAX_ITERATIONS)


def test_projection_is_the_nearest_point():
    rng = np.random.default_rng(0)
    problem, _ = recorded("double_support_n10", jnp.float32, 1)
    C, upper = problem.G[0, 0], problem.h[0, 0]
    lower, free = jnp.full_like(upper, -jnp.inf), jnp.ones(12, bool)
    on = make_polyhedron(C, lower, upper, free, jnp.zeros(12))
    points = jnp.asarray(200 * rng.standard_normal((20, 12)), jnp.float32)
    nearest, push = jax.vmap(lambda p: project(p, on, jnp.zeros(24), 400))(points)
    assert np.max(nearest @ C.T - upper) <= 1e-2
    assert np.all(push >= 0)
    np.testing.assert_allclose(points - nearest, push @ on.C, atol=1e-2)  # the normal cone ...
    slack = on.upper - nearest @ on.C.T
    np.testing.assert_allclose(np.sum(push * slack, axis=1), 0.0, atol=5.0)  # ... of the rows that hold
    inside = jax.vmap(lambda p: project(p, on, jnp.zeros(24), 50)[0])(nearest)
    np.testing.assert_allclose(inside, nearest, atol=1e-2)


def test_every_setting_changes_the_program():
    changes = {
        "max_iterations": 100, "round_iterations": 7, "tolerance": 1e-3, "early_stop": False, "penalty": 2.0,
        "accelerate": False, "restart": 0.9, "cones": False, "projection_iterations": 3,
    }  # fmt: skip
    assert set(changes) == {f.name for f in dataclasses.fields(PiADMM)}
    problem = jax.tree.map(lambda leaf: leaf[0], recorded("walk_n10", jnp.float32, 1)[0])

    def program(method):
        return str(jax.make_jaxpr(lambda p: pimpc.solve(p, method))(problem))

    base = program(PiADMM())
    for name, value in changes.items():
        assert program(PiADMM(**{name: value})) != base, name
