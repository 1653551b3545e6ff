"""Robots: `get_robot` finds one by name, `compile_robot` turns it into a simulation model."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from envs.robots.g1 import G1
from envs.robots.robot import JointGroup, PoseStd, Robot, RobotModel, compile_robot
from envs.robots.themis import THEMIS

__all__ = ["G1", "THEMIS", "JointGroup", "PoseStd", "Robot", "RobotModel", "absolute", "compile_robot", "get_robot"]

_BUILT_IN = {robot.name: robot for robot in (G1, THEMIS)}


def get_robot(name: str) -> Robot:
    """Finds a robot by name or by where it is defined.

    To bring your own robot, write its MJCF (one free base, hinge joints, a site and a few small spheres per sole) and a
    Python file that holds a `Robot`, then pass `"path/to/my_robot.py:MY_ROBOT"` or, for an importable module,
    `"my_package.my_robot:MY_ROBOT"`.

    Args:
        name: a built-in name ("g1", "themis"), "path/to/file.py:NAME" or "package.module:NAME".

    Returns:
        The robot's data.

    Raises:
        ValueError: no such robot.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    source, colon, attribute = name.rpartition(":")
    if not colon:
        known = ", ".join(sorted(_BUILT_IN))
        raise ValueError(
            f"There is no robot {name!r}; known: {known}; or give 'path/to/file.py:NAME' or 'module:NAME'."
        )
    module = _load(source, name)
    robot = getattr(module, attribute, None)
    if not isinstance(robot, Robot):
        raise ValueError(f"There is no robot {name!r}: {source!r} has no Robot named {attribute!r}.")
    return robot


def absolute(name: str) -> str:
    """The robot's name from whatever directory it is looked up: the path in "path/to/file.py:NAME" made whole."""
    source, colon, attribute = name.rpartition(":")
    return f"{Path(source).resolve()}:{attribute}" if colon and source.endswith(".py") else name


def _load(source: str, name: str) -> ModuleType:
    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"There is no robot {name!r}: the module {source!r} cannot be imported ({error})."
            ) from error
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"There is no robot {name!r}: the file {source!r} does not exist.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # true for every existing .py file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
