"""The physics step: B robots, several substeps, one small carried state, on MJX's JAX or Warp backend."""

from dataclasses import dataclass
from typing import Literal

from flax import struct
from jaxtyping import Array, Bool, Float
from mujoco import mjx

from envs.robots.robot import RobotModel

Backend = Literal["auto", "jax", "warp"]


@struct.dataclass
class PhysicsState:
    """All that is carried from one control step to the next (leading batch axis B)."""

    qpos: Float[Array, "B nq"]
    qvel: Float[Array, "B nv"]
    qacc_warmstart: Float[Array, "B nv"]


@struct.dataclass
class Contacts:
    """Floor contacts of the last substep; feet ordered (left, right)."""

    force_world: Float[Array, "B 2 3"]  # N, force of the floor on each foot, world axes (z > 0 when standing)
    in_contact: Bool[Array, "B 2"]  # any of the foot's spheres touches the floor


@struct.dataclass
class ModelParams:
    """The physical parameters that domain randomization may change; one set per robot (leading axis B when batched)."""

    foot_friction: Float[Array, ""]  # sliding friction of both feet on the floor
    body_mass: Float[Array, " nbody"]  # kg
    body_inertia: Float[Array, "nbody 3"]  # kg m^2, principal
    body_ipos: Float[Array, "nbody 3"]  # m, centre of mass in the body frame
    kp: Float[Array, " nu"]  # N m/rad
    kd: Float[Array, " nu"]  # N m s/rad
    armature: Float[Array, " nu"]  # kg m^2


def nominal_params(robot: RobotModel) -> ModelParams:
    """The robot's own parameters, one instance (no batch axis)."""
    raise NotImplementedError


def apply_params(model: mjx.Model, robot: RobotModel, params: ModelParams) -> mjx.Model:
    """Returns `model` with one instance's parameters (use under `jax.vmap`, with the model closed over)."""
    raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Physics:
    """A robot on a floor, ready to step. Make one with `make_physics`; hashable by identity, so it may be closed over by jitted functions."""

    robot: RobotModel
    backend: Literal["jax", "warp"]
    model: mjx.Model  # of the stepping backend
    kinematics_model: mjx.Model  # of the JAX backend; give it to `envs.kinematics.kinematics`

    def init(self, qpos: Float[Array, "B nq"], qvel: Float[Array, "B nv"]) -> PhysicsState:
        """A state at (qpos, qvel) with a cold solver."""
        raise NotImplementedError

    def step(
        self, params: ModelParams, state: PhysicsState, ctrl: Float[Array, "B nu"], num_substeps: int
    ) -> tuple[PhysicsState, Contacts]:
        """Advances all robots by `num_substeps` physics steps under constant joint targets.

        Args:
            params: model parameters with a leading batch axis, or one instance shared by all robots.
            state: the carried state.
            ctrl: joint position targets, rad.
            num_substeps: physics steps (static).

        Returns:
            The next state and the foot contacts of the last substep.
        """
        raise NotImplementedError


def make_physics(robot: RobotModel, backend: Backend = "auto") -> Physics:
    """Puts a compiled robot on a physics backend.

    Args:
        robot: the compiled robot.
        backend: "jax", "warp", or "auto": Warp when JAX's default backend is a GPU and Warp is installed, else JAX.

    Returns:
        The physics.

    Raises:
        ValueError: unknown backend, or Warp asked for and not installed.
    """
    raise NotImplementedError
