"""How far inputs and multipliers are from the optimum, judged from the problem alone.

With p_k the costate of x_{k+1} and λ, μ, ν the multipliers of the rows G_k, of the input bounds and of the state bounds
(positive at an upper bound, negative at a lower one), the optimality conditions of the problem in `pimpc.problem` are

    ∇J_k + G_kᵀ λ_k + μ_k = 0,   ∇J_k = R_k(u_k − u_ref,k) + S_k(u_k − u_{k−1}) − S_{k+1}(u_{k+1} − u_k) + B_kᵀ p_k,
    p_k = Q_k (x_{k+1} − x_ref,k) + ν_k + A_{k+1}ᵀ p_{k+1},

feasibility, and a zero product of every multiplier with its slack.

Violations are relative to the largest magnitude that the same row of G, input or state component reaches over the
horizon, or that its terms do, so that newtons, newton-metres and metres are hardly mixed. What it does not reach does
not count: a distant reference or a bound of 1e6 for want of an infinite one would hide a violation of another bound.
The other two conditions are measured by what they cost: for feasible inputs, the cost exceeds the optimum by at most
the sum of the products |multiplier × slack| and of ½ gᵀH⁻¹g, where g is the gradient of the Lagrangian and H the
Hessian. This is the duality gap (Boyd and Vandenberghe, Convex Optimization, section 5.5.1), given here relative to the
cost.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pimpc import cuda_kernels, riccati
from pimpc.choice import Kernels, choose
from pimpc.problem import LTVProblem, bounds_inputs, cost, cost_slope, mask_horizon, weigh

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Multipliers:
    """Lagrange multipliers in the units of the cost per unit of the constraint.

    Attributes:
        rows: Of G_k u_k ≤ h_k, not negative; None without `G`.
        inputs: Of the input bounds, positive at the upper one and negative at the lower one; None without bounds.
        states: Of the state bounds, signed likewise; None without bounds.
    """

    rows: Float[Array, "*batch N m"] | None = None
    inputs: Float[Array, "*batch N nu"] | None = None
    states: Float[Array, "*batch N nx"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Residuals:
    """Relative violations of the optimality conditions; each is zero at the optimum.

    Attributes:
        primal: Largest constraint violation, the defect of the dynamics included.
        stationarity: Part of the duality gap that is due to the gradient of the Lagrangian, relative to the cost.
        complementarity: Part of the duality gap that is due to multipliers of constraints with slack, relative.
    """

    primal: Float[Array, "*batch"]
    stationarity: Float[Array, "*batch"]
    complementarity: Float[Array, "*batch"]

    @property
    def dual(self) -> Float[Array, "*batch"]:
        """The duality gap relative to the cost: by how much the cost can exceed the optimum, if `primal` is zero."""
        return self.stationarity + self.complementarity


def zero_multipliers(problem: LTVProblem) -> Multipliers:
    """Multipliers of the right shapes, all zero."""
    confined = problem.x_min is not None or problem.x_max is not None
    return Multipliers(
        None if problem.h is None else jnp.zeros_like(problem.h),
        jnp.zeros_like(problem.u_ref) if bounds_inputs(problem) else None,
        jnp.zeros_like(problem.x_ref) if confined else None,
    )


def fixed_inputs(problem: LTVProblem) -> Array:
    """Inputs whose bounds coincide, (N, nu) booleans: constants, not variables."""
    if problem.u_min is None or problem.u_max is None:
        return jnp.zeros(problem.u_ref.shape, bool)
    return problem.u_min == problem.u_max


def costates(A: Float[Array, "N nx nx"], slope: Float[Array, "N nx"]) -> Float[Array, "N nx"]:
    """The derivatives of all costs of x_{k+1}, x_{k+2}, … with respect to x_{k+1}.

    Args:
        A: State matrices.
        slope: The derivative of the cost of each x_{k+1} alone.

    Returns:
        Costates p_0 … p_{N−1}.
    """
    A_next = jnp.concatenate([A[1:], jnp.zeros_like(A[:1])])

    def step(p: Array, stage: tuple[Array, Array]) -> tuple[Array, Array]:
        A, q = stage
        p = q + jnp.matmul(p, A, precision=_HIGHEST)
        return p, p

    _, p = jax.lax.scan(step, jnp.zeros_like(slope[0]), (A_next, slope), reverse=True)
    return p


def _relative(value: Array, magnitudes: tuple[Array, ...], floor: Array | float = 0.0) -> Array:
    """Largest entry of `value`, each column against the largest magnitude of that column over the horizon."""
    scale = jnp.maximum(jnp.zeros(value.shape[-1:], value.dtype), floor)
    for magnitude in magnitudes:
        scale = jnp.maximum(scale, jnp.max(jnp.abs(magnitude), axis=0))
    return jnp.max(value / jnp.maximum(scale, jnp.finfo(value.dtype).tiny), initial=0)


def smallest_input(problem: LTVProblem, u: Float[Array, "N nu"]) -> Float[Array, ""]:
    """A hundredth of an input that counts as large: below it, violations are absolute.

    The largest that the plan reaches or the references ask for within the bounds, or the smallest bound but zero: a
    plan may rest at zero, and a large bound may stand for none.
    """
    asked = jnp.concatenate([problem.u_prev[None], problem.u_ref])
    low = -jnp.inf if problem.u_min is None else jnp.concatenate([problem.u_min[:1], problem.u_min])
    high = jnp.inf if problem.u_max is None else jnp.concatenate([problem.u_max[:1], problem.u_max])
    sizes = [jnp.abs(bound) for bound in (problem.u_min, problem.u_max) if bound is not None]
    smallest = jnp.min(jnp.stack([jnp.min(jnp.where(size > 0, size, jnp.inf)) for size in sizes])) if sizes else jnp.inf
    large = jnp.max(jnp.abs(jnp.concatenate([u, jnp.clip(asked, low, high)])))
    return 0.01 * jnp.maximum(large, jnp.where(smallest < jnp.inf, smallest, 0))


def _excess(value: Array, lower: Array | None, upper: Array | None) -> Array:
    """By how much `value` leaves its bounds, entry by entry."""
    excess = jnp.zeros_like(value)
    excess = excess if upper is None else jnp.maximum(excess, value - upper)
    return excess if lower is None else jnp.maximum(excess, lower - value)


def primal_residual(problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"]) -> Float[Array, ""]:
    """Largest relative violation of a constraint, the dynamics included (see `kkt_residuals`)."""
    problem = mask_horizon(problem)
    terms = (
        jnp.einsum("kij,kj->ki", problem.A, x[:-1], precision=_HIGHEST),
        jnp.einsum("kij,kj->ki", problem.B, u, precision=_HIGHEST),
        problem.e,
    )
    defect = jnp.abs(x[1:] - sum(terms, jnp.zeros_like(problem.e)))
    worst = [_relative(defect, (x, *terms))]
    least = smallest_input(problem, u)
    if problem.G is not None and problem.h is not None:
        Gu = jnp.einsum("kij,kj->ki", problem.G, u, precision=_HIGHEST)
        reach = jnp.einsum("kij,kj->ki", jnp.abs(problem.G), jnp.maximum(jnp.abs(u), least), precision=_HIGHEST)
        worst.append(_relative(_excess(Gu, None, problem.h), (reach,)))
    worst.append(_relative(_excess(u, problem.u_min, problem.u_max), (u,), least))
    # Where terms cancel, two of the three are large: one of these at least.
    worst.append(_relative(_excess(x[1:], problem.x_min, problem.x_max), (x, *terms[1:])))
    return jnp.max(jnp.stack(worst))


def complementarity_gap(
    problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"], multipliers: Multipliers
) -> Float[Array, ""]:
    """The sum of |multiplier × slack| over all constraints, in the units of the cost."""
    gap = jnp.zeros((), u.dtype)
    free = jnp.where(fixed_inputs(problem), 0, 1)
    if multipliers.rows is not None and problem.G is not None:
        Gu = jnp.einsum("kij,kj->ki", problem.G, u, precision=_HIGHEST)
        gap += _gap(multipliers.rows, Gu, None, problem.h)
    if multipliers.inputs is not None:
        gap += _gap(free * multipliers.inputs, u, problem.u_min, problem.u_max)
    if multipliers.states is not None:
        gap += _gap(multipliers.states, x[1:], problem.x_min, problem.x_max)
    return gap


def _gap(multiplier: Array, value: Array, lower: Array | None, upper: Array | None) -> Array:
    """The sum of |multiplier × slack| over entries, each against the bound that the multiplier's sign names."""
    gap = jnp.zeros((), value.dtype)
    for bound, force in ((upper, jnp.maximum(multiplier, 0)), (lower, jnp.maximum(-multiplier, 0))):
        if bound is None:
            gap += jnp.where(jnp.any(force > 0), jnp.inf, 0)
        else:
            gap += jnp.sum(jnp.where(force > 0, force * jnp.abs(bound - value), 0))
    return gap


