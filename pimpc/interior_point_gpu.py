"""The iterations of `pimpc.interior_point` on a GPU: what the kernel of `pimpc.interior_point_warp` works on."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc import riccati_gpu
from pimpc.batching import on_batches
from pimpc.constraints import flatten, unflatten
from pimpc.interior_point_tables import Shape, Status, Tables
from pimpc.interior_point_warp import iterate
from pimpc.lanes import Lanes, Table, pack, unpack
from pimpc.problem import LTVProblem, Structure, bounds_inputs
from pimpc.residuals import Multipliers, fixed_inputs
from pimpc.riccati_gpu import launch, width

Flat = Float[Array, " M"]


class Start(NamedTuple):
    """Where the iterations start, for one problem, in the flat order of `pimpc.constraints`."""

    x: Float[Array, "T nx"]
    u: Float[Array, "N nu"]
    slack: tuple[Flat, Flat]  # to the lower and to the upper bounds, 1 where there is none
    force: tuple[Flat, Flat]  # 0 where there is no bound
    limit: tuple[Flat, Flat]  # the bounds, infinite where there is none
    delta: Flat
    unbalanced: Float[Array, ""]
    smallest: Float[Array, ""]  # input that counts
    running: Bool[Array, ""]


class End(NamedTuple):
    """Where they ended."""

    x: Float[Array, "T nx"]
    u: Float[Array, "N nu"]
    slack: tuple[Flat, Flat]
    force: tuple[Flat, Flat]
    change: tuple[Flat, Flat]  # the last step of the forces
    iterations: Float[Array, ""]


class _Sides(NamedTuple):
    """Numbers of all sides, stage by stage."""

    below: Float[Array, "N nb"]
    above: Float[Array, "N nb"]
    rows: Float[Array, "N m"]


class _Packed(NamedTuple):
    """The kernel's arrays before their columns are filled up."""

    BA: Float[Array, "N nx n"]
    cost: Float[Array, "N 4 n"]
    G: Float[Array, "N lines nu"]  # rows of different blocks side by side
    limit: _Sides
    delta: _Sides
    slack: _Sides
    force: _Sides
    point: Float[Array, "T n"]
    at: Float[Array, "N m"]
    status: Float[Array, " 7"]


def fits(problem: LTVProblem) -> bool:
    """Whether the kernels can take a problem, as far as its shapes and types tell.

    States with bounds on both sides are left to XLA: where these coincide, they are equations.
    """
    equations = problem.x_min is not None and problem.x_max is not None
    return riccati_gpu.fits(problem.B, problem.Q, problem.R, problem.S) and not equations


def run(
    problem: LTVProblem, start: Start, max_iterations: int, tolerance: float, boundary: float, interpret: bool = False
) -> End:
    """Iterates on one problem; batches by `jax.vmap`.

    Args:
        problem: The problem.
        start: Where to start.
        max_iterations: As in `InteriorPoint`.
        tolerance: As in `InteriorPoint`.
        boundary: As in `InteriorPoint`.
        interpret: Run the kernel's operations one by one, on any device (for tests).

    Returns:
        The last iterate.
    """
    nx, nu = problem.B.shape[1:]
    bounded = nu * bounds_inputs(problem)
    bounded = nu + nx if problem.x_min is not None or problem.x_max is not None else bounded
    shape = Shape(nu, bounded, max_iterations, tolerance, boundary, problem.structure.blocks)
    work = on_batches(functools.partial(_run, shape, interpret))
    point, slack, force, change, iterations = work(_pack(problem, shape, start))
    flat = functools.partial(_flat, problem, shape)
    return End(point[:, nu:], point[1:, :nu], flat(slack), flat(force), flat(change), iterations)


def _sides(problem: LTVProblem, shape: Shape, below: Flat, above: Flat, missing: float) -> _Sides:
    """Numbers of the lower and of the upper bounds, from the flat order."""
    parts = [unflatten(problem, flat) for flat in (below, above)]

    def columns(part: Multipliers) -> Array:
        inputs = jnp.full_like(problem.u_ref, missing) if part.inputs is None else part.inputs
        both = inputs if part.states is None else jnp.concatenate([inputs, part.states], axis=1)
        return both[:, : shape.bounded]

    none = jnp.full(
        (problem.u_ref.shape[0], 1), missing, problem.u_ref.dtype
    )  # there is always one row, if only in vain
    return _Sides(columns(parts[0]), columns(parts[1]), none if parts[1].rows is None else parts[1].rows)


def _flat(problem: LTVProblem, shape: Shape, of: _Sides) -> tuple[Flat, Flat]:
    """The inverse of `_sides`."""

    def one(columns: Array, rows: Array) -> Flat:
        inputs = columns[:, : shape.nu] if bounds_inputs(problem) else None
        states = None if shape.bounded <= shape.nu else columns[:, shape.nu :]
        return flatten(problem, Multipliers(None if problem.G is None else rows, inputs, states))

    return one(of.below, jnp.zeros_like(of.rows)), one(of.above, of.rows)


