"""Newton steps of short horizons by one dense Hessian of the free inputs, the states eliminated (condensing).

With x_{k+1} = Γ_k u + …, Γ the response of the states to all inputs, the Hessian of the cost in the inputs is

    Σ_k Γ_kᵀ Q_k Γ_k + R + the rates' tridiagonal S,

once for a problem; an iteration adds its blocks CᵀDC on the diagonal and takes one Cholesky factorization (Bock and
Plitt, A multiple shooting algorithm for direct solution of optimal control problems, 1984). That is cubic in the
horizon where `pimpc.riccati` is linear, but a CPU has it in one call of LAPACK, which for few inputs is faster than a
loop over the stages. Only inputs that may move have a row: their number must be known before their places are, as
N nu or by `Structure.most_free`.

Γ grows with the system, and the Hessian with its square: in float32 a system that multiplies a deviation by 1e5 over
the horizon is not solved, where recursions solve it; by 1e4 it is. So it is chosen only where `most_free` is declared.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pimpc.dense import dot, scale
from pimpc.problem import LTVProblem, Structure, as_matrices
from pimpc.riccati import Step

MOST_STAGES, MOST_INPUTS = 16, 80  # measured at 10 stages and 60 inputs: half the time of recursions; at 120 no gain


class Condensed(NamedTuple):
    """The Hessian of the cost in the free inputs, M rows of which some may be left over, and what G adds to it."""

    slot: Int[Array, " M"]  # k nu + c of the input
    taken: Bool[Array, " M"]
    response: Float[Array, "states M"]  # Γ, all x_1 … x_N one below the other
    hessian: Float[Array, "M M"]  # an identity where not taken
    column: Float[Array, "M lines"] | None  # of G, the rows that touch the input
    row: Int[Array, "M lines"] | None  # k m + i of each of them
    together: Bool[Array, "M M"]  # inputs that the same rows touch


class Factors(NamedTuple):
    """A Hessian's Cholesky factor, with what it belongs to."""

    of: Condensed
    lower: Float[Array, "M M"]


def most_rows(problem: LTVProblem) -> int:
    """How many inputs may be free at most."""
    N, _, nu = problem.B.shape[-3:]
    most = problem.structure.most_free
    return N * nu if most is None else min(most, N * nu)


def pays(problem: LTVProblem) -> bool:
    """Whether it is invited by a declaration, can be done, and is faster: few stages and inputs, no bounds, a CPU."""
    bounded = problem.x_min is not None or problem.x_max is not None
    few = problem.B.shape[-3] <= MOST_STAGES and most_rows(problem) <= MOST_INPUTS
    return few and not bounded and problem.structure.most_free is not None and jax.default_backend() == "cpu"


def condense(problem: LTVProblem, free: Bool[Array, "N nu"]) -> Condensed:
    """Eliminates the states of one problem that has no bounds of them.

    Args:
        problem: One problem without a `horizon`.
        free: The inputs that may move; if they are more than declared, the last of them do not.

    Raises:
        ValueError: If states have bounds.
    """
    if problem.x_min is not None or problem.x_max is not None:
        raise ValueError('kernels="condensed" eliminates the states, which must not have bounds then.')
    N, _, nu = problem.B.shape
    M = most_rows(problem)
    at = jnp.cumsum(free.ravel()) - 1
    slot = jnp.arange(N * nu, dtype=jnp.int32)
    slot = jnp.zeros(M, jnp.int32).at[jnp.where(free.ravel(), at, M)].set(slot, mode="drop")
    taken = jnp.arange(M) <= at[-1]
    response, hessian = _eliminate(problem, slot, taken)
    column, row, block = None, None, jnp.zeros(nu, jnp.int32)
    if problem.G is not None:
        touched, lies_in, block = _touching(problem.structure, *problem.G.shape[1:])
        stage, c = slot[:, None] // nu, slot % nu
        column = jnp.where(taken[:, None] & lies_in[c], problem.G[stage, touched[c], c[:, None]], 0)
        row = stage * problem.G.shape[1] + touched[c]
    same = slot // nu * nu + block[slot % nu]
    return Condensed(slot, taken, response, hessian, column, row, same[:, None] == same)