def lagrangian_slope(
    problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"], multipliers: Multipliers
) -> tuple[Float[Array, "N nx"], Float[Array, "N nu"]]:
    """The derivatives of the Lagrangian with respect to x_1 … x_N and to the inputs, the dynamics not eliminated."""
    l_x, l_u = cost_slope(problem, x, u)
    if multipliers.states is not None:
        l_x = l_x + multipliers.states
    if multipliers.rows is not None and problem.G is not None:
        l_u = l_u + jnp.einsum("kij,ki->kj", problem.G, multipliers.rows, precision=_HIGHEST)
    if multipliers.inputs is not None:
        l_u = l_u + multipliers.inputs
    return l_x, l_u


def newton_steps(
    problem: LTVProblem,
    slopes: list[tuple[Float[Array, "N nx"], Float[Array, "N nu"]]],
    kernels: Kernels = "xla",
) -> list[riccati.Step]:
    """For each slope, the Newton step along the dynamics without constraints, and the cost that it would save.

    The saving is ½ gᵀH⁻¹g with g the gradient in the inputs that are not fixed and H the Hessian of the cost in them,
    in O(N) operations; NaN if H is not positive definite.
    """
    free = ~fixed_inputs(problem)
    return riccati.newton(problem.A, problem.B, problem.Q, problem.R, problem.S, free, slopes, kernels)


