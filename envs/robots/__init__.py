"""Robots: `get_robot` finds one by name, `compile_robot` turns it into a simulation model."""

from envs.robots.robot import JointGroup, PoseStd, Robot, RobotModel, compile_robot

__all__ = ["JointGroup", "PoseStd", "Robot", "RobotModel", "compile_robot", "get_robot"]


def get_robot(name: str) -> Robot:
    """Finds a robot by name or by where it is defined.

    To bring your own robot, write its MJCF (one free base, hinge joints, a site and a few small spheres per sole) and a Python file
    that holds a `Robot`, then pass `"path/to/my_robot.py:MY_ROBOT"` or, for an installed module, `"my_package.my_robot:MY_ROBOT"`.

    Args:
        name: a built-in name ("g1"), "path/to/file.py:NAME" or "package.module:NAME".

    Returns:
        The robot's data.

    Raises:
        ValueError: no such robot.
    """
    raise NotImplementedError
