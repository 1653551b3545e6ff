"""Derivatives through `pimpc.solve`: against finite differences, forwards against backwards, and next to failures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import mpc_problems
import numpy as np
import pytest
from mpc_problems import edited, random_problem

import pimpc
from pimpc import InteriorPoint, Status
from pimpc.constraints import flatten, unflatten, values
from pimpc.problem import LTVProblem, as_matrices, mask_horizon
from pimpc.residuals import costates
from pimpc.rows import measure

SEEDS = range(8)
PRECISE = InteriorPoint(tolerance=1e-13, max_iterations=60)
FIELDS = [f.name for f in dataclasses.fields(LTVProblem) if f.name not in ("horizon", "structure")]
DIRECTIONS = [*FIELDS, "fixed"]  # the last moves both bounds of the fixed inputs
STEP = 1e-4
N = 5
ALL = np.full(len(SEEDS), N)  # horizons


def outputs(problem):
    """What a solution tells in numbers: the first three carry derivatives."""
    s = pimpc.solve(problem, PRECISE)
    return s.x, s.u, s.cost, (s.primal_residual, s.dual_residual, s.warm_start)


def problem_of(seed, full):
    return jax.device_get(random_problem(seed, np.float64, N=N, nx=3, nu=2, m=3, full=full))


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def direction(problem, name, seed):
    """A random change of one field."""
    rng = np.random.default_rng(seed)
    fixed = problem.u_min == problem.u_max
    change = jax.tree.map(np.zeros_like, problem)
    if name == "fixed":
        both = fixed * rng.standard_normal(fixed.shape)
        return dataclasses.replace(change, u_min=both, u_max=both)
    value = getattr(problem, name)
    by = rng.standard_normal(value.shape)
    if name in ("Q", "R", "S"):
        by = 0.1 * value * by if value.ndim == 2 else 0.1 * (by + by.transpose(0, 2, 1))  # no weight becomes negative
    return dataclasses.replace(change, **{name: by * ~fixed if name in ("u_min", "u_max") else by})


@functools.cache
def linearized():
    """Forward derivatives in several directions and the backward one of one cotangent, for a batch of problems."""

    def both(problem, horizon, changes, cotangent):
        _, forward = jax.linearize(lambda p: outputs(dataclasses.replace(p, horizon=horizon)), problem)
        backward = jax.linear_transpose(forward, problem)
        return jax.vmap(forward)(changes), backward(cotangent)[0]

    return jax.jit(jax.vmap(both))


def numbers(like, seed, lead=1):
    """Random numbers in the shapes of a tree's leaves."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda v: rng.standard_normal(v.shape[:1] + v.shape[lead:]), like)


@functools.cache
def moved(full):
    """Problems, and how they are changed in each direction; the solutions before and after, by a program for all."""
    batch = stack([problem_of(seed, full) for seed in SEEDS])
    changes = stack([stack([direction(problem_of(s, full), name, 7) for name in DIRECTIONS]) for s in SEEDS])

    def shift(value, by):
        steps = STEP * np.array([0, 1, -1, 2, -2]).reshape((-1,) + (1,) * (value.ndim - 1))
        return value[:, None, None] + steps * by[:, :, None]

    problems = jax.tree.map(lambda v, d: shift(v, d).reshape(-1, *v.shape[1:]), batch, changes)
    matrices = {name: jax.vmap(as_matrices)(getattr(problems, name)) for name in ("Q", "R", "S")}
    solution = jax.device_get(precise()(dataclasses.replace(problems, **matrices)))
    shape = len(SEEDS), len(DIRECTIONS), 5
    return batch, changes, jax.tree.map(lambda v: v.reshape(*shape, *v.shape[1:]), solution)


@functools.cache
def precise():
    return jax.jit(jax.vmap(lambda problem: pimpc.solve(problem, PRECISE)))


@functools.cache
def derived(full):
    """Derivatives in all directions, and the backward ones of random cotangents and of the cost."""
    batch, changes, solution = moved(full)
    silent = solution.primal_residual, solution.dual_residual, solution.warm_start
    cotangent = numbers((solution.x, solution.u, solution.cost, silent), 3, lead=3)
    forward, backward = jax.device_get(linearized()(batch, ALL, changes, cotangent))
    of_cost = jax.tree.map(np.zeros_like, cotangent)
    of_cost = *of_cost[:2], 1 + of_cost[2], of_cost[3]
    _, gradient = jax.device_get(linearized()(batch, ALL, changes, of_cost))
    return forward, cotangent, backward, gradient


def binding(problem, solution):
    """The force of each bound, as the motion that it keeps from happening, and its slack; NaN where there is none."""
    rows = measure(problem)
    force = rows.compliance * flatten(problem, solution.warm_start.multipliers)
    at = values(problem, solution.x, solution.u)
    below = jnp.where(rows.below, jnp.stack([jnp.maximum(-force, 0), at - rows.lower]), jnp.nan)
    above = jnp.where(rows.above, jnp.stack([jnp.maximum(force, 0), rows.upper - at]), jnp.nan)
    return jax.tree.map(functools.partial(unflatten, problem), (below[0], above[0], below[1], above[1]))


