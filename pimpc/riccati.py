"""Minimization of a quadratic over linear dynamics by dynamic programming: O(N) work, no matrix larger than a stage.

    min  Σ_k ½ dx_{k+1}ᵀ Q_k dx_{k+1} + l_x,kᵀ dx_{k+1} + ½ du_kᵀ R_k du_k + l_u,kᵀ du_k + ½‖du_k − du_{k−1}‖²_{S_k}
    s.t. dx_{k+1} = A_k dx_k + B_k du_k,   dx_0 = 0,   du_{−1} = 0,   du_k = 0 where not free

The value of stage k is a quadratic in (dx_k, du_{k−1}). Its Hessian does not depend on l_x and l_u, so that one
factorization serves several right-hand sides (Rao, Wright and Rawlings, Application of interior-point methods to model
predictive control, 1998, section 3.2; here the previous input joins the state for the sake of S).

There are two implementations: scans in plain XLA, and fused kernels for NVIDIA GPUs in float32.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc import riccati_gpu, riccati_xla
from pimpc.problem import as_matrices

Kernels = Literal["auto", "xla", "pallas"]  # auto: pallas where it can run
T = TypeVar("T")


class Factors(NamedTuple):
    """What the backward pass over the Hessians leaves."""

    inverse: Float[Array, "N nu nu"]  # of the Hessian of each stage in its free inputs; zero elsewhere
    cross: Float[Array, "N nu nx"]  # of the inputs with the state before
    A: Float[Array, "N nx nx"]
    B: Float[Array, "N nx nu"]
    S: Float[Array, "N nu"] | Float[Array, "N nu nu"]


def factorize(
    A: Float[Array, "N nx nx"],
    B: Float[Array, "N nx nu"],
    Q: Float[Array, "N nx nx"],
    R: Float[Array, "N nu nu"],
    S: Float[Array, "N nu"] | Float[Array, "N nu nu"],
    free: Bool[Array, "N nu"],
    kernels: Kernels = "auto",
) -> Factors:
    """The backward pass over the Hessians.

    Args:
        A: State matrices.
        B: Input matrices.
        Q: Weights of the states dx_1 … dx_N.
        R: Weights of the inputs.
        S: Weights of the input rates, diagonals or matrices.
        free: The inputs that may move.
        kernels: Which implementation to use.

    Returns:
        What `minimize` needs; NaN if the problem is not strictly convex in the free inputs.
    """
    W, cross = _choose(
        B,
        kernels,
        lambda: riccati_xla.factorize(A, B, Q, R, S, free),
        lambda: riccati_gpu.factorize(A, B, Q, R, as_matrices(S), free),
    )
    return Factors(W, cross, A, B, S)


def minimize(
    factors: Factors, l_x: Float[Array, "N nx"], l_u: Float[Array, "N nu"], kernels: Kernels = "auto"
) -> tuple[Float[Array, "N nx"], Float[Array, "N nu"], Float[Array, ""]]:
    """The minimizer for linear terms l_x and l_u.

    Args:
        factors: From `factorize`.
        l_x: Slopes in the states dx_1 … dx_N.
        l_u: Slopes in the inputs; zero on those that are not free.
        kernels: Which implementation to use.

    Returns:
        dx_1 … dx_N, du_0 … du_{N−1}, and by how much they lower the objective from zero.
    """
    full = factors._replace(S=as_matrices(factors.S))
    return _choose(
        factors.B,
        kernels,
        lambda: riccati_xla.minimize(*factors, l_x, l_u),
        lambda: riccati_gpu.minimize(*full, l_x, l_u),
    )


def _choose(B: Array, kernels: Kernels, xla: Callable[[], T], pallas: Callable[[], T]) -> T:
    if kernels == "pallas":
        return pallas()
    fits = B.dtype == jnp.float32 and max(B.shape[1:]) <= riccati_gpu.LARGEST_TILE
    if kernels == "xla" or not fits or jax.default_backend() != "gpu":
        return xla()
    # A program traced on a machine with a GPU may still be compiled for its CPU.
    return jax.lax.platform_dependent(cuda=pallas, default=xla)