def _eliminate(problem: LTVProblem, slot: Array, taken: Array) -> tuple[Float[Array, "states M"], Float[Array, "M M"]]:
    """Γ and the Hessian of the cost."""
    N, nx, nu = problem.B.shape
    stage, column = slot // nu, slot % nu
    own = jnp.where(taken, problem.B[stage, :, column].T, 0)

    def step(W: Array, data: tuple[Array, Array]) -> tuple[Array, Array]:
        A, k = data
        W = jnp.where(stage == k, own, dot(A, W))
        return W, W

    _, response = jax.lax.scan(step, jnp.zeros_like(own), (problem.A, jnp.arange(N)))
    weighed = jax.vmap(scale)(problem.Q, response).reshape(N * nx, -1)
    response = response.reshape(N * nx, -1)
    R, S = problem.R, problem.S
    if R.ndim != S.ndim:
        R, S = as_matrices(R), as_matrices(S)
    here = R + S + jnp.concatenate([S[1:], jnp.zeros_like(S[:1])])
    hessian = dot(response.T, weighed) + _couple(here, slot, 0) - _couple(S, slot, 1)
    return response, jnp.where(taken[:, None] & taken, hessian, jnp.eye(len(slot), dtype=hessian.dtype))


def _couple(W: Float[Array, "N nu"] | Float[Array, "N nu nu"], slot: Array, lag: int) -> Float[Array, "M M"]:
    """What weights say of pairs of inputs that are `lag` stages apart, those of the later stage."""
    nu = W.shape[1]
    if W.ndim == 2:
        weight = W.ravel()[slot]
        weight = jnp.where(slot[:, None] > slot, weight[:, None], weight)
        return jnp.where(jnp.abs(slot[:, None] - slot) == lag * nu, weight, 0)
    stage, c = slot // nu, slot % nu
    entries = W[jnp.maximum(stage[:, None], stage), c[:, None], c]
    return jnp.where(jnp.abs(stage[:, None] - stage) == lag, entries, 0)


def _touching(
    structure: Structure, m: int, nu: int
) -> tuple[Int[Array, "nu lines"], Bool[Array, "nu lines"], Int[Array, " nu"]]:
    """Which rows of G touch each input, some of them only to fill up, and the block that it belongs to."""
    places = structure.places() or [(slice(0, m), slice(0, nu))]
    most = max(rows.stop - rows.start for rows, _ in places)
    touched, lies_in, block = np.zeros((nu, most), np.int32), np.zeros((nu, most), bool), np.zeros(nu, np.int32)
    for b, (rows, columns) in enumerate(places):
        count = rows.stop - rows.start
        touched[columns, :count], lies_in[columns, :count], block[columns] = np.arange(rows.start, rows.stop), True, b
    return jnp.asarray(touched), jnp.asarray(lies_in), jnp.asarray(block)


def factorize(
    of: Condensed, rows: Float[Array, "N m"] | None = None, inputs: Float[Array, "N nu"] | None = None
) -> Factors:
    """Factorizes the Hessian + Cᵀ D C; NaN if it is not positive definite.

    Args:
        of: The Hessian.
        rows: D of the rows of G; None: zero.
        inputs: D of the inputs; None: zero.
    """
    hessian = of.hessian
    if rows is not None and of.column is not None:
        pushed = of.column * rows.ravel()[of.row]
        hessian += jnp.where(of.together, dot(pushed, of.column.T), 0)
    if inputs is not None:
        hessian += jnp.diag(jnp.where(of.taken, inputs.ravel()[of.slot], 0))
    return Factors(of, jax.lax.linalg.cholesky(hessian, symmetrize_input=False))


def minimize(factors: Factors, l_x: Float[Array, "N nx"], l_u: Float[Array, "N nu"]) -> Step:
    """As `pimpc.riccati.minimize`."""
    of, lower = factors
    g = jnp.where(of.taken, l_u.ravel()[of.slot], 0) + dot(l_x.ravel(), of.response)

    def solve(b: Array, transpose: bool) -> Array:
        return jax.lax.linalg.triangular_solve(lower, b[:, None], left_side=True, lower=True, transpose_a=transpose)[
            :, 0
        ]

    half = solve(g, False)
    u = -solve(half, True)
    du = jnp.zeros(l_u.size, u.dtype).at[jnp.where(of.taken, of.slot, l_u.size)].set(u, mode="drop")
    return Step(dot(of.response, u).reshape(l_x.shape), du.reshape(l_u.shape), 0.5 * jnp.sum(half**2))