@pytest.mark.parametrize("full", [False, True])
def test_bounds_of_all_kinds_bind_or_not_but_never_nearly(full):
    with jax.enable_x64(True):
        batch, _, solution = moved(full)
        sides = jax.device_get(jax.vmap(binding)(batch, jax.tree.map(lambda v: v[:, 0, 0], solution)))
    assert np.all(solution.status == Status.SOLVED)
    for force, slack in zip(sides[:2], sides[2:], strict=True):
        for kind in ("rows", "inputs", "states"):
            pair = np.stack([getattr(force, kind), getattr(slack, kind)])
            pair = pair[:, np.isfinite(pair).all(axis=0)]
            if pair.size:  # rows have no lower bounds
                assert pair.max(axis=0).min() > 0.01
                assert pair.min(axis=0).max() < 1e-10
                assert 0 < np.mean(pair[0] > pair[1]) < 1, kind


@pytest.mark.parametrize("full", [False, True])
def test_derivatives_are_those_of_the_solver(full):
    with jax.enable_x64(True):
        _, _, solution = moved(full)
        forward = derived(full)[0]
    for kind, exact in zip(("x", "u", "cost"), forward, strict=False):
        _, ahead, behind, far, farther = np.moveaxis(getattr(solution, kind), 2, 0)
        expected = (8 * (ahead - behind) - (far - farther)) / (12 * STEP)
        for i, name in enumerate(DIRECTIONS):
            size = np.abs(expected[:, i]).reshape(len(SEEDS), -1).max(axis=1)
            error = np.abs(exact - expected)[:, i].reshape(len(SEEDS), -1).max(axis=1)
            assert size.max() > 1e-3, name
            assert np.all(error <= 1e-6 * size + 1e-9), (kind, name, error, size)


@pytest.mark.parametrize("full", [False, True])
def test_backward_is_the_transpose_of_forward(full):
    with jax.enable_x64(True):
        _, changes, _ = moved(full)
        forward, cotangent, backward, _ = derived(full)

    def dot(many, one):
        """The products of many directions with one."""
        pairs = zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True)
        return sum((a * b[:, None]).reshape(*a.shape[:2], -1).sum(axis=2) for a, b in pairs)

    ahead, back = dot(forward, cotangent), dot(changes, backward)
    np.testing.assert_allclose(ahead, back, rtol=1e-8, atol=1e-8)
    assert np.all(np.abs(ahead).max(axis=0) > 1e-3)
    # Residuals and warm starts are answers, not functions.
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(forward[3]))


def test_gradients_of_the_cost_are_multipliers():
    """The envelope theorem, in the conventions of `pimpc.residuals`."""
    with jax.enable_x64(True):
        batch, _, solution = moved(False)
        gradient = derived(False)[3]
        now = jax.tree.map(lambda v: v[:, 0, 0], solution)
        y = now.warm_start.multipliers
        p = jax.vmap(costates)(batch.A, batch.Q * (now.x[:, 1:] - batch.x_ref) + y.states)
    expected = {
        "x0": np.einsum("sij,si->sj", batch.A[:, 0], p[:, 0]),
        "e": p,
        "u_prev": batch.S[:, 0] * (batch.u_prev - now.u[:, 0]),
        "x_ref": batch.Q * (batch.x_ref - now.x[:, 1:]),
        "Q": 0.5 * (now.x[:, 1:] - batch.x_ref) ** 2,
        "G": np.einsum("ski,skj->skij", y.rows, now.u),
        "h": -y.rows,
        "x_min": np.maximum(-y.states, 0),
        "x_max": -np.maximum(y.states, 0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(gradient, name), value, atol=1e-6, err_msg=name)


def test_a_fixed_input_moves_with_the_mean_of_its_bounds():
    with jax.enable_x64(True):
        batch, _, _ = moved(False)
        backward = derived(False)[2]
    fixed = batch.u_min == batch.u_max
    np.testing.assert_array_equal(backward.u_min[fixed], backward.u_max[fixed])
    assert np.all(np.abs(backward.u_min[fixed]) > 1e-4)


def test_inert_stages_have_no_derivatives():
    with jax.enable_x64(True):
        batch, changes, _ = moved(False)
        cotangent = derived(False)[1]
        horizon = np.arange(len(SEEDS)) % (N - 1) + 1
        short = jax.vmap(lambda p, n: mask_horizon(dataclasses.replace(p, horizon=n)))(batch, horizon)
        ahead, back = jax.device_get(linearized()(poisoned(batch, horizon), horizon, changes, cotangent))
        ahead_short, back_short = jax.device_get(linearized()(jax.device_get(short), ALL, changes, cotangent))
    inert = np.arange(N) >= horizon[:, None]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(ahead))
    np.testing.assert_array_equal(np.moveaxis(ahead[1], 1, 2)[inert], 0.0)
    np.testing.assert_allclose(ahead[1][:, FIELDS.index("x0")], ahead_short[1][:, FIELDS.index("x0")], atol=1e-9)
    for name in FIELDS:
        value, expected = getattr(back, name), getattr(back_short, name)
        if name not in ("x0", "u_prev"):
            np.testing.assert_array_equal(value[inert], 0.0)
            value, expected = value[~inert], expected[~inert]
        np.testing.assert_allclose(value, expected, atol=1e-9, err_msg=name)


