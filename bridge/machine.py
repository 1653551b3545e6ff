"""The state machine: damping → stand-up → policy, and back to damping from anywhere, at any fault."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
from jaxtyping import Float

from bridge.safety import Fault


class Mode(enum.IntEnum):
    """What the robot is told to do."""

    DAMPING = 0  # resist motion, go nowhere
    STAND_UP = 1  # go to the standing pose and hold it
    POLICY = 2  # obey the policy


class Request(enum.Enum):
    """What the operator asks for."""

    NONE = "nothing"
    STAND = "stand up"
    WALK = "hand over to the policy"
    STOP = "go limp at once"
    QUIT = "go limp and end"


@dataclasses.dataclass(frozen=True, eq=False)
class Machine:
    """Where the state machine is."""

    mode: Mode = Mode.DAMPING
    fault: Fault = Fault.NONE  # what ended the last motion
    since: float = 0.0  # s, when the mode was entered
    start: Float[np.ndarray, " nj"] | None = None  # rad, joint positions at the start of the stand-up
    refused: str = ""  # why the last request was not followed, for the operator


def advance(
    machine: Machine,
    request: Request,
    link: Fault,
    body: Fault,
    q: Float[np.ndarray, " nj"] | None,
    now: float,
    stand_seconds: float,
) -> Machine:
    """One transition.

    A fault always wins, and STOP is one. In damping no fault can make anything worse, so none is recorded there; but a
    robot that has one is not allowed to stand up.

    Args:
        machine: the present state.
        request: of the operator.
        link: what is wrong with the state that was read, or with the process.
        body: what is wrong with the robot.
        q: joint positions [rad], if they are known.
        now: s.
        stand_seconds: how long a stand-up takes.
    """
    fault = link if link is not Fault.NONE else body
    if request is Request.STOP:
        fault = Fault.EMERGENCY_STOP
    if machine.mode is not Mode.DAMPING and (fault is not Fault.NONE or request is Request.QUIT):
        return Machine(Mode.DAMPING, fault, now)
    if request is Request.STAND and machine.mode is Mode.DAMPING:
        if fault is not Fault.NONE or q is None:
            return dataclasses.replace(machine, refused=f"No stand-up: {fault.value}")
        return Machine(Mode.STAND_UP, Fault.NONE, now, q.copy())
    if request is Request.WALK and machine.mode is not Mode.POLICY:
        if machine.mode is Mode.DAMPING or now - machine.since < stand_seconds:
            return dataclasses.replace(machine, refused="The policy takes over only from a robot that has stood up.")
        return Machine(Mode.POLICY, Fault.NONE, now)
    return machine


def stand_up_target(
    start: Float[np.ndarray, " nj"], end: Float[np.ndarray, " nj"], progress: float
) -> Float[np.ndarray, " nj"]:
    """Joint targets of a stand-up [rad]: from where the joints were to the standing pose, at rest at both ends.

    Args:
        start: joint positions when it began [rad].
        end: the standing pose [rad].
        progress: share of the time that has passed; 1 and more is the end.
    """
    blend = 0.5 - 0.5 * np.cos(np.pi * min(max(progress, 0.0), 1.0))
    return start + blend * (end - start)
