"""`kernels="parallel"`: the same answers by associative scans, with no loop over the stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpc_problems import input_errors, recorded

import pimpc
from pimpc import InteriorPoint, Status
from pimpc.problem import roll_out
from pimpc.roll_out import roll_out as chosen_roll_out

PARALLEL = InteriorPoint(tolerance=1e-5, kernels="parallel")


@jax.jit
@jax.vmap
def solve(problem):
    return pimpc.solve(problem, PARALLEL)


@pytest.mark.parametrize(("name", "count"), [("walk_n10", 64), ("walk_n50", 4)])
def test_recorded_problems_are_solved_to_their_optima(name, count):
    problem, data = recorded(name, jnp.float32, count)
    solution = solve(problem)
    errors = input_errors(solution.u, data["u_opt"])
    assert (solution.status == Status.SOLVED).all()
    assert np.median(errors) < 1e-3 and errors.max() < 1e-2
    assert solution.iterations.max() <= 12


def test_infeasible_and_broken_problems_are_told_apart():
    problem, _ = recorded("walk_n10", jnp.float32, 64)
    h = problem.h.at[1].add(-1e4)
    x0 = problem.x0.at[2].set(jnp.nan)
    broken = pimpc.LTVProblem(**{**vars(problem), "h": h, "x0": x0})
    status = solve(broken).status
    assert list(status[:4]) == [Status.SOLVED, Status.INFEASIBLE, Status.NONFINITE_INPUT, Status.SOLVED]


def test_nothing_loops_over_the_stages():
    problem, _ = recorded("walk_n10", jnp.float32, 1)
    one = jax.tree.map(lambda leaf: leaf[0], problem)

    def loops(kernels):
        program = str(jax.make_jaxpr(lambda p: pimpc.solve(p, InteriorPoint(kernels=kernels)))(one))
        return program.count("scan["), program.count("while[")

    assert loops("parallel") == (0, 1)  # the iterations of the interior point method
    assert loops("xla")[0] > 0


def test_states_follow_from_inputs():
    problem, _ = recorded("walk_n10", jnp.float32, 2)
    u = jnp.asarray(np.random.default_rng(0).standard_normal(problem.u_ref.shape) * 100, jnp.float32)
    expected = jax.vmap(roll_out)(problem, u)
    found = jax.vmap(lambda p, u: chosen_roll_out(p, u, "parallel"))(problem, u)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
