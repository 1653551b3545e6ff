"""The derivatives of an optimal plan with respect to the data of its problem, by the implicit function theorem.

As long as no constraint changes sides, the plan solves the problem whose active rows are equations and whose other
rows are absent. With θ the data, x(θ, u) the roll-out, J the cost, and y the multipliers of the active rows
C (x, u) = b, the plan is a stationary point of the Lagrangian

    L(θ, u, y) = J(θ, x(θ, u), u) + yᵀ(C(θ) (x(θ, u), u) − b(θ)),

and a change dθ moves it by the solution of (Amos and Kolter, OptNet, 2017, without the rows that do not bind)

    K (du, dy) = −∂_θ∇L dθ,   K = ∇²L = [H Cᵀ; C 0],   ∇ by (u, y).

K is symmetric: the transposed derivative, which reverse mode asks for, is solved for in the same way.

Redundant rows, as at the apex of a friction cone, make K singular. It is therefore solved with as an augmented
Lagrangian: [H Cᵀ; C −δ], δ a small share of each row's natural compliance (see `pimpc.rows`), is a Riccati recursion
with the penalty 1/δ on the active rows, and iterative refinement against K itself removes what δ leaves open.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from pimpc import riccati
from pimpc.constraints import bounds, values
from pimpc.problem import LTVProblem, cost, roll_out
from pimpc.residuals import fixed_inputs
from pimpc.rows import factorize, measure, pull

_PENALTY = {"float32": 3e4, "float64": 1e8}  # 1/δ relative to the natural stiffness of a row
_REFINEMENTS = 5  # one is enough unless active rows are nearly redundant
T = TypeVar("T")
Step = tuple[Float[Array, "N nu"], Float[Array, " M"]]  # of inputs and multipliers, or what K makes of one


class Optimum(NamedTuple):
    """What carries derivatives."""

    x: Float[Array, "T nx"]
    u: Float[Array, "N nu"]
    cost: Float[Array, ""]


class _Active(NamedTuple):
    """The rows that hold as equations. With both bounds active, which then are equal, their mean is the bound."""

    below: Bool[Array, " M"]
    above: Bool[Array, " M"]
    stiffness: Float[Array, " M"]  # 1/δ; zero on the other rows


@jax.custom_jvp
def attach(
    problem: LTVProblem, plan: Optimum, y: Float[Array, " M"], optimal: Bool[Array, ""]
) -> tuple[Optimum, Float[Array, " M"]]:
    """Gives a plan its derivatives with respect to the problem, whoever computed it and however.

    Args:
        problem: One problem without a `horizon`.
        plan: Its solution.
        y: Its Lagrange multipliers in the order of `pimpc.constraints`.
        optimal: Whether plan and multipliers are what they should be; otherwise their derivatives are zero.

    Returns:
        Plan and multipliers, unchanged. Nothing but `problem` passes a derivative on to them.
    """
    return plan, y


@attach.defjvp
def _attach_jvp(primals: tuple, tangents: tuple) -> tuple[tuple[Optimum, Array], tuple[Optimum, Array]]:
    problem, _, _, optimal = primals
    plan, y = attach(*primals)  # with derivatives of their own, for second ones

    # Both ways through, so that the NaN of a failure stays inside forwards and backwards.
    def gate(tree: T) -> T:
        return jax.tree.map(lambda leaf: jnp.where(optimal, leaf, 0), tree)

    return (plan, y), gate(_sensitivity(problem, plan, y, gate(tangents[0])))


def _sensitivity(
    problem: LTVProblem, plan: Optimum, y: Float[Array, " M"], change: LTVProblem
) -> tuple[Optimum, Float[Array, " M"]]:
    """The derivatives of plan and multipliers in the direction `change` of the data."""
    active = _active(*jax.lax.stop_gradient((problem, plan, y)))

    def conditions(problem: LTVProblem, u: Array, y: Array) -> Step:
        return jax.grad(_lagrangian, argnums=(1, 2))(problem, u, y, active)

    _, curvature = jax.linearize(lambda u, y: conditions(problem, u, y), plan.u, y)
    _, right = jax.jvp(lambda problem: conditions(problem, plan.u, y), (problem,), (change,))
    flat, structured = ravel_pytree(right)  # JAX transposes a solve of all its right-hand sides only

    def times(step: Array) -> Array:
        return ravel_pytree(curvature(*structured(step)))[0]

    inverse = _inverse(jax.lax.stop_gradient(problem), active)

    def solve(K: Callable[[Array], Array], right: Array) -> Array:
        def refine(_: Array, step: Array) -> Array:
            return step + inverse(right - K(step))

        return jax.lax.fori_loop(0, _REFINEMENTS, refine, inverse(right))

    du, dy = structured(jax.lax.custom_linear_solve(times, -flat, solve, symmetric=True))
    _, moved = jax.jvp(_evaluate, (problem, plan.u), (change, du))
    return moved, dy


def _evaluate(problem: LTVProblem, u: Float[Array, "N nu"]) -> Optimum:
    """The plan that inputs make; those without a choice follow their bounds, half of it each."""
    if problem.u_min is not None and problem.u_max is not None:
        u = jnp.where(fixed_inputs(problem), 0.5 * (problem.u_min + problem.u_max), u)
    x = roll_out(problem, u)
    return Optimum(x, u, cost(problem, x, u))


def _lagrangian(
    problem: LTVProblem, u: Float[Array, "N nu"], y: Float[Array, " M"], active: _Active
) -> Float[Array, ""]:
    """The cost of inputs and, weighed by y, what the active rows lack of their bounds."""
    plan = _evaluate(problem, u)
    lower, upper = bounds(problem)
    bound = jnp.where(active.below, lower, 0) + jnp.where(active.above, upper, 0)
    bound = jnp.where(active.below & active.above, 0.5, 1) * bound
    excess = jnp.where(active.below | active.above, values(problem, plan.x, plan.u) - bound, 0)
    return plan.cost + jnp.sum(y * excess)


def _active(problem: LTVProblem, plan: Optimum, y: Float[Array, " M"]) -> _Active:
    """Takes a row for active if its force, let go, would move it by more than its slack.

    Interior point methods end with small slacks on active rows and small forces on the others; the compliance, which
    is the motion for a unit of force, makes the two comparable.
    """
    rows = measure(problem)
    at, force = values(problem, plan.x, plan.u), rows.compliance * y
    below = rows.equal | (rows.below & (-force > jnp.maximum(at - rows.lower, 0)))
    above = rows.equal | (rows.above & (force > jnp.maximum(rows.upper - at, 0)))
    active = below | above  # and hence movable
    return _Active(below, above, active * _PENALTY[at.dtype.name] / jnp.where(active, rows.compliance, 1))


def _inverse(problem: LTVProblem, active: _Active) -> Callable[[Float[Array, " z"]], Float[Array, " z"]]:
    """Nearly the inverse of K: that of [H Cᵀ; C −δ], by one factorization of the Hessian with the penalty on C."""
    factors = factorize(problem, active.stiffness)
    free = ~fixed_inputs(problem)

    def apply(right: Array) -> Array:
        """Solves H du + Cᵀ dy = right_u, C du − δ dy = right_y."""
        right_u, right_y = right[: free.size].reshape(free.shape), right[free.size :]
        l_x, l_u = pull(problem, active.stiffness * right_y)
        dx, du, _ = riccati.minimize(factors, -l_x, jnp.where(free, -l_u - right_u, 0))
        reached = values(problem, jnp.concatenate([jnp.zeros_like(dx[:1]), dx]), du)
        return jnp.concatenate([du.ravel(), active.stiffness * (reached - right_y)])

    return apply
