"""The process that drives a robot over DDS in the tests: the bridge's own loop, and an operator that never waits."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from bridge.controller import Controller
from bridge.dds import Network
from bridge.keeper import Keeper
from bridge.loop import Loop, LoopConfig
from bridge.machine import Mode, Request
from bridge.priority import ask_for_real_time
from bridge.robot import RobotState
from bridge.safety import SafetyConfig
from bridge.unitree import UnitreeG1


class Operator:
    """Asks to stand up as soon as there is a state, and for the policy as soon as the robot stands."""

    def __init__(self, command: np.ndarray, stand_seconds: float) -> None:
        self.command, self.stand_seconds = command, stand_seconds
        self.first: float | None = None
        self.loop: Loop | None = None

    def poll(self, now: float) -> tuple[np.ndarray, Request]:
        assert self.loop is not None
        state: RobotState | None = self.loop.state
        if state is not None and self.first is None:
            self.first = now
        mode, fault = self.loop.machine.mode, self.loop.machine.fault.name
        if self.first is None or fault != "NONE":
            return self.command, Request.NONE
        if mode is Mode.DAMPING:
            print("standing up", flush=True)
            return self.command, Request.STAND
        stood = now - self.loop.machine.since >= self.stand_seconds
        return self.command, Request.WALK if mode is Mode.STAND_UP and stood else Request.NONE


def main(policy: str, domain: str, seconds: str, options: str) -> None:
    given = json.loads(options)
    ask_for_real_time()
    controller = Controller(Path(policy))
    deployment = controller.deployment
    network = Network(domain=int(domain))
    keeper = Keeper(network, given["keeper_seconds"]) if given["keeper_seconds"] else None
    robot = UnitreeG1(deployment.joint_names, deployment.kd, network, keeper)
    operator = Operator(np.array(given["command"], float), given["stand_seconds"])
    safety = SafetyConfig(stale_seconds=0.1, overrun_seconds=0.1) if given["patient"] else SafetyConfig()
    config = LoopConfig(
        stand_seconds=given["stand_seconds"], seconds=float(seconds), seconds_after_fault=0.05, safety=safety
    )
    operator.loop = loop = Loop(robot, controller, operator, config)
    robot.wait(10.0)
    loop.run()
    events = [(mode.name, fault.name) for _, mode, fault in loop.events]
    print(json.dumps({"events": events, **dataclasses.asdict(robot.statistics)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
