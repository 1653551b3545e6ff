"""The solver as CUDA kernels: one warp solves one problem from its start to its answer, and judges it.

`pimpc/cuda` has the text, for NVIDIA's run-time compiler, which comes with jax[cuda13]; the sizes and settings of a
problem are written in front of it. jaxlib launches the kernels as it does those of Triton, whose tables it shares with
nobody, hence the text in CUDA C: a warp's tables must stay on the chip.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pimpc.batching import on_shared_batches
from pimpc.cuda_launch import launch
from pimpc.problem import LTVProblem, Structure, bounds_inputs

_FILES = {
    "solve": ("riccati.cuh", "sides.cuh", "interior_point.cuh", "start.cuh", "by_stages.cuh", "solve.cu"),
    "condense": (
        *("sides.cuh", "start.cuh", "condensed.cuh", "condense.cuh", "cholesky.cuh", "condensed_sides.cuh"),
        *("condensed_iterations.cuh", "solve.cu"),
    ),
    "judge": ("riccati.cuh", "sides.cuh", "interior_point.cuh", "start.cuh", "kkt.cuh", "judge.cu"),
    "roll": ("roll.cu",),
}
_FIELDS = ("A", "B", "e", "x0", "u_prev", "x_ref", "u_ref", "Q", "R", "S", "G", "h", "u_min", "u_max", "x_min", "x_max")
_COLUMNS = 32  # inputs and states together: one for each lane of a warp
_SIDES = 256  # bounds of a stage: eight to a lane, whose numbers are kept in registers
_CHIP = 227 * 1024  # bytes of a multiprocessor for its blocks
_BLOCK = 48 * 1024  # bytes that a block may have without asking
_MOST_FREE = (
    63  # inputs of a problem whose states are eliminated: two rows for each lane, and one for the right-hand side
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the iterations need to know of a method."""

    max_iterations: int = 0
    tolerance: float = 0.0
    boundary: float = 0.0
    start: float = 0.0
    proximal: float = 1.0
    trust: float = 0.0


Forces = tuple[Array | None, Array | None, Array | None]  # multipliers of rows, inputs, states; None: no such bounds


