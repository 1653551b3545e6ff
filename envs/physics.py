"""The physics step: B robots, several substeps, one small carried state, on MJX's JAX or Warp backend."""

import importlib.util
from dataclasses import dataclass
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int
from mujoco import mjx

from envs.robots import scene
from envs.robots.robot import RobotModel

Backend = Literal["auto", "jax", "warp"]


@struct.dataclass
class PhysicsState:
    """All that is carried from one control step to the next (leading batch axis B)."""

    qpos: Float[Array, "*B nq"]
    qvel: Float[Array, "*B nv"]
    qacc_warmstart: Float[Array, "*B nv"]


@struct.dataclass
class Contacts:
    """Floor contacts of the last substep; feet ordered (left, right)."""

    force_world: Float[Array, "*B 2 3"]  # N, force of the floor on each foot, world axes (z > 0 when standing)
    in_contact: Bool[Array, "*B 2"]  # any of the foot's spheres touches the floor


@struct.dataclass
class ModelParams:
    """The physical parameters that domain randomization may change; one set per robot (leading axis B when batched)."""

    foot_friction: Float[Array, "*B"]  # sliding friction of both feet on the floor
    body_mass: Float[Array, "*B nbody"]  # kg
    body_inertia: Float[Array, "*B nbody 3"]  # kg m^2, principal
    body_ipos: Float[Array, "*B nbody 3"]  # m, centre of mass in the body frame
    kp: Float[Array, "*B nu"]  # N m/rad
    kd: Float[Array, "*B nu"]  # N m s/rad
    armature: Float[Array, "*B nu"]  # kg m^2


def nominal_params(robot: RobotModel) -> ModelParams:
    """The robot's own parameters, one instance (no batch axis)."""
    model = robot.mj_model
    return ModelParams(
        foot_friction=jnp.asarray(np.array(robot.robot.foot_friction)),  # of a Python float it would be weakly typed
        body_mass=jnp.asarray(model.body_mass),
        body_inertia=jnp.asarray(model.body_inertia),
        body_ipos=jnp.asarray(model.body_ipos),
        kp=jnp.asarray(robot.kp),
        kd=jnp.asarray(robot.kd),
        armature=jnp.asarray(robot.armature),
    )


def apply_params(model: mjx.Model, robot: RobotModel, params: ModelParams) -> mjx.Model:
    """Puts one instance's parameters into a model (under `jax.vmap`, close over the model).

    MuJoCo derives `body_invweight0` and `dof_invweight0` from the masses at compile time and scales the softness of
    contacts and joint limits by them; they keep their nominal values here.

    Args:
        model: the nominal model, of either backend.
        robot: the robot that it was made from.
        params: one instance's parameters.

    Returns:
        The model with these parameters.
    """
    # By masks: a GPU fills a scatter's result first and then scatters, and fuses neither with anything.
    slides = np.zeros(robot.mj_model.geom_friction.shape, bool)
    slides[np.concatenate(robot.foot_geom_ids), 0] = True
    actuator = np.full(robot.mj_model.nv, -1)
    actuator[robot.dof_adr] = np.arange(robot.mj_model.nu)
    changed = model.tree_replace(
        {
            "geom_friction": jnp.where(slides, params.foot_friction, model.geom_friction),
            "body_mass": params.body_mass,
            "body_subtreemass": _subtree_sum(robot, params.body_mass),
            "body_inertia": params.body_inertia,
            "body_ipos": params.body_ipos,
            "actuator_gainprm": _with_columns(model.actuator_gainprm, {0: params.kp}),
            "actuator_biasprm": _with_columns(model.actuator_biasprm, {1: -params.kp, 2: -params.kd}),
            "dof_armature": jnp.where(actuator >= 0, params.armature[actuator], model.dof_armature),
        }
    )
    return cast(mjx.Model, changed)


def _with_columns(matrix: Float[Array, "nu n"], columns: dict[int, Float[Array, " nu"]]) -> Float[Array, "nu n"]:
    for at, column in columns.items():
        matrix = jnp.where(np.arange(matrix.shape[1]) == at, column[:, None], matrix)
    return matrix


