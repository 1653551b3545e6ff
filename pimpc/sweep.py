"""Inversion of positive definite matrices by block sweeps: small factorizations and products, which batch well.

Sweeping block k of a symmetric matrix replaces its pivot M_kk by −M_kk⁻¹, its row by M_kk⁻¹ M_kj and all other entries
by the Schur complement M_ij − M_ik M_kk⁻¹ M_kj; after all blocks the matrix is −M⁻¹ (Goodnight, A tutorial on the sweep
operator, 1979). Libraries factorize one large matrix well but thousands of middling ones badly, on CPUs and GPUs alike.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_HIGHEST = jax.lax.Precision.HIGHEST


def stage_blocks(stages: int, size: int) -> tuple[int, ...]:
    """Nested block sizes for a matrix of `stages` blocks of `size` rows: groups of at most √stages, then stages."""
    group = max(g for g in range(1, math.isqrt(stages) + 1) if stages % g == 0)
    return (group * size, size) if group > 1 else (size,)


def inverse(M: Float[Array, "n n"], blocks: tuple[int, ...]) -> Float[Array, "n n"]:
    """Inverts a positive definite matrix.

    Args:
        M: The matrix. In float32 its diagonal should be scaled to one.
        blocks: Numbers of rows to eliminate at once, nested: the first divides n, each other one its predecessor.

    Returns:
        The inverse, symmetric up to rounding; NaN if the matrix is not positive definite.
    """
    if not blocks:
        eye = jnp.eye(M.shape[0], dtype=M.dtype)
        half = jax.lax.linalg.triangular_solve(jnp.linalg.cholesky(M), eye, left_side=True, lower=True)
        return jnp.matmul(half.T, half, precision=_HIGHEST)
    block = blocks[0]

    def sweep(k: Array | int, M: Array) -> Array:
        row = jax.lax.dynamic_slice_in_dim(M, k * block, block, axis=0)
        pivot = inverse(jax.lax.dynamic_slice_in_dim(row, k * block, block, axis=1), blocks[1:])
        solved = jnp.matmul(pivot, row, precision=_HIGHEST)
        solved = jax.lax.dynamic_update_slice_in_dim(solved, -pivot, k * block, axis=1)
        others = jax.lax.dynamic_update_slice_in_dim(row, jnp.zeros_like(pivot), k * block, axis=1)
        M = M - jnp.matmul(others.T, solved, precision=_HIGHEST)
        M = jax.lax.dynamic_update_slice_in_dim(M, solved, k * block, axis=0)
        return jax.lax.dynamic_update_slice_in_dim(M, solved.T, k * block, axis=1)

    return -jax.lax.fori_loop(0, M.shape[0] // block, sweep, M)
