"""πⁿMPC: the horizon-parallel ADMM of Li et al. (arXiv 2606.05687) and its base paper πMPC (arXiv 2601.14414).

The problem is lifted to velocity form: x̄_k = [x_k; u_{k−1}], driven by Δu_k = u_k − u_{k−1},

    x̄_{k+1} = Ā_k x̄_k + B̄_k Δu_k + ē_k,   Ā_k = [[A_k, B_k], [0, I]],   B̄_k = [B_k; I],   ē_k = [e_k; 0],

and the dynamics are split, x̄_{k+1} = z_{k+1} (dual θ), B̄_k Δu_k = v_k (dual β), z_{k+1} = Ā_k x̄_k + v_k + ē_k (dual
λ), so that every update is closed-form and independent for each stage:

    Δu_k    = (S_k/ρ + B̄ᵀB̄)⁻¹ B̄ᵀ (v_k − β_k)
    x̄_k     = (Q̄_k + ρI + ρĀ_kᵀĀ_k)⁻¹ [q̄_k + ρ(z_k − θ_k + Ā_kᵀ(z_{k+1} − v_k + λ_k − ē_k))]      (no Ā_N for x̄_N)
    z_{k+1} = Π[(2(x̄_{k+1} + θ_{k+1}) + B̄Δu_k + β_k + Āx̄_k + ē_k − λ_k)/3]
    v_k     = ½(z_{k+1} + B̄Δu_k + β_k − Āx̄_k − ē_k + λ_k)

then the duals add their residuals. Nesterov's momentum extrapolates (z, v, θ, β, λ) and restarts when the combined
residual does not fall (Goldstein et al. 2014, algorithm 8).

It differs from the released code: the gain of Δu holds for every ρ, restart and stopping are per instance, Π projects
on the cones G_k u_k ≤ h_k too, the projected inputs are returned and rolled out, and a solve can be warm-started.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc.constraints import bounds, make_rows, unflatten
from pimpc.lifting import Lifted, lift
from pimpc.method import Method, Outcome
from pimpc.problem import LTVProblem, roll_out
from pimpc.projection import project
from pimpc.residuals import Multipliers, kkt_residuals

_HIGHEST = jax.lax.Precision.HIGHEST


class Splitting(NamedTuple):
    """The variables that momentum extrapolates, in scaled units, one row a stage."""

    z: Float[Array, "N nz"]
    v: Float[Array, "N nz"]
    theta: Float[Array, "N nz"]
    beta: Float[Array, "N nz"]
    lam: Float[Array, "N nz"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PiState:
    """State of the iteration between two stages of a solve or two solves, in scaled units.

    Attributes:
        now: Last splitting variables.
        ahead: The same, extrapolated.
        lifted: The primal copy x̄_1 … x̄_N.
        push: Multipliers of the projection.
        momentum: Nesterov's α.
        residual: Combined residual to beat.
    """

    now: Splitting
    ahead: Splitting
    lifted: Float[Array, "*batch N nz"]
    push: Float[Array, "*batch N M"]
    momentum: Float[Array, "*batch"]
    residual: Float[Array, "*batch"]


@dataclasses.dataclass(frozen=True)
class PiADMM(Method):
    """The published πⁿMPC: cheap iterations, all stages in parallel, many of them.

    Slow to converge on walking problems: see `InteriorPoint`, and `Solution.status` for what an answer is worth.
    """

    max_iterations: int = 1000  # iterations at most, rounded up to whole rounds
    round_iterations: int = 50  # iterations between two tests for optimality
    tolerance: float = 1e-5  # relative residual at which an instance counts as solved and stops
    early_stop: bool = True  # False: always run max_iterations, without a data-dependent loop
    penalty: float = 1.0  # ρ, in units in which the weights of the first stage are one
    accelerate: bool = True  # Nesterov's momentum with restart
    restart: float = 0.999  # η: momentum continues while the combined residual falls below η times its predecessor
    cones: bool = True  # False: leave G u ≤ h out, as published
    projection_iterations: int = 10  # inner iterations of each projection on the cones

    def cold_start(self, problem: LTVProblem) -> PiState:
        """All splitting variables zero."""
        N, nx, nu = problem.B.shape
        zero = jnp.zeros((N, nx + nu), problem.B.dtype)
        start = Splitting(zero, zero, zero, zero, zero)
        rows = make_rows(_published(self, problem), jnp.ones((N, nu), bool)).stage.shape[1]
        momentum, residual = jnp.ones((), zero.dtype), jnp.asarray(jnp.finfo(zero.dtype).max)
        return PiState(start, start, zero, jnp.zeros((N, rows), zero.dtype), momentum, residual)

    def run(self, problem: LTVProblem, state: PiState | None, runnable: Bool[Array, ""]) -> Outcome:
        """Iterates on one problem without a `horizon` until it is solved or the limit is reached."""
        state = self.cold_start(problem) if state is None else state
        data = lift(_published(self, problem), self.penalty)
        lower, upper = bounds(problem)
        empty = jnp.any(lower > upper)
        rounds = -(-self.max_iterations // self.round_iterations)

        def advance(carry: tuple[PiState, Array, Array]) -> tuple[PiState, Array, Array]:
            state, count, _ = carry
            state = iterate(self, data, state, self.round_iterations)
            u, multipliers = _answer(self, problem, data, state)
            residuals = kkt_residuals(problem, roll_out(problem, u), u, multipliers)
            worst = jnp.maximum(residuals.primal, residuals.dual)
            return state, count + 1, (worst <= self.tolerance) | ~jnp.isfinite(worst)

        start = state, jnp.zeros((), jnp.int32), ~runnable | empty
        if self.early_stop:
            state, count, _ = jax.lax.while_loop(lambda c: ~c[2] & (c[1] < rounds), advance, start)
        else:
            count = jnp.asarray(rounds, jnp.int32)
            state = iterate(self, data, state, rounds * self.round_iterations)
        u, multipliers = _answer(self, problem, data, state)
        return Outcome(u, multipliers, count * self.round_iterations, empty, state)


def _published(method: PiADMM, problem: LTVProblem) -> LTVProblem:
    """The problem that the method sees."""
    return problem if method.cones else dataclasses.replace(problem, G=None, h=None)


def iterate(method: PiADMM, data: Lifted, state: PiState, iterations: int) -> PiState:
    """Runs a given number of iterations."""
    return jax.lax.fori_loop(0, iterations, lambda _, s: _step(method, data, s), state)


def _step(method: PiADMM, data: Lifted, state: PiState) -> PiState:
    """One iteration: the two blocks, the duals, and momentum."""
    nx, rho, hat = data.A.shape[1], method.penalty, state.ahead
    rate = jnp.einsum("kij,kj->ki", data.gain, hat.v - hat.beta, precision=_HIGHEST)
    ahead = jnp.zeros_like(hat.z).at[:, :nx].set(data.e)  # ē
    back = (hat.z - hat.v + hat.lam - ahead)[1:]
    pulled = jnp.concatenate(
        [
            jnp.einsum("kij,ki->kj", data.A[1:], back[:, :nx], precision=_HIGHEST),
            jnp.einsum("kij,ki->kj", data.B[1:], back[:, :nx], precision=_HIGHEST) + back[:, nx:],
        ],
        axis=1,
    )
    pulled = jnp.concatenate([pulled, jnp.zeros_like(hat.z[:1])])
    right = data.linear + rho * (hat.z - hat.theta + pulled)
    lifted = jnp.einsum("kij,kj->ki", data.inverse, right, precision=_HIGHEST)

    before = jnp.concatenate([data.start[None], lifted[:-1]])
    x, u = before[:, :nx], before[:, nx:]
    drift = jnp.einsum("kij,kj->ki", data.A, x, precision=_HIGHEST)
    drift += jnp.einsum("kij,kj->ki", data.B, u, precision=_HIGHEST) + data.e
    drift = jnp.concatenate([drift, u], axis=1)  # Āx̄ + ē
    drive = jnp.concatenate([jnp.einsum("kij,kj->ki", data.B, rate, precision=_HIGHEST), rate], axis=1)  # B̄Δu
    middle = (2 * (lifted + hat.theta) + drive + hat.beta + drift - hat.lam) / 3
    z, push = _project(method, data, middle, state.push)
    v = 0.5 * (z + drive + hat.beta - drift + hat.lam)
    new = Splitting(z, v, hat.theta + lifted - z, hat.beta + drive - v, hat.lam + z - drift - v)
    return _extrapolate(method, state, new, lifted, push)


def _extrapolate(method: PiADMM, state: PiState, new: Splitting, lifted: Array, push: Array) -> PiState:
    """Momentum with restart; `new` itself is kept, its extrapolation is where the next iteration starts."""
    change = jax.tree.map(jnp.subtract, new, state.ahead)
    parts = change.theta, change.beta, change.lam, change.z, change.v, change.z - change.v
    residual = method.penalty * sum((jnp.sum(part**2) for part in parts), jnp.zeros((), lifted.dtype))
    falls = residual < method.restart * state.residual
    faster = 0.5 * (1 + jnp.sqrt(1 + 4 * state.momentum**2))
    momentum = jnp.where(falls, faster, 1)
    weight = jnp.where(falls, (state.momentum - 1) / faster, 0) if method.accelerate else 0
    ahead = jax.tree.map(lambda a, b: a + weight * (a - b), new, state.now)
    target = jnp.where(falls, residual, state.residual / method.restart)
    return PiState(new, ahead, lifted, push, momentum, target)


def _project(
    method: PiADMM, data: Lifted, point: Float[Array, "N nz"], push: Float[Array, "N M"], iterations: int | None = None
) -> tuple[Float[Array, "N nz"], Float[Array, "N M"]]:
    """Projects x̄_1 … x̄_N on their bounds and cones; the multipliers of the projection belong to the cones' rows."""
    boxed = jnp.clip(point, data.lower, data.upper)
    if data.cones is None:
        return boxed, push
    nx, count = data.A.shape[1], method.projection_iterations if iterations is None else iterations
    u, push = jax.vmap(lambda p, on, y: project(p, on, y, count))(point[:, nx:], data.cones, push)
    return jnp.concatenate([boxed[:, :nx], u], axis=1), push


