"""The recursions of `pimpc.riccati` inside a warp, one stage at a time (see `pimpc.lanes`).

The columns of all matrices are the nu inputs and then the nx states. What stays of a stage is its swept Hessian: with H
the Hessian in the inputs and G its block with the states, of which F − GᵀH⁻¹G is left,

    T = [[−H⁻¹, H⁻¹G], [GᵀH⁻¹, F − GᵀH⁻¹G]],

so that one table gives the value of the stage before and, row by row, both directions of a solve. A linear term rides
along as one more row, which the sweep turns into [H⁻¹g, …].
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from pimpc.lanes import Lanes, Row, add, add_scaled


class Value(NamedTuple):
    """A quadratic in the input and the state before a stage, (du_{k−1}, dx_k)."""

    P: list[Row]
    p: Row
    saved: Array  # (32,), by how much the minimization behind lowers the objective


def no_value(lanes: Lanes, nu: int, nx: int) -> Value:
    """The value after the last stage."""
    zero = jnp.zeros(32, jnp.float32)
    row = [zero] * lanes.chunks(nu + nx)
    return Value([list(row) for _ in range(nu + nx)], list(row), zero)


def before_inputs(
    lanes: Lanes, nu: int, value: Value, BA: list[Row], weight: Row, slope: Row, outer: list[Row], force: list[Array]
) -> tuple[list[Row], Row]:
    """The Hessian and the linear term of a stage in (du_k, dx_k).

    Args:
        lanes: How a warp is shared.
        nu: Number of inputs.
        value: Of the next stage.
        BA: The rows of [B_k, A_k].
        weight: Diagonal of the stage's own Hessian in (du_k, dx_{k+1}).
        slope: The linear term in (du_k, dx_{k+1}).
        outer: Rows g_i of terms ½ d_i (g_i du_k)².
        force: Their d_i.

    Returns:
        Rows of the Hessian, and the linear term.
    """
    nx, n = len(BA), nu + len(BA)
    inputs = [lanes.column(c) < nu for c in range(lanes.chunks(n))]

    def on_inputs(row: Row) -> Row:
        return [jnp.where(here, v, 0.0) for here, v in zip(inputs, row, strict=True)]

    def add_diagonal(row: Row, i: int) -> Row:
        at = i // lanes.width
        return [v + jnp.where(lanes.column(c) == i, weight[c], 0.0) if c == at else v for c, v in enumerate(row)]

    P = [add_diagonal(row, i) if i >= nu else row for i, row in enumerate(value.P)]
    p = [v + jnp.where(here, 0.0, s) for here, v, s in zip(inputs, value.p, slope, strict=True)]
    # P is taken for symmetric from the half above its diagonal; rounding's other part would grow from stage to stage.
    P_xx = {(i, j): lanes.spread(P[i], j) for i in range(nu, n) for j in range(i, n)}
    PBA = []
    for i in range(nu, n):
        row = on_inputs(P[i])
        for j in range(nx):
            row = add_scaled(row, P_xx[min(i, nu + j), max(i, nu + j)], BA[j])
        PBA.append(row)
    M = []
    for i in range(nu):
        row = on_inputs(P[i])
        for j in range(nx):
            row = add_scaled(row, lanes.spread(P[nu + j], i), BA[j])
        M.append(add_diagonal(row, i))
    M += [[jnp.zeros(32, jnp.float32)] * len(inputs)] * nx
    for j in range(nx):
        M = [add_scaled(row, lanes.spread(BA[j], i), PBA[j]) for i, row in enumerate(M)]
    m = [jnp.where(here, v + s, 0.0) for here, v, s in zip(inputs, p, slope, strict=True)]
    for j in range(nx):
        m = add_scaled(m, lanes.spread(p, nu + j), BA[j])
    for row, d in zip(outer, force, strict=True):
        scaled = [d * v for v in row]
        M = [add_scaled(M[i], lanes.spread(row, i), scaled) for i in range(nu)] + M[nu:]
    return M, m


def sweep(lanes: Lanes, nu: int, M: list[Row], m: Row, free: Row) -> tuple[list[Row], Row, Array]:
    """Sweeps the free inputs (Goodnight 1979): T and the swept linear term, and by how much the minimum is lower."""
    saved = jnp.zeros(32, jnp.float32)
    zero = jnp.zeros(32, jnp.float32)
    for j in range(nu):
        chunk, here = j // lanes.width, lanes.lane == j % lanes.width
        pivot = lanes.spread(M[j], j)
        moves = lanes.spread(free, j) > 0
        # A Hessian that is not positive definite must not pass for one.
        inverse = jnp.where(moves, 1.0 / jnp.where(pivot > 0, pivot, jnp.nan), zero)
        root = jnp.sqrt(inverse)
        line = [v * root for v in M[j]]
        update = [jnp.where(here, -root, v) if c == chunk else v for c, v in enumerate(line)]

        def eliminate(row: Row, factor: Array, chunk: int = chunk, here: Array = here, update: Row = update) -> Row:
            cleared = [jnp.where(here, 0.0, v) if c == chunk else v for c, v in enumerate(row)]
            return add_scaled(cleared, -factor, update)

        own = lanes.spread(m, j) * root
        saved = saved + 0.5 * own * own
        m = eliminate(m, own)
        swept = [eliminate(row, lanes.spread(line, i)) if i != j else row for i, row in enumerate(M)]
        swept[j] = [jnp.where(here, -inverse, v * root) if c == chunk else v * root for c, v in enumerate(line)]
        M = swept
    return M, m, saved


def as_value(lanes: Lanes, nu: int, T: list[Row], t: Row, rate: Row, saved: Array) -> Value:
    """The value before a stage from its swept Hessian, with `rate` the diagonal of S_k on the inputs."""
    scale = [jnp.where(lanes.column(c) < nu, s, 1.0) for c, s in enumerate(rate)]
    P = []
    for i, row in enumerate(T):
        new = [s * v for s, v in zip(scale, row, strict=True)]
        if i < nu:
            own, at = lanes.spread(rate, i), i // lanes.width
            new = [own * v for v in new]
            new[at] = new[at] + jnp.where(lanes.lane == i % lanes.width, rate[at], 0.0)
        P.append(new)
    return Value(P, [s * v for s, v in zip(scale, t, strict=True)], saved)


def linear_before(lanes: Lanes, nu: int, p: Row, BA: list[Row], T: list[Row], rate: Row, slope: Row) -> tuple[Row, Row]:
    """One stage of the backward pass of a linear term alone.

    Args:
        lanes: How a warp is shared.
        nu: Number of inputs.
        p: Linear term of the next stage's value, in (du_k, dx_{k+1}).
        BA: The rows of [B_k, A_k].
        T: The first nu rows of the swept Hessian.
        rate: The diagonal of S_k.
        slope: The linear term in (du_k, dx_{k+1}).

    Returns:
        The linear term of the value before the stage, and the swept one.
    """
    p = add(p, slope)
    inputs = [lanes.column(c) < nu for c in range(len(p))]
    m = [jnp.where(here, v, 0.0) for here, v in zip(inputs, p, strict=True)]
    for j, row in enumerate(BA):
        m = add_scaled(m, lanes.spread(p, nu + j), row)
    t = [jnp.where(here, 0.0, v) for here, v in zip(inputs, m, strict=True)]
    for i, row in enumerate(T):
        t = add_scaled(t, -lanes.spread(m, i), row)
    scale = [jnp.where(here, s, 1.0) for here, s in zip(inputs, rate, strict=True)]
    return [s * v for s, v in zip(scale, t, strict=True)], t


def forward(lanes: Lanes, nu: int, before: Row, BA: list[Row], T: list[Row], t: Row, rate: Row) -> tuple[Row, Row]:
    """One stage of the forward pass.

    Args:
        lanes: How a warp is shared.
        nu: Number of inputs.
        before: (du_{k−1}, dx_k).
        BA: The rows of [B_k, A_k].
        T: The swept Hessian, of which only the columns of the inputs are read.
        t: The swept linear term, likewise.
        rate: The diagonal of S_k, zero on the states.

    Returns:
        du_k with zeros on the states, and (du_k, dx_{k+1}).
    """
    inputs = lanes.chunks(nu)
    pulled = [jnp.where(lanes.column(c) < nu, s * v, v) for c, (s, v) in enumerate(zip(rate, before, strict=True))]
    u = [-v for v in t[:inputs]]
    for i, row in enumerate(T):
        u = add_scaled(u, -lanes.spread(pulled, i), row[:inputs])
    u = [jnp.where(lanes.column(c) < nu, v, 0.0) for c, v in enumerate(u)]
    state = [jnp.where(lanes.column(c) < nu, 0.0, v) for c, v in enumerate(before)]
    return u, add(u, lanes.dots(BA, add(u, state), first=nu))
