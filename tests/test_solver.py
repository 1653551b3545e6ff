"""`pimpc.solve` with its default method: certified optima, constraints, independence of instances, honest failures."""

import dataclasses
import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import mpc_problems
import numpy as np
import pytest
from mpc_problems import FILES, clarabel_inputs, edited, float64_costs, input_errors, random_problem

import pimpc
from pimpc import InteriorPoint, Status, Structure
from pimpc.problem import given_fields
from pimpc.residuals import primal_residual

N10 = tuple(name for name in FILES if name.endswith("n10"))


def recorded(name, dtype, count=None):
    """Recorded problems as NumPy arrays, whose editing compiles nothing."""
    return jax.device_get(mpc_problems.recorded(name, dtype, count))


def stack(problems):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *problems)


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def put(tree, index, values):
    return jax.tree.map(lambda leaf, value: edited(leaf, (index, value)), tree, values)


@functools.cache
def solver(method):
    """A batched solver that starts from given states; compiled once for each shape."""
    return jax.jit(jax.vmap(lambda problem, start: pimpc.solve(problem, method, start)))


def solve_batch(problem, method=InteriorPoint(), start=None):  # noqa: B008
    start = jax.vmap(method.cold_start)(problem) if start is None else start
    return jax.device_get(solver(method)(problem, start))


@functools.cache
def short():
    """All recorded problems of ten stages as one batch, and where each file's are."""
    problems, data = zip(*(recorded(name, np.float32) for name in N10), strict=True)
    ends = np.cumsum([len(d["x0"]) for d in data])
    spans = {name: slice(end - len(d["x0"]), end) for name, end, d in zip(N10, ends, data, strict=True)}
    batch = jax.tree.map(lambda *leaves: np.concatenate(leaves), *problems)
    return batch, spans, solve_batch(batch)


@functools.cache
def recorded_solution(name):
    problem, data = recorded(name, np.float32)
    if name in N10:
        _, spans, solution = short()
        return problem, data, take(solution, spans[name])
    return problem, data, solve_batch(problem)


@pytest.mark.parametrize("name", FILES)
def test_float32_inputs_are_optimal_from_a_cold_start(name):
    _, data, solution = recorded_solution(name)
    assert np.all(solution.status == Status.SOLVED)
    errors = input_errors(solution.u, data["u_opt"])
    assert np.median(errors) <= 1e-3
    assert errors.max() <= 1e-2
    assert np.all(float64_costs(data, solution.u) <= 1.001 * data["cost_opt"])
    np.testing.assert_allclose(solution.cost, data["cost_opt"], rtol=1e-3)


@pytest.mark.parametrize("name", FILES)
def test_plan_satisfies_dynamics_and_cones(name):
    problem, data, solution = recorded_solution(name)
    x, u = np.asarray(solution.x, float), np.asarray(solution.u, float)
    step = np.einsum("bkij,bkj->bki", data["A"], x[:, :-1]) + np.einsum("bkij,bkj->bki", data["B"], u) + data["e"]
    assert np.abs(x[:, 1:] - step).max() <= 2e-5
    np.testing.assert_array_equal(solution.x[:, 0], problem.x0)
    excess = np.einsum("bkij,bkj->bki", data["G"], u) - data["h"]
    assert excess.max() <= 0.01  # newtons and newton-metres, of a weight of 327 N
    np.testing.assert_array_equal(u[data["u_min"] == data["u_max"]], 0.0)


def test_independent_residuals_agree_with_the_solution():
    problem, _, solution = recorded_solution("double_support_n10")
    measure = jax.jit(jax.vmap(pimpc.kkt_residuals))
    multipliers = solution.warm_start.multipliers
    right = measure(problem, solution.x, solution.u, multipliers)
    np.testing.assert_allclose(right.primal, solution.primal_residual, atol=1e-7)
    assert np.all(right.primal <= 1e-5)
    assert np.all(right.dual <= 1e-5)
    wrong_u = solution.u * np.where(np.arange(10) == 3, np.float32(1.05), 1)[:, None].astype(np.float32)
    assert np.all(measure(problem, solution.x, wrong_u, multipliers).primal > 1e-3)  # x no longer follows from u
    rolled = jax.vmap(pimpc.problem.roll_out)(problem, wrong_u)
    assert np.all(measure(problem, rolled, wrong_u, multipliers).dual > 1e-4)
    none = dataclasses.replace(multipliers, rows=0 * multipliers.rows)
    active = np.asarray(multipliers.rows).max(axis=(1, 2)) > 0.1
    assert active.any()
    assert np.all(measure(problem, solution.x, solution.u, none).dual[active] > 1e-5)


