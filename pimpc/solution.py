"""What a solve returns: the plan, how good it is, and what happened, for each instance of a batch."""

import dataclasses
import enum

import jax
from jaxtyping import Array, Float, Int, PyTree


class Status(enum.IntEnum):
    """What happened to one instance. `Status(int(code)).message` says it in a sentence."""

    message: str

    def __new__(cls, code: int, message: str) -> "Status":
        """Attaches the message to the integer code."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.message = message
        return member

    SOLVED = 0, "Solved: both residuals of the returned plan are within the tolerance."
    SOLVED_INACCURATE = 1, "Solved inaccurately: the residuals are within ten times the tolerance, but not within it."
    MAX_ITERATIONS = 2, "Not shown to be optimal: the residuals stay large, for want of iterations or of precision."
    INFEASIBLE = 3, "No inputs satisfy the constraints; check u_min, u_max, G and h, and the state bounds against x0."
    NONFINITE_INPUT = 4, "The problem holds NaN or an infinity outside the bounds; `pimpc.validate` names the field."
    NONFINITE = 5, "The iteration diverged to NaN or infinity; the weights are probably not positive definite."


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """The answer to one problem (or to a batch, under `jax.vmap`).

    Attributes:
        x: States x_0 … x_N, the exact roll-out of `u` from `x0`.
        u: Inputs u_0 … u_{N−1}; NaN when the status is NONFINITE_INPUT or NONFINITE.
        status: A `Status` code.
        iterations: Iterations done.
        primal_residual: Relative constraint violation of the returned `x` and `u` (see `pimpc.kkt_residuals`).
        dual_residual: Relative distance of the returned `x` and `u` from optimality (see `pimpc.kkt_residuals`).
        cost: Objective of the returned `x` and `u`.
        warm_start: State of the method, to be passed to the next `solve` of a similar problem. Safe to carry after a
            failure: it is then a cold start.
    """

    x: Float[Array, "*batch T nx"]
    u: Float[Array, "*batch N nu"]
    status: Int[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    primal_residual: Float[Array, "*batch"]
    dual_residual: Float[Array, "*batch"]
    cost: Float[Array, "*batch"]
    warm_start: PyTree