def _subtree_sum(robot: RobotModel, body_mass: Float[Array, " nbody"]) -> Float[Array, " nbody"]:
    parents = robot.mj_model.body_parentid
    below = np.eye(len(parents))
    for body in range(len(parents) - 1, 0, -1):  # children come after their parents
        below[parents[body]] += below[body]
    return (jnp.asarray(below, body_mass.dtype) * body_mass).sum(-1)


@dataclass(frozen=True, eq=False)
class Physics:
    """A robot on a floor, ready to step; made by `make_physics`. Hashable by identity, so static under `jax.jit`."""

    robot: RobotModel
    backend: Literal["jax", "warp"]
    model: mjx.Model  # of the stepping backend

    def init(self, qpos: Float[Array, "B nq"], qvel: Float[Array, "B nv"]) -> PhysicsState:
        """A state at (qpos, qvel) with a cold solver."""
        return PhysicsState(qpos=qpos, qvel=qvel, qacc_warmstart=jnp.zeros_like(qvel))

    def step(
        self, params: ModelParams, state: PhysicsState, ctrl: Float[Array, "B nu"], num_substeps: int
    ) -> tuple[PhysicsState, Contacts]:
        """Advances all robots by `num_substeps` physics steps under constant joint targets.

        Args:
            params: model parameters with a leading batch axis, or one instance shared by all robots.
            state: the carried state.
            ctrl: joint position targets, rad.
            num_substeps: physics steps (static, at least one).

        Returns:
            The next state and the foot contacts of the last substep.
        """
        template = _template(self, batch=ctrl.shape[0])
        advance = _advance_warp if self.backend == "warp" else _advance_jax

        def step_one(
            params: ModelParams, state: PhysicsState, ctrl: Float[Array, " nu"]
        ) -> tuple[PhysicsState, Contacts]:
            model = apply_params(self.model, self.robot, params)
            state, sensordata = advance(self.robot, model, template.replace(ctrl=ctrl), state, num_substeps)
            return state, foot_contacts(self.robot, sensordata)

        params_axis = 0 if params.foot_friction.ndim == 1 else None
        return jax.vmap(step_one, in_axes=(params_axis, 0, 0))(params, state, ctrl)


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
    if backend not in ("auto", "jax", "warp"):
        raise ValueError(f"There is no physics backend {backend!r}; known: 'auto', 'jax', 'warp'.")
    has_warp = importlib.util.find_spec("warp") is not None
    if backend == "warp" and not has_warp:
        raise ValueError("The physics backend 'warp' needs the package warp-lang, which is not installed.")
    use_warp = backend == "warp" or (backend == "auto" and has_warp and jax.default_backend() == "gpu")
    if use_warp:
        return Physics(robot=robot, backend="warp", model=_put_warp_model(robot))
    return Physics(robot=robot, backend="jax", model=mjx.put_model(robot.mj_model, impl="jax"))


def _put_warp_model(robot: RobotModel) -> mjx.Model:
    from mujoco.mjx.third_party.mujoco_warp import OverflowType  # needs warp-lang

    model = mjx.put_model(robot.mj_model, impl="warp")
    # The solver is meant to stop early: do not print that it did, in each step.
    expected = OverflowType.ITERATIONS | OverflowType.LS_ITERATIONS
    warn = int(OverflowType.ALL & ~expected)
    return cast(mjx.Model, model.tree_replace({"opt._impl.warn_overflow": warn}))


def _template(physics: Physics, batch: int) -> mjx.Data:
    """The data of one robot at rest. With Warp its contacts are shared by the whole batch."""
    model = physics.robot.mj_model
    with jax.ensure_compile_time_eval():
        if physics.backend == "jax":
            return mjx.make_data(model, impl="jax")
        # A contact has four pyramid edges; a joint is at one limit at most.
        contacts = sum(len(geoms) for geoms in physics.robot.foot_geom_ids) * scene.contacts_per_geom(model)
        rows = 4 * contacts + int(model.jnt_limited.sum()) + 6 * model.neq
        data = mjx.make_data(model, impl="warp", naconmax=batch * contacts, njmax=rows)
    # Nearly all of it is zero: said so, the compiled program holds a fill instead of megabytes of constants.
    return jax.tree.map(lambda x: x if np.asarray(x).any() else jnp.zeros(x.shape, x.dtype), data)


