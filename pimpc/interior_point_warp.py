"""All iterations of `pimpc.interior_point` as one GPU kernel, in five passes over the stages each (see `pimpc.lanes`).

Back with the Hessians and the predictor's gradient, forth with its step, back with what the corrector's gradient adds,
forth with the whole step, and once more to move and to measure. All bounds are treated alike as C (u_k, x_{k+1}) ≤
limit: the lower bounds negated, the upper ones, the rows of G. A warp iterates until its last problem is finished.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pimpc.interior_point_tables import (
    Shape,
    Sides,
    Status,
    Tables,
    barrier_cells,
    pull,
    read_status,
    sides,
    unfold,
    values,
    write_status,
)
from pimpc.lanes import WARP, Cells, Row, add, each_stage, load, store
from pimpc.riccati_warp import Value, as_value, before_inputs, forward, linear_before, no_value, sweep


def factorize(shape: Shape, of: Tables) -> None:
    """Back over the stages: Hessians with the barrier's stiffness, and the predictor's gradient."""
    lanes, nu, nx = of.BA.lanes, shape.nu, of.BA.rows

    def cells(k: Any) -> list[Cells]:
        here = [*of.cost.all_rows(k), *barrier_cells(of, k), of.at.row(k), of.point.row(k), of.point.row(k + 1)]
        return [*here, *of.BA.all_rows(k), *of.G.all_rows(k)]

    def stage(k: Any, rows: list[Row], carry: tuple[Value, Row]) -> tuple[Value, Row]:
        value, next_rate = carry
        (weight, reference, rate, free), at, before, point = rows[:4], *rows[8:11]
        BA, G = rows[11 : 11 + nx], unfold(shape, lanes, rows[11 + nx :])
        side = sides(shape, lanes, rows[4:6], rows[6:8], point, at)
        stiffness = [z * y for z, y in zip(side.z, side.yields, strict=True)]
        push = [z + d * (o - s) for z, d, o, s in zip(side.z, stiffness, side.off, side.s, strict=True)]
        rates = [w * (a - b) for w, a, b in zip(rate, point, before, strict=True)]
        slope = [w * (v - r) + a - b for w, v, r, a, b in zip(weight, point, reference, rates, next_rate, strict=True)]
        slope = add(slope, pull(shape, lanes, push, G))
        chunks = lanes.chunks(shape.bounded)
        stiff = add(add(weight, rate), add(stiffness[:chunks], stiffness[chunks : 2 * chunks]))
        force = [lanes.spread(stiffness[2 * chunks :], r) for r in range(len(G))]
        M, m = before_inputs(lanes, nu, value, BA, stiff, slope, G, force)
        M, m, saved = sweep(lanes, nu, M, m, free)
        store(lanes, [*of.T.all_rows(k), of.t.row(k)], [*M[:nu], m])
        return as_value(lanes, nu, M, m, rate, saved), rates

    zeros = [jnp.zeros(WARP, jnp.float32)] * lanes.chunks(nu + nx)
    start = no_value(lanes, nu, nx), zeros
    # Few lanes to a problem have no registers left for the next stage.
    each_stage(lanes, range(of.BA.stages - 1, -1, -1), cells, stage, start, early=lanes.width > 8)


def predict(shape: Shape, of: Tables) -> None:
    """Forth over the stages: the predictor's step, the centre that it suggests, and what the corrector needs of G."""
    status = read_status(of)
    reach, sums = _step(shape, of, status, corrector=False)
    reach = jnp.minimum(1.0, reach)
    mu = sums[0] / status.count
    ahead = (sums[0] + reach * (sums[1] + reach * sums[2])) / status.count
    ratio = ahead / jnp.where(mu > 0, mu, 1.0)
    write_status(of.status, status._replace(centre=mu * ratio * ratio * ratio))


def step(shape: Shape, of: Tables) -> None:
    """Forth over the stages: the whole step, and how much of it is to be taken."""
    status = read_status(of)
    reach, sums = _step(shape, of, status, corrector=True)
    sound = jnp.abs(sums[1] + sums[2]) < jnp.inf  # what is not a number may get lost in a maximum, but not in a sum
    share = jnp.where((status.running > 0) & sound, jnp.minimum(1.0, shape.boundary * reach), 0.0)
    write_status(of.status, status._replace(step=share))


