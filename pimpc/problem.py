"""The linear time-varying MPC problem that every method of this package solves.

    min  Σ_{k=0}^{N-1} ½‖x_{k+1} − x_ref,k‖²_{Q_k} + ½‖u_k − u_ref,k‖²_{R_k} + ½‖u_k − u_{k−1}‖²_{S_k}
    s.t. x_{k+1} = A_k x_k + B_k u_k + e_k,   G_k u_k ≤ h_k,
         u_min,k ≤ u_k ≤ u_max,k,             x_min,k ≤ x_{k+1} ≤ x_max,k

Symbols: N stages, T = N + 1 states x_0 … x_N of size nx, nu inputs, m rows of input constraints for each stage; u_{−1}
is `u_prev`. Row k of every array of states but a plan belongs to x_{k+1}: x_0 is given, neither weighed nor bounded.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_NOT_STAGED = ("x0", "u_prev", "horizon")
_SLIGHT = {"float32": 1e-5, "float64": 1e-9}  # of the largest weight: far from both the weights and their rounding


@dataclasses.dataclass(frozen=True)
class Structure:
    """What is known of a problem before its numbers are. It is used where it is declared, and never looked for.

    Attributes:
        blocks: G is block diagonal at every stage, with so many (rows, columns) to a block: ((12, 6), (12, 6)) for the
            cones of two feet. They add up to (m, nu); outside of them G is zero.
        pins_only: The input bounds do no more than to fix inputs: each pair of them is equal or infinite.
        most_free: So many inputs at most are not fixed by equal bounds, counted over all stages. Not used with a
            `horizon`. Where it is declared, and stages and free inputs are few, the states may be eliminated, which in
            float32 is nothing for systems that multiply a deviation by more than 1e4 over the horizon.
    """

    blocks: tuple[tuple[int, int], ...] | None = None
    pins_only: bool = False
    most_free: int | None = None

    def places(self) -> list[tuple[slice, slice]]:
        """Where in G the blocks are: their rows and their columns."""
        ends = list(itertools.accumulate(self.blocks or (), lambda a, b: (a[0] + b[0], a[1] + b[1])))
        starts = [(0, 0), *ends[:-1]]
        return [(slice(a[0], b[0]), slice(a[1], b[1])) for a, b in zip(starts, ends, strict=False)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LTVProblem:
    """One linear time-varying MPC problem; a pytree, so that `jax.vmap` makes a batch of it.

    Weights are given as diagonals or as full symmetric positive semidefinite matrices. Bounds may be infinite;
    an input with equal bounds is fixed (a swing foot is `u_min = u_max = 0`). Units are the caller's.

    Attributes:
        A: State matrices A_k.
        B: Input matrices B_k.
        e: Affine terms e_k (gravity, disturbances).
        x0: Measured state x_0.
        u_prev: Input u_{−1} applied before this problem, from which the first rate is counted.
        x_ref: State references of x_1 … x_N.
        u_ref: Input references of u_0 … u_{N−1}.
        Q: State weights of x_1 … x_N (a terminal weight is the last one).
        R: Input weights.
        S: Weights of the input rates u_k − u_{k−1}.
        G: Rows of the input constraints G_k u_k ≤ h_k (friction and wrench cones); together with `h`.
        h: Right-hand sides of the input constraints; +inf switches a row off.
        u_min: Lower input bounds.
        u_max: Upper input bounds.
        x_min: Lower state bounds of x_1 … x_N.
        x_max: Upper state bounds of x_1 … x_N.
        horizon: Number of stages that count, at most N; later stages are inert: their data are not read, their
            inputs are zero and their states hold. One compiled program so serves every horizon up to N.
        structure: What a solver may rely on; nothing by default.
    """

    A: Float[Array, "*batch N nx nx"]
    B: Float[Array, "*batch N nx nu"]
    e: Float[Array, "*batch N nx"]
    x0: Float[Array, "*batch nx"]
    u_prev: Float[Array, "*batch nu"]
    x_ref: Float[Array, "*batch N nx"]
    u_ref: Float[Array, "*batch N nu"]
    Q: Float[Array, "*batch N nx"] | Float[Array, "*batch N nx nx"]
    R: Float[Array, "*batch N nu"] | Float[Array, "*batch N nu nu"]
    S: Float[Array, "*batch N nu"] | Float[Array, "*batch N nu nu"]
    G: Float[Array, "*batch N m nu"] | None = None
    h: Float[Array, "*batch N m"] | None = None
    u_min: Float[Array, "*batch N nu"] | None = None
    u_max: Float[Array, "*batch N nu"] | None = None
    x_min: Float[Array, "*batch N nx"] | None = None
    x_max: Float[Array, "*batch N nx"] | None = None
    horizon: Int[Array, "*batch"] | None = None
    structure: Structure = dataclasses.field(default=Structure(), metadata={"static": True})


def given_fields(problem: LTVProblem) -> dict[str, Array]:
    """The fields that are given and are arrays, by name."""
    fields = {f.name: getattr(problem, f.name) for f in dataclasses.fields(problem) if f.name != "structure"}
    return {name: value for name, value in fields.items() if value is not None}


def bounds_inputs(problem: LTVProblem) -> bool:
    """Whether input bounds count as inequalities."""
    given = problem.u_min is not None or problem.u_max is not None
    return given and not problem.structure.pins_only


def mask_horizon(problem: LTVProblem) -> LTVProblem:
    """Replaces the data of the stages from `horizon` on by inert ones, whatever they hold (NaN included).

    An inert stage holds the state (A = I, B = 0, e = 0), has no state cost, no rate cost and no constraint, and its
    input costs ½‖u‖², so that the optimum is zero and the problem stays strictly convex.

    Args:
        problem: One problem (not a batch).

    Returns:
        The same problem without a `horizon`.
    """
    if problem.horizon is None:
        return problem
    N, nx = problem.e.shape
    active = jnp.arange(N) < problem.horizon
    neutral = {
        "A": jnp.eye(nx, dtype=problem.A.dtype),
        "R": jnp.eye(problem.R.shape[-1], dtype=problem.R.dtype) if problem.R.ndim == 3 else 1.0,
        "h": jnp.inf,
        "u_min": -jnp.inf,
        "u_max": jnp.inf,
        "x_min": -jnp.inf,
        "x_max": jnp.inf,
    }

    def mask(name: str, value: Array) -> Array:
        keep = active.reshape((N,) + (1,) * (value.ndim - 1))
        return jnp.asarray(jnp.where(keep, value, jnp.asarray(neutral.get(name, 0.0), value.dtype)))

    staged = {name: mask(name, value) for name, value in given_fields(problem).items() if name not in _NOT_STAGED}
    # The inputs of inert stages are free.
    structure = dataclasses.replace(problem.structure, most_free=None)
    return dataclasses.replace(problem, **staged, horizon=None, structure=structure)


def weigh_every_input(problem: LTVProblem) -> LTVProblem:
    """Gives an input that neither R nor S weighs a weight that is too small to matter, so that there is one optimum.

    Args:
        problem: One problem without a `horizon`.

    Returns:
        The problem; the same if every input has a weight. The added weight is a slight share of the largest
        second derivative of the cost by an input at its own stage, or one if all of them are zero.
    """
    R, S = diagonals(problem.R), diagonals(problem.S)
    largest = jnp.max(curvature(problem), initial=0)
    added = jnp.where(largest > 0, _SLIGHT[R.dtype.name] * largest, 1) * ((R == 0) & (S == 0))
    return dataclasses.replace(problem, R=problem.R + (added if problem.R.ndim == 2 else jax.vmap(jnp.diag)(added)))


def curvature(problem: LTVProblem) -> Float[Array, "N nu"]:
    """The second derivative of the cost by each input, as far as the state at the end of its own stage."""
    S = diagonals(problem.S)
    own = diagonals(problem.R) + S + jnp.concatenate([S[1:], jnp.zeros_like(S[:1])])
    return own + jnp.sum(problem.B * jax.vmap(weigh, in_axes=(None, 2), out_axes=2)(problem.Q, problem.B), axis=1)


def diagonals(W: Float[Array, "N n"] | Float[Array, "N n n"]) -> Float[Array, "N n"]:
    """The diagonals of stage weights, whichever way they were given."""
    return W if W.ndim == 2 else jnp.diagonal(W, axis1=1, axis2=2)


def as_matrices(W: Float[Array, "N n"] | Float[Array, "N n n"]) -> Float[Array, "N n n"]:
    """Stage weights as matrices, whichever way they were given."""
    return jax.vmap(jnp.diag)(W) if W.ndim == 2 else W


def weigh(W: Float[Array, "N n"] | Float[Array, "N n n"], v: Float[Array, "N n"]) -> Float[Array, "N n"]:
    """Multiplies the rows of `v` by stage weights, given as diagonals or as matrices."""
    return W * v if W.ndim == 2 else jnp.einsum("kij,kj->ki", W, v, precision=jax.lax.Precision.HIGHEST)


def roll_out(problem: LTVProblem, u: Float[Array, "N nu"]) -> Float[Array, "T nx"]:
    """Applies inputs from x_0.

    Args:
        problem: One problem without a `horizon` (see `mask_horizon`).
        u: Inputs u_0 … u_{N−1}.

    Returns:
        States x_0 … x_N.
    """

    def step(x: Array, stage: tuple[Array, Array]) -> tuple[Array, Array]:
        A, d = stage
        x_next = jnp.matmul(A, x, precision=jax.lax.Precision.HIGHEST) + d
        return x_next, x_next

    # A GPU spends more on a loop's turns than on their work. With sixteen stages to a turn it never finished N = 400.
    N = problem.e.shape[0]
    _, x = jax.lax.scan(step, problem.x0, (problem.A, drive(problem, u)), unroll=N if N <= 16 else 1)
    return jnp.concatenate([problem.x0[None], x])


def drive(problem: LTVProblem, u: Float[Array, "N nu"]) -> Float[Array, "N nx"]:
    """What each x_{k+1} is without A_k x_k."""
    return jnp.einsum("kij,kj->ki", problem.B, u, precision=jax.lax.Precision.HIGHEST) + problem.e


def input_rates(problem: LTVProblem, u: Float[Array, "N nu"]) -> Float[Array, "N nu"]:
    """The differences u_k − u_{k−1}, the first against `u_prev`."""
    return u - jnp.concatenate([problem.u_prev[None], u[:-1]])


def cost_slope(
    problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"]
) -> tuple[Float[Array, "N nx"], Float[Array, "N nu"]]:
    """The derivatives of the cost with respect to x_1 … x_N and to the inputs, the dynamics not eliminated."""
    rate = weigh(problem.S, input_rates(problem, u))
    rate_next = jnp.concatenate([rate[1:], jnp.zeros_like(rate[:1])])
    return weigh(problem.Q, x[1:] - problem.x_ref), weigh(problem.R, u - problem.u_ref) + rate - rate_next


def cost(problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"]) -> Float[Array, ""]:
    """The objective of states and inputs, in the units of the weights.

    Args:
        problem: One problem without a `horizon` (see `mask_horizon`).
        x: States x_0 … x_N.
        u: Inputs u_0 … u_{N−1}.

    Returns:
        The objective in the module's docstring.
    """
    dx, du, rate = x[1:] - problem.x_ref, u - problem.u_ref, input_rates(problem, u)
    terms = dx * weigh(problem.Q, dx), du * weigh(problem.R, du), rate * weigh(problem.S, rate)
    return 0.5 * sum((jnp.sum(term) for term in terms), jnp.zeros((), u.dtype))