def test_float64_reaches_the_certified_optimum():
    with jax.enable_x64(True):
        problem, data = recorded("double_support_n10", np.float64)
        solution = solve_batch(problem, InteriorPoint(tolerance=1e-11))
        assert np.all(solution.status == Status.SOLVED)
        assert input_errors(solution.u, data["u_opt"]).max() <= 5e-5  # the certificates are good to 1e-10 of the cost
        np.testing.assert_allclose(solution.cost, data["cost_opt"], rtol=2e-8)


def test_random_problems_agree_with_clarabel():
    """Full weight matrices, varying dynamics, fixed inputs and bounds on states; the recorded ones have diagonals."""
    with jax.enable_x64(True):
        problems = [random_problem(s, np.float64, state_bounds=s % 3 > 0, full=True) for s in range(48)]
        solution = solve_batch(stack(problems), InteriorPoint(tolerance=1e-11, max_iterations=60))
        assert np.all(solution.status == Status.SOLVED), solution.status
        expected = np.stack([clarabel_inputs(p) for p in problems])
        np.testing.assert_allclose(solution.u, expected, atol=1e-4)
        assert np.all(solution.primal_residual <= 1e-11)


def test_neighbours_change_nothing():
    batch, _, alone = short()
    poisoned = dataclasses.replace(
        batch,
        x0=edited(batch.x0, (1, np.nan)),
        u_min=edited(batch.u_min, (2, 2000.0)),  # above u_max
        h=edited(batch.h, ((3, slice(None), [4, 16]), -800.0)),  # f_z ≥ 800 N against f_z ≤ 700 N
    )
    together = solve_batch(poisoned)
    others = [i for i in range(len(batch.x0)) if i not in (1, 2, 3)]
    jax.tree.map(np.testing.assert_array_equal, take(together, others), take(alone, others))  # bitwise
    assert together.status[1] == Status.NONFINITE_INPUT
    assert together.iterations[1] == 0
    assert np.all(np.isnan(together.u[1]))
    np.testing.assert_array_equal(together.warm_start.u[1], 0.0)
    assert together.status[2] == Status.INFEASIBLE
    assert together.status[3] == Status.INFEASIBLE
    np.testing.assert_array_equal(together.warm_start.multipliers.rows[3], 0.0)  # a failure leaves a cold start


def test_instance_alone_equals_instance_in_batch():
    batch, _, solution = short()
    alone = pimpc.solve(take(batch, 100))
    assert alone.status == solution.status[100]
    assert alone.iterations == solution.iterations[100]
    np.testing.assert_allclose(alone.u, solution.u[100], atol=0.02)


def test_horizon_masking_equals_the_shorter_problem():
    problem = take(short()[0], 7)
    by_horizon = jax.jit(jax.vmap(lambda p, n: pimpc.solve(dataclasses.replace(p, horizon=n)), in_axes=(None, 0)))
    masked = by_horizon(problem, np.arange(1, 11))
    assert np.all(masked.status == Status.SOLVED)
    for n in (1, 4, 10):
        staged = {k: v[:n] for k, v in given_fields(problem).items() if k not in ("x0", "u_prev")}
        alone = pimpc.solve(dataclasses.replace(problem, **staged))
        np.testing.assert_allclose(masked.u[n - 1, :n], alone.u, atol=0.05)
        np.testing.assert_allclose(masked.x[n - 1, : n + 1], alone.x, atol=1e-3)
        np.testing.assert_allclose(masked.cost[n - 1], alone.cost, rtol=1e-4)
    for u, count in zip(masked.u, range(1, 11), strict=True):
        np.testing.assert_array_equal(u[count:], 0.0)
    # What inert stages hold is not read.
    n = 4
    unread = {
        k: edited(v, (slice(n, None), np.nan)) for k, v in vars(problem).items() if k in ("A", "B", "Q", "h", "u_min")
    }
    poisoned = by_horizon(dataclasses.replace(problem, **unread), np.arange(1, 11))
    jax.tree.map(np.testing.assert_array_equal, take(poisoned, slice(0, n)), take(masked, slice(0, n)))
    assert np.all(poisoned.status[n:] == Status.NONFINITE_INPUT)


