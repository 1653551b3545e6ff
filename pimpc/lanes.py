"""Small linear algebra inside a GPU warp: a problem to every `width` of its 32 lanes, a column to every lane.

A row vector is a list of (32,) arrays: lane l of chunk c holds column c · width + l of the lane's problem. A matrix is
a list of rows. All arithmetic is elementwise but for what passes between lanes, a shuffle of one number each: few lanes
to a problem share every shuffle among many problems, many lanes finish a single problem sooner.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

WARP = 32
MOST = 2**30 - 1  # numbers in an array, so that a compiler sees that no address overflows (see `_apart`)
BLOCK = 4  # rows to a loop in `_apart`
Row = list[Array]


@dataclasses.dataclass(frozen=True)
class Lanes:
    """How a warp's lanes are shared out.

    Attributes:
        width: Lanes of one problem, a power of two up to 32.
        interpret: Do without the GPU's instructions, to run the same operations on any device.
    """

    width: int
    interpret: bool = False

    @property
    def problems(self) -> int:
        """Problems to a warp."""
        return WARP // self.width

    def chunks(self, columns: int) -> int:
        """Chunks that hold so many columns."""
        return -(-columns // self.width)

    def padded(self, columns: int) -> int:
        """Columns with the last chunk filled up."""
        return self.chunks(columns) * self.width

    @property
    def lane(self) -> Array:
        """Each lane's place among those of its problem."""
        return jax.lax.iota(jnp.int32, WARP) % self.width

    def column(self, chunk: int) -> Array:
        """The column that each lane holds in a chunk."""
        return self.lane + chunk * self.width

    def spread(self, row: Row, column: int) -> Array:
        """One column of each problem, on all of its lanes."""
        value, lane = row[column // self.width], column % self.width
        if self.interpret:
            return jnp.repeat(value.reshape(self.problems, self.width)[:, lane], self.width)
        return _shuffle(value, "idx", lane, self.width)

    def pick(self, value: Array, lane: Any) -> Array:
        """The value of one lane of each problem, known only at run time and modulo the width, on all of its lanes."""
        if self.interpret:
            return jnp.repeat(value.reshape(self.problems, self.width)[:, lane % self.width], self.width)
        return _shuffle(value, "idx", jnp.full(WARP, lane, jnp.int32), self.width)

    def across(self, value: Array, distance: int) -> Array:
        """The value of the lane whose number differs in the bit `distance`."""
        if self.interpret:
            return value[jax.lax.iota(jnp.int32, WARP) ^ distance]
        return _shuffle(value, "bfly", distance, WARP)

    def reduce(self, combine: Any, value: Array) -> Array:
        """Combines the lanes of each problem (`jnp.add`, `jnp.minimum`, …); all of them get the result."""
        distance = 1
        while distance < self.width:
            value = combine(value, self.across(value, distance))
            distance *= 2
        return value

    def dots(self, rows: list[Row], vector: Row, first: int = 0) -> Row:
        """The products of the rows with a vector: that of rows[i] comes to column first + i, the others are zero."""
        products: list[Array | None] = [None] * first + [_dot(row, vector) for row in rows]
        products += [None] * (self.padded(len(products)) - len(products))
        return [self._gather(products[at : at + self.width]) for at in range(0, len(products), self.width)]

    def _gather(self, values: list[Array | None]) -> Array:
        """Lane l gets the sum of values[l] over its problem's lanes, in `width` − 1 shuffles: halves are exchanged."""
        distance = 1
        while len(values) > 1:
            odd = (self.lane & distance) != 0
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [self._exchange(even_one, odd_one, odd, distance) for even_one, odd_one in pairs]
            distance *= 2
        return jnp.zeros(WARP, jnp.float32) if values[0] is None else values[0]

    def _exchange(self, even_one: Array | None, odd_one: Array | None, odd: Array, distance: int) -> Array | None:
        if even_one is None and odd_one is None:
            return None
        zero = jnp.zeros(WARP, jnp.float32)
        a, b = (zero if v is None else v for v in (even_one, odd_one))
        return jnp.where(odd, b, a) + self.across(jnp.where(odd, a, b), distance)


def _dot(row: Row, vector: Row) -> Array:
    products = [a * b for a, b in zip(row, vector, strict=False)]
    return sum(products[1:], products[0])


def _shuffle(value: Array, mode: str, source: int | Array, width: int) -> Array:
    segment = ((WARP - width) << 8) | (WARP - 1)
    known = isinstance(source, int)
    [result] = triton.elementwise_inline_asm(
        f"shfl.sync.{mode}.b32 $0, $1, {source if known else '$2'}, {segment}, 0xffffffff;",
        args=[value] if known else [value, source],
        constraints="=f,f" if known else "=f,f,r",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(value.shape, value.dtype)],
    )
    return result


def add(a: Row, b: Row) -> Row:
    """A + b; the longer one's last chunks stay as they are."""
    n = min(len(a), len(b))
    return [x + y for x, y in zip(a[:n], b[:n], strict=True)] + a[n:] + b[n:]


def add_scaled(a: Row, factor: Array, b: Row) -> Row:
    """A + factor b; b may be shorter than a."""
    return [x + factor * y for x, y in zip(a, b, strict=False)] + a[len(b) :]


class Cells(NamedTuple):
    """A row in memory: the array, where its lanes find the stage's first number, and how far on each chunk is."""

    ref: Any
    start: Array
    ahead: list[int]


