"""The problems of `pimpc` as plain quadratic programs, in the two forms that general solvers ask for.

    min ½ zᵀP z + qᵀz   s.t.   A z = b,   G z ≤ h,   lower ≤ z ≤ upper

Sparse: z holds u_0, x_1, u_1, x_2, …, so that P and the constraints are banded; for sparse direct solvers. Condensed: z
holds the inputs alone, the states eliminated, in units in which P has a unit diagonal, rows of G have unit length and q
is at most one; for dense solvers, most of which do not scale their data themselves.

Inputs with equal bounds (a swing foot) are constants. They are taken out of all couplings and held by their own
diagonal entry of P alone, within bounds that do not matter, and rows that touch nothing else are switched off. All
instances thus keep one shape and one sparsity pattern, no solver meets constraints without an interior, and no row has
an infinite side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse

if TYPE_CHECKING:
    import pimpc


@dataclasses.dataclass(frozen=True)
class Stages:
    """A batch of problems by stages, the fixed inputs taken out.

    The cost of the inputs is ½ Σ diagonal u_k² + Σ coupling u_k u_{k+1} + linear u_k, elementwise.
    """

    A: Float[np.ndarray, "batch N nx nx"]
    B: Float[np.ndarray, "batch N nx nu"]
    e: Float[np.ndarray, "batch N nx"]
    x0: Float[np.ndarray, "batch nx"]
    x_ref: Float[np.ndarray, "batch N nx"]
    Q: Float[np.ndarray, "batch N nx"]
    diagonal: Float[np.ndarray, "batch N nu"]
    coupling: Float[np.ndarray, "batch N-1 nu"]
    linear: Float[np.ndarray, "batch N nu"]
    G: Float[np.ndarray, "batch N m nu"]
    h: Float[np.ndarray, "batch N m"]
    lower: Float[np.ndarray, "batch N nu"]
    upper: Float[np.ndarray, "batch N nu"]
    fixed: Bool[np.ndarray, "batch N nu"]
    value: Float[np.ndarray, "batch N nu"]  # of the fixed inputs, zero elsewhere
    dead: Bool[np.ndarray, "batch N m"]  # rows that touch fixed inputs only


def make_stages(problem: pimpc.LTVProblem) -> Stages:
    """Takes the fixed inputs out of a batch of problems.

    Args:
        problem: A batch with diagonal weights, finite input bounds, rows of G, and no bounds on states, as recorded.

    Raises:
        ValueError: The problems are of another kind.
    """
    p = {f.name: getattr(problem, f.name) for f in dataclasses.fields(problem) if f.name != "structure"}
    p = {name: np.asarray(value, float) for name, value in p.items() if value is not None}
    finite = all(name in p and np.isfinite(p[name]).all() for name in ("G", "h", "u_min", "u_max"))
    if not finite or p["R"].ndim != 3 or "x_min" in p or "x_max" in p:
        raise ValueError("Only problems with diagonal weights, finite input bounds and free states can be converted.")
    fixed = p["u_min"] == p["u_max"]
    free, value = ~fixed, np.where(fixed, p["u_min"], 0)
    later = np.concatenate([p["S"][:, 1:], np.zeros_like(p["S"][:, :1])], axis=1)
    diagonal = p["R"] + p["S"] + later
    linear = -p["R"] * p["u_ref"]
    linear[:, 0] -= p["S"][:, 0] * p["u_prev"]
    linear[:, 1:] -= p["S"][:, 1:] * value[:, :-1]
    linear[:, :-1] -= p["S"][:, 1:] * value[:, 1:]
    G, h = p["G"] * free[:, :, None], p["h"] - np.einsum("bkij,bkj->bki", p["G"], value)
    dead = ~G.any(axis=3)
    span = np.where(free, np.maximum(np.abs(p["u_min"]), np.abs(p["u_max"])), 0).max(axis=(1, 2))[:, None, None]
    return Stages(
        A=p["A"],
        B=p["B"] * free[:, :, None],
        e=p["e"] + np.einsum("bkij,bkj->bki", p["B"], value),
        x0=p["x0"],
        x_ref=p["x_ref"],
        Q=p["Q"],
        diagonal=diagonal,
        coupling=np.where(free[:, 1:] & free[:, :-1], -p["S"][:, 1:], 0),
        linear=np.where(fixed, -diagonal * value, linear),
        G=G,
        h=np.where(dead, np.abs(p["h"]).max(axis=(1, 2))[:, None, None], h),
        lower=np.where(fixed, value - span, p["u_min"]),
        upper=np.where(fixed, value + span, p["u_max"]),
        fixed=fixed,
        value=value,
        dead=dead,
    )


def restore_inputs(stages: Stages, index: int | slice | np.ndarray, u: np.ndarray) -> np.ndarray:
    """Inputs of the original problems from those that a solver returned."""
    return np.where(stages.fixed[index], stages.value[index], u)


@dataclasses.dataclass(frozen=True)
class SparseProgram:
    """One quadratic program in sparse form; all of a batch have the same sparsity patterns."""

    P: sparse.csc_matrix
    q: np.ndarray
    A: sparse.csc_matrix
    b: np.ndarray
    G: sparse.csc_matrix
    h: np.ndarray
    lower: np.ndarray  # infinite on the states
    upper: np.ndarray
    shape: tuple[int, int, int, int]  # N, nx, nu, m

    def inputs(self, z: np.ndarray) -> np.ndarray:
        """The inputs (N, nu) among the variables, or their part of any vector of that length."""
        N, nx, nu, _ = self.shape
        return np.asarray(z).reshape(N, nu + nx)[:, :nu]


class _Pattern:
    """Where entries given in any order end up in a compressed matrix."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> None:
        first = np.arange(1, len(rows) + 1)  # from one: zeros could be dropped
        self._matrix = sparse.csc_matrix((first, (rows, columns)), shape=shape)
        self._order: np.ndarray = self._matrix.data - 1

    def fill(self, entries: np.ndarray) -> sparse.csc_matrix:
        """The matrix with these entries; zeros are kept."""
        m = self._matrix
        return sparse.csc_matrix((entries[self._order], m.indices, m.indptr), shape=m.shape)


