"""Products and inverses of a stage's matrices, in full precision on every device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def dot(a: Array, b: Array) -> Array:
    """The product of matrices, or of a matrix and a vector."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def as_matrix(S: Array) -> Array:
    """A matrix that may be given as its diagonal."""
    return jnp.diag(S) if S.ndim == 1 else S


def scale(S: Array, v: Array) -> Array:
    """S v, where S is a diagonal or a matrix and v a vector or a matrix."""
    if S.ndim == 2:
        return dot(S, v)
    return S * v if v.ndim == 1 else S[:, None] * v


def inverse(K: Float[Array, "n n"], free: Bool[Array, " n"]) -> Float[Array, "n n"]:
    """The inverse on the free rows and columns, zero on the others; NaN if K is not positive definite there."""
    mask = free.astype(K.dtype)
    unit = mask / jnp.sqrt(jnp.where(free, jnp.diag(K), 1))
    factor = jnp.linalg.cholesky(K * unit[:, None] * unit + jnp.diag(1 - mask))
    half = jax.lax.linalg.triangular_solve(factor, jnp.eye(len(K), dtype=K.dtype), left_side=True, lower=True)
    whole = jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)
    return 0.5 * unit[:, None] * (whole + whole.T) * unit