def _answer(
    method: PiADMM, problem: LTVProblem, data: Lifted, state: PiState
) -> tuple[Float[Array, "N nu"], Multipliers]:
    """The projected inputs and the multipliers of the bounds, in the problem's units.

    The z update minimizes ¾ρ‖z − z̄‖² over the allowed set, so that the set pushes back with 3ρ/2 (z̄ − z), which equals
    ρ(θ − λ) after the duals have been updated.
    """
    nx, rho = data.A.shape[1], method.penalty
    z = state.now.z
    force = rho * (state.now.theta - state.now.lam) * data.unit
    held = jnp.where(z >= data.upper, jnp.maximum(force, 0), jnp.where(z <= data.lower, jnp.minimum(force, 0), 0))
    flat = held[:, nx:]
    if data.cones is not None:
        z, _ = _project(method, data, z, jnp.zeros_like(state.push), 10 * method.projection_iterations)
        norm = data.cones.norm
        flat = jnp.where(norm > 0, 1.5 * rho * state.push / jnp.where(norm > 0, norm, 1), 0)
    elif problem.h is not None:
        flat = jnp.concatenate([jnp.zeros_like(problem.h), flat], axis=1)
    multipliers = unflatten(problem, jnp.concatenate([flat.ravel(), held[:, :nx].ravel()]))
    u = jnp.clip(z[:, nx:] / data.unit[nx:], problem.u_min, problem.u_max)
    return u, multipliers
