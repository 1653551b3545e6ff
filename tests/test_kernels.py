"""The GPU kernels, interpreted on the CPU, against the same algorithm in plain XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpc_problems import random_problem

import pimpc
from pimpc import interior_point, interior_point_gpu, riccati, riccati_gpu, roll_out_gpu
from pimpc.batching import on_batches
from pimpc.lanes import Lanes, pack, unpack
from pimpc.problem import drive, roll_out
from pimpc.rows import measure


def batch(count, **sizes):
    problems = [random_problem(seed, np.float32, **sizes) for seed in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)


@pytest.mark.parametrize("width", [8, 16, 32])
def test_packing_is_undone_by_unpacking(width):
    value = jnp.arange(5 * 3 * 2 * 11, dtype=jnp.float32).reshape(5, 3, 2, 11)
    lanes = Lanes(width)
    packed = pack(lanes, value)
    assert packed.shape == (-(-5 // lanes.problems), 3, 2, lanes.chunks(11), 32)
    np.testing.assert_array_equal(unpack(lanes, packed, 5, 11), value)


def test_batches_nest_into_one_call():
    shapes = []

    def double(x):
        shapes.append(x["a"].shape)
        return 2 * x["a"] + x["b"]

    single = on_batches(double)
    a, b = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(4.0)
    result = jax.vmap(jax.vmap(lambda a: single({"a": a, "b": b})))(a)
    np.testing.assert_array_equal(result, 2 * a + b)
    assert shapes[-1] == (6, 4)


@pytest.mark.parametrize("width", [8, 32])
def test_newton_steps_are_those_of_xla(width, monkeypatch):
    monkeypatch.setattr(riccati_gpu, "width", lambda columns, batch: width)
    p = batch(5, N=4, nx=3, nu=2)
    rng = np.random.default_rng(0)
    free = jnp.asarray(rng.random(p.u_ref.shape) < 0.8)
    l_x, l_u = (jnp.asarray(rng.standard_normal(v.shape), jnp.float32) for v in (p.x_ref, p.u_ref))
    data = p.A, p.B, p.Q, p.R, p.S, free, l_x, l_u
    found = jax.jit(lambda *data: riccati_gpu.newton(*data, interpret=True))(*data)
    [expected] = jax.vmap(lambda *data: riccati.newton(*data[:-2], [data[-2:]], "xla"))(*data)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("width", [8, 32])
def test_roll_outs_are_those_of_xla(width, monkeypatch):
    monkeypatch.setattr(roll_out_gpu, "width", lambda columns, batch: width)
    p = batch(5, N=4, nx=9, nu=2)
    u = jnp.asarray(np.random.default_rng(0).standard_normal(p.u_ref.shape), jnp.float32)
    expected = jax.vmap(roll_out)(p, u)
    found = roll_out_gpu.batch(p.A, p.x0, jax.vmap(drive)(p, u), interpret=True)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_newton_steps_of_an_indefinite_hessian_are_nan():
    p = batch(1, N=3, nx=2, nu=2)
    free = jnp.ones(p.u_ref.shape, bool)
    data = p.A, p.B, p.Q, p.R - 1e3, p.S, free, p.x_ref, p.u_ref
    assert np.all(np.isnan(jax.jit(lambda *data: riccati_gpu.newton(*data, interpret=True))(*data)[2]))


@pytest.mark.parametrize(
    ("width", "without"), [(8, ("x_max",)), (32, ("x_min", "x_max", "u_min", "u_max")), (16, ("x_min", "G", "h"))]
)
def test_iterations_are_those_of_xla(width, without, monkeypatch):
    """Both stop at most one iteration apart, as their measures are not the same to the last digit."""
    monkeypatch.setattr(interior_point_gpu, "width", lambda columns, batch: width)
    p = dataclasses.replace(batch(5, N=4, nx=3, nu=2, m=3), **dict.fromkeys(without))
    method = interior_point.InteriorPoint(kernels="xla", tolerance=1e-5)

    def both(problem):
        rows = measure(problem)
        start = interior_point._start(method, problem, rows, None, jnp.array(True))
        kernels = interior_point._by_kernels(method, problem, rows, start, interpret=True)
        return kernels, interior_point._by_xla(method, problem, rows, start)

    ours, theirs = jax.jit(jax.vmap(both))(p)
    assert np.all(np.abs(ours.iteration - theirs.iteration) <= 1)
    assert np.all(ours.iteration < method.max_iterations)
    scale = np.abs(theirs.u).max()
    np.testing.assert_allclose(ours.u, theirs.u, atol=3e-3 * scale)
    np.testing.assert_allclose(np.median(np.abs(ours.u - theirs.u)), 0, atol=1e-5 * scale)


def test_declared_blocks_are_the_whole_matrix(monkeypatch):
    """Blocks of different sizes, one of them over the boundary between two chunks of 4 lanes."""
    monkeypatch.setattr(interior_point_gpu, "width", lambda columns, batch: 4)
    blocks = ((3, 3), (2, 2))
    p = dataclasses.replace(batch(3, N=3, nx=2, nu=5, m=5, state_bounds=False), x_min=None, x_max=None)
    inside = np.zeros((5, 5), bool)
    inside[:3, :3] = inside[3:, 3:] = True
    G = jnp.where(inside, p.G, 0)
    p = dataclasses.replace(p, G=G, h=jnp.einsum("bkij,bkj->bki", G, 0.5 * (p.u_min + p.u_max)) + 0.1)
    declared = dataclasses.replace(p, structure=pimpc.Structure(blocks=blocks))
    pimpc.validate(declared)
    method = interior_point.InteriorPoint(kernels="xla", tolerance=1e-5)

    def both(declared, dense):
        rows = measure(dense)
        start = interior_point._start(method, dense, rows, None, jnp.array(True))
        kernels = interior_point._by_kernels(method, declared, rows, start, interpret=True)
        return kernels, interior_point._by_xla(method, dense, rows, start)

    ours, theirs = jax.jit(jax.vmap(both))(declared, p)
    assert np.any(theirs.force.above.reshape(3, 3, -1)[:, :, :5] > 0.1)  # rows that bind
    assert np.all(np.abs(ours.iteration - theirs.iteration) <= 1)
    np.testing.assert_allclose(ours.u, theirs.u, atol=1e-4 * np.abs(theirs.u).max())


def test_problems_for_which_there_are_no_kernels_are_refused():
    problem = random_problem(0, np.float32, N=3, nx=2, nu=2, full=True)
    with pytest.raises(ValueError, match="needs float32, diagonal weights"):
        pimpc.solve(problem, pimpc.InteriorPoint(kernels="pallas"))
    count, N = 2**19, 400
    matrices = [jax.ShapeDtypeStruct((count, N, 15, 15), np.float32)] * 2
    rows = [jax.ShapeDtypeStruct((count, N, 15), kind) for kind in (*[np.float32] * 3, bool, *[np.float32] * 2)]
    with pytest.raises(ValueError, match="too large for the GPU kernels: split"):
        jax.eval_shape(lambda *data: riccati_gpu.newton(*data), *matrices, *rows)


def test_contradicting_bounds_are_infeasible_and_spoil_no_neighbour(monkeypatch):
    """Three problems to a warp: a good one, one without a solution, and one that is not a number."""
    monkeypatch.setattr(interior_point_gpu, "width", lambda columns, batch: 8)
    p = dataclasses.replace(batch(3, N=3, nx=2, nu=2, m=2, state_bounds=False), x_min=None, x_max=None)
    G = p.G.at[1].set(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
    h = p.h.at[1].set(jnp.array([-1.0, -1.0])).at[1, 1].set(jnp.inf)  # u_0 ≤ −1 and u_0 ≥ 1 where it is not fixed
    p = dataclasses.replace(p, G=G, h=h, x0=p.x0.at[2].set(jnp.nan))
    free = p.u_min != p.u_max
    p = dataclasses.replace(p, u_min=jnp.where(free, -5.0, p.u_min), u_max=jnp.where(free, 5.0, p.u_max))
    method = interior_point.InteriorPoint(kernels="xla", max_iterations=20)

    def solve(problem, runnable):
        rows = measure(problem)
        start = interior_point._start(method, problem, rows, None, runnable)
        return interior_point._by_kernels(method, problem, rows, start, interpret=True)

    end = jax.jit(jax.vmap(solve))(p, jnp.array([True, True, False]))
    np.testing.assert_array_equal(end.infeasible, [False, True, False])
    assert end.iteration[0] < end.iteration[1] == 20
    assert end.iteration[2] == 0
    alone = jax.jit(pimpc.solve, static_argnums=1)(jax.tree.map(lambda leaf: leaf[0], p), method)
    np.testing.assert_allclose(end.u[0], alone.u, atol=1e-3)
