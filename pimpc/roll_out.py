"""Roll-outs: stage by stage, as an associative scan, or as one GPU kernel, where XLA launches a few for every stage."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pimpc import cuda_kernels
from pimpc import problem as plain
from pimpc.choice import Kernels, choose
from pimpc.dense import dot
from pimpc.problem import LTVProblem
from pimpc.riccati_parallel import recur


def roll_out(problem: LTVProblem, u: Float[Array, "N nu"], kernels: Kernels = "auto") -> Float[Array, "T nx"]:
    """As `pimpc.problem.roll_out`, computed as `InteriorPoint.kernels` says; the kernel is not differentiable."""
    if kernels == "parallel":
        drive = plain.drive(problem, u)
        drive = drive.at[0].add(dot(problem.A[0], problem.x0))
        return jnp.concatenate([problem.x0[None], recur(problem.A, drive)])
    fits = cuda_kernels.fits(problem)
    return choose(kernels, fits, lambda: cuda_kernels.roll_out(problem, u), lambda: plain.roll_out(problem, u))
