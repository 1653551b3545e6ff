"""Contact wrench cones of a flat rectangular sole, as rows G w ≤ h on the wrench w = [f, τ].

f is the force on the foot (N) and τ its moment (N m) about the origin of the sole frame: x to the toe, y to the left,
z along the sole's normal, away from the ground. The sole is [−heel, toe] × [−half_width, half_width].

Two descriptions of the yaw moment are offered:

- `"decoupled"`, 12 rows: |τ_z| ≤ μ_yaw f_z, whatever the rest of the wrench. Cheap and customary; it is too generous
  where friction or the centre of pressure are near their limits.
- `"full"`, 17 rows: the exact projection of Coulomb friction (pyramids) at the four corners, in which the yaw moment
  competes with friction and the centre of pressure. Source: Caron, Pham, Nakamura, "Stability of surface contacts for
  humanoid robots: closed-form formulae of the contact wrench cone for rectangular support areas", ICRA 2015
  (arXiv 1501.04719), conditions (i) friction, (ii) centre of pressure and (iii) yaw moment.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Yaw = Literal["decoupled", "full"]

# Signs of the four combinations (s, t) that unfold |a| + |b| ≤ c into rows s a + t b ≤ c.
_SIGNS = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0))


def wrench_cone(
    friction: Float[Array, ""] | float,
    sole: Float[Array, "3"],
    force_max: Float[Array, ""] | float,
    mu_yaw: Float[Array, ""] | float,
    yaw: Yaw = "decoupled",
) -> tuple[Float[Array, "m 6"], Float[Array, " m"]]:
    """Rows of the contact wrench cone in the sole frame.

    Args:
        friction: μ of the friction pyramid |f_x|, |f_y| ≤ μ f_z.
        sole: m, (toe, heel, half_width).
        force_max: N, upper bound of f_z.
        mu_yaw: m, bound of |τ_z| / f_z; read by `yaw="decoupled"` only.
        yaw: how the yaw moment is limited.

    Returns:
        G and h with m = 12 (`"decoupled"`) or 17 (`"full"`) rows. The former limit ±f_x, ±f_y, −f_z, f_z, ±τ_x, ±τ_y,
        ±τ_z in this order. The zero wrench satisfies all rows.

    Raises:
        ValueError: If `yaw` names neither description.
    """
    toe, heel, half_width = sole[0], sole[1], sole[2]
    fx, fy, fz, tx, ty, tz = jnp.eye(6)
    mu = jnp.asarray(friction)
    limits = [fx - mu * fz, -fx - mu * fz, fy - mu * fz, -fy - mu * fz]
    # τ_x = y f_z and τ_y = −x f_z for a centre of pressure (x, y).
    pressure = [tx - half_width * fz, -tx - half_width * fz, ty - heel * fz, -ty - toe * fz]
    if yaw == "decoupled":
        rows = [*limits, -fz, fz, *pressure, tz - mu_yaw * fz, -tz - mu_yaw * fz]
        return jnp.stack(rows), jnp.zeros(12).at[5].set(force_max)
    if yaw == "full":
        rows = [*limits, fz, *pressure, *_yaw_rows(mu, toe, heel, half_width)]
        return jnp.stack(rows), jnp.zeros(17).at[4].set(force_max)
    raise ValueError(f"yaw must be 'decoupled' or 'full', got {yaw!r}.")


def _yaw_rows(
    mu: Float[Array, ""], toe: Float[Array, ""], heel: Float[Array, ""], half_width: Float[Array, ""]
) -> list[Float[Array, "6"]]:
    """The eight rows of Caron et al. that couple τ_z with friction and the centre of pressure."""
    fx, fy, fz, tx, ty, tz = jnp.eye(6)
    half_length, middle = (toe + heel) / 2, (toe - heel) / 2
    # The closed form holds about the middle of the rectangle.
    ty_mid, tz_mid = ty + middle * fz, tz - middle * fy
    reach = mu * (half_length + half_width) * fz
    rows = []
    for s, t in _SIGNS:
        rows.append(tz_mid + s * (half_width * fx + mu * tx) + t * (half_length * fy + mu * ty_mid) - reach)
        rows.append(-tz_mid + s * (half_width * fx - mu * tx) + t * (half_length * fy - mu * ty_mid) - reach)
    return rows


def rotate_cone(G: Float[Array, "*batch m 6"], R_world_foot: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch m 6"]:
    """Rows that act on a wrench in the world frame, from rows in the sole frame; the moment's reference point stays."""
    rows = G.reshape(*G.shape[:-1], 2, 1, 3)  # of force and of moment
    # Sums and not a matrix product, for which a GPU's compiler would first write all factors out.
    return jnp.sum(rows * R_world_foot[..., None, None, :, :], -1).reshape(G.shape)


def centre_of_pressure(
    force: Float[Array, "*batch 3"], moment: Float[Array, "*batch 3"], R_world_foot: Float[Array, "*batch 3 3"]
) -> Float[Array, "*batch 2"]:
    """Centre of pressure in the sole frame, m; (0, 0) for a foot without normal force.

    Args:
        force: N, on the foot, world.
        moment: N m, about the sole origin, world.
        R_world_foot: sole orientation.
    """
    f = jnp.einsum("...ji,...j->...i", R_world_foot, force)
    tau = jnp.einsum("...ji,...j->...i", R_world_foot, moment)
    loaded = f[..., 2] > 0
    fz = jnp.where(loaded, f[..., 2], 1.0)
    return jnp.where(loaded[..., None], jnp.stack([-tau[..., 1] / fz, tau[..., 0] / fz], -1), 0.0)
