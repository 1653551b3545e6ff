"""The recursions of `pimpc.riccati` as associative scans: O(N) work in O(log N) steps.

A stretch of the horizon, from s = (dx_i, du_{i−1}) to s' = (dx_j, du_{j−1}), is summed up by the least cost of going
from one to the other,

    max_λ ½ sᵀ J s + λᵀ (s' − F s) − ½ λᵀ C λ,

and two adjoining stretches by the least cost over the state between them, which is of the same form (Särkkä and
García-Fernández, Temporal parallelization of dynamic programming and linear quadratic control, IEEE TAC 2023, section
IV). With the gains known, both directions of a solve are recurrences s' = F s + f, and those are associative too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc.dense import as_matrix, dot, inverse, scale


class Stretch(NamedTuple):
    """The least cost of going from s to s' over a stretch of the horizon."""

    F: Float[Array, "*batch n n"]
    C: Float[Array, "*batch n n"]
    J: Float[Array, "*batch n n"]


def gains(
    A: Float[Array, "N nx nx"],
    B: Float[Array, "N nx nu"],
    Q: Float[Array, "N nx nx"],
    R: Float[Array, "N nu nu"],
    S: Float[Array, "N nu"] | Float[Array, "N nu nu"],
    free: Bool[Array, "N nu"],
) -> tuple[Float[Array, "N nu nu"], Float[Array, "N nu nx"]]:
    """The inverse Hessians and the gains of all stages, as `riccati.factorize` finds them.

    Every R_k + S_k must be positive definite on the free inputs by itself; NaN where it is not.
    """
    nx, nu = B.shape[1:]
    stages = jax.vmap(_stage)(A, B, R, S, free)
    # The cost of x_{k+1} belongs to where the next stage starts; after the last one there is nothing but that cost.
    before = jnp.zeros((len(Q), nx + nu, nx + nu), Q.dtype).at[:, :nx, :nx].set(Q)
    J = jnp.concatenate([stages.J.at[1:].add(before[:-1]), before[-1:]])
    F, C = (jnp.concatenate([of, jnp.zeros_like(of[:1])]) for of in (stages.F, stages.C))
    # A scan in reverse hands over the later stretch first.
    values = jax.lax.associative_scan(lambda later, earlier: _join(earlier, later), Stretch(F, C, J), reverse=True).J

    def gain(A: Array, B: Array, R: Array, S: Array, free: Array, V: Array) -> tuple[Array, Array]:
        move = jnp.concatenate([B, jnp.eye(nu, dtype=B.dtype)])  # of s' by du_k
        pull = dot(move.T, V)
        W = inverse(dot(pull, move) + R + as_matrix(S), free)
        return W, dot(W, dot(pull[:, :nx], A))

    return jax.vmap(gain)(A, B, R, S, free, values[1:])


def _stage(A: Array, B: Array, R: Array, S: Array, free: Array) -> Stretch:
    """One stage, without the cost of the states."""
    nx, nu = B.shape
    S = as_matrix(S)
    W = inverse(R + S, free)
    keep = dot(W, S)  # of du_{k−1} in du_k, if nothing else mattered
    move = jnp.concatenate([B, jnp.eye(nu, dtype=B.dtype)])
    F = jnp.concatenate([jnp.concatenate([A, jnp.zeros((nu, nx), A.dtype)]), dot(move, keep)], axis=1)
    J = jnp.zeros((nx + nu, nx + nu), A.dtype).at[nx:, nx:].set(S - dot(S, keep))
    return Stretch(F, dot(dot(move, W), move.T), J)


def _join(first: Stretch, second: Stretch) -> Stretch:
    """Two adjoining stretches as one."""
    n = first.F.shape[-1]
    through = jnp.concatenate([first.F, dot(first.C, jnp.swapaxes(second.F, -1, -2))], axis=-1)
    reached = jnp.linalg.solve(jnp.eye(n, dtype=through.dtype) + dot(first.C, second.J), through)
    F, C = dot(second.F, reached[..., :n]), dot(second.F, reached[..., n:]) + second.C
    J = dot(jnp.swapaxes(first.F, -1, -2), dot(second.J, reached[..., :n])) + first.J
    return Stretch(F, _symmetric(C), _symmetric(J))


def _symmetric(M: Array) -> Array:
    return 0.5 * (M + jnp.swapaxes(M, -1, -2))


def closed_loop(
    AB: Float[Array, "N nx n"], S: Array, W: Float[Array, "N nu nu"], gain: Float[Array, "N nu nx"]
) -> Float[Array, "N n n"]:
    """How (dx_{k+1}, du_k) follows from (dx_k, du_{k−1}) when du_k minimizes."""

    def stage(AB: Array, S: Array, W: Array, gain: Array) -> Array:
        nx = AB.shape[0]
        answer = jnp.concatenate([-gain, scale(S, W).T], axis=1)
        states = jnp.concatenate([AB[:, :nx], jnp.zeros((nx, len(W)), AB.dtype)], axis=1) + dot(AB[:, nx:], answer)
        return jnp.concatenate([states, answer])

    return jax.vmap(stage)(AB, S, W, gain)


def recur(F: Float[Array, "N n n"], f: Float[Array, "N n"], reverse: bool = False) -> Float[Array, "N n"]:
    """All s_{k+1} = F_k s_k + f_k from s_0 = 0; in reverse all s_k = F_k s_{k+1} + f_k from s_N = 0."""

    def after(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        (F, f), (G, g) = one, other
        return dot(G, F), dot(G, f[..., None])[..., 0] + g

    return jax.lax.associative_scan(after, (F, f), reverse=reverse)[1]


def minimize(
    F: Float[Array, "N n n"],
    AB: Float[Array, "N nx n"],
    S: Array,
    W: Float[Array, "N nu nu"],
    gain: Float[Array, "N nu nx"],
    l_x: Float[Array, "N nx"],
    l_u: Float[Array, "N nu"],
) -> tuple[Float[Array, "N nx"], Float[Array, "N nu"], Float[Array, ""]]:
    """As `riccati.minimize`, from the stages' closed loops F."""
    nx = l_x.shape[1]

    def slope(F: Array, S: Array, W: Array, gain: Array, l_x: Array, l_u: Array) -> Array:
        """What a stage alone adds to the slope of the value before it."""
        return dot(F[:nx].T, l_x) + jnp.concatenate([-dot(l_u, gain), scale(S, dot(W, l_u))])

    slopes = recur(jnp.swapaxes(F, 1, 2), jax.vmap(slope)(F, S, W, gain, l_x, l_u), reverse=True)
    behind = jnp.concatenate([slopes[1:], jnp.zeros_like(slopes[:1])])

    def push(AB: Array, W: Array, behind: Array, l_x: Array, l_u: Array) -> tuple[Array, Array]:
        g = l_u + behind[nx:] + dot(AB[:, nx:].T, behind[:nx] + l_x)
        u = -dot(W, g)
        return jnp.concatenate([dot(AB[:, nx:], u), u]), -0.5 * jnp.sum(g * u)

    pushes, saved = jax.vmap(push)(AB, W, behind, l_x, l_u)
    after = recur(F, pushes)
    return after[:, :nx], after[:, nx:], jnp.sum(saved)
