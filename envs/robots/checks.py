"""Whether an MJCF is one, has the parts that a `Robot` names, and none that it must not have."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import mujoco

if TYPE_CHECKING:
    from envs.robots.robot import Robot


@contextlib.contextmanager
def mjcf_named(robot: "Robot") -> Iterator[None]:
    """Around what MuJoCo does with a robot's MJCF: its refusals, of several lines, in a sentence that says whose it is.

    Raises:
        ValueError: MuJoCo refused.
    """
    try:
        yield
    except ValueError as error:
        reason = ", ".join(str(error).splitlines()).replace(":, ", ": ").removeprefix("XML ").removeprefix("Error: ")
        raise ValueError(
            f"Robot {robot.name!r}: MuJoCo cannot make a model of {str(robot.mjcf)!r}: {reason}."
        ) from error


def hinge_names(robot: "Robot", spec: mujoco.MjSpec) -> tuple[str, ...]:
    """Names of the joints, all of them hinges under one free base, in the model's order."""
    base = spec.body(robot.base_body)
    if base is None:
        raise ValueError(f"Robot {robot.name!r}: its MJCF has no body named {robot.base_body!r} (base_body).")
    free = [j for j in spec.joints if j.type == mujoco.mjtJoint.mjJNT_FREE]
    if len(free) != 1 or free[0].parent.name != robot.base_body:
        raise ValueError(f"Robot {robot.name!r}: the body {robot.base_body!r} must carry the MJCF's one free joint.")
    others = [body.name for body in spec.worldbody.bodies if body.name != robot.base_body]
    if others:
        raise ValueError(f"Robot {robot.name!r}: all bodies must hang on {robot.base_body!r}, and {others} do not.")
    joints = [j for j in spec.joints if j.type != mujoco.mjtJoint.mjJNT_FREE]
    odd = [j.name for j in joints if j.type != mujoco.mjtJoint.mjJNT_HINGE]
    if odd:
        raise ValueError(f"Robot {robot.name!r}: all joints but the free one must be hinges, and {odd} are not.")
    return tuple(j.name for j in joints)


def check_parts(robot: "Robot", spec: mujoco.MjSpec) -> None:
    """Refuses an MJCF without the sites and spheres that the robot's feet and gyro are said to be at."""
    for field, names in (("imu_site", (robot.imu_site,)), ("foot_sites", robot.foot_sites)):
        for name in names:
            if spec.site(name) is None:
                raise ValueError(f"Robot {robot.name!r}: its MJCF has no site named {name!r} ({field}).")
    if spec.site(robot.imu_site).parent.name != robot.base_body:
        raise ValueError(
            f"Robot {robot.name!r}: the site {robot.imu_site!r} (imu_site) must be on {robot.base_body!r}."
        )
    for site, geoms in zip(robot.foot_sites, robot.foot_geoms, strict=True):
        if not geoms:
            raise ValueError(f"Robot {robot.name!r}: the foot of site {site!r} has no geoms (foot_geoms).")
        for name in geoms:
            geom = spec.geom(name)
            if geom is None:
                raise ValueError(f"Robot {robot.name!r}: its MJCF has no geom named {name!r} (foot_geoms).")
            if geom.type != mujoco.mjtGeom.mjGEOM_SPHERE:
                raise ValueError(f"Robot {robot.name!r}: the geom {name!r} (foot_geoms) must be a sphere.")
            if geom.parent.name != spec.site(site).parent.name:
                raise ValueError(f"Robot {robot.name!r}: geom {name!r} and site {site!r} must be on the same body.")


def check_limbs(robot: "Robot", spec: mujoco.MjSpec) -> None:
    """Refuses an MJCF without the capsules that are said to be limbs."""
    for name in (name for pair in robot.limb_pairs for name in pair):
        geom = spec.geom(name)
        if geom is None or geom.type != mujoco.mjtGeom.mjGEOM_CAPSULE:
            raise ValueError(f"Robot {robot.name!r}: its MJCF has no capsule geom named {name!r} (limb_pairs).")
