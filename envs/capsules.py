"""How far capsules are apart: the self-collision that a model without contacts between limbs can still be told of."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def capsule_gaps(ends: Float[Array, "*batch 2 2 3"], radii: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    """Distances between the surfaces of pairs of capsules, negative where they overlap.

    The closest points of the two axes, p₁ + s d₁ and p₂ + t d₂ with s, t in [0, 1], minimize a convex quadratic over a
    box: s is optimal for the lines, t for that s, and s again for the t that was clamped (Ericson, Real-Time Collision
    Detection, 2005, section 5.1.9).

    Args:
        ends: of the axes, [..., capsule of the pair, end, :] [m]; the two ends of an axis must differ.
        radii: of both capsules [m].

    Returns:
        The gaps [m].
    """
    p, d = ends[..., 0, :], ends[..., 1, :] - ends[..., 0, :]
    d1, d2, r = d[..., 0, :], d[..., 1, :], p[..., 0, :] - p[..., 1, :]
    a, b, e = (d1 * d1).sum(-1), (d1 * d2).sum(-1), (d2 * d2).sum(-1)
    c, f = (d1 * r).sum(-1), (d2 * r).sum(-1)
    sine2 = a * e - b * b  # zero for parallel axes, for which any s will do
    s = jnp.clip((b * f - c * e) / jnp.maximum(sine2, 1e-6 * a * e), 0.0, 1.0)
    t = jnp.clip((b * s + f) / e, 0.0, 1.0)
    s = jnp.clip((b * t - c) / a, 0.0, 1.0)
    return jnp.linalg.norm(r + s[..., None] * d1 - t[..., None] * d2, axis=-1) - radii.sum(-1)
