"""Everything that a velocity-tracking task can be told.

Defaults are those of arXiv 2606.05687 and its release, or it is said where they differ.
"""

from __future__ import annotations

import dataclasses

from envs.commands import CommandConfig
from envs.guidance import GuidanceConfig
from envs.physics import Backend
from envs.robots import absolute
from envs.terrain import TerrainConfig
from rewards import Tables, guidance_terms

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """Half-widths of the uniform noise on what the actor observes."""

    gyro: float = 0.2  # rad/s
    gravity: float = 0.05  # -
    joint_position: float = 0.01  # rad
    joint_velocity: float = 1.5  # rad/s


@dataclasses.dataclass(frozen=True)
class PushConfig:
    """Velocity kicks on the base at random times, gentler than in the release.

    There it is every 1 to 3 s, by ±0.5 and ±0.4 m/s, ±0.52 and ±0.78 rad/s.
    """

    interval: Range = (3.0, 6.0)  # s between kicks
    horizontal: float = 0.4  # m/s, half-width
    vertical: float = 0.2  # m/s
    roll_pitch: float = 0.4  # rad/s
    yaw: float = 0.6  # rad/s


NO_PUSHES = PushConfig(horizontal=0.0, vertical=0.0, roll_pitch=0.0, yaw=0.0)


@dataclasses.dataclass(frozen=True)
class RandomizationConfig:
    """How far robots differ from the nominal one; drawn once for each robot, uniformly."""

    friction: Range = (0.3, 1.2)  # sliding friction of the feet
    mass: Range = (0.8, 1.2)  # factor on each body's mass and inertia; the release's are exponentials
    base_com: tuple[float, float, float] = (0.025, 0.025, 0.03)  # m, half-widths of the base's CoM offset
    kp: Range = (0.8, 1.2)  # factor, each joint
    kd: Range = (0.8, 1.2)  # factor, each joint
    armature: Range = (0.5, 1.5)  # factor, each joint
    encoder_bias: float = 0.015  # rad, half-width, each joint


NO_RANDOMIZATION = RandomizationConfig(
    friction=(0.6, 0.6),
    mass=(1.0, 1.0),
    base_com=(0.0, 0.0, 0.0),
    kp=(1.0, 1.0),
    kd=(1.0, 1.0),
    armature=(1.0, 1.0),
    encoder_bias=0.0,
)


@dataclasses.dataclass(frozen=True)
class ResetConfig:
    """Where an episode begins: the default pose at rest, somewhere on the plane."""

    position: float = 0.5  # m, half-width in x and y
    height: Range = (0.0, 0.02)  # m above standing
    yaw: float = 3.1416  # rad, half-width
    random_phase: bool = True  # first episodes start at a random time of their length, so that they do not end together


@dataclasses.dataclass(frozen=True)
class VelocityConfig:
    """The velocity-tracking task."""

    robot: str = "g1"  # a known robot, or module:NAME or path.py:NAME of your own; paths are made absolute
    backend: Backend = "auto"  # physics: warp on an NVIDIA GPU where installed, else jax
    physics_dt: float = 0.005  # s
    decimation: int = 4  # physics steps per control step
    solver_iterations: int = 6  # of the contact solver, at most, per physics step
    episode_seconds: float = 20.0  # s
    tilt_limit: float = 70.0  # degrees: a base that leans more has fallen
    terrain: TerrainConfig = dataclasses.field(default_factory=TerrainConfig)
    command: CommandConfig = dataclasses.field(default_factory=CommandConfig)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    push: PushConfig = dataclasses.field(default_factory=PushConfig)
    randomization: RandomizationConfig = dataclasses.field(default_factory=RandomizationConfig)
    start: ResetConfig = dataclasses.field(default_factory=ResetConfig)
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    rewards: Tables = dataclasses.field(default_factory=Tables)

    def __post_init__(self) -> None:
        # It is stored beside runs and policies, and looked up again from other directories.
        object.__setattr__(self, "robot", absolute(self.robot))
        if self.decimation < 1:
            raise ValueError(f"decimation = {self.decimation}: at least one physics step per control step is needed.")
        if self.physics_dt <= 0 or self.episode_seconds <= 0:
            raise ValueError("physics_dt and episode_seconds are durations in seconds and must be positive.")
        followed = guidance_terms(self.rewards)
        if followed and not self.guidance.enabled:
            raise ValueError(
                f"guidance.enabled = False, but the reward follows the plan ({', '.join(followed)}): give these terms "
                "no weight (rewards.mpc = NO_GUIDANCE)."
            )

    @property
    def dt(self) -> float:
        """The control period [s]."""
        return self.physics_dt * self.decimation
