"""Footholds by Raibert's rule with velocity feedback, in closed form for every touchdown within the horizon.

For a touchdown at time t, with the commanded velocity v (base's yaw frame) and the yaw rate ω,

    p_foot(t) = p(t) + R(ψ + ω t) (offset + ½ T_stance v) + k Δv

where p(t) is the arc that the command draws from the present CoM, T_stance the stance duration, Δv the velocity error
in the world and k a multiple of √(h / g), the time constant of the linear inverted pendulum (LIP): with k = √(h / g)
the foot lands at the capture point of the error, and the path beyond is displaced by k Δv, so the same term shifts
every later foothold too. Sources: M. Raibert, "Legged Robots That Balance", 1986; J. Pratt et al., "Capture point: a
step toward humanoid push recovery", Humanoids 2006.

Between touchdowns everything is constant, so the n-th touchdown of a foot needs no recursion over the stages.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pimpc import gait as gait_clock
from pimpc.gait import GaitConfig
from pimpc.plan import GRAVITY, CentroidalModel, CentroidalState, ContactPlan

_SIDE = (1.0, -1.0)  # +1 left, −1 right: direction of a foot from the middle, along y


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FootholdConfig:
    """Foothold rule."""

    velocity_gain: float = 0.75  # of √(h / g): 1 steps to the capture point of the velocity error
    sway: float = 0.6  # share of the LIP's lateral sway that is normal walking rather than a velocity error
    min_separation: float = 0.14  # m, lateral distance of the sole origins at every touchdown
    max_shift: float = 0.6  # of the CoM height: longest ½ T_stance v + k Δv


def rotate_2d(yaw: Float[Array, "..."], v: Float[Array, "... 2"]) -> Float[Array, "... 2"]:
    """Horizontal components in the world of vectors given in the yaw frame, against which `yaw` broadcasts."""
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    return jnp.stack([c * v[..., 0] - s * v[..., 1], s * v[..., 0] + c * v[..., 1]], -1)


def rotation_z(yaw: Float[Array, "..."]) -> Float[Array, "... 3 3"]:
    """World from yaw frame."""
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    zero, one = jnp.zeros_like(c), jnp.ones_like(c)
    rows = [c, -s, zero], [s, c, zero], [zero, zero, one]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def command_path(
    yaw: Float[Array, ""], command: Float[Array, "3"], t: Float[Array, "..."]
) -> tuple[Float[Array, "... 2"], Float[Array, "..."]]:
    """Exact displacement (m, world) and heading (rad) after t seconds of a constant command.

    Args:
        yaw: rad, present heading.
        command: (v_x, v_y, omega_z) in the base's yaw frame, m/s and rad/s.
        t: s.
    """
    turn = command[2] * t
    # The chord of an arc of angle `turn` has length v t sinc(turn / 2) and points to its middle heading.
    chord = t * jnp.sinc(turn / (2 * jnp.pi))
    return chord[..., None] * rotate_2d(yaw + turn / 2, command[:2]), yaw + turn


def lateral_sway(
    phase: Float[Array, ""], gait: GaitConfig, separation: Float[Array, ""], com_height: Float[Array, ""]
) -> Float[Array, ""]:
    """Lateral velocity of the LIP's periodic gait on feet `separation` (m) apart, m/s in the yaw frame.

    The load is taken to change feet in the middle of double support and half a period apart.
    """
    rate = jnp.sqrt(GRAVITY / com_height)
    half_step = gait.period / 4
    since_left = phase + gait.offsets[0] - jnp.maximum(gait.duty_factor - 0.5, 0.0) / 2
    cycle = since_left - jnp.floor(since_left)
    side = jnp.where(cycle < 0.5, 1.0, -1.0)
    t = (cycle - jnp.where(cycle < 0.5, 0.0, 0.5)) * gait.period - half_step
    # sinh(a) / cosh(b) for |a| ≤ b, written so that long steps do not overflow.
    a, b = rate * jnp.abs(t), rate * half_step
    ratio = jnp.sign(t) * jnp.exp(a - b) * (1 - jnp.exp(-2 * a)) / (1 + jnp.exp(-2 * b))
    return -side * separation / 2 * rate * ratio


def _velocity_shift(
    config: FootholdConfig,
    gait: GaitConfig,
    model: CentroidalModel,
    state: CentroidalState,
    phase: Float[Array, ""],
    command: Float[Array, "3"],
    offsets: Float[Array, "2 2"],
) -> Float[Array, "2"]:
    """The feedback k Δv, m, world; the sway of the gait itself is no error."""
    sway = config.sway * lateral_sway(phase, gait, offsets[0, 1] - offsets[1, 1], model.com_height)
    v_yaw_normal = command[:2] + jnp.stack([jnp.zeros_like(sway), sway])
    error = state.linear_momentum[:2] / model.mass - rotate_2d(state.yaw, v_yaw_normal)
    return config.velocity_gain * jnp.sqrt(model.com_height / GRAVITY) * error


def _clip_norm(v: Float[Array, "... 2"], longest: Float[Array, ""]) -> Float[Array, "... 2"]:
    norm = jnp.sqrt(jnp.sum(jnp.square(v), -1, keepdims=True))
    return v * jnp.minimum(1.0, longest / jnp.maximum(norm, longest))


def _spread_offsets(
    config: FootholdConfig, gait: GaitConfig, model: CentroidalModel, command: Float[Array, "3"]
) -> Float[Array, "2 2"]:
    """Nominal foot offsets, widened so that the closing step of a sideways gait keeps the minimum separation.

    Walking sideways the trailing foot closes up by |v_y| times the time between the touchdowns. Widening both feet
    keeps the CoM over their middle; clipping the trailing foot alone would push the robot on, sideways.
    """
    gap = jnp.abs(jnp.asarray(gait.offsets[0]) - gait.offsets[1])
    closing = jnp.abs(command[1]) * jnp.maximum(gap, 1 - gap) * gait.period
    separation = model.foot_offset[0, 1] - model.foot_offset[1, 1]
    widen = jnp.clip((config.min_separation + closing - separation) / 2, 0.0, config.max_shift * model.com_height)
    return model.foot_offset.at[:, 1].add(widen * jnp.asarray(_SIDE))


def plan_contacts(
    config: FootholdConfig,
    gait: GaitConfig,
    model: CentroidalModel,
    state: CentroidalState,
    phase: Float[Array, ""],
    command: Float[Array, "3"],
    moving: Bool[Array, ""] | bool,
    dt: float,
    horizon: int,
) -> ContactPlan:
    """Contact schedule and footholds over the horizon.

    Args:
        config: the foothold rule.
        gait: the gait.
        model: the robot.
        state: the measured state.
        phase: cycles.
        command: (v_x, v_y, omega_z) in the base's yaw frame, m/s and rad/s; read as zero while not moving.
        moving: whether steps are asked for; if not, a foot in the air still lands, then both stay.
        dt: s, knot spacing.
        horizon: number of stages, static.

    Returns:
        The contacts. A foot stays at its measured place up to its next touchdown, then at that foothold up to the next.
    """
    command = jnp.where(moving, command, 0.0)
    count = gait_clock.touchdown_count(phase, gait, dt, horizon, moving)
    first = gait_clock.time_to_touchdown(phase, gait)
    own = jnp.arange(2)
    time, other_time, other_landed = _touchdown_times(gait, first, count)
    offsets = _spread_offsets(config, gait, model, command)
    shift = _velocity_shift(config, gait, model, state, phase, command, offsets)

    def raibert(foot: Int[Array, "2"], t: Float[Array, "N 2"]) -> Float[Array, "N 2 2"]:
        moved, yaw = command_path(state.yaw, command, t)
        stride = rotate_2d(yaw, gait.duty_factor * gait.period / 2 * command[:2]) + shift
        stride = _clip_norm(stride, config.max_shift * model.com_height)
        return state.p_world_com[:2] + moved + rotate_2d(yaw, offsets[foot]) + stride

    measured = state.p_world_foot[:, :2]
    target = raibert(own, time)
    other = jnp.where(other_landed[..., None], raibert(own[::-1], other_time), measured[::-1])
    yaw = state.yaw + command[2] * time
    target = _separate(target, other, yaw, config.min_separation)

    moved = count > 0
    ground = jnp.broadcast_to(state.ground_height, (horizon, 2, 1))
    p_world_foothold = jnp.where(moved[..., None], jnp.concatenate([target, ground], -1), state.p_world_foot)
    R_world_foothold = jnp.where(moved[..., None, None], rotation_z(yaw), state.R_world_foot)
    landing = p_world_foothold[jnp.argmax(moved, 0), own]
    return ContactPlan(
        stance=gait_clock.schedule(phase, gait, dt, horizon, moving),
        p_world_foothold=p_world_foothold,
        R_world_foothold=R_world_foothold,
        landing=jnp.where(moved[-1, :, None], landing, state.p_world_foot),
        landing_valid=moved[-1],
    )


def _touchdown_times(
    gait: GaitConfig, first: Float[Array, "2"], count: Int[Array, "N 2"]
) -> tuple[Float[Array, "N 2"], Float[Array, "N 2"], Bool[Array, "N 2"]]:
    """Each foot's latest touchdown, if it had one, and the other foot's before that, if there was one [s]."""
    time = first + jnp.maximum(count - 1, 0) * gait.period
    # Strictly before, so that a simultaneous landing is not seen.
    others = jnp.ceil((time - first[::-1]) / gait.period - 1e-3).astype(jnp.int32).clip(0)
    return time, first[::-1] + jnp.maximum(others - 1, 0) * gait.period, others > 0


def _separate(
    target: Float[Array, "N 2 2"],
    other: Float[Array, "N 2 2"],
    yaw: Float[Array, "N 2"],
    separation: Float[Array, ""] | float,
) -> Float[Array, "N 2 2"]:
    """Moves footholds outwards until they clear the other foot's unmoved place by the separation.

    The other foot is itself only ever moved outwards, away from this one, so a single pass suffices.
    """
    outward = rotate_2d(yaw, jnp.array([0.0, 1.0])) * jnp.asarray(_SIDE)[:, None]
    clearance = jnp.sum(outward * (target - other), -1)
    return target + jnp.maximum(separation - clearance, 0.0)[..., None] * outward