def _step(shape: Shape, of: Tables, status: Status, corrector: bool) -> tuple[Array, list[Array]]:
    """The step, how often it fits before a bound, and the sums of s z, s dz + z ds, ds dz."""
    lanes, nu, nx = of.BA.lanes, shape.nu, of.BA.rows

    def cells(k: Any) -> list[Cells]:
        here = [of.cost.row(k, 2), *barrier_cells(of, k), of.at.row(k), of.point.row(k + 1)]
        here += [of.t.row(k), *of.T.all_rows(k), *of.BA.all_rows(k), *of.G.all_rows(k)]
        return here + ([of.t_more.row(k), of.change.row(k)] if corrector else [])

    def stage(k: Any, rows: list[Row], carry: Any) -> Any:
        before, steepest, sums, size = carry
        rate, at, point, t = rows[0], *rows[5:8]
        T, BA, rows_G, extra = rows[8 : 8 + nu], rows[8 + nu : 8 + nu + nx], rows[8 + nu + nx :], []
        if corrector:
            *rows_G, t_more, extra = rows_G
            t = add(t, t_more)
        G = unfold(shape, lanes, rows_G)
        side = sides(shape, lanes, rows[1:3], rows[3:5], point, at)
        u, after = forward(lanes, nu, before, BA, T, t, rate)
        climb = lanes.dots([g.row for g in G], u)
        toward = values(shape, lanes, after, climb)
        product = [s * z for s, z in zip(side.s, side.z, strict=True)]
        aim = [p + e - status.centre for p, e in zip(product, extra, strict=True)] if corrector else product
        dz, ds = [], []
        for c, has in enumerate(side.has):
            miss = side.off[c] + toward[c]
            dz.append(jnp.where(has, (side.z[c] * miss - aim[c]) * side.yields[c], 0.0))
            ds.append(jnp.where(has, side.delta[c] * dz[c] - miss, 0.0))
            slope = jnp.maximum(-ds[c] / side.s[c], -dz[c] / jnp.where(has, side.z[c], 1.0))
            steepest = jnp.maximum(steepest, slope)
            sums = [
                sums[0] + jnp.where(has, product[c], 0.0),
                sums[1] + side.s[c] * dz[c] + side.z[c] * ds[c],
                sums[2] + ds[c] * dz[c],
            ]
        if corrector:
            store(lanes, [of.change.row(k), of.move.row(k), of.climb.row(k)], [dz, after, climb])
            return after, steepest, sums, size
        change = [a * b for a, b in zip(ds, dz, strict=True)]
        pulled = [pull(shape, lanes, push, G) for push in _second_order(side, change)]
        store(lanes, [of.change.row(k), *of.pulled.all_rows(k)], [change, *pulled])
        reach = [jnp.maximum(jnp.abs(v), status.least) for v in point]
        reach = lanes.dots([[jnp.abs(v) for v in g.row] for g in G], reach)
        return after, steepest, sums, [jnp.maximum(a, b) for a, b in zip(size, reach, strict=True)]

    zero = jnp.zeros(WARP, jnp.float32)
    size = [] if corrector else [zero] * of.size.chunks
    start = [zero] * lanes.chunks(nu + nx), zero, [zero, zero, zero], size
    _, steepest, sums, size = each_stage(lanes, range(of.BA.stages), cells, stage, start)
    if not corrector:
        store(lanes, [of.size.row(0)], [size])
    return 1.0 / lanes.reduce(jnp.maximum, steepest), [lanes.reduce(jnp.add, v) for v in sums]


def _second_order(side: Sides, change: Row) -> tuple[Row, Row]:
    """What pushes on the sides for a centre of one, and what does without a centre, because of ds dz."""
    per_centre = [jnp.where(h, y, 0.0) for h, y in zip(side.has, side.yields, strict=True)]
    return per_centre, [-c * y for c, y in zip(change, per_centre, strict=True)]


def correct(shape: Shape, of: Tables) -> None:
    """Back over the stages: what the second-order term and the centre add to the gradient."""
    lanes, nu, nx = of.BA.lanes, shape.nu, of.BA.rows
    centre = read_status(of).centre

    def cells(k: Any) -> list[Cells]:
        return [of.cost.row(k, 2), *of.pulled.all_rows(k), *of.T.all_rows(k), *of.BA.all_rows(k)]

    def stage(k: Any, rows: list[Row], p: Row) -> Row:
        rate, per_centre, rest = rows[:3]
        pulled = [centre * a + b for a, b in zip(per_centre, rest, strict=True)]
        p, t = linear_before(lanes, nu, p, rows[3 + nu :], rows[3 : 3 + nu], rate, pulled)
        store(lanes, [of.t_more.row(k)], [t])
        return p

    start = [jnp.zeros(WARP, jnp.float32)] * lanes.chunks(nu + nx)
    each_stage(lanes, range(of.BA.stages - 1, -1, -1), cells, stage, start)


class _Measures(NamedTuple):
    """What the stages add to the measures of an iterate, lane by lane."""

    gap: Array
    cost: Array
    terms: Array
    excess: Row  # of each side, the largest so far
    size: Row  # of what each side bounds