@dataclasses.dataclass(frozen=True)
class Table:
    """An array of numbers for each column, row and stage of the problems of a warp (see `pack`)."""

    ref: Any
    lanes: Lanes
    warp: Any
    stages: int
    rows: int
    chunks: int

    def row(self, stage: Any, row: int = 0) -> Cells:
        """One row of a stage."""
        return self.all_rows(stage)[row]

    def all_rows(self, stage: Any) -> list[Cells]:
        """All rows of a stage."""
        length = self.chunks * WARP
        start = (self.warp * self.stages + stage) * self.rows * length + jax.lax.iota(jnp.int32, WARP)
        chunks = range(0, length, WARP)
        return [Cells(self.ref, start, [row * length + chunk for chunk in chunks]) for row in range(self.rows)]


def pack(lanes: Lanes, value: Array, by: float = 0.0) -> Array:
    """Lays out an array (batch, stages, rows, columns) as (warps, stages, rows, chunks, 32), filled up with `by`.

    What the lanes of a warp read together lies together.
    """
    batch, stages, rows, columns = value.shape
    warps, chunks = -(-batch // lanes.problems), lanes.chunks(columns)
    value = jnp.pad(value, [(0, 0)] * 3 + [(0, chunks * lanes.width - columns)], constant_values=by)
    # The idle lanes of the last warp repeat the last problem.
    value = jnp.pad(value, [(0, warps * lanes.problems - batch)] + [(0, 0)] * 3, mode="edge")
    value = value.reshape(warps, lanes.problems, stages, rows, chunks, lanes.width)
    return value.transpose(0, 2, 3, 4, 1, 5).reshape(warps, stages, rows, chunks, WARP)


def unpack(lanes: Lanes, value: Array, batch: int, columns: int) -> Array:
    """The inverse of `pack`."""
    warps, stages, rows, chunks, _ = value.shape
    value = value.reshape(warps, stages, rows, chunks, lanes.problems, lanes.width).transpose(0, 4, 1, 2, 3, 5)
    return value.reshape(warps * lanes.problems, stages, rows, chunks * lanes.width)[:batch, ..., :columns]


def each_stage(
    lanes: Lanes,
    order: range,
    cells: Callable[[Any], list[Cells]],
    body: Callable[[Any, list[Row], Any], Any],
    carry: Any,
    early: bool = True,
) -> Any:
    """Loops over the stages, reading what the next one needs while the last one is worked on.

    Args:
        lanes: How a warp is shared.
        order: The stages.
        cells: What to read in a stage.
        body: Called with the stage, what was read there and the carry; returns the carry.
        carry: The first one.
        early: False: reads when it is needed, which takes fewer registers.

    Returns:
        The last carry.
    """

    def late(i: Any, carry: Any) -> Any:
        k = order.start + order.step * i
        return body(k, load(lanes, cells(k)), carry)

    def turn(i: Any, state: tuple[list[Row], Any]) -> tuple[list[Row], Any]:
        rows, carry = state
        k = order.start + order.step * i
        after = order.start + order.step * jnp.minimum(i + 1, len(order) - 1)
        ahead = load(lanes, cells(after))
        return ahead, body(k, rows, carry)

    if not early:
        return jax.lax.fori_loop(0, len(order), late, carry)
    first = load(lanes, cells(order.start))
    return jax.lax.fori_loop(0, len(order), turn, (first, carry))[1]


def load(lanes: Lanes, cells: list[Cells]) -> list[Row]:
    """Reads rows."""

    def read(cells: list[Cells], starts: list[Array], _: Any) -> list[Row]:
        return [[cell.ref[start + at] for at in cell.ahead] for cell, start in zip(cells, starts, strict=True)]

    zeros = [[jnp.zeros(WARP, jnp.float32) for _ in cell.ahead] for cell in cells]
    return _apart(lanes, read, cells, zeros)


def store(lanes: Lanes, cells: list[Cells], rows: list[Row]) -> None:
    """Writes rows, or as many of their chunks as the cells have."""

    def write(cells: list[Cells], starts: list[Array], rows: list[Row]) -> list[Row]:
        for cell, start, values in zip(cells, starts, rows, strict=True):
            for at, value in zip(cell.ahead, values, strict=True):
                cell.ref[start + at] = value
        return [[jnp.zeros_like(v) for v in row] for row in rows]

    _apart(lanes, write, cells, [row[: len(cell.ahead)] for cell, row in zip(cells, rows, strict=True)])


def _apart(lanes: Lanes, access: Any, cells: list[Cells], rows: list[Row]) -> list[Row]:
    """Runs `access(cells, starts, rows)` in loops of one turn, of which nothing is left in the machine code.

    For every access to memory, Triton's compiler looks at all operations that its address and its value are connected
    with, in cubic time. What goes through the arguments of a loop is not connected, if it changes in the loop; and
    loops of many arguments are slow to analyse in turn. The condition always holds, but the compiler learns that too
    late to move the arrays' addresses out of the loops, where they would connect everything again.

    Rows of one stage share their start, and how far on they are becomes part of the machine's own instruction, which
    asks for a start that is known to be too small to overflow. That is a quarter less code, and no register is spilt.
    """

    def turn(cells: list[Cells], carry: Any) -> Any:
        again, starts, rows = carry
        shared = {id(cell.start): start & MOST for cell, start in zip(cells, starts, strict=True)}
        small = [shared[id(cell.start)] for cell in cells]
        always = again > 0 if lanes.interpret else pl.program_id(0) >= 0
        result = jax.lax.cond(always, lambda: access(cells, small, rows), lambda: rows)
        return again - 1, jax.tree.map(lambda at: at + 1, starts), result

    results = []
    for at in range(0, len(cells), BLOCK):
        some = cells[at : at + BLOCK]
        carry = jnp.int32(1), [cell.start for cell in some], rows[at : at + BLOCK]
        results += jax.lax.while_loop(lambda c: c[0] > 0, functools.partial(turn, some), carry)[2]
    return results
