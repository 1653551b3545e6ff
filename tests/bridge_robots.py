"""A G1 in C MuJoCo that lies to the bridge from a moment on, and a policy that does nothing, for the bridge's tests."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx

from bridge.controller import Controller
from bridge.export import build, describe, write_scene
from bridge.loop import Loop, LoopConfig
from bridge.machine import Request
from bridge.mujoco_robot import MujocoRobot, load_model
from bridge.robot import RobotState
from envs.config import VelocityConfig
from envs.robots import G1
from learning.policy import Policy, PolicySpec, load_policy

SHIPPED = Path(__file__).parents[1] / "experiments" / "results" / "g1_walk"
STAND, WALK = 0.05, 0.1  # s, duration of the stand-up and time of the hand-over
NO_PUSH = np.zeros(3)


def write_still_policy(folder: Path) -> Path:
    """A policy whose action is always zero, exported with its robot's model: it holds the standing pose."""
    facts = load_policy(SHIPPED).metadata
    n, nj = 98, 29
    layers = {"MLP_0": {"hidden_0": (n, 4)}, "Dense_0": (4, nj)}
    zeros = {
        "MLP_0": {"hidden_0": {"kernel": jnp.zeros(layers["MLP_0"]["hidden_0"]), "bias": jnp.zeros(4)}},
        "Dense_0": {"kernel": jnp.zeros(layers["Dense_0"]), "bias": jnp.zeros(nj)},
    }
    spec = PolicySpec(observation_size=n, action_size=nj, hidden=(4,), obs_key="state", normalize=True)
    policy = Policy(jnp.zeros(n), jnp.ones(n), {"params": zeros}, spec)
    onnx.save(build(policy, describe(facts, VelocityConfig(), G1)), str(folder / "still.onnx"))
    write_scene(G1, VelocityConfig(), folder / "still.zip")
    return folder / "still.onnx"


class LyingRobot(MujocoRobot):
    """Its readings go through `lie` from the time `since` on; it remembers when it was told what."""

    def __init__(self, policy: Path, lie: Callable[[RobotState], RobotState] | None = None, since: float = 0.2):
        controller = Controller(policy)
        super().__init__(load_model(policy.with_suffix(".zip")), controller.deployment)
        self.controller, self.lie, self.since = controller, lie, since
        self.told: list[tuple[float, bool]] = []  # time, whether it was damping
        self.gantry = True

    def read(self):
        state = super().read()
        return self.lie(state) if self.lie is not None and self.data.time >= self.since - 1e-9 else state

    def send(self, target):
        damps = bool((target.kp == 0).all() and (target.kd > 0).all() and (target.tau == 0).all())
        if hasattr(self, "told"):
            self.told.append((self.data.time, damps))
        super().send(target)

    def damped_at(self) -> float:
        """When it was first told to damp after it had been told anything else; and never anything else again."""
        drives = [i for i, (_, damps) in enumerate(self.told) if not damps]
        assert drives, "the robot never moved"
        assert drives[-1] + 1 < len(self.told), "the robot was never told to damp"
        return self.told[drives[-1] + 1][0]


class Script:
    """Stands up at once, hands over to the policy, and does what is added for given times."""

    def __init__(self, extra: dict[float, Request] | None = None, command=NO_PUSH):
        self.due = sorted({0.0: Request.STAND, WALK: Request.WALK, **(extra or {})}.items())
        self.command = np.asarray(command, float)

    def poll(self, now):
        if self.due and now >= self.due[0][0] - 1e-9:
            return self.command, self.due.pop(0)[1]
        return self.command, Request.NONE


def make_loop(robot: LyingRobot, operator=None, seconds: float = 0.4, **options) -> Loop:
    """A loop at the pace of the physics."""
    safety = options.pop("safety", None)
    config = LoopConfig(ticks_per_step=4, stand_seconds=STAND, seconds=seconds)
    config = config if safety is None else dataclasses.replace(config, safety=safety)
    return Loop(robot, robot.controller, operator or Script(), config, **options)
