"""Roll-outs as one GPU kernel, where XLA launches a few for every stage, or as an associative scan."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pimpc import problem as plain
from pimpc.batching import on_batches
from pimpc.dense import dot
from pimpc.lanes import WARP, Lanes, Row, Table, add, each_stage, load, pack, store, unpack
from pimpc.problem import LTVProblem
from pimpc.riccati import Kernels, choose
from pimpc.riccati_gpu import launch, width
from pimpc.riccati_parallel import recur


def roll_out(problem: LTVProblem, u: Float[Array, "N nu"], kernels: Kernels = "auto") -> Float[Array, "T nx"]:
    """As `pimpc.problem.roll_out`, computed as `InteriorPoint.kernels` says; the kernel is not differentiable."""

    def by_kernel() -> Array:
        return on_batches(lambda data: batch(*data))((problem.A, problem.x0, plain.drive(problem, u)))

    if kernels == "parallel":
        drive = plain.drive(problem, u)
        drive = drive.at[0].add(dot(problem.A[0], problem.x0))
        return jnp.concatenate([problem.x0[None], recur(problem.A, drive)])
    fits = u.dtype == jnp.float32 and problem.x0.shape[-1] <= WARP
    return choose(kernels, fits, by_kernel, lambda: plain.roll_out(problem, u))


def batch(
    A: Float[Array, "batch N nx nx"],
    x0: Float[Array, "batch nx"],
    drive: Float[Array, "batch N nx"],
    interpret: bool = False,
) -> Float[Array, "batch T nx"]:
    """The states x_0 … x_N with x_{k+1} = A_k x_k + drive_k, for a batch."""
    lanes = Lanes(width(A.shape[-1], len(A)), interpret)
    reads = [pack(lanes, v) for v in (A, drive[:, :, None], x0[:, None, None])]
    shape = A.shape[1], 1, lanes.chunks(A.shape[-1])
    [x] = launch(_roll_out, lanes, "roll_out", reads, [], [shape])
    return jnp.concatenate([x0[:, None], unpack(lanes, x, *x0.shape)[:, :, 0]], axis=1)


def _roll_out(A: Table, drive: Table, x0: Table, x: Table) -> None:
    lanes = A.lanes

    def stage(k: Array, rows: list[Row], before: Row) -> Row:
        *A_k, push = rows
        after = add(lanes.dots(A_k, before), push)
        store(lanes, [x.row(k)], [after])
        return after

    [start] = load(lanes, [x0.row(0)])
    each_stage(lanes, range(A.stages), lambda k: [*A.all_rows(k), drive.row(k)], stage, start)
