"""Where an interior point method may start: how far a plan is from the optimum, and slacks and forces to match.

All is measured in the units of the cost, by the natural stiffness of the rows (see `pimpc.interior_point`), which makes
one barrier parameter μ right for all of them. A warm start helps if μ says how wrong it is, no less and no more
(Yildirim and Wright, Warm-start strategies in interior-point methods, 2002), and if every pair of slack and force is
well centred (Skajaa, Andersen and Ye, Warmstarting the homogeneous and self-dual interior point method, 2013).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc.constraints import magnitudes, values
from pimpc.problem import LTVProblem
from pimpc.rows import Rows


def stiffness(rows: Rows) -> Float[Array, " M"]:
    """How hard each row must push to move by one; zero where no free input moves it."""
    return jnp.where(rows.compliance > 0, 1 / jnp.where(rows.compliance > 0, rows.compliance, 1), 0)


def energy(problem: LTVProblem, rows: Rows, x: Float[Array, "T nx"], u: Float[Array, "N nu"]) -> Float[Array, ""]:
    """What it takes to move every row as far as the plan reaches, or as its bound is away, in units of the cost."""
    at = values(problem, x, u)
    outside = jnp.maximum(jnp.where(rows.below, rows.lower - at, 0), jnp.where(rows.above, at - rows.upper, 0))
    span = jnp.maximum(magnitudes(problem, x, u), outside)  # where the cost asks for nothing, the bounds say it
    return jnp.sum(jnp.where(rows.below | rows.above, stiffness(rows) * span**2, 0))


def mismatch(
    problem: LTVProblem, rows: Rows, x: Float[Array, "T nx"], u: Float[Array, "N nu"], dual: Float[Array, " M"]
) -> Float[Array, ""]:
    """The energy of what leaves its bounds, and the products of multiplier and slack inside them.

    Args:
        problem: One problem without a `horizon`.
        rows: Its rows.
        x: States, the roll-out of u.
        u: Inputs.
        dual: Multipliers of the rows, positive at the upper bound.

    Returns:
        Units of the cost; zero if u is feasible and complementary to the multipliers.
    """
    at = values(problem, x, u)

    def side(has: Array, distance: Array, force: Array) -> Array:
        product = distance * jnp.maximum(force, 0)
        return jnp.sum(jnp.where(has, jnp.where(distance < 0, stiffness(rows) * distance**2, product), 0))

    miss = jnp.sum(jnp.where(rows.equal, stiffness(rows) * (at - rows.upper) ** 2, 0))
    return miss + side(rows.below, at - rows.lower, -dual) + side(rows.above, rows.upper - at, dual)


def centre(
    has: Bool[Array, " M"],
    distance: Float[Array, " M"],
    force: Float[Array, " M"],
    mu: Float[Array, ""],
    compliance: Float[Array, " M"],
) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """The slack s and force z with s z = μ that keep s − c z where it is, c the compliance.

    This is the smoothed projection on complementary pairs (Chen and Harker 1993; Kanzow 1996). A row that binds keeps
    its force and one that does not its slack; only rows of which neither is sure meet halfway.

    Args:
        has: Which rows have this bound.
        distance: To the bound, negative outside.
        force: Of the bound; a negative one counts as none.
        mu: The barrier parameter, units of the cost.
        compliance: Of the rows.

    Returns:
        Slacks and forces; one and zero without a bound.
    """
    length = jnp.sqrt(jnp.where(has, compliance, 1))
    gap = jnp.where(has, distance / length - jnp.maximum(force, 0) * length, 0)
    large = 0.5 * (jnp.abs(gap) + jnp.sqrt(gap**2 + 4 * mu))
    small = mu / large
    slack, push = jnp.where(gap > 0, large, small) * length, jnp.where(gap > 0, small, large) / length
    return jnp.where(has, slack, 1), jnp.where(has, push, 0)