def test_warm_start_saves_iterations():
    batch, _, cold = short()
    again = solve_batch(batch, start=cold.warm_start)
    assert np.all(again.status == Status.SOLVED)
    assert np.mean(again.iterations) <= 1.1  # one step is always taken
    moved = dataclasses.replace(batch, x0=batch.x0 + np.float32(1e-3) * np.abs(batch.x0))
    poisoned = jax.tree.map(lambda leaf: edited(leaf, (0, np.nan)), cold.warm_start)
    cold, warm = solve_batch(moved), solve_batch(moved, start=poisoned)
    assert np.all(warm.status == Status.SOLVED)
    assert np.mean(warm.iterations) <= 0.6 * np.mean(cold.iterations)
    np.testing.assert_allclose(warm.cost, cold.cost, rtol=1e-4)
    np.testing.assert_array_equal(warm.u[0], cold.u[0])  # a warm start that is not finite is none


@functools.cache
def six_iterations():
    method = InteriorPoint(max_iterations=6, early_stop=False)
    return method, solve_batch(recorded_solution("walk_n10")[0], method)


def test_fixed_iterations_need_no_data_dependent_loop():
    problem, data, _ = recorded_solution("walk_n10")
    method, solution = six_iterations()
    text = str(jax.make_jaxpr(lambda p: pimpc.solve(p, method))(take(problem, 0)))
    assert "while[" not in text
    assert np.all(solution.iterations == 6)
    assert input_errors(solution.u, data["u_opt"]).max() <= 1e-2


def test_duality_gap_bounds_the_distance_to_the_optimum():
    _, data, _ = recorded_solution("walk_n10")
    _, solution = six_iterations()
    feasible = np.asarray(solution.primal_residual) < 1e-5
    optimum = data["cost_opt"][feasible]
    gap = np.asarray(solution.dual_residual * solution.cost)[feasible]
    excess = float64_costs(data, solution.u)[feasible] - optimum
    assert len(gap) >= 20
    assert gap.max() > 1e-5 * optimum.max()  # not all are solved
    assert np.all(excess <= gap + 3e-5 * optimum)
    assert np.all(gap >= 0)


def ones(*shape):
    return np.ones(shape, np.float32)


def small(**changes):
    """A scalar integrator driven from zero to a reference of one, with every kind of bound but none that binds."""
    one = ones(5, 1)
    free = np.inf * one
    problem = pimpc.LTVProblem(
        A=one[..., None], B=one[..., None], e=0 * one, x0=0 * ones(1), u_prev=0 * ones(1),
        x_ref=one, u_ref=0 * one, Q=one, R=0.1 * one, S=0 * one,
        G=np.stack([one, -one], axis=1), h=np.tile(free, (1, 2)),
        u_min=-free, u_max=free, x_min=-free, x_max=free,
    )  # fmt: skip
    return dataclasses.replace(problem, **changes)


def solve_small(problems):
    """Solves up to six variants of `small` in a batch of six, so that one program serves all tests."""
    return solve_batch(stack(problems + [small()] * (6 - len(problems))))


def test_infinite_bounds_are_none():
    solution = take(solve_small([small()]), 0)
    sums = np.tril(np.ones((5, 5)))
    assert solution.status == Status.SOLVED
    expected = np.linalg.solve(sums.T @ sums + 0.1 * np.eye(5), sums.T @ np.ones(5))
    np.testing.assert_allclose(solution.u[:, 0], expected, atol=1e-5)


def test_single_stage_without_constraints():
    fields = given_fields(small(G=None, h=None, u_min=None, u_max=None, x_min=None, x_max=None))
    first = {k: v if k in ("x0", "u_prev") else v[:1] for k, v in fields.items()}
    solution = pimpc.solve(pimpc.LTVProblem(**first))
    assert solution.status == Status.SOLVED
    np.testing.assert_allclose(solution.u, 1 / 1.1, atol=1e-6)


