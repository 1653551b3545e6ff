"""The GPU kernels' own text, compiled for the CPU and run lane by lane, against the same algorithm in plain XLA."""

import dataclasses
import functools

import cuda_on_cpu
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpc_problems import input_errors, random_problem, recorded

import pimpc
from pimpc import cuda_kernels, cuda_launch
from pimpc.batching import on_shared_batches
from pimpc.problem import roll_out
from pimpc.residuals import Multipliers

needs_compiler = pytest.mark.skipif(not cuda_on_cpu.available(), reason="needs a C++ compiler")


def batch(count, **sizes):
    problems = [random_problem(seed, np.float32, **sizes) for seed in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)


@pytest.fixture
def on_cpu(monkeypatch):
    """Lets launches run here; returns a switch that reverses the order in which lanes run."""
    order = {"reverse": False}

    def launch(kernel, source, arguments, results, shared=0):
        def run(*arrays):
            kernels = cuda_on_cpu.compile_kernels(source, (kernel,), {})
            shapes = [(of.shape, of.dtype) for of in results]
            inputs = [np.ascontiguousarray(v) for v in arrays]
            return kernels.run(kernel, inputs, shapes, grid=shapes[0][0][0], reverse=order["reverse"])

        return jax.pure_callback(run, results, *arguments)

    monkeypatch.setattr(cuda_kernels, "launch", launch)
    return order


def solve_all(problems, kernels, warm_start=None, **settings):
    method = pimpc.InteriorPoint(kernels=kernels, **settings)
    if warm_start is None:
        return jax.vmap(functools.partial(pimpc.solve, method=method))(problems)
    return jax.vmap(lambda p, w: pimpc.solve(p, method, w))(problems, warm_start)


def agree(ours, theirs, tolerance):
    """The same plan as far as the tolerance defines it, in one iteration more or less."""
    np.testing.assert_array_equal(ours.status, theirs.status)
    good = np.asarray(theirs.status) == pimpc.Status.SOLVED
    assert np.all(np.abs(ours.iterations - theirs.iterations) <= 1)
    scale = np.abs(np.asarray(theirs.u)[good]).max(axis=(1, 2), keepdims=True)
    difference = np.abs(np.asarray(ours.u)[good] - np.asarray(theirs.u)[good]) / scale
    assert difference.max() < 300 * tolerance and np.median(difference) < tolerance


def test_batches_nest_into_one_call():
    shapes = []

    def double(x):
        shapes.append((x["a"].shape, x["b"].shape))
        return 2 * x["a"] + x["b"]

    a, b = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(4.0)
    single = on_shared_batches(double)
    result = jax.vmap(jax.vmap(lambda a: single({"a": a, "b": b})))(a)
    np.testing.assert_array_equal(result, 2 * a + b)
    assert shapes[-1] == ((6, 4), (1, 4))


def test_what_an_outer_batch_shares_is_repeated_if_the_inner_one_does_not():
    single = on_shared_batches(lambda x: x[0] * x[1])
    a, b = jnp.arange(2.0), jnp.arange(3.0)
    result = jax.vmap(lambda a: jax.vmap(lambda b: single((a, b)))(b))(a)
    np.testing.assert_array_equal(result, a[:, None] * b)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        *((name, 1e-3) for name in ("walk_n10", "walk_wide_n10", "double_support_n10", "flight_n10")),
        *((name, 1e-5) for name in ("walk_n10", "double_support_n10")),
    ],
)
def test_recorded_problems_reach_their_optima(name, tolerance, on_cpu):
    on_cpu["reverse"] = tolerance == 1e-5  # which lane runs first does not matter
    problems, data = recorded(name, np.float32, 16)
    free = int(np.max(np.sum(data["u_min"] != data["u_max"], axis=(1, 2))))  # 60, 60, 84 and 54
    declared = pimpc.Structure(blocks=((12, 6), (12, 6)), most_free=free if tolerance == 1e-3 else 120)
    found = solve_all(dataclasses.replace(problems, structure=declared), "cuda", tolerance=tolerance)
    assert np.all(found.status == pimpc.Status.SOLVED)
    errors = input_errors(found.u, data["u_opt"])
    assert np.median(errors) < (1e-3 if tolerance == 1e-3 else 1e-4) and errors.max() < 1e-2
    agree(found, solve_all(problems, "xla", tolerance=tolerance), tolerance)


