"""The gait clock: which foot carries load, now and over a horizon.

One number per robot, the `phase` in cycles [0, 1), drives both feet. With the offsets o and the duty factor d, foot i
is in stance iff frac(phase + o_i) < d: it touches down at frac = 0 and lifts off at frac = d. Double support needs
d > 0.5, flight d < 0.5. Feet are ordered (left, right).

Stopping never leaves a foot in the air: with `moving` false the clock runs on until the swing foot has landed, then
both feet stay down and the phase freezes at that last touchdown. In double support this is at once.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Cycles. A clock that is advanced in float32 meets a touchdown only to rounding; without this margin a foot that should
# land exactly on a knot would land one knot late.
_RESOLUTION = 1e-5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaitConfig:
    """A periodic gait. Fields may be traced arrays, so a sweep over gaits is one `jax.vmap`.

    Raises:
        ValueError: If the period is not positive or the duty factor is outside (0, 1).
    """

    period: float = 0.8  # s, one stride (both feet once)
    duty_factor: float = 0.6  # stance share of the period, each foot
    offsets: tuple[float, float] = (0.0, 0.5)  # cycles, (left, right)
    deadband: float = 0.1  # m/s and rad/s: commands up to this norm mean "stand", components up to it no direction

    def __post_init__(self) -> None:
        if isinstance(self.period, (int, float)) and not self.period > 0:
            raise ValueError(f"GaitConfig.period must be positive, got {self.period} s.")
        if isinstance(self.duty_factor, (int, float)) and not 0 < self.duty_factor < 1:
            raise ValueError(f"GaitConfig.duty_factor must lie in (0, 1), got {self.duty_factor}.")


def _clock(phase: Float[Array, "..."], gait: GaitConfig) -> tuple[Float[Array, "... 2"], Float[Array, "... 2"]]:
    """Touchdowns since phase 0 and the fraction of the cycle since the last of them, per foot."""
    x = jnp.asarray(phase)[..., None] + jnp.stack([jnp.asarray(o) for o in gait.offsets], -1) + _RESOLUTION
    turns = jnp.floor(x)
    return turns, x - turns


def _wrap(phase: Float[Array, "..."]) -> Float[Array, "..."]:
    return phase - jnp.floor(phase)


def is_moving(command: Float[Array, "... 3"], gait: GaitConfig) -> Bool[Array, "..."]:
    """Whether a command (v_x, v_y, omega_z) asks for steps: its norm exceeds `gait.deadband`.

    A robot told to stop in full walk cannot stand at once; where its state is known, let it step while
    `pimpc.centroidal.can_stand` says no.
    """
    return jnp.sum(jnp.square(command), -1) > jnp.square(gait.deadband)


def time_to_stand(phase: Float[Array, "..."], gait: GaitConfig) -> Float[Array, "..."]:
    """Seconds until both feet are down if the robot is told to stop at `phase`; 0 in double support.

    Without double support (duty factor up to 0.5) the next touchdown ends the motion: both feet are put down then.
    """
    _, fraction = _clock(phase, gait)
    down = jnp.all(fraction < gait.duty_factor, -1) | jnp.any(fraction < 2 * _RESOLUTION, -1)
    return jnp.where(down, 0.0, jnp.min(1 - fraction, -1) * gait.period)


def start_phase(phase: Float[Array, "..."], gait: GaitConfig, command: Float[Array, "... 3"]) -> Float[Array, "..."]:
    """Phase to start walking at from a stand at `phase`.

    A command to the left (v_y, or without a v_y of note omega_z) makes the left foot the first to lift, by starting
    where the right one has just landed; one to the right the right foot. Without a side, the feet keep taking turns.
    """
    significant = jnp.abs(command) > gait.deadband
    sideways = jnp.where(significant[..., 1], command[..., 1], jnp.where(significant[..., 2], command[..., 2], 0.0))
    left, right = (_wrap(-jnp.asarray(offset)) for offset in gait.offsets)
    return jnp.where(sideways > 0, right, jnp.where(sideways < 0, left, phase))


def advance(
    phase: Float[Array, "..."],
    gait: GaitConfig,
    dt: float,
    moving: Bool[Array, "..."] | bool,
    was_moving: Bool[Array, "..."] | bool,
    command: Float[Array, "... 3"],
) -> Float[Array, "..."]:
    """The phase `dt` seconds later.

    Args:
        phase: cycles.
        gait: the gait.
        dt: s.
        moving: whether steps are asked for during this interval.
        was_moving: the value of `moving` one call earlier; a robot that stood and now moves starts at `start_phase`.
        command: (v_x, v_y, omega_z) in the base's yaw frame, m/s and rad/s; read only when starting.

    Returns:
        Cycles in [0, 1). Standing, it is the phase of the last touchdown, a fixed point of this function.
    """
    moving, was_moving = jnp.asarray(moving), jnp.asarray(was_moving)
    starting = moving & ~was_moving & (time_to_stand(phase, gait) == 0)
    phase = jnp.where(starting, start_phase(phase, gait, command), phase)
    to_stand = time_to_stand(phase, gait)
    ahead = _wrap(phase + jnp.where(moving, dt, jnp.minimum(dt, to_stand)) / gait.period)
    _, fraction = _clock(ahead, gait)
    left, right = gait.offsets
    last_touchdown = _wrap(jnp.where(fraction[..., 0] <= fraction[..., 1], -jnp.asarray(left), -jnp.asarray(right)))
    return jnp.where(~moving & (to_stand <= dt), last_touchdown, ahead)


def stance(
    phase: Float[Array, "..."], gait: GaitConfig, moving: Bool[Array, "..."] | bool = True
) -> Bool[Array, "... 2"]:
    """Which feet (left, right) carry load at `phase`; both once a robot that is not `moving` has put its feet down."""
    _, fraction = _clock(phase, gait)
    standing = ~jnp.asarray(moving) & (time_to_stand(phase, gait) == 0)
    return (fraction < gait.duty_factor) | standing[..., None]


def _knots(
    phase: Float[Array, ""], gait: GaitConfig, dt: float, horizon: int, moving: Bool[Array, ""] | bool
) -> tuple[Float[Array, " N"], Bool[Array, " N"]]:
    """Unwrapped phase at the knots k·dt (frozen once standing) and whether the robot stands there."""
    t = dt * jnp.arange(horizon)
    to_stand = time_to_stand(phase, gait)
    stopping = ~jnp.asarray(moving)
    running = jnp.where(stopping, jnp.minimum(t, to_stand), t)
    return phase + running / gait.period, stopping & (t >= to_stand)


def schedule(
    phase: Float[Array, ""], gait: GaitConfig, dt: float, horizon: int, moving: Bool[Array, ""] | bool
) -> Bool[Array, "N 2"]:
    """Feet in stance at the knots k·dt, k = 0 … horizon−1; stage k holds from its knot to the next.

    Args:
        phase: cycles, now.
        gait: the gait.
        dt: s, knot spacing.
        horizon: number of stages, static.
        moving: whether the clock keeps running; if not, both feet are down from `time_to_stand` on.
    """
    knots, standing = _knots(phase, gait, dt, horizon, moving)
    _, fraction = _clock(knots, gait)
    return (fraction < gait.duty_factor) | standing[:, None]


def touchdown_count(
    phase: Float[Array, ""], gait: GaitConfig, dt: float, horizon: int, moving: Bool[Array, ""] | bool
) -> Int[Array, "N 2"]:
    """How many touchdowns of each foot lie in (0, k·dt], k = 0 … horizon−1: zero while it still is where it is now."""
    knots, _ = _knots(phase, gait, dt, horizon, moving)
    return (_clock(knots, gait)[0] - _clock(phase, gait)[0]).astype(jnp.int32)


def time_to_touchdown(
    phase: Float[Array, "..."], gait: GaitConfig, moving: Bool[Array, "..."] | bool = True
) -> Float[Array, "... 2"]:
    """Seconds to the next touchdown of each foot, in (0, period]; infinite for a foot that is down and stays down.

    A foot in stance touches down next after its coming swing.
    """
    _, fraction = _clock(phase, gait)
    seconds = (1 - fraction) * gait.period
    last = time_to_stand(phase, gait)[..., None] + _RESOLUTION * gait.period
    return jnp.where(jnp.asarray(moving)[..., None] | (seconds <= last), seconds, jnp.inf)


def swing_fraction(
    phase: Float[Array, "..."], gait: GaitConfig, moving: Bool[Array, "..."] | bool = True
) -> Float[Array, "... 2"]:
    """How far each foot is through its swing, in [0, 1): 0 at lift-off, towards 1 at touchdown, 0 in stance."""
    _, fraction = _clock(phase, gait)
    swing = (fraction - gait.duty_factor) / (1 - gait.duty_factor)
    return jnp.where(stance(phase, gait, moving), 0.0, swing)
