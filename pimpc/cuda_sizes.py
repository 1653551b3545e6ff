"""What the text of a CUDA kernel is told of a problem's sizes, and where the kernel keeps its tables."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pimpc.problem import Structure

FIELDS = ("A", "B", "e", "x0", "u_prev", "x_ref", "u_ref", "Q", "R", "S", "G", "h", "u_min", "u_max", "x_min", "x_max")
# Of a problem whose states are eliminated: free inputs, with more of which it was not tried, and states.
MOST_FREE, MOST_STATES = 79, 12
_PANEL = 8  # rows
_FILES = {
    "solve": (
        "riccati.cuh",
        "sides.cuh",
        "interior_point.cuh",
        "start.cuh",
        "certificate.cuh",
        "by_stages.cuh",
        "solve.cu",
    ),
    "condense": (
        *("sides.cuh", "start.cuh", "condensed.cuh", "condense.cuh", "cholesky.cuh", "condensed_sides.cuh"),
        *("certificate.cuh", "condensed_iterations.cuh", "solve.cu"),
    ),
    "judge": ("riccati.cuh", "sides.cuh", "interior_point.cuh", "start.cuh", "kkt.cuh", "judge.cu"),
    "roll": ("roll.cu",),
}
_CHIP = 227 * 1024  # bytes of a multiprocessor for its blocks
_BLOCK = 48 * 1024  # bytes that a block may have without asking


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the iterations need to know of a method."""

    max_iterations: int = 0
    tolerance: float = 0.0
    boundary: float = 0.0
    start: float = 0.0
    proximal: float = 1.0