@needs_compiler
@pytest.mark.parametrize("most_free", [60, 120])
def test_recorded_problems_whose_bounds_are_declared_as_pins_reach_their_optima(most_free, on_cpu):
    """As the robots' own: with the stage at hand's place for all lists of sides."""
    problems, data = recorded("walk_n10", np.float32, 16)
    pins = problems.u_min == problems.u_max
    bounds = {name: jnp.where(pins, 0, limit) for name, limit in (("u_min", -jnp.inf), ("u_max", jnp.inf))}
    structure = pimpc.Structure(blocks=((12, 6), (12, 6)), pins_only=True, most_free=most_free)
    problems = dataclasses.replace(problems, **bounds, structure=structure)
    found = solve_all(problems, "cuda", tolerance=1e-3)
    assert np.all(found.status == pimpc.Status.SOLVED)
    errors = input_errors(found.u, data["u_opt"])
    assert np.median(errors) < 1e-3 and errors.max() < 1e-2
    agree(found, solve_all(problems, "xla", tolerance=1e-3), 1e-3)


@needs_compiler
@pytest.mark.parametrize(
    ("sizes", "without"),
    [
        ({"N": 4, "nx": 3, "nu": 2, "m": 3}, ("x_max",)),
        ({"N": 3, "nx": 5, "nu": 7, "m": 9}, ("x_min", "G", "h")),
        ({"N": 3, "nx": 2, "nu": 18, "m": 4}, ("x_min", "x_max", "u_max")),
        ({"N": 2, "nx": 20, "nu": 12, "m": 40}, ("x_max",)),
        ({"N": 1, "nx": 1, "nu": 1, "m": 1}, ("x_min", "x_max")),
        ({"N": 5, "nx": 13, "nu": 3, "m": 2}, ("x_min", "x_max", "G", "h", "u_min", "u_max")),
    ],
)
def test_random_problems_are_solved_as_by_xla(sizes, without, on_cpu):
    free = {"x_min", "x_max"} <= {*without}
    declared = pimpc.Structure(most_free=sizes["N"] * sizes["nu"] if free else None)  # the states are eliminated
    problems = dataclasses.replace(batch(6, **sizes), **dict.fromkeys(without), structure=declared)
    agree(solve_all(problems, "cuda"), solve_all(problems, "xla"), 1e-5)


@needs_compiler
def test_it_does_not_matter_where_tables_lie_nor_which_lane_runs_first(on_cpu, monkeypatch):
    problems = dataclasses.replace(batch(2, N=3, nx=9, nu=12, m=5), x_min=None)
    usual = solve_all(problems, "cuda")
    on_cpu["reverse"] = True
    placements = []
    for level in (0, 1, 2):
        monkeypatch.setattr(cuda_kernels.Sizes, "placement", lambda self, at=level: placements.append(at) or (at, 4))
        jax.clear_caches()  # or the program before would run again
        jax.tree.map(np.testing.assert_array_equal, solve_all(problems, "cuda"), usual)
    assert set(placements) == {0, 1, 2}


@needs_compiler
@pytest.mark.parametrize("most_free", [None, 15])
def test_declared_blocks_are_the_whole_matrix(most_free, on_cpu):
    """Blocks of different sizes."""
    blocks = ((3, 3), (2, 2))
    p = dataclasses.replace(batch(3, N=3, nx=2, nu=5, m=5, state_bounds=False), x_min=None, x_max=None)
    inside = np.zeros((5, 5), bool)
    inside[:3, :3] = inside[3:, 3:] = True
    G = jnp.where(inside, p.G, 0)
    p = dataclasses.replace(p, G=G, h=jnp.einsum("bkij,bkj->bki", G, 0.5 * (p.u_min + p.u_max)) + 0.1)
    declared = dataclasses.replace(p, structure=pimpc.Structure(blocks=blocks, most_free=most_free))
    pimpc.validate(declared)
    ours, theirs = solve_all(declared, "cuda"), solve_all(p, "xla")
    assert np.any(theirs.warm_start.multipliers.rows > 0.1)  # rows that bind
    agree(ours, theirs, 1e-5)


@needs_compiler
@pytest.mark.parametrize("most_free", [None, 12])
def test_pins_are_constants(most_free, on_cpu):
    p = dataclasses.replace(batch(4, N=4, nx=3, nu=4, m=3), x_min=None, x_max=None)
    pins = jnp.asarray(np.random.default_rng(0).random(p.u_min.shape) < 0.4)
    assert jnp.max(jnp.sum(~pins, axis=(1, 2))) <= 12
    p = dataclasses.replace(
        p,
        u_min=jnp.where(pins, 0.1, -jnp.inf),
        u_max=jnp.where(pins, 0.1, jnp.inf),
        h=p.h + 1,
        structure=pimpc.Structure(pins_only=True, most_free=most_free),
    )
    ours = solve_all(p, "cuda")
    np.testing.assert_array_equal(np.asarray(ours.u)[np.asarray(pins)], np.float32(0.1))
    agree(ours, solve_all(p, "xla"), 1e-5)


