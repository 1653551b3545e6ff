"""The recursions of `pimpc.riccati` inside a warp, one stage at a time (see `pimpc.lanes`).

The columns of all matrices are the nu inputs and then the nx states. What stays of a stage is its swept Hessian: with H
the Hessian in the inputs and G its block with the states, of which F − GᵀH⁻¹G is left,

    T = [[−H⁻¹, H⁻¹G], [GᵀH⁻¹, F − GᵀH⁻¹G]],

which gives the value of the stage before, and whose first rows serve both directions of a solve. A linear term rides
along as one more row, which the sweep turns into [H⁻¹g, …]. Registers have no index: in a loop over rows it is always
the first that is worked on, and the rows go round. Written out, the code would be longer than the processor's caches.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pimpc.lanes import Lanes, Row, add, add_scaled

Swept = tuple[list[Row], Row, Array]  # Hessian, linear term, by how much the minimum is lower


class Outer(NamedTuple):
    """A row g of the inputs."""

    row: Row
    columns: range  # where it may be other than zero


class Value(NamedTuple):
    """A quadratic in the input and the state before a stage, (du_{k−1}, dx_k)."""

    P: list[Row]
    p: Row
    saved: Array  # (32,), by how much the minimization behind lowers the objective


def no_value(lanes: Lanes, nu: int, nx: int) -> Value:
    """The value after the last stage."""
    zero = jnp.zeros(32, jnp.float32)
    inputs, columns = lanes.chunks(nu), lanes.chunks(nu + nx)
    return Value([[zero] * (inputs if i < nu else columns) for i in range(nu + nx)], [zero] * columns, zero)


def before_inputs(
    lanes: Lanes, nu: int, value: Value, BA: list[Row], weight: Row, slope: Row, outer: list[Outer], force: list[Array]
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
    zero = jnp.zeros(32, jnp.float32)

    def on_inputs(row: Row) -> Row:
        return [jnp.where(here, v, 0.0) for here, v in zip(inputs, row, strict=False)]

    def add_diagonal(row: Row, i: int) -> Row:
        at = i // lanes.width
        return [v + jnp.where(lanes.column(c) == i, weight[c], 0.0) if c == at else v for c, v in enumerate(row)]

    P_uu = [add_diagonal(on_inputs(row), i) for i, row in enumerate(value.P[:nu])]
    P_xx = symmetric(lanes, nu, [add_diagonal(row, nu + i) for i, row in enumerate(value.P[nu:])])
    p = [v + jnp.where(here, 0.0, s) for here, v, s in zip(inputs, value.p, slope, strict=True)]
    m = [jnp.where(here, v + s, 0.0) for here, v, s in zip(inputs, p, slope, strict=True)]
    for j in range(nx):
        m = add_scaled(m, lanes.spread(p, nu + j), BA[j])
    for (row, columns), d in zip(outer, force, strict=True):
        scaled = [d * v for v in row]
        P_uu = [add_scaled(M, lanes.spread(row, i), scaled) if i in columns else M for i, M in enumerate(P_uu)]
    M = [row + [zero] * (len(inputs) - len(row)) for row in P_uu] + [[zero] * len(inputs)] * nx

    def add_state(_: Any, carry: tuple[list[Row], list[Row], list[Row]]) -> tuple[list[Row], list[Row], list[Row]]:
        """Adds what the first state contributes, and lets the states go round."""
        M, (row, *P_xx), (ba, *others) = carry
        PBA = on_inputs(row)
        for j in range(nx):
            PBA = add_scaled(PBA, lanes.spread(row, nu + j), BA[j])
        M = [add_scaled(v, lanes.spread(row, i), ba) for i, v in enumerate(M[:nu])] + M[nu:]
        return [add_scaled(v, lanes.spread(ba, i), PBA) for i, v in enumerate(M)], [*P_xx, row], [*others, ba]

    # Going round costs a copy of every row; three states to a turn are a third of them.
    turn = next(count for count in (3, 2, 1) if nx % count == 0)

    def add_states(i: Any, carry: Any) -> Any:
        for _ in range(turn):
            carry = add_state(i, carry)
        return carry

    M, _, _ = jax.lax.fori_loop(0, nx // turn, add_states, (M, P_xx, BA))
    return M, m


def symmetric(lanes: Lanes, nu: int, P: list[Row]) -> list[Row]:
    """The states' rows, their block of the states taken from the half above its diagonal.

    Rounding's other part would grow from stage to stage.
    """
    result = []
    for i, row in enumerate(P):
        row = list(row)
        for j in range(i):
            at = (nu + j) // lanes.width
            row[at] = jnp.where(lanes.column(at) == nu + j, lanes.spread(P[j], nu + i), row[at])
        result.append(row)
    return result


def sweep(lanes: Lanes, nu: int, M: list[Row], m: Row, free: Row) -> Swept:
    """Sweeps the free inputs (Goodnight 1979)."""
    saved = jnp.zeros(32, jnp.float32)
    for chunk in range(lanes.chunks(nu)):
        first = chunk * lanes.width
        count = min(nu - first, lanes.width)

        def pivot(j: Array, carry: Swept, chunk: int = chunk, first: int = first, count: int = count) -> Swept:
            M, m, saved = carry
            here = lanes.lane == j
            row = M[first]
            size = lanes.pick(row[chunk], j)
            # A Hessian that is not positive definite must not pass for one.
            root = jnp.where(lanes.pick(free[chunk], j) > 0, jax.lax.rsqrt(jnp.where(size > 0, size, jnp.nan)), 0.0)
            line = [v * root for v in row]
            update = [jnp.where(here, root, -v) if c == chunk else -v for c, v in enumerate(line)]

            def eliminate(row: Row, factor: Array) -> Row:
                cleared = [jnp.where(here, 0.0, v) if c == chunk else v for c, v in enumerate(row)]
                return add_scaled(cleared, factor, update)

            own = lanes.pick(m[chunk], j) * root
            others = []
            for i in range(first + 1, first + count):
                place = j + (i - first)
                if count < lanes.width:
                    place = jnp.where(place < count, place, place - count)
                others.append(eliminate(M[i], lanes.pick(line[chunk], place)))
            before = [eliminate(M[i], lanes.spread(line, i)) for i in range(first)]
            after = [eliminate(M[i], lanes.spread(line, i)) for i in range(first + count, len(M))]
            return [*before, *others, [-root * v for v in update], *after], eliminate(m, own), saved + 0.5 * own * own

        M, m, saved = jax.lax.fori_loop(0, count, pivot, (M, m, saved))
    return M, m, saved


def as_value(lanes: Lanes, nu: int, T: list[Row], t: Row, rate: Row, saved: Array) -> Value:
    """The value before a stage from its swept Hessian, with `rate` the diagonal of S_k on the inputs.

    Of the inputs' rows only their own columns are kept.
    """
    inputs = lanes.chunks(nu)
    scale = [jnp.where(lanes.column(c) < nu, s, 1.0) for c, s in enumerate(rate)]
    P = []
    for i, row in enumerate(T):
        new = [s * v for s, v in zip(scale, row[:inputs] if i < nu else row, strict=False)]
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
        T: The first nu rows of the swept Hessian.
        t: The swept linear term, of which only the columns of the inputs are read.
        rate: The diagonal of S_k, zero on the states.

    Returns:
        du_k with zeros on the states, and (du_k, dx_{k+1}).
    """
    pulled = [jnp.where(lanes.column(c) < nu, s * v, v) for c, (s, v) in enumerate(zip(rate, before, strict=True))]
    u = [-(v + w) for v, w in zip(t, lanes.dots(T, pulled), strict=False)]
    u = [jnp.where(lanes.column(c) < nu, v, 0.0) for c, v in enumerate(u)]
    state = [jnp.where(lanes.column(c) < nu, 0.0, v) for c, v in enumerate(before)]
    return u, add(u, lanes.dots(BA, add(u, state), first=nu))