def _load(template: mjx.Data, state: PhysicsState) -> mjx.Data:
    return template.replace(qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.qacc_warmstart)


def _save(data: mjx.Data) -> PhysicsState:
    return PhysicsState(qpos=data.qpos, qvel=data.qvel, qacc_warmstart=data.qacc_warmstart)


def _advance_jax(
    robot: RobotModel, model: mjx.Model, template: mjx.Data, state: PhysicsState, num_substeps: int
) -> tuple[PhysicsState, Float[Array, " nsensordata"]]:
    """Carries only the state from substep to substep, so that XLA may keep everything else inside one."""

    def substep(_: Int[Array, ""], carry: tuple[PhysicsState, Array]) -> tuple[PhysicsState, Array]:
        data = _load(template, carry[0])
        data = mjx.step(*_without_clamped_damping(robot, model, data))
        return _save(data), data.sensordata

    return jax.lax.fori_loop(0, num_substeps, substep, (state, template.sensordata))


def _without_clamped_damping(robot: RobotModel, model: mjx.Model, data: mjx.Data) -> tuple[mjx.Model, mjx.Data]:
    """Takes the damping of saturated actuators out of the model, without changing their force.

    The implicit integrator treats the actuators' damping implicitly. C MuJoCo and Warp leave out the actuators whose
    force is clamped, which then does not depend on velocity; MJX's JAX backend does not (mujoco-mjx 3.17).
    """
    gain, bias = model.actuator_gainprm, model.actuator_biasprm
    q, qd = data.qpos[robot.qpos_adr], data.qvel[robot.dof_adr]
    force = gain[:, 0] * data.ctrl + bias[:, 1] * q + bias[:, 2] * qd
    clamped = jnp.abs(force) >= model.actuator_forcerange[:, 1]
    model = model.replace(actuator_biasprm=bias.at[:, 2].set(jnp.where(clamped, 0.0, bias[:, 2])))
    return model, data.replace(ctrl=jnp.where(clamped, q + force / gain[:, 0], data.ctrl))


def _advance_warp(
    _: RobotModel, model: mjx.Model, template: mjx.Data, state: PhysicsState, num_substeps: int
) -> tuple[PhysicsState, Float[Array, " nsensordata"]]:
    """Carries the whole data, which Warp updates in place.

    Warp replays a captured CUDA graph when it finds its buffers at the addresses of an earlier call, and captures anew
    when it does not; inside one compiled loop the addresses stay.
    """
    data = jax.lax.fori_loop(0, num_substeps, lambda _, data: mjx.step(model, data), _load(template, state))
    return _save(data), data.sensordata


def foot_contacts(robot: RobotModel, sensordata: Float[Array, " nsensordata"]) -> Contacts:
    """Sums each foot's contact sensors (one per sphere; of each contact: found, force in its frame, normal, tangent).

    Args:
        robot: the robot.
        sensordata: of one step, from MJX or from C MuJoCo.

    Returns:
        The forces and flags of both feet.
    """
    forces, touches = [], []
    for geoms in robot.foot_geom_ids:
        names = [scene.contact_sensor(robot.mj_model.geom(int(geom)).name) for geom in geoms]
        addresses = np.array([robot.mj_model.sensor(name).adr[0] for name in names])
        slots = scene.contacts_per_geom(robot.mj_model)
        of_slots = addresses[:, None] + scene.CONTACT_DIM * np.arange(slots)
        values = sensordata[of_slots.reshape(-1, 1) + np.arange(scene.CONTACT_DIM)]
        found, force, normal, tangent = (
            values[:, 0] > np.tile(np.arange(slots), len(geoms)),
            values[:, 1:4],
            values[:, 4:7],
            values[:, 7:10],
        )
        frame = jnp.stack([normal, tangent, jnp.cross(normal, tangent)], axis=1)
        # Without contact the sensor's other numbers mean nothing.
        forces.append(jnp.where(found[:, None], (frame * force[:, :, None]).sum(1), 0.0).sum(0))
        touches.append(found.any())
    return Contacts(force_world=jnp.stack(forces), in_contact=jnp.stack(touches))