@needs_compiler
@pytest.mark.parametrize(("without", "most_free"), [(("x_min",), None), (("x_min", "x_max"), 16)])
def test_warm_starts_are_used_as_by_xla(without, most_free, on_cpu):
    p = dataclasses.replace(batch(6, N=4, nx=3, nu=4, m=3), **dict.fromkeys(without))
    p = dataclasses.replace(p, structure=pimpc.Structure(most_free=most_free))
    before = solve_all(p, "cuda")
    near = dataclasses.replace(p, x0=p.x0 + 0.003)
    cold, warm = solve_all(near, "cuda"), solve_all(near, "cuda", before.warm_start)
    agree(warm, solve_all(near, "xla", before.warm_start), 1e-5)
    assert np.mean(warm.iterations) < np.mean(cold.iterations)


@needs_compiler
def test_what_falls_for_kilometres_without_inputs_is_held_where_it_belongs(on_cpu):
    """The first step, from zero inputs, is a million times what the plan may be off by."""
    N, dt = 400, 0.07
    fall = {
        "A": np.tile([[1.0, dt], [0.0, 1.0]], (N, 1, 1)), "B": np.tile([[0.5 * dt**2], [dt]], (N, 1, 1)),
        "e": np.tile([-0.5 * 9.81 * dt**2, -9.81 * dt], (N, 1)), "x0": np.array([0.7, 0.1]), "u_prev": np.array([9.81]),
        "x_ref": np.tile([0.7, 0.0], (N, 1)), "u_ref": np.full((N, 1), 9.81), "Q": np.tile([5e4, 10.0], (N, 1)),
        "R": np.full((N, 1), 0.01), "S": np.full((N, 1), 1.0),
        "u_min": np.full((N, 1), 0.0), "u_max": np.full((N, 1), 30.0),
    }  # fmt: skip
    problems = pimpc.LTVProblem(**{name: jnp.asarray(value, jnp.float32)[None] for name, value in fall.items()})
    ours, theirs = (solve_all(problems, kernels) for kernels in ("cuda", "xla"))
    agree(ours, theirs, 1e-5)
    assert ours.status[0] == pimpc.Status.SOLVED
    np.testing.assert_allclose(ours.x[0, -1], [0.7, 0.0], atol=1e-3)


@needs_compiler
def test_a_step_that_rounding_spoils_leaves_the_iterate_before_it(on_cpu):
    """With the next Hessian on its way to where the forces are put."""
    p = dataclasses.replace(batch(6, N=4, nx=3, nu=3, m=4, state_bounds=False), x_min=None, x_max=None)
    p = dataclasses.replace(p, structure=pimpc.Structure(most_free=12))
    found = solve_all(p, "cuda", tolerance=1e-9, max_iterations=60)
    assert np.any(found.iterations < 60) and not np.any(found.status == pimpc.Status.SOLVED)
    np.testing.assert_allclose(found.u, solve_all(p, "xla").u, atol=1e-3)
    assert np.all(np.isfinite(found.warm_start.multipliers.rows)) and np.all(found.dual_residual < 1e-4)


@needs_compiler
def test_horizons_are_masked(on_cpu):
    p = dataclasses.replace(random_problem(3, np.float32, N=5, nx=3, nu=2, m=3), x_min=None)
    horizons = jnp.arange(1, 6)
    found = [
        jax.vmap(lambda h, how=how: pimpc.solve(dataclasses.replace(p, horizon=h), pimpc.InteriorPoint(kernels=how)))(
            horizons
        )
        for how in ("cuda", "xla")
    ]
    agree(*found, 1e-5)


