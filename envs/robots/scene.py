"""What `compile_robot` adds to a robot's MJCF: floor, light, camera, solver, actuators and foot contact sensors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from envs.terrain import Terrain

FLOOR = "floor"
BASE_THICKNESS = 0.5  # m, of a heightfield's ground below its lowest point
HFIELD_CONTACTS = 4  # at most, of MJX, between a geom and a heightfield
# m, least radius of a foot's spheres there. MuJoCo collides with the prism under each triangle for itself: where they
# meet, it pushes out sideways a sphere whose centre gets below the surface, and one of 5 mm does at every landing.
HFIELD_RADIUS = 0.02
CAMERA = "track"

# Contact sensor data: found, force, normal, tangent, 1 + 3 + 3 + 3 numbers in this order.
_CONTACT_DATA = (1 << 0) | (1 << 1) | (1 << 5) | (1 << 6)
CONTACT_DIM = 10
_REDUCE_MINDIST = 1


def contact_sensor(geom: str) -> str:
    """Name of the sensor of the contact between the foot geom `geom` and the floor."""
    return f"{geom}_contact"


def contacts_per_geom(model: mujoco.MjModel) -> int:
    """How many contacts a foot geom can have with the floor: 1 on a plane, `HFIELD_CONTACTS` on a heightfield."""
    return 1 if model.geom(FLOOR).type == mujoco.mjtGeom.mjGEOM_PLANE else HFIELD_CONTACTS


def set_solver(spec: mujoco.MjSpec, *, timestep: float, iterations: int, ls_iterations: int) -> None:
    """Newton with pyramidal cones and the semi-implicit integrator (stable with stiff position actuators)."""
    option = spec.option
    option.timestep = timestep
    option.iterations = iterations
    option.ls_iterations = ls_iterations
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST


def add_surroundings(spec: mujoco.MjSpec, base_body: str, terrain: "Terrain | None" = None) -> None:
    """A checkered floor, flat or with a terrain's heights; sky, light, the camera `CAMERA` that follows the CoM."""
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
    floor = spec.worldbody.add_geom(name=FLOOR, material=FLOOR, contype=1, conaffinity=0, condim=3)
    if terrain is None:
        floor.type, floor.size = mujoco.mjtGeom.mjGEOM_PLANE, (0, 0, 0.05)
    else:
        heights = terrain.heights
        low, high = heights.min(), heights.max()  # MuJoCo scales what lies between them to [0, 1]
        spec.add_hfield(
            name=FLOOR,
            nrow=heights.shape[0],
            ncol=heights.shape[1],
            size=(*terrain.half_size, high - low, BASE_THICKNESS),
            userdata=heights.reshape(-1),
        )
        floor.type, floor.hfieldname, floor.pos = mujoco.mjtGeom.mjGEOM_HFIELD, FLOOR, (0, 0, low)
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
    """The foot geoms meet the floor and nothing else collides; one contact sensor per foot geom.

    A sensor holds as many contacts as its geom can have with the floor: one on a plane, `HFIELD_CONTACTS` on a terrain.
    """
    feet = set(foot_geoms)
    slots = 1 if spec.geom(FLOOR).type == mujoco.mjtGeom.mjGEOM_PLANE else HFIELD_CONTACTS
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
            intprm=(_CONTACT_DATA, _REDUCE_MINDIST, slots),
        )


def round_feet(spec: mujoco.MjSpec, foot_sites: Sequence[str], foot_geoms: Sequence[Sequence[str]]) -> None:
    """Gives the spheres of the feet at least the radius `HFIELD_RADIUS`; their lowest points stay where they are."""
    model = spec.compile()  # resolves whatever way the MJCF gives orientations in
    for site, geoms in zip(foot_sites, foot_geoms, strict=True):
        up = np.zeros(3)
        mujoco.mju_rotVecQuat(up, np.array([0.0, 0.0, 1.0]), model.site(site).quat)
        for geom in map(spec.geom, geoms):
            grown = max(HFIELD_RADIUS - geom.size[0], 0.0)
            geom.size[0] += grown
            geom.pos += grown * up


def set_rotors(spec: mujoco.MjSpec, joint_names: Sequence[str], armature: Sequence[float]) -> None:
    """Gives each joint its rotor inertia [kg m²] and takes its dry friction away."""
    for name, inertia in zip(joint_names, armature, strict=True):
        joint = spec.joint(name)
        joint.armature = inertia
        joint.frictionloss = 0.0  # each would be one more row in the contact solver


def set_actuators(
    spec: mujoco.MjSpec,
    joint_names: Sequence[str],
    kp: Sequence[float] | Float[np.ndarray, " nu"],
    kd: Sequence[float] | Float[np.ndarray, " nu"],
    effort: Sequence[float],
) -> None:
    """One position actuator per joint: torque = clip(kp (target - q) - kd qvel, ±effort); the target is not limited."""
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    for name, stiffness, damping, torque in zip(joint_names, kp, kd, effort, strict=True):
        spec.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            gainprm=[stiffness, *[0.0] * 9],
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            biasprm=[0.0, -stiffness, -damping, *[0.0] * 7],
            ctrllimited=False,
            forcelimited=True,
            forcerange=(-torque, torque),
        )