def _pack(problem: LTVProblem, shape: Shape, start: Start) -> _Packed:
    """Puts a problem and its start side by side."""
    none = jnp.zeros_like(problem.x_ref)
    G = jnp.zeros_like(problem.u_ref)[:, None] if problem.G is None else problem.G
    limit = _sides(problem, shape, -start.limit[0], start.limit[1], jnp.inf)
    count = sum(jnp.sum(v < jnp.inf, dtype=G.dtype) for v in limit)
    costs = [(problem.R, problem.Q), (problem.u_ref, problem.x_ref), (problem.S, none)]
    costs = [jnp.concatenate(pair, axis=1) for pair in (*costs, (1.0 - fixed_inputs(problem), none))]
    ahead = jnp.concatenate([problem.u_prev[None], start.u])
    zero = jnp.zeros((), G.dtype)
    status = Status(start.running, zero, start.unbalanced, jnp.maximum(count, 1), start.smallest, zero, zero)
    return _Packed(
        BA=jnp.concatenate([problem.B, problem.A], axis=2),
        cost=jnp.stack(costs, axis=1),
        G=_fold(G, problem.structure),
        limit=limit,
        delta=_sides(problem, shape, start.delta, start.delta, 0.0),
        slack=_sides(problem, shape, *start.slack, 1.0),
        force=_sides(problem, shape, *start.force, 0.0),
        point=jnp.concatenate([ahead, start.x], axis=1),
        at=jnp.einsum("kij,kj->ki", G, start.u, precision=jax.lax.Precision.HIGHEST),
        status=jnp.stack(status).astype(G.dtype),
    )


def _fold(G: Float[Array, "N m nu"], structure: Structure) -> Float[Array, "N lines nu"]:
    """Puts the blocks of G side by side, without the zeros around them."""
    if structure.blocks is None:
        return G
    parts = [G[:, rows, columns] for rows, columns in structure.places()]
    most = max(part.shape[1] for part in parts)
    return jnp.concatenate([jnp.pad(v, [(0, 0), (0, most - v.shape[1]), (0, 0)]) for v in parts], axis=2)


def _run(shape: Shape, interpret: bool, packed: _Packed) -> tuple[Array, _Sides, _Sides, _Sides, Array]:
    """Runs the kernel on a batch until all problems are finished."""
    batch, N, _, n = packed.BA.shape
    m = packed.at.shape[-1]
    lanes = Lanes(width(n, batch), interpret)
    below, above, inputs = lanes.padded(shape.bounded), 2 * lanes.padded(shape.bounded), lanes.chunks(shape.nu)

    def side_by_side(by: float, *of: _Sides) -> Array:
        def line(sides: _Sides) -> Array:
            parts = [jnp.pad(v, [(0, 0)] * 2 + [(0, below - shape.bounded)], constant_values=by) for v in sides[:2]]
            return jnp.concatenate([*parts, sides.rows], axis=-1)

        return jnp.stack([line(sides) for sides in of], axis=2)

    def apart(joined: Array) -> _Sides:
        joined = unpack(lanes, joined, batch, above + m)[:, :, 0]
        parts = joined[..., : shape.bounded], joined[..., below : below + shape.bounded], joined[..., above:]
        return _Sides(*parts)

    tables = {
        "BA": packed.BA,
        "cost": packed.cost,
        "G": packed.G,
        "limit": side_by_side(jnp.inf, packed.limit),
        "delta": side_by_side(0.0, packed.delta),
        "slack": side_by_side(1.0, packed.slack),
        "force": side_by_side(0.0, packed.force),
        "point": packed.point[:, :, None],
        "at": packed.at[:, :, None],
        "status": jnp.broadcast_to(packed.status[:, None, :, None], (batch, 1, len(Status._fields), lanes.width)),
    }
    fills = {"limit": jnp.inf, "slack": 1.0}
    tables = {name: pack(lanes, value, fills.get(name, 0.0)) for name, value in tables.items()}
    tables["change"] = jnp.zeros_like(tables["limit"])
    columns = lanes.chunks(n)
    shapes = {"T": (N, shape.nu, columns), "t": (N, 1, inputs), "t_more": (N, 1, inputs)}
    shapes |= {"pulled": (N, 2, lanes.chunks(max(shape.nu, shape.bounded)))}
    shapes |= {"move": (N, 1, columns), "climb": (N, 1, lanes.chunks(m)), "size": (1, 1, lanes.chunks(m))}
    updates, writes = ("point", "slack", "force", "at", "status", "change"), tuple(shapes)
    reads = tuple(name for name in tables if name not in updates)
    names = reads + updates + writes

    def on_tables(*of: Table) -> None:
        given = dict(zip(names, of, strict=True))
        iterate(shape, Tables(*(given[name] for name in Tables._fields)))

    arrays = [tables[name] for name in reads], [tables[name] for name in updates], list(shapes.values())
    end = dict(zip(updates, launch(on_tables, lanes, "interior_point", *arrays), strict=False))
    point = unpack(lanes, end["point"], batch, n)[:, :, 0]
    iterations = unpack(lanes, end["status"], batch, 1)[:, 0, 1, 0]
    return point, apart(end["slack"]), apart(end["force"]), apart(end["change"]), iterations