def poisoned(problem, horizon):
    """NaN in all data that a horizon leaves unread."""
    inert = np.arange(problem.e.shape[1]) >= horizon[:, None]
    staged = {name: getattr(problem, name) for name in FIELDS if name not in ("x0", "u_prev")}
    return dataclasses.replace(problem, **{name: edited(value, (inert, np.nan)) for name, value in staged.items()})


@functools.cache
def walking_gradient(method=InteriorPoint()):  # noqa: B008
    """Gradients of a random function of plans, of a batch of walking problems."""

    def loss(problem, weights):
        s = pimpc.solve(problem, method)
        return jnp.sum(weights[0] * s.x) + jnp.sum(weights[1] * s.u), s.status

    return jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))


@functools.cache
def walking():
    """Recorded problems that walk, stand and fly, weights of their plans, and gradients."""
    names = "walk_n10", "stand_n10", "double_support_n10", "flight_n10"
    problems = [jax.device_get(mpc_problems.recorded(name, np.float32)[0]) for name in names]
    batch = jax.tree.map(lambda *leaves: np.concatenate(leaves), *problems)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((len(batch.x0), 11, batch.x0.shape[1])).astype(np.float32)
    weights = x, rng.standard_normal(batch.u_ref.shape).astype(np.float32)
    return batch, weights, *jax.device_get(walking_gradient()(batch, weights))


def test_float32_gradients_of_walking_problems():
    batch, weights, gradient, status = walking()
    assert np.all(status == Status.SOLVED)
    with jax.enable_x64(True):
        exactly = jax.tree.map(lambda v: v.astype(np.float64), (batch, weights))
        expected, _ = jax.device_get(walking_gradient(PRECISE)(*exactly))
    for name in FIELDS:
        ours, theirs = getattr(gradient, name), getattr(expected, name)
        if ours is None:
            continue
        ours, theirs = (v.reshape(len(v), -1) for v in (ours, theirs))
        assert np.all(np.isfinite(ours)), name
        error = np.linalg.norm(ours - theirs, axis=1) / np.maximum(np.linalg.norm(theirs, axis=1), 1e-30)
        assert np.median(error) <= 2e-4, name
        assert np.quantile(error, 0.8) <= 2e-3, name  # the others have a bound that binds in one precision only


def test_failures_and_apexes_spoil_no_gradient():
    batch, weights, alone, _ = walking()
    swing = np.zeros_like(batch.u_min[4])
    spoiled = dataclasses.replace(
        batch,
        x0=edited(batch.x0, (1, np.nan)),
        u_min=edited(batch.u_min, (2, 2000.0), (4, swing)),  # above u_max; no contact
        u_max=edited(batch.u_max, (4, swing)),
        h=edited(batch.h, ((3, slice(None), [4, 16]), -800.0), ((5, slice(None), [5, 17]), 0)),  # infeasible; no force
    )
    gradient, status = jax.device_get(walking_gradient()(spoiled, weights))
    failures, degenerate = [1, 2, 3], [4, 5]
    np.testing.assert_array_equal(status[failures], [Status.NONFINITE_INPUT, Status.INFEASIBLE, Status.INFEASIBLE])
    assert np.all(status[degenerate] == Status.SOLVED)
    others = [i for i in range(len(batch.x0)) if i not in failures + degenerate]
    for name in FIELDS:
        value = getattr(gradient, name)
        if value is not None:
            np.testing.assert_array_equal(value[others], getattr(alone, name)[others])  # bitwise
            np.testing.assert_array_equal(value[failures], 0.0)
            assert np.all(np.isfinite(value[degenerate])), name


@jax.custom_jvp
def untouchable(u):
    return u


@untouchable.defjvp
def _refuse(primals, tangents):
    raise AssertionError("a method was differentiated")


@dataclasses.dataclass(frozen=True)
class Untouchable(InteriorPoint):
    """A method that cannot be differentiated, as kernels cannot."""

    def run(self, problem, state, runnable):
        return super().run(jax.tree.map(untouchable, problem), jax.tree.map(untouchable, state), runnable)


def test_methods_are_never_differentiated():
    def loss(problem, start):
        return pimpc.solve(problem, Untouchable(), start).cost

    problem = random_problem(0, np.float32)
    start = InteriorPoint().cold_start(problem)
    for derivative in (jax.grad, jax.jacfwd):
        jax.eval_shape(derivative(loss, argnums=(0, 1)), problem, start)
    with pytest.raises(AssertionError, match="differentiated"):
        jax.eval_shape(jax.grad(lambda p: jnp.sum(Untouchable().run(p, start, True).u)), problem)
