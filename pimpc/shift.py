"""Moving an answer along the horizon, to start the next solve from.

A controller that solves more often than its stages are long moves on by a fraction of a stage each time. An input is
held over its stage, so the input of a new stage is the time average of the two old stages that it straddles, unless a
contact switches between them: the forces of one foot and of two have nothing to average. Then the old stage counts
whose free inputs are those of the new one. Every row of multipliers moves as the inputs of its stage do, which keeps
the signs and leaves the row what it was.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc.interior_point import WarmStart
from pimpc.problem import LTVProblem
from pimpc.residuals import fixed_inputs

_RESOLUTION = 1e-4  # stages; what is nearer to a whole number is one, for the time is a float


def shift(
    warm_start: WarmStart,
    stages: Float[Array, ""] | float,
    problem: LTVProblem,
    reset: Bool[Array, ""] | bool = False,
) -> WarmStart:
    """Moves the answer to an earlier problem to where the next one, `stages` stages later, has it.

    The last stage is repeated where the old horizon ends. Under `jax.vmap` every instance has its own shift.

    Args:
        warm_start: `Solution.warm_start` of the earlier solve by `InteriorPoint`.
        stages: Time since that solve, in stages, at least 0; any fraction.
        problem: The next problem, of the same shape; only its bounds and its `horizon` are read.
        reset: Whether the earlier problem has nothing to say about this one, for instance because an episode ended.

    Returns:
        What to give to `pimpc.solve` with `problem`; a cold start where `reset`.

    Raises:
        TypeError: If the earlier solve was by another method.
    """
    if not isinstance(warm_start, WarmStart):
        raise TypeError(f"warm_start is a {type(warm_start).__name__}; only answers of InteriorPoint can be shifted.")
    N = problem.u_ref.shape[0]
    count = jnp.asarray(N if problem.horizon is None else problem.horizon)
    time = jnp.arange(N) + jnp.clip(jnp.asarray(stages, problem.u_ref.dtype), 0, N)
    first = jnp.floor(time + _RESOLUTION).astype(jnp.int32)
    share = jnp.where(time - first > _RESOLUTION, time - first, 0)
    second = jnp.where(share > 0, first + 1, first)
    first, second = jnp.clip(first, 0, count - 1), jnp.clip(second, 0, count - 1)

    # An input that was fixed at zero, and a multiplier that could not act, are exactly zero.
    free, worked = ~fixed_inputs(problem), warm_start.u != 0
    fits_first, fits_second = (jnp.all(worked[i] == free, axis=1) for i in (first, second))
    only_first, only_second = fits_first & ~fits_second, fits_second & ~fits_first
    share = jnp.where(only_first, 0, jnp.where(only_second, 1, share))[:, None]
    keep = ((jnp.arange(N) < count) & ~jnp.asarray(reset))[:, None]

    def move(value: Float[Array, "N n"]) -> Array:
        before, after = value[first], value[second]
        mean = (1 - share) * before + share * after
        # Where neither stage fits, what acted in one of them acts.
        either = jnp.where(before == 0, after, jnp.where(after == 0, before, mean))
        moved = jnp.where((only_first | only_second)[:, None], mean, either)
        return jnp.where(keep, moved, 0)

    return jax.tree.map(move, warm_start)
