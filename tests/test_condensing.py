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


@pytest.mark.parametrize("most_free", [None, 17, 13])  # 13 are free
@pytest.mark.parametrize("full", [(), ("Q", "R", "S"), ("R",), ("S",)])  # the other weights are diagonal
@pytest.mark.parametrize("blocks", [None, ((2, 1), (3, 2))])
def test_minimizer_is_that_of_the_recursions(full, most_free, blocks):
    with jax.enable_x64(True):
        problem = random_problem(0, np.float64, N=6, nx=4, nu=3, m=5, full=True)
        diagonal = {name: jax.vmap(jnp.diag)(getattr(problem, name)) for name in {"Q", "R", "S"} - {*full}}
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
    """An inverted pendulum, which grows by 300 over the horizon: its condensed Hessian has no correct digit left."""
    A, B = jnp.array([[1.0, 0.08], [1.6, 1.0]]), jnp.array([[0.0], [0.08]])

    def along(value):
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (16, *np.shape(value)))

    def problem(angle, **declared):
        return pimpc.LTVProblem(
            A=along(A), B=along(B), e=along(jnp.zeros(2)), x0=jnp.stack([angle, 0 * angle]), u_prev=jnp.zeros(1),
            x_ref=along(jnp.zeros(2)), u_ref=along(jnp.zeros(1)), Q=along([10.0, 1.0]), R=along([1e-3]), S=along([0.0]),
            u_min=along([-20.0]), u_max=along([20.0]), structure=pimpc.Structure(**declared),
        )  # fmt: skip

    angles = jnp.linspace(0.05, 0.5, 8)
    found = jax.vmap(lambda angle: pimpc.solve(problem(angle)))(angles)
    np.testing.assert_array_equal(found.status, pimpc.Status.SOLVED)
    condensed = jax.vmap(lambda angle: pimpc.solve(problem(angle, most_free=16)))(angles)
    assert np.all(np.isfinite(condensed.u))
    print(condensed.status, found.iterations, np.linalg.norm(np.linalg.matrix_power(np.asarray(A), 16)))


def test_a_hessian_that_is_not_convex_gives_nan():
    problem = dataclasses.replace(random_problem(0, np.float32, N=3, nx=2, nu=2), x_min=None, x_max=None)
    bad = dataclasses.replace(problem, R=problem.R.at[1].add(-1e3))
    factors = condensing.factorize(condensing.condense(bad, jnp.ones((3, 2), bool)))
    assert np.all(np.isnan(condensing.minimize(factors, problem.x_ref, problem.u_ref).du))


def test_bounded_states_are_refused():
    with pytest.raises(ValueError, match="must not have bounds"):
        pimpc.solve(random_problem(0, np.float32, N=3, nx=2, nu=2), CONDENSED)
