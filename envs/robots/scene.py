"""What `compile_robot` adds to a robot's MJCF: floor, light, camera, solver, actuators and foot contact sensors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco

if TYPE_CHECKING:
    from envs.robots.robot import JointGroup

FLOOR = "floor"
CAMERA = "track"

# Contact sensor data: found, force, normal, tangent, 1 + 3 + 3 + 3 numbers in this order.
_CONTACT_DATA = (1 << 0) | (1 << 1) | (1 << 5) | (1 << 6)
CONTACT_DIM = 10
_REDUCE_MINDIST = 1


def contact_sensor(geom: str) -> str:
    """Name of the sensor of the contact between the foot geom `geom` and the floor."""
    return f"{geom}_contact"


def set_solver(spec: mujoco.MjSpec, *, timestep: float, iterations: int, ls_iterations: int) -> None:
    """Newton with pyramidal cones and the semi-implicit integrator (stable with stiff position actuators)."""
    option = spec.option
    option.timestep = timestep
    option.iterations = iterations
    option.ls_iterations = ls_iterations
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST


def add_surroundings(spec: mujoco.MjSpec, base_body: str) -> None:
    """A checkered floor at z = 0, sky, light, and the camera `CAMERA` that follows the robot's centre of mass."""
    builtin, kind = mujoco.mjtBuiltin, mujoco.mjtTexture
    spec.add_texture(
        name="sky",
        type=kind.mjTEXTURE_SKYBOX,
        builtin=builtin.mjBUILTIN_GRADIENT,
        rgb1=(0.62, 0.71, 0.82),
        rgb2=(0.96, 0.97, 0.99),
        width=32,
        height=192,
    )
    spec.add_texture(
        name=FLOOR,
        type=kind.mjTEXTURE_2D,
        builtin=builtin.mjBUILTIN_CHECKER,
        rgb1=(0.72, 0.75, 0.79),
        rgb2=(0.60, 0.64, 0.69),
        width=64,
        height=64,
    )
    material = spec.add_material(name=FLOOR, texrepeat=(1, 1), texuniform=True, reflectance=0.08)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = FLOOR
    spec.worldbody.add_geom(
        name=FLOOR,
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=(0, 0, 0.05),
        material=FLOOR,
        contype=1,
        conaffinity=0,
        condim=3,
    )
    base = spec.body(base_body)
    base.add_light(
        pos=(1.0, -1.0, 3.0),
        dir=(-0.3, 0.3, -1.0),
        mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM,
        diffuse=(0.6, 0.6, 0.6),
    )
    # Three quarters from the front right, looking at the centre of mass.
    base.add_camera(
        name=CAMERA,
        pos=(1.75, -1.5, 0.3),
        xyaxes=(0.648, 0.762, 0, -0.101, 0.086, 0.991),
        mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM,
    )
    spec.visual.headlight.ambient = (0.35, 0.35, 0.35)
    spec.visual.headlight.diffuse = (0.45, 0.45, 0.45)
    spec.visual.quality.shadowsize = 4096
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1920, 1080


def set_contacts(spec: mujoco.MjSpec, foot_geoms: Sequence[str], friction: float) -> None:
    """The foot geoms meet the floor and nothing else collides; one contact sensor per foot geom."""
    feet = set(foot_geoms)
    for geom in spec.geoms:
        if geom.name in feet:
            geom.contype, geom.conaffinity, geom.condim = 0, 1, 3
            geom.priority = 1  # the foot's friction rules, so that it can be randomized without the floor
            geom.friction[0] = friction
        elif geom.name != FLOOR:
            geom.contype, geom.conaffinity = 0, 0
    # MJX's JAX backend matches geoms only, and always finds the matching contact only with this reduction (with the
    # largest force it reports another contact where a touching sphere bears none). The floor comes first so that the
    # sensor's normal points up and its force is that of the floor on the foot.
    for name in foot_geoms:
        spec.add_sensor(
            name=contact_sensor(name),
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_GEOM,
            objname=FLOOR,
            reftype=mujoco.mjtObj.mjOBJ_GEOM,
            refname=name,
            intprm=(_CONTACT_DATA, _REDUCE_MINDIST, 1),
        )


def set_actuators(spec: mujoco.MjSpec, joint_names: Sequence[str], groups: Sequence["JointGroup"]) -> None:
    """One position actuator per joint: torque = clip(kp (target - q) - kd qvel, ±effort); the target is not limited."""
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    for name, group in zip(joint_names, groups, strict=True):
        joint = spec.joint(name)
        joint.armature = group.armature
        joint.frictionloss = 0.0  # each would be one more row in the contact solver
        spec.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            gainprm=[group.kp, *[0.0] * 9],
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            biasprm=[0.0, -group.kp, -group.kd, *[0.0] * 7],
            ctrllimited=False,
            forcelimited=True,
            forcerange=(-group.effort, group.effort),
        )