def test_small_constrained_problems():
    one, inf = ones(5, 1), np.inf
    terminal = small(x_min=edited(-inf * one, (4, 0.5)), x_max=edited(inf * one, (4, 0.5)), u_max=0.3 * one)
    jump = small(S=one, u_prev=9 * ones(1), u_min=-one, u_max=one)
    perfect = small(x_ref=0 * one)
    resting = small(x_ref=0 * one, u_min=0 * one, u_max=one, h=edited(0 * ones(5, 2), ((slice(None), 0), inf)))
    solution = solve_small([terminal, jump, perfect, resting])
    assert np.all(solution.status == Status.SOLVED)
    np.testing.assert_allclose(solution.x[0, -1], 0.5, atol=1e-5)
    assert np.all(solution.u[0] <= 0.3)
    np.testing.assert_array_equal(solution.u[1, 0], 1.0)  # the bound nearest to u_prev
    np.testing.assert_allclose(solution.u[2:4], 0.0, atol=1e-7)


def test_bounds_far_from_where_the_cost_rests_are_reached():
    one, inf = ones(5, 1), np.inf
    ends = [1e-2, 1.0, 1e2, 1e4]
    problems = [small(x_ref=0 * one, x_min=edited(-inf * one, (4, end))) for end in ends]
    solution = solve_small(problems)
    assert np.all(solution.status[:4] == Status.SOLVED), solution.status
    np.testing.assert_allclose(solution.x[:4, -1, 0], ends, rtol=1e-4)


def test_infeasible_problems_are_never_solved():
    one, inf = ones(5, 1), np.inf
    rows = ones(5, 2)
    problems = {
        "crossed bounds": small(u_min=one, u_max=-one),
        "cone against bounds": small(h=edited(-rows, ((slice(None), 1), inf)), u_min=0 * one, u_max=one),
        "opposed rows": small(h=-rows),
        "fixed input outside its cone": small(h=edited(0.5 * rows, ((slice(None), 1), inf)), u_min=one, u_max=one),
        "unreachable state": small(u_min=-0.1 * one, u_max=0.1 * one, x_min=edited(-inf * one, (4, 2.0))),
        "thrown out of bounds": small(x_max=0.5 * one, x0=3 * ones(1), u_min=-one, u_max=one),
    }
    solution = solve_small(list(problems.values()))
    assert np.all(solution.status == Status.INFEASIBLE), dict(zip(problems, solution.status, strict=True))
    assert np.all(solution.iterations < InteriorPoint().max_iterations)


def test_a_height_that_gravity_forbids_is_infeasible():
    batch, _, _ = short()
    problem = take(batch, 0)
    at_the_end = edited(np.full_like(problem.x_ref, -np.inf), ((-1, 2), problem.x0[2]))
    nothing = np.zeros_like(problem.u_min)
    problems = [
        dataclasses.replace(problem, x_min=at_the_end + 0.05),
        dataclasses.replace(problem, x_min=at_the_end + 5.0),  # m; what 1400 N reach in 0.7 s is less
        dataclasses.replace(problem, x_min=at_the_end, u_min=nothing, u_max=nothing),  # without contact it falls
    ]
    solution = solve_batch(stack(problems))
    np.testing.assert_array_equal(solution.status, [Status.SOLVED, Status.INFEASIBLE, Status.INFEASIBLE])


def test_distant_references_and_bounds_hide_no_violation():
    """A bound of 1e6 for want of an infinite one, and references that no bound admits, beside bounds that matter."""
    one = ones(5, 1)
    reachable = {"u_min": -0.3 * one, "u_max": 0.3 * one}
    problems = [
        small(x_min=edited(-1e6 * one, (4, 2.0)), x_max=1e6 * one, **reachable),
        small(x_min=edited(-1e6 * one, (4, 1.2)), x_max=1e6 * one, **reachable),
        small(x_ref=1e6 * one, x_max=0.5 * one, u_min=0.2 * one, u_max=one),
        small(x_ref=1e5 * one, x_max=0.5 * one, u_min=-one, u_max=one),
    ]
    solution = solve_small(problems)
    np.testing.assert_array_equal(solution.status[[0, 1, 3]], [Status.INFEASIBLE, Status.SOLVED, Status.SOLVED])
    assert solution.status[2] not in (Status.SOLVED, Status.SOLVED_INACCURATE)
    assert solution.x[1, -1, 0] > 1.2 - 1e-4
    np.testing.assert_allclose(solution.x[3, 1:], 0.5, atol=1e-4)


