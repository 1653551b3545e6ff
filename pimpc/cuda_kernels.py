"""The solver as CUDA kernels: one warp solves one problem from its start to its answer, and judges it.

`pimpc/cuda` has the text, for NVIDIA's run-time compiler, which comes with jax[cuda13]; the sizes and settings of a
problem are written in front of it. jaxlib launches the kernels as it does those of Triton, whose tables it shares with
nobody, hence the text in CUDA C: a warp's tables must stay on the chip.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pimpc.batching import on_shared_batches
from pimpc.cuda_launch import launch
from pimpc.cuda_sizes import FIELDS, Settings, Sizes
from pimpc.problem import LTVProblem, Structure, bounds_inputs

_COLUMNS = 32  # inputs and states together: one for each lane of a warp
_LEFT = -1  # as a number of iterations: the next kernel is to solve it
_DONE = -1  # in place of whether to solve it: there is an answer
_SIDES = 256  # bounds of a stage: eight to a lane, whose numbers are kept in registers

Forces = tuple[Array | None, Array | None, Array | None]  # multipliers of rows, inputs, states; None: no such bounds


class Answer(NamedTuple):
    """What the kernel found for one problem."""

    u: Float[Array, "N nu"]
    forces: Forces
    iterations: Int[Array, ""]
    empty: Bool[Array, ""]  # it is proven that no inputs of comparable size are feasible


class Judgement(NamedTuple):
    """Residuals of one plan, not yet relative to the cost (see `pimpc.residuals`)."""

    primal: Float[Array, ""]
    saved: Float[Array, ""]
    gap: Float[Array, ""]
    scale: Float[Array, ""]


def fits(problem: LTVProblem) -> bool:
    """Whether the kernels can take a problem: float32, diagonal weights, not too many columns or bounds of a stage."""
    nx, nu = problem.B.shape[-2:]
    m = 0 if problem.h is None else problem.h.shape[-1]
    diagonal = all(W.ndim < problem.B.ndim for W in (problem.Q, problem.R, problem.S))
    small = nx + nu <= _COLUMNS and 2 * (nx + nu) + m <= _SIDES
    return problem.B.dtype == jnp.float32 and diagonal and small


def solve(
    problem: LTVProblem,
    give: Float[Array, "N nx"] | None,
    near: tuple[Array, Forces] | None,
    runnable: Bool[Array, ""],
    settings: Settings,
) -> Answer:
    """Solves one problem without a `horizon`; batches by `jax.vmap`.

    Args:
        problem: The problem, of which `fits` is true and whose states are bounded on one side at most.
        give: How far a unit of force moves each state, if states are bounded.
        near: Inputs and multipliers to start from, if any are known.
        runnable: Whether to solve it at all.
        settings: Of the method.
    """
    arrays = _arrays(problem) | ({} if give is None else {"give_x": give})
    u, forces = (None, (None, None, None)) if near is None else near
    work = on_shared_batches(functools.partial(_solve, problem.structure, settings, near is not None))
    found = work((arrays, runnable.astype(jnp.int32), [_filled(v) for v in (u, *forces)]))
    u, rows, inputs, states, iterations, empty = found
    forces = (
        None if problem.h is None else rows,
        inputs if bounds_inputs(problem) else None,
        None if give is None else states,
    )
    return Answer(u, forces, iterations, empty != 0)


def judge(problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"], forces: Forces) -> Judgement:
    """Measures a plan of one problem without a `horizon`; batches by `jax.vmap`."""
    work = on_shared_batches(functools.partial(_judge, problem.structure))
    return Judgement(*work((_arrays(problem), [x, u, *map(_filled, forces)])))


def roll_out(problem: LTVProblem, u: Float[Array, "N nu"]) -> Float[Array, "T nx"]:
    """The states x_0 … x_N of one problem without a `horizon`; batches by `jax.vmap`."""
    used = {name: getattr(problem, name) for name in ("A", "B", "e", "x0")}
    return on_shared_batches(_roll_out)((used, u))


def _filled(value: Array | None) -> Array:
    """What the kernels are given in place of an array that they do not read."""
    return jnp.zeros((1,), jnp.float32) if value is None else value


def _arrays(problem: LTVProblem) -> dict[str, Array]:
    """The fields that are given, G folded."""
    arrays = {name: getattr(problem, name) for name in FIELDS if getattr(problem, name) is not None}
    return arrays if problem.G is None else arrays | {"G": _fold(problem.G, problem.structure)}


def _fold(G: Float[Array, "N m nu"], structure: Structure) -> Float[Array, "N lines nu"]:
    """Puts the blocks of G side by side, without the zeros around them."""
    if structure.blocks is None:
        return G
    parts = [G[:, rows, columns] for rows, columns in structure.places()]
    most = max(part.shape[1] for part in parts)
    return jnp.concatenate([jnp.pad(v, [(0, 0), (0, most - v.shape[1]), (0, 0)]) for v in parts], axis=2)


def _solve(structure: Structure, settings: Settings, warm: bool, given: Any) -> list[Array]:
    arrays, runnable, known = given
    batch = _batch(given)
    sizes = Sizes.of(arrays, structure)
    N, nx, nu, m = sizes[:4]
    runnable, *known = (jnp.broadcast_to(v, (batch, *v.shape[1:])) for v in (runnable, *known))
    bounded = bool(m), sizes.bounded > 0, sizes.bounded > nu
    forces = [shape if has else (1,) for shape, has in zip([(N, m), (N, nu), (N, nx)], bounded, strict=True)]
    outputs = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in [(N, nu), *forces]]
    outputs += [jax.ShapeDtypeStruct((batch,), jnp.int32)] * 2

    def run(way: Sizes, runnable: Array) -> list[Array]:
        text = way.text("condense" if way.rows else "solve", arrays, structure, settings, warm)
        inputs, results = [*_ordered(arrays), runnable, *known], [*outputs, way.scratch(batch)]
        return launch("solve", text, inputs, results, way.dynamic())[:-1]

    first, *others = sizes.ways(structure)
    found = run(first, runnable)
    for way in others:
        *_, iterations, _ = found
        left = iterations == _LEFT
        new = run(way, jnp.where(left, runnable, _DONE))
        found = [jnp.where(left.reshape(-1, *[1] * (b.ndim - 1)), b, a) for a, b in zip(found, new, strict=True)]
    return found


def _judge(structure: Structure, given: Any) -> list[Array]:
    arrays, plan = given
    batch = _batch(given)
    sizes = Sizes.of(arrays, structure)._replace(judges=True)
    text = sizes.text("judge", arrays, structure, Settings(), warm=False)
    spread = [jnp.broadcast_to(v, (batch, *v.shape[1:])) for v in plan]
    outputs = [jax.ShapeDtypeStruct((batch,), jnp.float32)] * 4 + [sizes.scratch(batch)]
    return launch("judge", text, [*_ordered(arrays), *spread], outputs)[:-1]


def _roll_out(given: Any) -> Array:
    arrays, u = given
    batch = _batch(given)
    sizes = Sizes.of(arrays, Structure())
    text = sizes.text("roll", arrays, Structure(), Settings(), warm=False)
    x = jax.ShapeDtypeStruct((batch, sizes.N + 1, sizes.nx), jnp.float32)
    return launch("roll", text, [*_ordered(arrays), jnp.broadcast_to(u, (batch, *u.shape[1:]))], [x])[0]


def _batch(given: Any) -> int:
    return max(leaf.shape[0] for leaf in jax.tree.leaves(given))


def _ordered(arrays: dict[str, Array]) -> list[Array]:
    """All arrays that the kernels ask for; one number stands for each that is not given."""
    return [arrays.get(name, jnp.zeros((1, 1), jnp.float32)) for name in (*FIELDS, "give_x")]