@needs_compiler
def test_judgements_are_those_of_xla(on_cpu):
    """Of plans and multipliers that are not optimal, so that each residual is far from zero."""
    p = batch(6, N=4, nx=3, nu=2, m=3)
    rng = np.random.default_rng(0)
    u = p.u_ref + jnp.asarray(rng.standard_normal(p.u_ref.shape), jnp.float32)
    x = jax.vmap(roll_out)(p, u)
    x = x.at[3:, 2].add(0.3)  # breaks the dynamics
    multipliers = Multipliers(
        jnp.abs(jnp.asarray(rng.standard_normal(p.h.shape), jnp.float32)),
        jnp.asarray(rng.standard_normal(p.u_ref.shape), jnp.float32),
        jnp.where(jnp.isfinite(p.x_max) & jnp.isfinite(p.x_min), 0.3, 0.0),
    )
    for case in (p, dataclasses.replace(p, R=p.R - 1e3)):  # the second one is not convex
        ours, theirs = (
            jax.vmap(functools.partial(pimpc.kkt_residuals, kernels=how))(case, x, u, multipliers)
            for how in ("cuda", "xla")
        )
        for name in ("primal", "stationarity", "complementarity"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-3)
    assert np.all(np.isnan(ours.stationarity))
    far = {name: jnp.clip(getattr(p, name), -1e8, 1e8) for name in ("x_min", "x_max", "u_min", "u_max", "h")}
    far = dataclasses.replace(p, x_ref=p.x_ref + 1e6, **far)  # what is not reached does not make a violation smaller
    for how in ("cuda", "xla"):
        judge = jax.vmap(functools.partial(pimpc.kkt_residuals, kernels=how))
        np.testing.assert_allclose(judge(far, x, u, multipliers).primal, judge(p, x, u, multipliers).primal, rtol=1e-6)
    spoilt = jax.vmap(functools.partial(pimpc.kkt_residuals, kernels="cuda"))(
        p, x, u.at[0, 1].set(jnp.nan), multipliers
    )
    np.testing.assert_array_equal(np.isnan(spoilt.primal), np.arange(6) == 0)


@needs_compiler
def test_roll_outs_are_those_of_xla(on_cpu):
    p = batch(5, N=4, nx=9, nu=2)
    u = jnp.asarray(np.random.default_rng(0).standard_normal(p.u_ref.shape), jnp.float32)
    found = jax.vmap(cuda_kernels.roll_out)(p, u)
    expected = jax.vmap(roll_out)(p, u)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@needs_compiler
@pytest.mark.parametrize("most_free", [None, 6])
def test_impossible_problems_are_infeasible_and_spoil_no_neighbour(most_free, on_cpu):
    """A good problem, one whose bounds contradict each other, one whose rows do, and one that is not a number."""
    p = dataclasses.replace(batch(4, N=3, nx=2, nu=2, m=2, state_bounds=False), x_min=None, x_max=None)
    free = p.u_min != p.u_max
    p = dataclasses.replace(p, u_min=jnp.where(free, -5.0, p.u_min), u_max=jnp.where(free, 5.0, p.u_max))
    p = dataclasses.replace(p, u_max=p.u_max.at[1, 0, 0].set(-6.0))
    G = p.G.at[2].set(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
    h = p.h.at[2].set(jnp.array([-1.0, -1.0])).at[2, 1].set(jnp.inf)  # u_0 ≤ −1 and u_0 ≥ 1 where it is not fixed
    declared = pimpc.Structure(most_free=most_free)
    p = dataclasses.replace(p, G=G, h=h, x0=p.x0.at[3].set(jnp.nan), structure=declared)
    found = solve_all(p, "cuda")
    expected = [pimpc.Status.SOLVED, *[pimpc.Status.INFEASIBLE] * 2, pimpc.Status.NONFINITE_INPUT]
    np.testing.assert_array_equal(found.status, expected)
    np.testing.assert_array_equal(np.asarray(found.iterations)[[1, 3]], 0)
    alone = pimpc.solve(jax.tree.map(lambda leaf: leaf[0], p))
    np.testing.assert_allclose(found.u[0], alone.u, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("blocks", [None, ((2, 2), (1, 1))])
def test_states_that_no_inputs_reach_are_proven_to_be_out_of_reach(blocks, on_cpu):
    """By what the last iteration did to the forces: of bounds of states, through the dynamics, and of rows."""
    p = dataclasses.replace(batch(3, N=3, nx=2, nu=3, m=3), x_min=None)
    G = p.G if blocks is None else jnp.where(jnp.eye(3, dtype=bool).at[0, 1].set(True).at[1, 0].set(True), p.G, 0)
    free = p.u_min != p.u_max
    p = dataclasses.replace(
        p,
        G=G,
        h=jnp.abs(p.h) + 100,
        u_min=jnp.where(free, -5.0, p.u_min),
        u_max=jnp.where(free, 5.0, p.u_max),
        x_max=jnp.full_like(p.x_max, 1e3).at[1, 1].set(-1e3),
        structure=pimpc.Structure(blocks=blocks),
    )
    found = solve_all(p, "cuda")
    np.testing.assert_array_equal(found.status, solve_all(p, "xla").status)
    solved, infeasible = pimpc.Status.SOLVED, pimpc.Status.INFEASIBLE
    np.testing.assert_array_equal(found.status, [solved, infeasible, solved])


def test_states_are_eliminated_only_where_it_is_declared_and_there_is_room():
    def ways(N=10, nx=9, nu=12, m=24, bounded=12, blocks=((12, 6), (12, 6)), **declared):
        sizes = cuda_kernels.Sizes(N, nx, nu, m, m // 2, bounded).ways(pimpc.Structure(blocks=blocks, **declared))
        return [(way.rows > 0, way.leaves) for way in sizes]

    recursions, condensed, leaves = (False, False), (True, False), (True, True)
    assert ways() == ways(pins_only=True) == [recursions]
    assert ways(N=6, most_free=1000) == ways(most_free=0) == ways(m=0, blocks=None, most_free=60) == [condensed]
    assert ways(most_free=80) == ways(most_free=120) == ways(most_free=1000) == [leaves, recursions]
    assert ways(most_free=60) == [leaves, recursions]  # there is no room for each of them in a block of its own
    too_large = {"N": 17}, {"nx": 13, "nu": 5, "m": 2}, {"bounded": 13}, {"m": 240}
    assert all(ways(**sizes, most_free=60) == [recursions] for sizes in too_large)


@needs_compiler
def test_problems_of_one_batch_go_to_the_kernel_that_takes_them(on_cpu):
    """Feet that swing leave 60 inputs free, and two on the ground 84: more than the first kernel takes."""
    names = ("double_support_n10", "walk_n10", "double_support_n10")
    walks = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(recorded(name, np.float32, 2)[0] for name in names))
    walks = dataclasses.replace(walks, structure=pimpc.Structure(most_free=120))
    spoilt = dataclasses.replace(walks, x0=walks.x0.at[5].set(jnp.nan))
    found, alone = solve_all(spoilt, "cuda"), solve_all(walks, "cuda")
    agree(found, solve_all(spoilt, "xla"), 1e-5)
    assert found.iterations[5] == 0 and np.all(np.asarray(found.iterations)[:5] > 0)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:5], b[:5]), found, alone)