def move(shape: Shape, of: Tables) -> None:
    """Takes the step, and finds out whether the new iterate is good enough."""
    lanes = of.cost.lanes
    status = read_status(of)
    step, least = status.step, status.least

    def cells(k: Any) -> list[Cells]:
        here = [*of.cost.all_rows(k), *barrier_cells(of, k), of.at.row(k), of.point.row(k + 1)]
        return [*here, of.change.row(k), of.move.row(k), of.climb.row(k)]

    def stage(k: Any, rows: list[Row], carry: tuple[Row, _Measures]) -> tuple[Row, _Measures]:
        before, so_far = carry
        (weight, reference, rate, _), at, point, dz, move, climb = rows[:4], *rows[8:13]
        side = sides(shape, lanes, rows[4:6], rows[6:8], point, at)
        toward = values(shape, lanes, move, climb)
        ds = [
            jnp.where(h, d * f - o - t, 0.0)
            for h, d, f, o, t in zip(side.has, side.delta, dz, side.off, toward, strict=True)
        ]

        def moved(row: Row, by: Row) -> Row:
            # A finished problem stays what it is, whatever its last lanes computed.
            return [jnp.where(step > 0, v + step * d, v) for v, d in zip(row, by, strict=True)]

        s, z, at, point = moved(side.s, ds), moved(side.z, dz), moved(at, climb), moved(point, move)
        store(lanes, [of.slack.row(k), of.force.row(k), of.at.row(k), of.point.row(k + 1)], [s, z, at, point])
        bounded = [jnp.maximum(jnp.abs(v), least) for v in point[: lanes.chunks(shape.bounded)]]
        limit = rows[4]
        gap, excess, size = so_far.gap, [], []
        for c, (value, reach) in enumerate(
            zip(values(shape, lanes, point, at), bounded + bounded + rows_size, strict=True)
        ):
            over = jnp.where(side.has[c], value - limit[c], 0.0)
            gap = gap + z[c] * jnp.abs(over)
            bound = jnp.where(side.has[c], jnp.abs(limit[c]), 0.0)
            excess.append(jnp.maximum(so_far.excess[c], over))
            size.append(jnp.maximum(so_far.size[c], jnp.maximum(reach, bound)))
        cost, terms = so_far.cost, so_far.terms
        for w, v, r, rw, b in zip(weight, point, reference, rate, before, strict=True):
            cost = cost + 0.5 * (w * (v - r) * (v - r) + rw * (v - b) * (v - b))
            terms = terms + w * (v * v + r * r)
        return point, _Measures(gap, cost, terms, excess, size)

    zero, count = jnp.zeros(WARP, jnp.float32), of.limit.chunks
    first, rows_size = load(lanes, [of.point.row(0), of.size.row(0)])
    start = first, _Measures(zero, zero, zero, [zero] * count, [zero] * count)
    _, total = each_stage(lanes, range(of.cost.stages), cells, stage, start)
    worst = zero
    for excess, size in zip(total.excess, total.size, strict=True):
        worst = jnp.maximum(worst, excess / jnp.maximum(size, 1e-30))
    worst = lanes.reduce(jnp.maximum, worst)
    gap, cost, terms = (lanes.reduce(jnp.add, v) for v in (total.gap, total.cost, total.terms))
    scale = jnp.maximum(cost, 100 * jnp.finfo(jnp.float32).eps * terms + 1e-30)
    unbalanced = (1 - step) * (1 - step) * status.unbalanced
    good = ((gap + unbalanced) <= 0.5 * shape.tolerance * scale) & (worst <= 0.5 * shape.tolerance)
    iterations = status.iterations + status.running
    goes_on = ~good & ((scale + gap) < jnp.inf) & (step > 0) & (iterations < shape.max_iterations)
    running = jnp.where(goes_on, status.running, 0.0)
    write_status(of.status, status._replace(running=running, iterations=iterations, unbalanced=unbalanced))


def iterate(shape: Shape, of: Tables) -> None:
    """Iterates until all problems of a warp are finished."""

    def at(warp: Array) -> Tables:
        return Tables(*(dataclasses.replace(table, warp=warp) for table in of))

    def running(of: Tables) -> Array:
        # As integers: the hardware's own reduction, which is known to be the same in all lanes.
        return jnp.max(read_status(of).running.astype(jnp.int32))

    def turn(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        going, warp = carry
        here = at(warp)
        for kernel in (factorize, predict, correct, step, move):
            kernel(shape, here)
        # What looks as if it changed keeps the compiler from computing every address before the loop: too many to hold.
        return running(here), warp + going // 2

    jax.lax.while_loop(lambda carry: carry[0] > 0, turn, (running(of), of.BA.warp))
