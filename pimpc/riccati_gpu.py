"""The recursions of `pimpc.riccati` as GPU kernels: one warp a problem, all stages in one launch.

Matrices are padded with zeros to tiles whose sides are powers of two, at least 16 as Triton's products need; padded
inputs are not free. What is carried from stage to stage stays in registers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

LARGEST_TILE = 16  # wider ones would run, but have been timed and checked on no GPU yet


def tile(size: int) -> int:
    """The side of the tile that holds `size` rows."""
    return max(16, 1 << (size - 1).bit_length())


def _pad(v: Array, *sides: int) -> Array:
    return jnp.pad(v, [(0, 0)] + [(0, side - n) for side, n in zip(sides, v.shape[1:], strict=True)])


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _call(kernel: Callable[..., None], shapes: tuple[tuple[int, ...], ...], interpret: bool, *inputs: Array) -> Any:
    outputs = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    settings = triton.CompilerParams(num_warps=1, num_stages=1)
    return pl.pallas_call(kernel, out_shape=outputs, compiler_params=settings, interpret=interpret)(*inputs)


def factorize(
    A: Float[Array, "N nx nx"],
    B: Float[Array, "N nx nu"],
    Q: Float[Array, "N nx nx"],
    R: Float[Array, "N nu nu"],
    S: Float[Array, "N nu nu"],
    free: Bool[Array, "N nu"],
    interpret: bool = False,
) -> tuple[Float[Array, "N nu nu"], Float[Array, "N nu nx"]]:
    """As `riccati.factorize`.

    Args:
        A: State matrices.
        B: Input matrices.
        Q: Weights of the states.
        R: Weights of the inputs.
        S: Weights of the input rates.
        free: The inputs that may move.
        interpret: Run the kernel's operations one by one, on any device (for tests).

    Returns:
        `inverse` and `cross` of `riccati.Factors`.
    """
    N, nx, nu = B.shape
    m, n = tile(nx), tile(nu)
    kernel = functools.partial(_factorize_kernel, pivots=nu)
    inputs = _pad(A, m, m), _pad(B, m, n), _pad(Q, m, m), _pad(R, n, n), _pad(S, n, n)
    W, cross = _call(kernel, ((N, n, n), (N, n, m)), interpret, *inputs, _pad(free.astype(jnp.float32), n))
    return W[:, :nu, :nu], cross[:, :nu, :nx]


def _factorize_kernel(
    A_ref: Any,
    B_ref: Any,
    Q_ref: Any,
    R_ref: Any,
    S_ref: Any,
    free_ref: Any,
    W_ref: Any,
    cross_ref: Any,
    *,
    pivots: int,
) -> None:
    N, m, n = B_ref.shape

    def stage(i: Any, value: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k = N - 1 - i
        P_xx, P_ux, P_uu = value
        A, B, S = A_ref[k], B_ref[k], S_ref[k]
        P_xx = P_xx + Q_ref[k]
        PA, PB, mixed = _dot(P_xx, A), _dot(P_xx, B), _dot(P_ux, B)
        K = _dot(B.T, PB) + mixed + mixed.T + P_uu + R_ref[k] + S
        W = _inverse(K, free_ref[k], pivots)
        cross = _dot(B.T, PA) + _dot(P_ux, A)
        gain = _dot(W, cross)
        W_ref[k], cross_ref[k] = W, cross
        # An antisymmetric part, once rounding has made one, would grow from stage to stage.
        return _symmetric(_dot(A.T, PA) - _dot(cross.T, gain)), _dot(S, gain), _symmetric(S - _dot(S, _dot(W, S)))

    zeros = tuple(jnp.zeros(shape, jnp.float32) for shape in ((m, m), (n, m), (n, n)))
    jax.lax.fori_loop(0, N, stage, zeros)


def _symmetric(M: Array) -> Array:
    return 0.5 * (M + M.T)


def _inverse(K: Array, free: Array, pivots: int) -> Array:
    """`riccati.inverse` by the sweep operator (Goodnight 1979): after all pivots the matrix is minus its inverse."""
    n = K.shape[0]
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (n, n), axis) for axis in (0, 1))

    def pick(M: Array, index: Array, j: Any) -> Array:
        return jnp.where(index == j, M, 0.0)

    both = free[:, None] * free[None, :]
    scale = jnp.where(free > 0, jnp.sum(jnp.where(row == column, K, 0.0), axis=0), 1.0)
    unit = 1.0 / jnp.sqrt(scale)
    M = jnp.where(both > 0, K * unit[:, None] * unit[None, :], jnp.where(row == column, 1.0, 0.0))

    def sweep(j: Any, M: Array) -> Array:
        across, down = jnp.sum(pick(M, row, j), axis=0), jnp.sum(pick(M, column, j), axis=1)
        pivot = jnp.sum(pick(pick(M, row, j), column, j))
        inverse = 1.0 / jnp.where(pivot > 0.0, pivot, jnp.nan)
        others = M - down[:, None] * across[None, :] * inverse
        lines = jnp.where(row == j, across[None, :], down[:, None]) * inverse
        M = jnp.where((row == j) | (column == j), lines, others)
        return jnp.where((row == j) & (column == j), -inverse, M)

    M = jax.lax.fori_loop(0, pivots, sweep, M)
    return jnp.asarray(jnp.where(both > 0, -M * unit[:, None] * unit[None, :], 0.0))


def minimize(
    W: Float[Array, "N nu nu"],
    cross: Float[Array, "N nu nx"],
    A: Float[Array, "N nx nx"],
    B: Float[Array, "N nx nu"],
    S: Float[Array, "N nu nu"],
    l_x: Float[Array, "N nx"],
    l_u: Float[Array, "N nu"],
    interpret: bool = False,
) -> tuple[Float[Array, "N nx"], Float[Array, "N nu"], Float[Array, ""]]:
    """As `riccati.minimize`, for the fields of `riccati.Factors`; the rate weights must be matrices."""
    N, nx, nu = B.shape
    m, n = tile(nx), tile(nu)
    factors = _pad(W, n, n), _pad(cross, n, m), _pad(A, m, m), _pad(B, m, n), _pad(S, n, n)
    g, Wg = _call(_backward_kernel, ((N, n), (N, n)), interpret, *factors, _pad(l_x, m), _pad(l_u, n))
    dx, du = _call(_forward_kernel, ((N, m), (N, n)), interpret, *factors, Wg)
    return dx[:, :nx], du[:, :nu], 0.5 * jnp.sum(g * Wg)


def _times(M: Array, v: Array) -> Array:
    return jnp.sum(M * v[None, :], axis=1)


def _transposed_times(M: Array, v: Array) -> Array:
    return jnp.sum(M * v[:, None], axis=0)


def _backward_kernel(
    W_ref: Any, cross_ref: Any, A_ref: Any, B_ref: Any, S_ref: Any, l_x_ref: Any, l_u_ref: Any, g_ref: Any, Wg_ref: Any
) -> None:
    N, m, n = B_ref.shape

    def stage(i: Any, slope: tuple[Array, Array]) -> tuple[Array, Array]:
        k = N - 1 - i
        p = slope[0] + l_x_ref[k]
        g = l_u_ref[k] + _transposed_times(B_ref[k], p) + slope[1]
        Wg = _times(W_ref[k], g)
        g_ref[k], Wg_ref[k] = g, Wg
        return _transposed_times(A_ref[k], p) - _transposed_times(cross_ref[k], Wg), _times(S_ref[k], Wg)

    jax.lax.fori_loop(0, N, stage, (jnp.zeros(m, jnp.float32), jnp.zeros(n, jnp.float32)))


def _forward_kernel(
    W_ref: Any, cross_ref: Any, A_ref: Any, B_ref: Any, S_ref: Any, Wg_ref: Any, dx_ref: Any, du_ref: Any
) -> None:
    N, m, n = B_ref.shape

    def stage(k: Any, before: tuple[Array, Array]) -> tuple[Array, Array]:
        u = -Wg_ref[k] - _times(W_ref[k], _times(cross_ref[k], before[0]) - _times(S_ref[k], before[1]))
        x = _times(A_ref[k], before[0]) + _times(B_ref[k], u)
        dx_ref[k], du_ref[k] = x, u
        return x, u

    jax.lax.fori_loop(0, N, stage, (jnp.zeros(m, jnp.float32), jnp.zeros(n, jnp.float32)))