class Answer(NamedTuple):
    """What the kernel found for one problem."""

    u: Float[Array, "N nu"]
    forces: Forces
    change: Forces  # their last step, before it was shortened
    size: Float[Array, " nu"]  # of the inputs that the cost alone asks for
    iterations: Int[Array, ""]
    empty: Bool[Array, ""]  # bounds exclude each other


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
    u, rows, inputs, states, *change, size, iterations, empty = found

    def present(rows: Array, inputs: Array, states: Array) -> Forces:
        bounded = bounds_inputs(problem)
        return rows if problem.h is not None else None, inputs if bounded else None, None if give is None else states

    return Answer(u, present(rows, inputs, states), present(*change), size, iterations, empty != 0)


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
    arrays = {name: getattr(problem, name) for name in _FIELDS if getattr(problem, name) is not None}
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
    sizes = _Sizes.of(arrays, structure)
    condensing = sizes._replace(condenses=True)

    def solve(sizes: _Sizes, runnable: Array) -> list[Array]:
        what, batch = "condense" if sizes.condenses else "solve", _batch(given)
        N, nx, nu, m = sizes.N, sizes.nx, sizes.nu, sizes.m
        spread = [jnp.broadcast_to(v, (batch, *v.shape[1:])) for v in (runnable, *known)]
        forces = [(N, max(m, 1)), (N, nu), (N, nx)]
        outputs = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in [(N, nu), *forces, *forces, (nu,)]]
        outputs += [jax.ShapeDtypeStruct((batch,), jnp.int32)] * 2 + [sizes.scratch(batch)]
        text = sizes.text(what, arrays, structure, settings, warm)
        return launch("solve", text, [*_ordered(arrays), *spread], outputs, sizes.dynamic())[:-1]

    if not condensing.short():
        return solve(sizes, runnable)
    short = solve(condensing, runnable)
    if sizes.N * sizes.nu <= _MOST_FREE:
        return short
    done = (
        short[-2] >= 0
    )  # the iterations; where too many inputs are free the kernel leaves the problem to the other one
    rest = solve(sizes, jnp.asarray(jnp.where(done, -1, runnable)))
    return [jnp.where(done.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(short, rest, strict=True)]


def _judge(structure: Structure, given: Any) -> list[Array]:
    arrays, plan = given
    batch = _batch(given)
    sizes = _Sizes.of(arrays, structure)
    text = sizes.text("judge", arrays, structure, Settings(), warm=False)
    spread = [jnp.broadcast_to(v, (batch, *v.shape[1:])) for v in plan]
    outputs = [jax.ShapeDtypeStruct((batch,), jnp.float32)] * 4 + [sizes.scratch(batch)]
    return launch("judge", text, [*_ordered(arrays), *spread], outputs)[:-1]


def _roll_out(given: Any) -> Array:
    arrays, u = given
    batch = _batch(given)
    sizes = _Sizes.of(arrays, Structure())
    text = sizes.text("roll", arrays, Structure(), Settings(), warm=False)
    x = jax.ShapeDtypeStruct((batch, sizes.N + 1, sizes.nx), jnp.float32)
    return launch("roll", text, [*_ordered(arrays), jnp.broadcast_to(u, (batch, *u.shape[1:]))], [x])[0]


def _batch(given: Any) -> int:
    return max(leaf.shape[0] for leaf in jax.tree.leaves(given))


def _ordered(arrays: dict[str, Array]) -> list[Array]:
    """All arrays that the kernels ask for; one number stands for each that is not given."""
    return [arrays.get(name, jnp.zeros((1, 1), jnp.float32)) for name in (*_FIELDS, "give_x")]


class _Sizes(NamedTuple):
    """What is known of a problem when its kernel is compiled."""

    N: int
    nx: int
    nu: int
    m: int
    lines: int
    bounded: int
    condenses: bool = False  # eliminates the states

    @classmethod
    def of(cls, arrays: dict[str, Array], structure: Structure) -> "_Sizes":
        _, N, nx, nu = arrays["B"].shape
        m = arrays["h"].shape[-1] if "h" in arrays else 0
        bounds = ("u_min" in arrays or "u_max" in arrays) and not structure.pins_only
        confined = "x_min" in arrays or "x_max" in arrays
        lines = arrays["G"].shape[-2] if m else 0
        return cls(N, nx, nu, m, lines, nx + nu if confined else nu if bounds else 0)

    def short(self) -> bool:
        """Whether eliminating the states may pay: few stages, no bounds of states, and tables that fit on the chip."""
        few = self.N <= 16 and self.N * self.nu <= 2 * _MOST_FREE and self.bounded <= self.nu
        return few and sum(self.bytes()) < _CHIP // 3

    def room_condensed(self) -> int:
        """How many numbers `Condensed` has, and some for its alignment; zero if the states stay."""
        if not self.condenses:
            return 0
        N, nx, nu, rows, sides = self.N, self.nx, self.nu, _MOST_FREE + 1, self.N * (2 * self.bounded + self.m)
        H = rows * (rows + 4) + _MOST_FREE * (nu + 1)
        forces = 1 if 2 * sides <= (nx + nu) * 36 else 2 * sides
        problem = N * (self.lines * nu + 4 + nx * (nx + nu + 3) + 5 * nu + self.m)
        return -(-(H + forces + problem + 4 * (sides + 1) + sides // 2 + N * nu + rows + 20) // 4) * 4

    def dynamic(self) -> int:
        """The bytes on the chip that a launch has to ask for, which it does by more than is usual or not at all."""
        work, T, rest = self.bytes()
        asked = T + rest if self.condenses else 0
        return asked if work + asked < _BLOCK else max(asked, _BLOCK + 16)

    def bytes(self) -> tuple[int, int, int]:
        """Of what the lanes share of a stage, of the Hessians, and of the other tables."""
        n, ns = self.nx + self.nu, 2 * self.bounded + self.m
        work = (n + self.nx) * 36 + max(self.lines, 1) * self.nu + self.nx**2 + 2 * ns + 100
        stages = 0 if self.condenses else self.N * (self.nu + self.m + n)
        rest = self.N * (n + 4 * ns + self.m + 1) + n + stages
        return 4 * work, 4 * (self.room_condensed() or self.N * self.nu * n), 16 * -(-rest // 4)

    def placement(self) -> tuple[int, int]:
        """How many kinds of tables are kept on the chip, and how many blocks then fit on a multiprocessor."""
        work, T, rest = self.bytes()
        one_T = 4 * self.nu * (self.nx + self.nu)
        if self.condenses:
            return 2, _CHIP // (work + T + rest + 1536)
        for level, needs in ((2, work + T + rest), (1, work + T), (0, work + one_T)):
            fit = min(16, _CHIP // (needs + 1536))
            if needs < _BLOCK and (fit >= 6 or level == 0):
                return level, fit
        raise AssertionError("what a stage needs fits on every chip")

    def scratch(self, batch: int) -> jax.ShapeDtypeStruct:
        """Memory for the tables that are not kept on the chip."""
        _, T, rest = self.bytes()
        length = {0: T + rest, 1: rest, 2: 4}[self.placement()[0]] // 4
        return jax.ShapeDtypeStruct((batch, length), jnp.float32)

    def text(self, what: str, arrays: dict[str, Array], structure: Structure, settings: Settings, warm: bool) -> str:
        """A kernel's text, after the constants that it relies on."""
        blocks = structure.blocks or ()
        level, fit = self.placement()
        integers = {
            "nx": self.nx, "nu": self.nu, "N": self.N, "m": self.m, "lines": self.lines, "nb": self.bounded,
            "blocks": len(blocks), "most_columns": max((c for _, c in blocks), default=self.nu),
            "tables_on_chip": level, "blocks_at_once": fit, "max_iterations": settings.max_iterations,
            "room_condensed": self.room_condensed(),
        }  # fmt: skip
        bounds = "u_min" in arrays or "u_max" in arrays
        flags = {f"has_{name}": name in arrays for name in ("u_min", "u_max", "x_min", "x_max")}
        flags |= {f"shared_{name}": arrays[name].shape[0] == 1 if name in arrays else True for name in _FIELDS}
        flags |= {"shared_give_x": "give_x" not in arrays or arrays["give_x"].shape[0] == 1}
        rows, columns = ([block[at] for block in blocks] for at in (0, 1))
        flags |= {
            "same_rows": len(set(rows)) <= 1,
            "same_columns": len(set(columns)) <= 1,
            "all_even": all(width % 2 == 0 for width in columns),
        }
        flags |= {"bounds_inputs": bounds and not structure.pins_only, "warm_started": warm}
        names = ("tolerance", "boundary", "proximal", "trust")
        floats = {name: getattr(settings, name) for name in names} | {"start_share": settings.start}
        text = [f"constexpr int {name} = {value};" for name, value in integers.items()]
        text += [f"constexpr bool {name} = {str(value).lower()};" for name, value in flags.items()]
        text += [f"constexpr float {name} = {float(value):.9e}f;" for name, value in floats.items()]
        for at, name in enumerate(("rows", "columns")):
            values = ", ".join(str(block[at]) for block in blocks) or "0"
            text.append(f"__device__ constexpr int block_{name}[] = {{{values}}};")
        return "\n".join([*text, _text(what)])


@functools.cache
def _text(what: str) -> str:
    names = ("memory.cuh", "warp.cuh", "launched.cuh", *_FILES[what])
    return "\n".join((Path(__file__).parent / "cuda" / name).read_text() for name in names)