@needs_compiler
@pytest.mark.parametrize("rows", [True, False])
def test_more_free_inputs_than_declared_are_not_passed_off_as_an_answer(rows, on_cpu):
    problems, _ = recorded("double_support_n10", np.float32, 2)
    problems = dataclasses.replace(problems, structure=pimpc.Structure(most_free=60))
    problems = problems if rows else dataclasses.replace(problems, G=None, h=None)
    with pytest.raises(ValueError, match="most_free is 60, but 84 inputs have no equal bounds"):
        pimpc.validate(problems)
    found = solve_all(problems, "cuda")
    if rows:  # recursions solve what would need more blocks than are expected
        agree(found, solve_all(problems, "xla"), 1e-5)
        return
    assert np.all(found.status == pimpc.Status.MAX_ITERATIONS) and np.all(found.iterations == 0)
    assert np.all(np.isfinite(found.u))


@needs_compiler
def test_inputs_behind_the_horizon_do_not_count_against_a_declaration(on_cpu):
    """They are all free: more than the declaration says, and than the kernel takes that it is for."""
    problems, _ = recorded("walk_n10", np.float32, 2)
    declared = pimpc.Structure(blocks=((12, 6), (12, 6)), most_free=60)
    problems = dataclasses.replace(problems, horizon=jnp.array([4, 10]), structure=declared)
    spoilt = dataclasses.replace(problems, u_max=problems.u_max.at[0, 4:].set(jnp.nan))
    pimpc.validate(spoilt)
    agree(solve_all(spoilt, "cuda"), solve_all(problems, "xla"), 1e-5)


def test_problems_for_which_there_are_no_kernels_are_refused():
    problem = random_problem(0, np.float32, N=3, nx=2, nu=2, full=True)
    with pytest.raises(ValueError, match="needs float32, diagonal weights"):
        pimpc.solve(problem, pimpc.InteriorPoint(kernels="cuda"))


@pytest.mark.parametrize(("given", "said"), [("9.5", "8.8"), ("10.0", "8.8"), ("8.8", "8.8"), ("7.8", "7.8")])
def test_an_older_assembler_takes_the_text(given, said):
    ptx = "// Generated by NVIDIA NVVM Compiler\n\n.version {}\n.target sm_90\n.address_size 64\n"
    assert cuda_launch.for_older_assemblers(ptx.format(given)) == ptx.format(said)
