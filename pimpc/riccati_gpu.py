"""One Newton step of `pimpc.riccati` as a GPU kernel: all stages in one launch, the value in registers throughout."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

from pimpc.lanes import MOST, WARP, Cells, Lanes, Row, Table, add, each_stage, pack, store, unpack
from pimpc.riccati_warp import Value, as_value, before_inputs, forward, no_value, sweep


def fits(B: Array, *weights: Array) -> bool:
    """Whether the kernels can take a problem: float32, weights that are all diagonals, not too many columns."""
    nx, nu = B.shape[-2:]
    return B.dtype == jnp.float32 and all(W.ndim < B.ndim for W in weights) and nx + nu <= WARP


def width(columns: int, batch: int) -> int:
    """Lanes to a problem: all to a few problems, for the sooner answer; few to many, for the higher throughput."""
    return 32 if batch <= 1024 else 8 if columns <= 24 else 16


Shape3 = tuple[int, int, int]  # stages, rows, chunks


def launch(
    kernel: Callable[..., None], lanes: Lanes, name: str, reads: list[Array], updates: list[Array], writes: list[Shape3]
) -> list[Array]:
    """Runs a kernel on packed arrays, warp by warp.

    Args:
        kernel: Gets a `Table` for each array.
        lanes: How a warp is shared.
        name: Of the kernel, for profiles.
        reads: Arrays from `pack`.
        updates: Likewise, of those that it also writes.
        writes: Shapes of those that it only writes.

    Returns:
        The updated arrays and the written ones, packed.

    Raises:
        ValueError: If the batch is too large for the kernels' 32-bit addresses.
    """
    inputs, warps = [*reads, *updates], reads[0].shape[0]
    shapes = [v.shape[1:4] for v in inputs] + list(writes)
    results = [(warps, *shape, WARP) for shape in shapes[len(reads) :]]
    if max(math.prod(shape) for shape in shapes) * warps * WARP > MOST:
        problems, stages = warps * lanes.problems, reads[0].shape[1]
        raise ValueError(f"{problems} problems of {stages} stages are too large for the GPU kernels: split the batch.")

    def body(*refs: Any) -> None:
        # What is updated comes twice, as an input and as the output that shares its memory.
        own = refs[: len(reads)] + refs[len(inputs) :]
        warp = pl.program_id(0)
        kernel(*(Table(ref, lanes, warp, *shape) for ref, shape in zip(own, shapes, strict=True)))

    call = pl.pallas_call(
        body,
        grid=(warps,),
        out_shape=[jax.ShapeDtypeStruct((math.prod(shape),), jnp.float32) for shape in results],
        input_output_aliases={len(reads) + i: i for i in range(len(updates))},
        interpret=lanes.interpret,
        name=name,
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
    )
    outputs = call(*(v.ravel() for v in inputs))
    return [v.reshape(shape) for v, shape in zip(outputs, results, strict=True)]


def newton(
    A: Float[Array, "batch N nx nx"],
    B: Float[Array, "batch N nx nu"],
    Q: Float[Array, "batch N nx"],
    R: Float[Array, "batch N nu"],
    S: Float[Array, "batch N nu"],
    free: Bool[Array, "batch N nu"],
    l_x: Float[Array, "batch N nx"],
    l_u: Float[Array, "batch N nu"],
    interpret: bool = False,
) -> tuple[Float[Array, "batch N nx"], Float[Array, "batch N nu"], Float[Array, " batch"]]:
    """As `riccati.factorize` followed by `riccati.minimize`, for a batch and diagonal weights."""
    batch, N, nx, nu = B.shape
    lanes = Lanes(width(nx + nu, batch), interpret)
    rows = [(R, Q), (S, jnp.zeros_like(Q)), (l_u, l_x)]
    reads = [jnp.concatenate([B, A], axis=-1), *(jnp.concatenate(pair, axis=-1)[:, :, None] for pair in rows)]
    reads = [pack(lanes, v) for v in (*reads, free.astype(B.dtype)[:, :, None])]
    columns = lanes.chunks(nx + nu)
    shapes = [(N, nu, columns), (N, 1, lanes.chunks(nu)), (N, 1, columns), (1, 1, 1)]
    _, _, step, saved = launch(functools.partial(_newton, nu=nu), lanes, "riccati_newton", reads, [], shapes)
    step = unpack(lanes, step, batch, nx + nu)[:, :, 0]
    return step[..., nu:], step[..., :nu], unpack(lanes, saved, batch, 1)[:, 0, 0, 0]


def _newton(
    BA: Table,
    weight: Table,
    rate: Table,
    slope: Table,
    free: Table,
    T: Table,
    t: Table,
    step: Table,
    saved: Table,
    *,
    nu: int,
) -> None:
    lanes, N, nx = BA.lanes, BA.stages, BA.rows

    def backward(k: Any, rows: list[Row], value: Value) -> Value:
        own, S, linear, moves, *rows = rows
        M, m = before_inputs(lanes, nu, value, rows, add(own, S), linear, [], [])
        M, m, lower = sweep(lanes, nu, M, m, moves)
        store(lanes, [*T.all_rows(k), t.row(k)], [*M[:nu], m])
        return as_value(lanes, nu, M, m, S, value.saved + lower)

    def cells_back(k: Any) -> list[Cells]:
        return [weight.row(k), rate.row(k), slope.row(k), free.row(k), *BA.all_rows(k)]

    value = each_stage(lanes, range(N - 1, -1, -1), cells_back, backward, no_value(lanes, nu, nx))
    store(lanes, [saved.row(0)], [[value.saved]])

    def cells_ahead(k: Any) -> list[Cells]:
        return [rate.row(k), t.row(k), *T.all_rows(k), *BA.all_rows(k)]

    def ahead(k: Any, rows: list[Row], before: Row) -> Row:
        S, m, *rows = rows
        _, after = forward(lanes, nu, before, rows[nu:], rows[:nu], m, S)
        store(lanes, [step.row(k)], [after])
        return after

    start = [jnp.zeros(WARP, jnp.float32)] * lanes.chunks(nx + nu)
    each_stage(lanes, range(N), cells_ahead, ahead, start)