def _blocks(mask: np.ndarray, stages: np.ndarray, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the entries of equal blocks, one a stage, `row` and `column` apart."""
    i, j = np.nonzero(mask)
    return (stages[:, None] * row + i).ravel(), (stages[:, None] * column + j).ravel()


def sparse_programs(stages: Stages) -> Iterator[SparseProgram]:
    """The problems of a batch in sparse form, one after the other.

    Args:
        stages: The batch.

    Yields:
        Programs with the same sparsity patterns: the union of what is nonzero anywhere in the batch.
    """
    s = stages
    (count, N, nx, nu), m = s.B.shape, s.h.shape[2]
    width, k = nu + nx, np.arange(N)
    masks = {name: (getattr(s, name) != 0).any(axis=(0, 1)) for name in ("A", "B", "G")}
    across = (k[:-1, None] * width + np.arange(nu)).ravel()
    every = np.arange(N * width)
    aside = np.concatenate([across, across + width]), np.concatenate([across + width, across])
    P = _Pattern(np.concatenate([every, aside[0]]), np.concatenate([every, aside[1]]), (N * width, N * width))
    now = (k[:, None] * nx + np.arange(nx)).ravel(), (k[:, None] * width + nu + np.arange(nx)).ravel()
    by_u = _blocks(masks["B"], k, nx, width)
    before = _blocks(masks["A"], k[:-1], nx, width)
    parts = now, by_u, (before[0] + nx, before[1] + nu)
    rows, columns = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    A = _Pattern(rows, columns, (N * nx, N * width))
    G = _Pattern(*_blocks(masks["G"], k, m, width), (N * m, N * width))
    free_states = np.full((N, nx), np.inf)
    for i in range(count):
        b = s.e[i].copy()
        b[0] += s.A[i, 0] @ s.x0[i]
        coupling = s.coupling[i].ravel()
        yield SparseProgram(
            P=P.fill(np.concatenate([np.hstack([s.diagonal[i], s.Q[i]]).ravel(), coupling, coupling])),
            q=np.hstack([s.linear[i], -s.Q[i] * s.x_ref[i]]).ravel(),
            A=A.fill(
                np.concatenate([np.ones(N * nx), -s.B[i][:, masks["B"]].ravel(), -s.A[i, 1:][:, masks["A"]].ravel()])
            ),
            b=b.ravel(),
            G=G.fill(s.G[i][:, masks["G"]].ravel()),
            h=s.h[i].ravel(),
            lower=np.hstack([s.lower[i], -free_states]).ravel(),
            upper=np.hstack([s.upper[i], free_states]).ravel(),
            shape=(N, nx, nu, m),
        )


@dataclasses.dataclass(frozen=True)
class CondensedPrograms:
    """A batch of quadratic programs in the inputs alone, scaled: u = unit z, rows of G divided by `length`."""

    P: Float[np.ndarray, "batch n n"]
    q: Float[np.ndarray, "batch n"]
    G: Float[np.ndarray, "batch M n"]
    h: Float[np.ndarray, "batch M"]
    lower: Float[np.ndarray, "batch n"]
    upper: Float[np.ndarray, "batch n"]
    unit: Float[np.ndarray, "batch n"]
    length: Float[np.ndarray, "batch M"]  # in the units of z
    energy: Float[np.ndarray, " batch"]  # the cost that one unit of the scaled objective stands for


def condensed_bytes(N: int, nx: int, nu: int, m: int) -> int:
    """Size of the matrices of one condensed program in float64, that of its making included."""
    return 8 * N * nu * (2 * N * nu + N * m + 2 * N * nx)


def condensed_programs(stages: Stages) -> CondensedPrograms:
    """The problems of a batch with their states eliminated, in natural units."""
    s = stages
    (count, N, nx, nu), m = s.B.shape, s.h.shape[2]
    n = N * nu
    F, f = np.zeros((count, N, nx, n)), np.zeros((count, N, nx))  # x_{k+1} = F_k u + f_k
    row, offset = np.zeros((count, nx, n)), s.x0
    for k in range(N):
        row = s.A[:, k] @ row
        row[:, :, k * nu : (k + 1) * nu] += s.B[:, k]
        offset = np.einsum("bij,bj->bi", s.A[:, k], offset) + s.e[:, k]
        F[:, k], f[:, k] = row, offset
    flat = F.reshape(count, N * nx, n)
    weighed = flat * s.Q.reshape(count, N * nx, 1)
    P = flat.transpose(0, 2, 1) @ weighed
    every, across = np.arange(n), np.arange(n - nu)
    P[:, every, every] += s.diagonal.reshape(count, n)
    P[:, across, across + nu] += s.coupling.reshape(count, n - nu)
    P[:, across + nu, across] += s.coupling.reshape(count, n - nu)
    q = s.linear.reshape(count, n) + np.einsum("bri,br->bi", weighed, (f - s.x_ref).reshape(count, N * nx))
    G = np.zeros((count, N, m, n))
    for k in range(N):
        G[:, k, :, k * nu : (k + 1) * nu] = s.G[:, k]
    G = G.reshape(count, N * m, n)
    unit = 1 / np.sqrt(P[:, every, every])
    force = np.abs(unit * q).max(axis=1)
    unit = unit * force[:, None]
    G = G * unit[:, None]
    norm = np.linalg.norm(G, axis=2)
    length = np.where(norm > 0, norm, s.h.reshape(count, N * m))  # a row that is off reads 0 ≤ 1
    return CondensedPrograms(
        P=P * unit[:, :, None] * unit[:, None] / force[:, None, None] ** 2,
        q=q * unit / force[:, None] ** 2,
        G=G / length[:, :, None],
        h=s.h.reshape(count, N * m) / length,
        lower=s.lower.reshape(count, n) / unit,
        upper=s.upper.reshape(count, n) / unit,
        unit=unit,
        length=length,
        energy=force**2,
    )