class Sizes(NamedTuple):
    """What is known of a problem when its kernel is compiled."""

    N: int
    nx: int
    nu: int
    m: int
    lines: int
    bounded: int
    free: int = 0  # inputs at most, if states are eliminated
    blocks: int = 0  # of G that touch free inputs, at most, in all stages together
    rows: int = 0  # of a Hessian whose states are eliminated, with one for the right-hand side; 0: they are not
    leaves: bool = False  # problems with more of either to another kernel
    judges: bool = False  # plans, and makes none

    @classmethod
    def of(cls, arrays: dict[str, Array], structure: Structure) -> "Sizes":
        """The sizes of a batch of problems, by their fields."""
        _, N, nx, nu = arrays["B"].shape
        m = arrays["h"].shape[-1] if "h" in arrays else 0
        bounds = ("u_min" in arrays or "u_max" in arrays) and not structure.pins_only
        confined = "x_min" in arrays or "x_max" in arrays
        lines = arrays["G"].shape[-2] if m else 0
        return cls(N, nx, nu, m, lines, nx + nu if confined else nu if bounds else 0)

    def ways(self, structure: Structure) -> list["Sizes"]:
        """The same, once for each kernel that solves such problems: what one leaves, the next one takes.

        States are eliminated where `most_free` is declared, stages are few, states have no bounds, and all that this
        needs fits on the chip. There is room for as many blocks of G as the free inputs fill. Problems with more, or
        with more free inputs than there is room for, are left, if there may be any.
        """
        if structure.most_free is None:
            return [self]
        columns = [block[1] for block in structure.blocks or ((self.m, self.nu),)]
        declared, all_blocks = min(structure.most_free, self.N * self.nu), self.N * len(columns)
        free = min(declared, MOST_FREE)
        blocks = min(-(-free // min(columns)), all_blocks) if self.m else 0
        leaves = free < declared or (self.m > 0 and blocks < min(free, all_blocks))
        short = self._replace(free=free, blocks=blocks, rows=_up(free + 1, _PANEL), leaves=leaves)
        few = self.N <= 16 and self.bounded <= self.nu and self.nx <= MOST_STATES
        if not few or sum(short.bytes()) > _CHIP // 4:
            return [self]
        return [short, self] if short.leaves else [short]

    def room_condensed(self) -> int:
        """How many numbers `Condensed` has, and some for its alignment; zero if the states stay."""
        if not self.rows:
            return 0
        N, nx, nu = self.N, self.nx, self.nu
        stages = sum(_up(N * size, 4) for size in (nx * nx, nx * nu, nx, nx, nx, nu, nu, nu))
        ends = 2 * N * (2 * self.bounded + self.m)
        shorts = self.rows + 2 * max(self.blocks, 1)
        parts = max(stages, self.packed(), ends), self.free * _up(self.lines, 4) + 4, (shorts + 1) // 2
        return sum(_up(part, 4) for part in parts)

    def most_sides(self) -> int:
        """How many bounds may touch free inputs."""
        return self.blocks * _up(self.lines, 4) + (2 * _up(self.free, 4) if self.bounded else 0)

    def packed(self) -> int:
        """How many numbers a Hessian has whose states are eliminated."""
        return self.rows * (self.rows // 2 + 8)

    def dynamic(self) -> int:
        """The bytes on the chip that a launch asks for, for all tables of a kernel that condenses."""
        work, T, rest = self.bytes()
        asked = T + rest if self.rows else 0
        # The launcher lifts the usual limit, which what is declared counts towards, only if this alone is above it.
        return asked if work + asked < _BLOCK else max(asked, _BLOCK + 16)

    def bytes(self) -> tuple[int, int, int]:
        """Of what the lanes share of a stage, of the Hessians, and of the other tables."""
        n, ns = self.nx + self.nu, 2 * self.bounded + self.m
        in_work = (n + self.nx) * 36
        work = in_work + 100 + _up(max(self.lines * self.nu, 2 * _up(self.rows, 32), self.nu), 4)
        rest, one_T = self.N * (n + 1) + n, self.nu * n
        if self.rows:
            room = self.most_sides() // 4 * 4 + 4
            lists = 8 - min(6, in_work // room)
            work += self.nx + self.N * max(self.m, 1) // 2 + 16
            return 4 * work, 4 * self.room_condensed(), 4 * (_up(self.N, 4) + _up((self.N + 1) * n, 4) + lists * room)
        work += self.nx**2 + 2 * ns
        if not self.judges:
            step = 0 if one_T >= n + self.m else n + self.m  # kept in the place of T if there is room
            rest += self.N * (4 * ns + self.m + self.nu + step)
        return 4 * work, 4 * one_T * (1 if self.judges else self.N), 4 * _up(rest, 4)

    def placement(self) -> tuple[int, int]:
        """How many kinds of tables are kept on the chip, and how many blocks then fit on a multiprocessor."""
        work, T, rest = self.bytes()
        one_T = 4 * self.nu * (self.nx + self.nu)
        if self.rows:
            return 2, min(8, _CHIP // (work + self.dynamic() + 1024))
        for level, needs in ((2, work + T + rest), (1, work + T), (0, work + one_T)):
            fit = min(20 if self.judges else 16, _CHIP // (needs + 1536))
            if needs < _BLOCK and (fit >= 6 or level == 0):
                return level, fit
        raise AssertionError("what a stage needs fits on every chip")

    def scratch(self, batch: int) -> jax.ShapeDtypeStruct:
        """Memory for the tables that are not kept on the chip."""
        _, T, rest = self.bytes()
        length = {0: T + rest, 1: rest, 2: 4}[self.placement()[0]] // 4
        length = self.packed() or length
        return jax.ShapeDtypeStruct((batch, length), jnp.float32)

    def text(self, what: str, arrays: dict[str, Array], structure: Structure, settings: Settings, warm: bool) -> str:
        """A kernel's text, after the constants that it relies on."""
        blocks = structure.blocks or ()
        level, fit = self.placement()
        integers = {
            "nx": self.nx, "nu": self.nu, "N": self.N, "m": self.m, "lines": self.lines, "nb": self.bounded,
            "blocks": len(blocks), "most_columns": max((c for _, c in blocks), default=self.nu),
            "tables_on_chip": level, "blocks_at_once": fit, "max_iterations": settings.max_iterations,
            "most_free": self.free, "most_blocks": max(self.blocks, 1), "most_sides": self.most_sides(),
            "rows_of_H": self.rows, "room_condensed": self.room_condensed(), "room_asked": self.dynamic() // 4,
        }  # fmt: skip
        bounds = "u_min" in arrays or "u_max" in arrays
        flags = {f"has_{name}": name in arrays for name in ("u_min", "u_max", "x_min", "x_max")}
        flags |= {f"shared_{name}": arrays[name].shape[0] == 1 if name in arrays else True for name in FIELDS}
        flags |= {"shared_give_x": "give_x" not in arrays or arrays["give_x"].shape[0] == 1}
        rows, columns = ([block[at] for block in blocks] for at in (0, 1))
        flags |= {
            "same_rows": len(set(rows)) <= 1,
            "same_columns": len(set(columns)) <= 1,
            "all_even": all(width % 2 == 0 for width in columns),
        }
        flags |= {"bounds_inputs": bounds and not structure.pins_only, "warm_started": warm}
        flags |= {"leaves_others": self.leaves, "judges": self.judges}
        names = ("tolerance", "boundary", "proximal")
        floats = {name: getattr(settings, name) for name in names} | {"start_share": settings.start}
        text = [f"constexpr int {name} = {value};" for name, value in integers.items()]
        text += [f"constexpr bool {name} = {str(value).lower()};" for name, value in flags.items()]
        text += [f"constexpr float {name} = {float(value):.9e}f;" for name, value in floats.items()]
        for at, name in enumerate(("rows", "columns")):
            values = ", ".join(str(block[at]) for block in blocks) or "0"
            text.append(f"__device__ constexpr int block_{name}[] = {{{values}}};")
        return "\n".join([*text, _text(what)])


def _up(count: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-count // step) * step


@functools.cache
def _text(what: str) -> str:
    names = ("memory.cuh", "warp.cuh", "launched.cuh", *_FILES[what])
    return "\n".join((Path(__file__).parent / "cuda" / name).read_text() for name in names)
