"""Elimination of the states: the problem in its inputs alone, for dynamics that vary from stage to stage.

The Hessian comes from a backward recursion on cost-to-go matrices P_k = Q_k + A_{k+1}ᵀ P_{k+1} A_{k+1}: its block
(i, j), i ≤ j, is B_iᵀ A_{i+1}ᵀ … A_jᵀ P_j B_j plus the input and rate weights. The map from inputs to states, which is
ten times as expensive to square, is built only when states are bounded.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pimpc.problem import LTVProblem, as_matrices

_HIGHEST = jax.lax.Precision.HIGHEST


def condensed_hessian(problem: LTVProblem) -> Float[Array, "N nu N nu"]:
    """The second derivative of the cost with respect to the inputs, the dynamics eliminated.

    Args:
        problem: One problem without a `horizon`.

    Returns:
        Blocks H[i, :, j, :] = ∂²J / ∂u_i ∂u_j, symmetric.
    """
    N, nx, nu = problem.B.shape
    A_next = jnp.concatenate([problem.A[1:], jnp.zeros_like(problem.A[:1])])
    S, R = as_matrices(problem.S), as_matrices(problem.R)

    def step(carry: tuple[Array, Array], stage: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        P, W = carry
        A, B, Q, here = stage
        P = Q + jnp.matmul(A.T, jnp.matmul(P, A, precision=_HIGHEST), precision=_HIGHEST)
        W = jnp.einsum("ji,jkl->ikl", A, W, precision=_HIGHEST)
        W = jnp.where(here[None, :, None], jnp.matmul(P, B, precision=_HIGHEST)[:, None, :], W)
        return (P, W), jnp.einsum("ij,ikl->jkl", B, W, precision=_HIGHEST)

    start = jnp.zeros((nx, nx), problem.A.dtype), jnp.zeros((nx, N, nu), problem.A.dtype)
    stages = A_next, problem.B, as_matrices(problem.Q), jnp.eye(N, dtype=bool)
    _, upper = jax.lax.scan(step, start, stages, reverse=True)
    k = jnp.arange(N)
    S_next = jnp.concatenate([S[1:], jnp.zeros_like(S[:1])])
    upper = upper.at[k, :, k, :].add(R + S + S_next)
    upper = upper.at[k[:-1], :, k[1:], :].add(-S[1:])
    above = (k[:, None] < k)[:, None, :, None]
    return upper + jnp.where(above, upper, 0).transpose(2, 3, 0, 1)


def input_to_state(problem: LTVProblem) -> Float[Array, "N nx N nu"]:
    """The derivative of x_{k+1} with respect to u_j, zero for j > k."""
    N, nx, nu = problem.B.shape

    def step(row: Array, stage: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        A, B, here = stage
        row = jnp.einsum("ij,jkl->ikl", A, row, precision=_HIGHEST)
        row = jnp.where(here[None, :, None], B[:, None, :], row)
        return row, row

    start = jnp.zeros((nx, N, nu), problem.A.dtype)
    _, rows = jax.lax.scan(step, start, (problem.A, problem.B, jnp.eye(N, dtype=bool)))
    return rows
