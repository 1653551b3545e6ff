"""Minimization of a quadratic over linear dynamics by dynamic programming: O(N) work, no matrix larger than a stage.

    min  Σ_k ½ dx_{k+1}ᵀ Q_k dx_{k+1} + l_x,kᵀ dx_{k+1} + ½ du_kᵀ R_k du_k + l_u,kᵀ du_k + ½‖du_k − du_{k−1}‖²_{S_k}
    s.t. dx_{k+1} = A_k dx_k + B_k du_k,   dx_0 = 0,   du_{−1} = 0,   du_k = 0 where not free

The value of stage k is a quadratic in (dx_k, du_{k−1}). Its Hessian does not depend on l_x and l_u, so that one
factorization serves several right-hand sides (Rao, Wright and Rawlings, Application of interior-point methods to model
predictive control, 1998, section 3.2; here the previous input joins the state for the sake of S). The stages follow one
another; `pimpc.riccati_parallel` does the same in O(log N) steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc import riccati_parallel
from pimpc.choice import Kernels
from pimpc.dense import as_matrix, dot, inverse, scale
from pimpc.problem import as_matrices


class Factors(NamedTuple):
    """What the backward pass over the Hessians leaves."""

    inverse: Float[Array, "N nu nu"]  # of the Hessian of each stage in its free inputs; zero elsewhere
    gain: Float[Array, "N nu nx"]  # by which they answer the state before
    AB: Float[Array, "N nx n"]  # [A_k, B_k]
    S: Float[Array, "N nu"] | Float[Array, "N nu nu"]
    loop: Float[Array, "N n n"] | None = None  # the stages' closed loops, for `pimpc.riccati_parallel`


class Step(NamedTuple):
    """A minimizer, and by how much it lowers the objective from zero."""

    dx: Float[Array, "N nx"]  # dx_1 … dx_N
    du: Float[Array, "N nu"]
    saved: Float[Array, ""]


def newton(
    A: Float[Array, "N nx nx"],
    B: Float[Array, "N nx nu"],
    Q: Float[Array, "N nx"] | Float[Array, "N nx nx"],
    R: Float[Array, "N nu"] | Float[Array, "N nu nu"],
    S: Float[Array, "N nu"] | Float[Array, "N nu nu"],
    free: Bool[Array, "N nu"],
    slopes: list[tuple[Float[Array, "N nx"], Float[Array, "N nu"]]],
    kernels: Kernels = "xla",
) -> list[Step]:
    """Minimizers for linear terms (l_x, l_u), with one factorization.

    Args:
        A: State matrices.
        B: Input matrices.
        Q: Weights of the states dx_1 … dx_N, diagonals or matrices.
        R: Weights of the inputs, likewise.
        S: Weights of the input rates, likewise.
        free: The inputs that may move.
        slopes: Linear terms.
        kernels: `"parallel"`: associative scans over the stages; all others: one stage after another.

    Returns:
        A step for each; NaN if the problem is not strictly convex in the free inputs.
    """
    factors = factorize(A, B, as_matrices(Q), as_matrices(R), S, free, kernels)
    return [minimize(factors, l_x, jnp.where(free, l_u, 0)) for l_x, l_u in slopes]


def factorize(
    A: Float[Array, "N nx nx"],
    B: Float[Array, "N nx nu"],
    Q: Float[Array, "N nx nx"],
    R: Float[Array, "N nu nu"],
    S: Float[Array, "N nu"] | Float[Array, "N nu nu"],
    free: Bool[Array, "N nu"],
    kernels: Kernels = "xla",
) -> Factors:
    """The backward pass over the Hessians.

    Args:
        A: State matrices.
        B: Input matrices.
        Q: Weights of the states dx_1 … dx_N.
        R: Weights of the inputs.
        S: Weights of the input rates, diagonals or matrices.
        free: The inputs that may move.
        kernels: `"parallel"`: an associative scan over the stages; all others: one stage after another.

    Returns:
        What `minimize` needs; NaN if the problem is not strictly convex in the free inputs.
    """
    nx, nu = B.shape[1:]
    AB = jnp.concatenate([A, B], axis=2)
    if kernels == "parallel":
        W, gain = riccati_parallel.gains(A, B, Q, R, S, free)
        return Factors(W, gain, AB, S, riccati_parallel.closed_loop(AB, S, W, gain))
    BA = jnp.swapaxes(AB, 1, 2)  # once for all: a product with a transposed matrix takes a CPU twice the time

    def stage(value: tuple[Array, ...], data: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        P_xx, P_ux, P_uu = value  # of (dx_{k+1}, du_k), without Q_k and R_k
        AB, BA, Q, R, S, free = data
        # Few products of a fair size: small ones cost their overhead.
        P = dot(jnp.concatenate([P_xx + Q, P_ux]), AB)
        full = dot(BA, P[:nx])
        mixed = P[nx:, nx:]
        W = inverse(full[nx:, nx:] + mixed + mixed.T + P_uu + R + as_matrix(S), free)
        cross = full[nx:, :nx] + P[nx:, :nx]
        gain = dot(W, cross)
        WS = scale(S, W).T
        before = full[:nx, :nx] - dot(cross.T, gain), scale(S, gain), as_matrix(S) - scale(S, WS)
        return before, (W, gain)

    end = tuple(jnp.zeros(shape, B.dtype) for shape in ((nx, nx), (nu, nx), (nu, nu)))
    _, (W, gain) = jax.lax.scan(stage, end, (AB, BA, Q, R, S, free), reverse=True)
    return Factors(W, gain, AB, S)


def minimize(factors: Factors, l_x: Float[Array, "N nx"], l_u: Float[Array, "N nu"]) -> Step:
    """The minimizer for linear terms l_x and l_u, the latter zero on inputs that are not free."""
    if factors.loop is not None:
        loop, AB, S, W, gain = factors.loop, factors.AB, factors.S, factors.inverse, factors.gain
        return Step(*riccati_parallel.minimize(loop, AB, S, W, gain, l_x, l_u))
    nu, nx = factors.gain.shape[1:]
    both = jnp.concatenate([factors.gain, factors.inverse], axis=2)
    stages = both, factors.AB, factors.S

    def backward(slope: tuple[Array, Array], data: tuple[Any, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (both, AB, S), l_x, l_u = data
        pulled = dot(slope[0] + l_x, AB)
        g = l_u + pulled[nx:] + slope[1]
        answer = dot(g, both)  # (gainᵀ g, W g)
        Wg = answer[nx:]
        return (pulled[:nx] - answer[:nx], scale(S, Wg)), (Wg, 0.5 * jnp.sum(g * Wg))

    def forward(before: tuple[Array, Array], data: tuple[Any, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (both, AB, S), Wg = data
        u = -Wg - dot(both, jnp.concatenate([before[0], -scale(S, before[1])]))
        after = dot(AB, jnp.concatenate([before[0], u])), u
        return after, after

    start = jnp.zeros(nx, l_u.dtype), jnp.zeros(nu, l_u.dtype)
    _, (Wg, savings) = jax.lax.scan(backward, start, (stages, l_x, l_u), reverse=True)
    _, (dx, du) = jax.lax.scan(forward, start, (stages, Wg))
    return Step(dx, du, jnp.sum(savings))
