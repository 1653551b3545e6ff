"""`kernels="condensed"`: the same answers with the states eliminated, by one dense Hessian of the free inputs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpc_problems import input_errors, random_problem, recorded

import pimpc
from pimpc import condensing, riccati
from pimpc.problem import as_matrices
from pimpc.residuals import fixed_inputs

CONDENSED, RECURSIONS = (pimpc.InteriorPoint(kernels=kernels) for kernels in ("condensed", "xla"))


@pytest.mark.parametrize(
    ("full", "most_free", "blocks"),  # 13 are free
    [
        ("QRS", None, None),
        ("QRS", 17, ((2, 1), (3, 2))),
        ("", 13, None),
        ("", None, ((2, 1), (3, 2))),
        ("R", 17, None),  # the other weights are diagonal
        ("S", 13, ((2, 1), (3, 2))),
    ],
)
def test_minimizer_is_that_of_the_recursions(full, most_free, blocks):
    with jax.enable_x64(True):
        problem = random_problem(0, np.float64, N=6, nx=4, nu=3, m=5, full=True)
        diagonal = {name: jax.vmap(jnp.diag)(getattr(problem, name)) for name in "QRS" if name not in full}
        problem = dataclasses.replace(problem, x_min=None, x_max=None, **diagonal)
        free = jnp.ones((6, 3), bool).at[jnp.arange(2), jnp.arange(2)].set(False).at[3].set(False)
        if blocks is not None:
            problem = dataclasses.replace(problem, G=problem.G.at[:, :2, 1:].set(0).at[:, 2:, 0].set(0))
        problem = dataclasses.replace(problem, structure=pimpc.Structure(blocks=blocks, most_free=most_free))
        rng = np.random.default_rng(0)
        l_x, l_u, rows, inputs = (jnp.asarray(rng.random(shape)) for shape in ((6, 4), (6, 3), (6, 5), (6, 3)))
        stiff = jnp.einsum("kij,ki,kil->kjl", problem.G, rows, problem.G) + jax.vmap(jnp.diag)(inputs)
        weights = as_matrices(problem.Q), as_matrices(problem.R) + stiff, as_matrices(problem.S)
        expected = riccati.minimize(riccati.factorize(problem.A, problem.B, *weights, free), l_x, l_u * free)
        factors = condensing.factorize(condensing.condense(problem, free), rows, inputs)
        found = condensing.minimize(factors, l_x, l_u * free)
        assert factors.lower.shape == (most_free or 18,) * 2
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-11)
        np.testing.assert_array_equal(np.asarray(found.du)[~np.asarray(free)], 0)


@pytest.mark.parametrize(
    "sizes", [{"N": 1, "nx": 1, "nu": 1, "m": 1}, {"N": 7, "nx": 5, "nu": 4, "m": 6, "full": True}]
)
def test_answers_are_those_of_the_recursions(sizes):
    with jax.enable_x64(True):
        problems = [random_problem(seed, np.float64, state_bounds=False, **sizes) for seed in range(6)]
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
        batch = dataclasses.replace(batch, x_min=None, x_max=None)
        ours, theirs = (
            jax.vmap(functools.partial(pimpc.solve, method=dataclasses.replace(method, tolerance=1e-9)))(batch)
            for method in (CONDENSED, RECURSIONS)
        )
        assert np.all(ours.status == pimpc.Status.SOLVED) and np.all(theirs.status == pimpc.Status.SOLVED)
        np.testing.assert_allclose(ours.u, theirs.u, atol=1e-6)
        np.testing.assert_allclose(ours.cost, theirs.cost, rtol=1e-8)


def test_recorded_problems_reach_their_optima_in_float32():
    problems, data = recorded("walk_n10", np.float32)
    free = int(np.max(np.sum(data["u_min"] != data["u_max"], axis=(1, 2))))
    problems = dataclasses.replace(problems, structure=pimpc.Structure(most_free=free))
    assert condensing.pays(problems) and free < problems.u_ref[0].size / 2 + 1
    found = jax.vmap(pimpc.solve)(problems)
    assert np.all(found.status == pimpc.Status.SOLVED)
    errors = input_errors(found.u, data["u_opt"])
    assert np.median(errors) < 1e-5 and errors.max() < 1e-2
    forced = jax.vmap(functools.partial(pimpc.solve, method=CONDENSED))(problems)
    jax.tree.map(np.testing.assert_array_equal, found, forced)  # it is what is used


def test_inputs_beyond_what_is_declared_are_not_passed_off_as_an_answer():
    problem = jax.tree.map(lambda leaf: leaf[0], recorded("double_support_n10", np.float32)[0])
    assert int(jnp.sum(~fixed_inputs(problem))) > 60
    found = pimpc.solve(dataclasses.replace(problem, structure=pimpc.Structure(most_free=60)))
    assert found.status == pimpc.Status.MAX_ITERATIONS
    assert np.all(np.isfinite(found.u))


def test_unstable_systems_are_solved_in_float32_by_default():
    """A cart-pole that multiplies a deviation by 1e5: its condensed Hessian is not positive definite."""
    N, dt = 16, 0.2
    A = np.eye(4) + dt * np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 22, 0]])
    assert np.linalg.norm(np.linalg.matrix_power(A, N)) > 5e4

    def along(value):
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (N, *np.shape(value)))

    def solve(angle, **declared):
        zero = jnp.zeros_like(angle)
        problem = pimpc.LTVProblem(
            A=along(A), B=along(dt * np.array([[0.0], [1.0], [0.0], [2.0]])), e=along(np.zeros(4)),
            x0=jnp.stack([zero, zero, angle, zero]), u_prev=zero[None], x_ref=along(np.zeros(4)), u_ref=along([0.0]),
            Q=along([1.0, 0.1, 10.0, 0.1]), R=along([0.01]), S=along([0.01]), u_min=along([-10.0]), u_max=along([10.0]),
            structure=pimpc.Structure(**declared),
        )  # fmt: skip
        return pimpc.solve(problem).status

    angles = jnp.linspace(-0.15, 0.15, 8)
    np.testing.assert_array_equal(jax.vmap(solve)(angles), pimpc.Status.SOLVED)
    declared = jax.vmap(functools.partial(solve, most_free=N))(angles)
    assert np.all(declared != pimpc.Status.SOLVED)  # and says so


def answers(problem, warm_start=None, **settings):
    return [pimpc.solve(problem, dataclasses.replace(m, **settings), warm_start) for m in (CONDENSED, RECURSIONS)]


@pytest.mark.parametrize("without", [("G", "h"), ("u_min", "u_max"), ("G", "h", "u_min", "u_max")])
def test_what_is_not_given_is_not_needed(without):
    with jax.enable_x64(True):
        p = random_problem(1, np.float64, N=5, nx=4, nu=3, m=4, state_bounds=False)
        p = dataclasses.replace(
            p, **dict.fromkeys((*without, "x_min", "x_max")), structure=pimpc.Structure(most_free=99)
        )
        ours, theirs = answers(p, tolerance=1e-9)
        assert ours.status == theirs.status == pimpc.Status.SOLVED
        np.testing.assert_allclose(ours.u, theirs.u, atol=1e-6)


def test_with_no_input_free_the_plan_is_the_pins():
    p = random_problem(1, np.float32, N=3, nx=4, nu=2, m=3, state_bounds=False)
    pins = jnp.full_like(p.u_min, 0.25)
    p = dataclasses.replace(p, x_min=None, x_max=None, u_min=pins, u_max=pins, h=jnp.full_like(p.h, 1e3))
    ours, theirs = answers(dataclasses.replace(p, structure=pimpc.Structure(most_free=0)))
    assert ours.status == theirs.status == pimpc.Status.SOLVED
    np.testing.assert_array_equal(ours.u, pins)


def test_horizons_warm_starts_and_fixed_iterations_are_those_of_the_recursions():
    with jax.enable_x64(True):
        p = random_problem(2, np.float64, N=5, nx=3, nu=2, m=3, state_bounds=False)
        p = dataclasses.replace(p, x_min=None, x_max=None, structure=pimpc.Structure(most_free=10))
        close = functools.partial(np.testing.assert_allclose, atol=1e-6)
        horizons = jnp.array([[1, 2], [4, 5]])
        both = [
            jax.vmap(jax.vmap(lambda h, m=m: pimpc.solve(dataclasses.replace(p, horizon=h), m).u))(horizons)
            for m in (CONDENSED, RECURSIONS)
        ]
        close(*both)
        exact = [dataclasses.replace(m, tolerance=1e-9) for m in (CONDENSED, RECURSIONS)]
        cold = pimpc.solve(p, exact[0])
        ours, theirs = (pimpc.solve(dataclasses.replace(p, x0=p.x0 + 1e-4), m, cold.warm_start) for m in exact)
        assert ours.iterations == theirs.iterations < cold.iterations
        close(ours.u, theirs.u)
        close(pimpc.solve(p, dataclasses.replace(exact[0], early_stop=False)).u, cold.u)


def test_a_hessian_that_is_not_convex_gives_nan():
    problem = dataclasses.replace(random_problem(0, np.float32, N=3, nx=2, nu=2), x_min=None, x_max=None)
    bad = dataclasses.replace(problem, R=problem.R.at[1].add(-1e3))
    factors = condensing.factorize(condensing.condense(bad, jnp.ones((3, 2), bool)))
    assert np.all(np.isnan(condensing.minimize(factors, problem.x_ref, problem.u_ref).du))


def test_bounded_states_are_refused():
    with pytest.raises(ValueError, match="must not have bounds"):
        pimpc.solve(random_problem(0, np.float32, N=3, nx=2, nu=2), CONDENSED)