def cost_scale(problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"]) -> Float[Array, ""]:
    """What a gap is relative to: the cost, or the rounding of its terms when these cancel."""
    squares = [(problem.Q, x[1:]), (problem.Q, problem.x_ref), (problem.R, u), (problem.R, problem.u_ref)]
    terms = sum((jnp.sum(jnp.abs(v * weigh(W, v))) for W, v in squares), jnp.zeros((), u.dtype))
    eps = jnp.finfo(u.dtype)
    return jnp.maximum(cost(problem, x, u), 100 * eps.eps * terms + eps.tiny)


def kkt_residuals(
    problem: LTVProblem,
    x: Float[Array, "T nx"],
    u: Float[Array, "N nu"],
    multipliers: Multipliers,
    kernels: Kernels = "auto",
) -> Residuals:
    """Measures a plan and its multipliers against the optimality conditions, whoever computed them.

    Args:
        problem: One problem (not a batch; `jax.vmap` this function otherwise).
        x: States x_0 … x_N.
        u: Inputs u_0 … u_{N−1}.
        multipliers: Lagrange multipliers, for instance `solution.warm_start.multipliers`.
        kernels: How to compute, as in `InteriorPoint`; `"condensed"` is like `"xla"`: the states stay.

    Returns:
        Relative residuals. The inputs are optimal if and only if all are zero.
        NaN if the cost leaves inputs undetermined; `solve` judges by `problem.weigh_every_input` of such a problem.
    """
    problem = mask_horizon(problem)

    def by_kernel() -> Residuals:
        found = cuda_kernels.judge(problem, x, u, (multipliers.rows, multipliers.inputs, multipliers.states))
        return Residuals(found.primal, found.saved / found.scale, found.gap / found.scale)

    def by_xla() -> Residuals:
        scale = cost_scale(problem, x, u)
        [step] = newton_steps(problem, [lagrangian_slope(problem, x, u, multipliers)], kernels)
        gap = complementarity_gap(problem, x, u, multipliers)
        return Residuals(primal_residual(problem, x, u), step.saved / scale, gap / scale)

    return choose(kernels, cuda_kernels.fits(problem), by_kernel, by_xla)