def test_a_bound_of_another_input_hides_no_violation():
    two = ones(3, 2)
    problem = pimpc.LTVProblem(
        A=np.tile(np.eye(2), (3, 1, 1)), B=np.tile(np.eye(2), (3, 1, 1)), e=0 * two, x0=0 * ones(2), u_prev=0 * ones(2),
        x_ref=two, u_ref=0 * two, Q=two, R=two, S=0 * two, u_min=-two * [1e8, 0.3], u_max=two * [0.3, 1e8],
        G=np.tile([[0.0, -1.0]], (3, 1, 1)), h=1e8 * ones(3, 1),
    )  # fmt: skip
    problem = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), problem)
    u = np.asarray(0.3 * two, np.float32)
    x = np.concatenate([problem.x0[None], np.cumsum(u, axis=0)])
    assert primal_residual(problem, x, u) < 1e-6
    assert primal_residual(problem, x, -2 * u) > 0.4


def test_indefinite_weights_are_reported():
    solution = take(solve_small([small(R=-ones(5, 1), Q=0 * ones(5, 1))]), 0)
    assert solution.status == Status.NONFINITE
    assert np.all(np.isfinite(solution.warm_start.u))


def test_inputs_without_a_weight_are_found():
    """Where the cost asks for nothing, any feasible input is right; where the states ask, it is what they ask for."""
    one = ones(5, 1)
    nothing = {"Q": 0 * one, "R": 0 * one}
    problems = [small(R=0 * one), small(**nothing), small(**nothing, u_min=0.2 * one, u_max=0.3 * one)]
    solution = solve_small(problems)
    assert np.all(solution.status[:3] == Status.SOLVED)
    np.testing.assert_allclose(solution.u[0, :, 0], [1, 0, 0, 0, 0], atol=1e-4)
    assert np.all((solution.u[2] >= 0.2) & (solution.u[2] <= 0.3))
    np.testing.assert_allclose(solution.cost[1:3], 0, atol=1e-6)


def test_a_state_that_is_huge_is_brought_back_as_well_as_its_inputs_can():
    with jax.enable_x64(True):
        problems = [random_problem(seed, np.float64, N=4, nx=3, nu=2, m=3, state_bounds=False) for seed in range(6)]
        problems = [dataclasses.replace(p, x0=3e4 * p.x0, x_min=None, x_max=None) for p in problems]
        method = InteriorPoint(tolerance=1e-10)
        solution = jax.jit(jax.vmap(lambda p: pimpc.solve(p, method)))(stack(problems))
        assert np.all(solution.status == Status.SOLVED)
        bounds = [np.stack([getattr(p, name) for p in problems]) for name in ("u_min", "u_max")]
        least = np.min([np.abs(solution.u - bound) for bound in bounds], axis=0)
        assert np.mean(least < 1e-4) > 0.3  # clarabel gives up on these, so that there is nothing to compare with


def test_degenerate_walking_problems_are_solved():
    batch, _, _ = short()
    problem = take(batch, 0)
    swing = np.zeros_like(problem.u_min)
    changed = {
        "no contact": {"u_min": swing, "u_max": swing},
        "no friction": {"G": edited(problem.G, (np.s_[:, :4, 2], 0), (np.s_[:, 12:16, 8], 0))},
        "no force": {"h": edited(problem.h, (np.s_[:, [5, 17]], 0))},
        "huge x0": {"x0": edited(problem.x0, (0, 1e3))},
        "no tracking": {"Q": 0 * problem.Q},
    }
    problems = [dataclasses.replace(problem, **change) for change in changed.values()]
    solution = solve_batch(put(batch, slice(0, len(problems)), stack(problems)))
    assert np.all(solution.status[: len(problems)] == Status.SOLVED), solution.status[: len(problems)]
    for u, degenerate in zip(solution.u, problems, strict=False):
        expected = clarabel_inputs(degenerate)
        np.testing.assert_allclose(u, expected, atol=5e-3 * max(1.0, np.abs(expected).max()))


def test_the_examples_of_the_page_balance_their_poles(capsys):
    page = (Path(pimpc.__file__).parent / "README.md").read_text()
    names = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, names)
    largest, left, message = capsys.readouterr().out.split(" ", 2)
    assert float(largest) < 0.01
    assert float(left) == pytest.approx(-0.25, abs=1e-4)  # where the track ends
    assert message.strip() == Status.SOLVED.message
    A, B = jax.jacfwd(names["move"], (0, 1))(jnp.zeros(4), jnp.zeros(1))
    closed = np.asarray(A + B @ names["feedback"])
    assert np.all(np.abs(np.linalg.eigvals(closed)) < 1)


