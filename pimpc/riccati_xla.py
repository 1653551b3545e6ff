"""The recursions of `pimpc.riccati` in plain XLA, as scans over the stages: for any device, size and precision."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_HIGHEST = jax.lax.Precision.HIGHEST


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _matrix(S: Array) -> Array:
    return jnp.diag(S) if S.ndim == 1 else S


def _scale(S: Array, v: Array) -> Array:
    """S v, where S is a diagonal or a matrix and v a vector or a matrix."""
    if S.ndim == 2:
        return _dot(S, v)
    return S * v if v.ndim == 1 else S[:, None] * v


def inverse(K: Float[Array, "n n"], free: Bool[Array, " n"]) -> Float[Array, "n n"]:
    """The inverse on the free rows and columns, zero on the others; NaN if K is not positive definite there."""
    mask = free.astype(K.dtype)
    unit = mask / jnp.sqrt(jnp.where(free, jnp.diag(K), 1))
    factor = jnp.linalg.cholesky(K * unit[:, None] * unit + jnp.diag(1 - mask))
    half = jax.lax.linalg.triangular_solve(factor, jnp.diag(unit), left_side=True, lower=True)
    return _dot(half.T, half)


def factorize(
    A: Float[Array, "N nx nx"],
    B: Float[Array, "N nx nu"],
    Q: Float[Array, "N nx nx"],
    R: Float[Array, "N nu nu"],
    S: Float[Array, "N nu"] | Float[Array, "N nu nu"],
    free: Bool[Array, "N nu"],
) -> tuple[Float[Array, "N nu nu"], Float[Array, "N nu nx"]]:
    """`inverse` and `cross` of `riccati.Factors`; see `riccati.factorize`."""
    nx, nu = B.shape[1:]
    AB = jnp.concatenate([A, B], axis=2)

    def stage(value: tuple[Array, ...], data: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        P_xx, P_ux, P_uu = value  # of (dx_{k+1}, du_k), without Q_k and R_k
        AB, Q, R, S, free = data
        # Few products of a fair size: small ones cost their overhead.
        P = _dot(jnp.concatenate([P_xx + Q, P_ux]), AB)
        full = _dot(AB.T, P[:nx])
        mixed = P[nx:, nx:]
        W = inverse(full[nx:, nx:] + mixed + mixed.T + P_uu + R + _matrix(S), free)
        cross = full[nx:, :nx] + P[nx:, :nx]
        gain = _dot(W, cross)
        WS = _scale(S, W).T
        before = full[:nx, :nx] - _dot(cross.T, gain), _scale(S, gain), _matrix(S) - _scale(S, WS)
        return before, (W, cross)

    end = tuple(jnp.zeros(shape, B.dtype) for shape in ((nx, nx), (nu, nx), (nu, nu)))
    _, (W, cross) = jax.lax.scan(stage, end, (AB, Q, R, S, free), reverse=True)
    return W, cross


def minimize(
    W: Float[Array, "N nu nu"],
    cross: Float[Array, "N nu nx"],
    A: Float[Array, "N nx nx"],
    B: Float[Array, "N nx nu"],
    S: Float[Array, "N nu"] | Float[Array, "N nu nu"],
    l_x: Float[Array, "N nx"],
    l_u: Float[Array, "N nu"],
) -> tuple[Float[Array, "N nx"], Float[Array, "N nu"], Float[Array, ""]]:
    """See `riccati.minimize`; the factors come one by one."""
    nx, nu = B.shape[1:]
    factors = W, cross, A, B, S

    def backward(slope: tuple[Array, Array], data: tuple[Any, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (W, cross, A, B, S), l_x, l_u = data
        p = slope[0] + l_x
        g = l_u + _dot(p, B) + slope[1]
        Wg = _dot(W, g)
        return (_dot(p, A) - _dot(Wg, cross), _scale(S, Wg)), (Wg, 0.5 * jnp.sum(g * Wg))

    def forward(before: tuple[Array, Array], data: tuple[Any, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (W, cross, A, B, S), Wg = data
        u = -Wg - _dot(W, _dot(cross, before[0]) - _scale(S, before[1]))
        after = _dot(A, before[0]) + _dot(B, u), u
        return after, after

    start = jnp.zeros(nx, l_u.dtype), jnp.zeros(nu, l_u.dtype)
    _, (Wg, savings) = jax.lax.scan(backward, start, (factors, l_x, l_u), reverse=True)
    _, (dx, du) = jax.lax.scan(forward, start, (factors, Wg))
    return dx, du, jnp.sum(savings)