def test_annotated_shapes_and_types_hold():
    script = Path(__file__).with_name("check_types.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout == "checked\n", done.stderr[-2000:]


def test_statuses_speak():
    assert {s.value for s in Status} == set(range(6))
    assert all(s.message.endswith(".") and " " in s.message for s in Status)


STRUCTURE = [
    ({"Q": ones(4, 1)}, ValueError, r"Q has shape \(4, 1\); it must be \(N, nx\) = \(5, 1\) or .*B of shape"),
    ({"x0": ones(2)}, ValueError, r"x0 has shape \(2,\); it must be \(nx\) = \(1,\)"),
    ({"B": ones(5, 1)}, ValueError, r"B has shape \(5, 1\); it must be \(N, nx, nu\)"),
    ({"B": ones(0, 1, 1)}, ValueError, "at least one stage"),
    ({"B": ones(2, 5, 1, 1), "A": ones(2, 5, 1, 1)}, ValueError, r"jax.vmap\(pimpc.solve\)"),
    ({"h": None}, ValueError, "G is given without h"),
    ({"G": None}, ValueError, "h is given without G"),
    ({"e": None}, ValueError, "e is None; it is required"),
    ({"R": ones(5, 1).astype(np.int32)}, TypeError, "R has type int32; convert it to float32 or float64"),
    ({"S": jnp.ones((5, 1), jnp.bfloat16)}, TypeError, "S has type bfloat16"),
    ({"horizon": np.float32(2.0)}, TypeError, "horizon has type float32; it counts stages"),
    (
        {"structure": Structure(blocks=((1, 1),))},
        ValueError,
        r"add up to \(1, 1\) rows and columns, but G has \(2, 1\)",
    ),
    ({"G": None, "h": None, "structure": Structure(blocks=((2, 1),))}, ValueError, "blocks is given without G"),
    ({"structure": Structure(most_free=-1)}, ValueError, "most_free is -1: it counts inputs"),
]
VALUES = [
    ({"e": edited(ones(5, 1), (3, np.nan))}, r"e\[3, 0\] is nan; it must be finite"),
    ({"Q": edited(ones(5, 1), (1, -2.0))}, r"Q\[1, 0\] is -2.0; weights must not be negative"),
    ({"R": -ones(5, 1, 1)}, r"R\[0\] has the eigenvalue -1.0"),
    ({"u_min": ones(5, 1), "u_max": 0 * ones(5, 1)}, r"u_min\[0, 0\] is above u_max there"),
    ({"u_max": -np.inf * ones(5, 1)}, r"u_max\[0, 0\] is -inf; use a number, or inf"),
    ({"horizon": np.int32(9)}, r"horizon is 9; it must be from 1 to N = 5"),
    ({"structure": Structure(pins_only=True), "u_max": ones(5, 1)}, r"u_max\[0, 0\] is 1.0; with structure.pins_only"),
    (
        {"structure": Structure(pins_only=True), "u_min": -ones(5, 1)},
        r"u_min\[0, 0\] is -1.0; with structure.pins_only",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), STRUCTURE)
def test_wrong_structure_is_rejected_when_traced(change, error, message):
    problem = small(**change)
    with pytest.raises(error, match=message):
        jax.eval_shape(pimpc.solve, problem)
    if "jax.vmap" not in message:
        with pytest.raises(error, match=message):
            pimpc.validate(problem)


@pytest.mark.parametrize(("change", "message"), VALUES)
def test_wrong_values_are_rejected_by_validate(change, message):
    with pytest.raises(ValueError, match=message):
        pimpc.validate(small(**change))


def test_what_is_declared_of_a_problem_changes_its_solution_by_nothing():
    """The stances' bounds of the recorded walks never bind: without them, and with only pins left, it is as it was."""
    with jax.enable_x64(True):
        problem, data = recorded("walk_n10", np.float64, 8)
    free = problem.u_min != problem.u_max
    pinned = dataclasses.replace(
        problem, u_min=np.where(free, -np.inf, problem.u_min), u_max=np.where(free, np.inf, problem.u_max)
    )
    declared = dataclasses.replace(pinned, structure=Structure(blocks=((12, 6), (12, 6)), pins_only=True))
    pimpc.validate(declared)

    def moved(problem, pin):
        """The optimum, and how its cost depends on where the inputs are pinned."""

        choice = problem.u_min != problem.u_max

        def optimum(pin):
            lower, upper = (jnp.where(choice, bound, bound + pin) for bound in (problem.u_min, problem.u_max))
            solution = pimpc.solve(dataclasses.replace(problem, u_min=lower, u_max=upper))
            return solution.cost, solution

        (_, solution), slope = jax.value_and_grad(optimum, has_aux=True)(pin)
        return solution, slope

    with jax.enable_x64(True):
        results = [jax.jit(jax.vmap(moved))(p, np.zeros_like(problem.u_ref)) for p in (pinned, declared)]
    (before, slope), (after, slope_declared) = jax.device_get(results)
    assert np.all(after.status == Status.SOLVED)
    assert after.warm_start.multipliers.inputs is None
    np.testing.assert_allclose(after.u, data["u_opt"], atol=1e-3 * np.abs(data["u_opt"]).max())
    np.testing.assert_allclose(after.cost, before.cost, rtol=1e-5)
    np.testing.assert_allclose(slope_declared, slope, atol=1e-2 * np.abs(slope).max())
    assert np.all(slope_declared[free] == 0) and np.any(slope_declared[~free] != 0)
    untrue = pimpc.solve(small(u_max=0.3 * ones(5, 1), structure=Structure(pins_only=True)))
    assert untrue.status > Status.SOLVED_INACCURATE and np.all(untrue.u <= 0.3)
    with pytest.raises(ValueError, match=r"G\[2, 0, 0, 6\] is 1.0; outside of structure.blocks G must be zero"):
        pimpc.validate(dataclasses.replace(declared, G=edited(declared.G, ((2, 0, 0, 6), 1.0))))


def test_a_start_or_a_setting_that_does_not_exist_is_rejected():
    problem = small()
    warm = InteriorPoint().cold_start(problem)
    other = dataclasses.replace(problem, u_min=None, u_max=None)
    for wrong in ({"problem": other}, {"method": pimpc.PiADMM()}):
        call = {"problem": problem, "method": InteriorPoint(), "warm_start": warm} | wrong
        with pytest.raises(ValueError, match="warm_start is not one of"):
            jax.eval_shape(lambda call=call: pimpc.solve(**call))
    with pytest.raises(ValueError, match="There is no kernels='palas'"):
        jax.eval_shape(lambda: pimpc.solve(problem, InteriorPoint(kernels="palas")))  # type: ignore
    with pytest.raises(TypeError, match="only answers of InteriorPoint can be shifted"):
        pimpc.shift(pimpc.PiADMM().cold_start(problem), 1.0, problem)  # type: ignore


def test_mixed_types_are_rejected():
    with jax.enable_x64(True), pytest.raises(TypeError, match="x0 has type float32 but B has float64"):
        problem = jax.tree.map(np.float64, small())
        pimpc.solve(dataclasses.replace(problem, x0=ones(1)))


def test_validate_accepts_good_problems_and_names_the_bad_one_of_a_batch():
    batch, _ = recorded("walk_n10", np.float32, 3)
    pimpc.validate(batch)
    pimpc.validate(take(batch, 0))
    inert = dataclasses.replace(batch, e=edited(batch.e, ((1, 8), np.nan)), horizon=np.array([10, 8, 10]))
    pimpc.validate(inert)
    with pytest.raises(ValueError, match=r"e\[1, 8, 0\] is nan"):
        pimpc.validate(dataclasses.replace(inert, horizon=np.array([10, 9, 10])))
    with pytest.raises(TypeError, match="A is traced; call validate outside"):
        jax.eval_shape(pimpc.validate, batch)


def test_every_setting_changes_the_program():
    changes = {
        "max_iterations": 20, "tolerance": 1e-1, "early_stop": False, "proximal": 1e2, "start": 1.0, "boundary": 0.9,
        "kernels": "parallel",
    }  # fmt: skip
    assert set(changes) == {f.name for f in dataclasses.fields(InteriorPoint)}
    problem = take(short()[0], 0)

    def program(method):
        return str(jax.make_jaxpr(lambda p: pimpc.solve(p, method))(problem))

    base = program(InteriorPoint())
    for name, value in changes.items():
        assert program(InteriorPoint(**{name: value})) != base, name
