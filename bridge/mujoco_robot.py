"""A robot in C MuJoCo, in this process: deterministic, as fast as possible or paced by the wall clock."""

from __future__ import annotations

import time as wall
from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float

from bridge.deployment import Deployment
from bridge.robot import NO_SENSOR, PDTarget, RobotState, damping

# MuJoCo's own limits and tolerance: the contact solver converges, whatever little a training step could afford.
SOLVER_ITERATIONS, LINE_SEARCH_ITERATIONS = 100, 50
COMMAND_TIMEOUT = 0.010  # s without a target after which the joints damp by themselves, as a motor's own watchdog does
GANTRY_FREQUENCY = 30.0  # rad/s, critically damped: the robot hangs 1 cm lower than it stands
# Of a humanoid, roughly: inertia about its base over its mass, m², in the last three.
_PER_MASS = np.array([1.0, 1.0, 1.0, 0.1, 0.1, 0.1])


class MujocoRobot:
    """C MuJoCo behind the `Robot` protocol.

    Each joint's actuator is its PD loop: MuJoCo integrates it implicitly, as a motor's fast loop would behave, and
    clips its torque. A gantry, a soft spring on the base, can hold the robot up until it is released.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        deployment: Deployment,
        *,
        real_time: bool = False,
        command_timeout: float = COMMAND_TIMEOUT,
    ) -> None:
        """Puts a robot in its standing pose, at rest, on its floor.

        Args:
            model: with one actuator for each joint, of the joint's name.
            deployment: of the policy that will move it.
            real_time: keep pace with the wall clock instead of running as fast as possible.
            command_timeout: s without a target after which the joints damp.

        Raises:
            ValueError: the model is not of the policy's robot.
        """
        missing = [n for n in deployment.joint_names if min(_id(model, "JOINT", n), _id(model, "ACTUATOR", n)) < 0]
        if missing:
            raise ValueError(f"The model has no actuated joint named {missing[0]!r}, which the policy moves.")
        self.model, self.data = model, mujoco.MjData(model)
        model.opt.iterations, model.opt.ls_iterations = SOLVER_ITERATIONS, LINE_SEARCH_ITERATIONS
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        self.deployment, self.joint_names = deployment, deployment.joint_names
        joints = [model.joint(name) for name in self.joint_names]
        self.qpos_adr = np.array([joint.qposadr[0] for joint in joints])
        self.dof_adr = np.array([joint.dofadr[0] for joint in joints])
        self._actuators = np.array([model.actuator(name).id for name in self.joint_names])
        model.actuator_forcerange[self._actuators] = np.stack([-deployment.effort, deployment.effort], axis=1)
        self.before_step: list[Callable[[MujocoRobot], None]] = []  # called before each physics step: pushes, faults
        self._gantry = False
        self.sent = damping(deployment.kd)  # the latest target
        self._heard = 0.0  # s, when it came
        self._real_time, self._timeout = real_time, command_timeout
        self._offset: float | None = None  # s, of the wall clock when simulated time began to run
        self.reset()

    def reset(self, q: Float[np.ndarray, " nj"] | None = None) -> None:
        """Stands the robot at rest, base upright over the origin.

        Args:
            q: joint positions [rad]; by default the standing pose.
        """
        qpos = self.model.qpos0.copy()
        qpos[:7] = (0, 0, self.deployment.base_height, 1, 0, 0, 0)
        qpos[self.qpos_adr] = self.deployment.default_joint_pos if q is None else q
        self.put(qpos, np.zeros(self.model.nv))

    def put(self, qpos: Float[np.ndarray, " nq"], qvel: Float[np.ndarray, " nv"]) -> None:
        """Puts the robot into a state at time 0, damping.

        Args:
            qpos: configuration, base first.
            qvel: velocity.
        """
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        self._heard, self._offset = 0.0, None
        self.send(damping(self.deployment.kd))
        mujoco.mj_forward(self.model, self.data)
        self._state = self._read()

    def restart(self) -> None:
        """As `reset`, but on the gantry, and time goes on."""
        time, offset = self.data.time, self._offset
        self.reset()
        self.data.time = self._heard = time
        self._offset, self.gantry = offset, True
        self._state = self._read()

    def hold(self, condition: Callable[[], bool]) -> None:
        """Lets no simulated time pass while a condition holds; the loop does not notice."""
        began = wall.monotonic()
        while condition():
            wall.sleep(0.01)
        if self._offset is not None:
            self._offset += wall.monotonic() - began

    def read(self) -> RobotState:
        """The state after the latest physics step."""
        if self._read_at != self.data.time:
            self._state = self._read()
        return self._state

    def _read(self) -> RobotState:
        data = self.data
        self._read_at = data.time
        return RobotState(
            time=self.now(),
            q=data.qpos[self.qpos_adr],
            qd=data.qvel[self.dof_adr],
            tau=data.actuator_force[self._actuators],
            quaternion=data.qpos[3:7].copy(),
            gyro=data.qvel[3:6].copy(),
            temperature=np.full(len(self.joint_names), NO_SENSOR),
        )

    def send(self, target: PDTarget) -> None:
        """Sets gains and targets of the joints' actuators."""
        self.sent, self._heard = target, self.data.time
        self._apply(target)

    def _apply(self, target: PDTarget) -> None:
        model, ids = self.model, self._actuators
        model.actuator_gainprm[ids, 0] = target.kp
        model.actuator_biasprm[ids, 0] = target.kd * target.qd + target.tau
        model.actuator_biasprm[ids, 1] = -target.kp
        model.actuator_biasprm[ids, 2] = -target.kd
        self.data.ctrl[ids] = target.q

    def now(self) -> float:
        """Simulated time [s]; in real time the wall's, if that is ahead."""
        return self.data.time if self._offset is None else max(self.data.time, wall.monotonic() - self._offset)

    def sleep_until(self, time: float) -> None:
        """Steps the physics until `time` [s]; in real time, whose clock starts here, waits for the wall's too."""
        if self._real_time and self._offset is None:
            self._offset = wall.monotonic() - self.data.time
        while self.data.time < time - 0.5 * self.model.opt.timestep:
            self.step()
        if self._offset is not None:
            ahead = self._offset + self.data.time - wall.monotonic()
            if ahead > 0:
                wall.sleep(ahead)

    def step(self) -> None:
        """One physics step."""
        if self.data.time - self._heard > self._timeout + 1e-9:
            self._apply(damping(self.deployment.kd))
        self.data.xfrc_applied[:] = 0.0
        if self._gantry:
            self._hold()
        for hook in self.before_step:
            hook(self)
        mujoco.mj_step(self.model, self.data)

    def push(self, velocity: Float[np.ndarray, " 2"]) -> None:
        """Kicks the base.

        Args:
            velocity: added to its horizontal velocity, world frame [m/s].
        """
        self.data.qvel[:2] += velocity

    @property
    def gantry(self) -> bool:
        """Whether the base is held at standing height, upright, over the origin, by a soft spring."""
        return self._gantry

    @gantry.setter
    def gantry(self, on: bool) -> None:
        self._gantry = on
        mass = self.model.body_subtreemass[self.model.jnt_bodyid[0]]
        # As damping of the free joint it is integrated implicitly: the base alone is a tenth of what the spring holds.
        self.model.dof_damping[:6] = on * 2.0 * GANTRY_FREQUENCY * mass * _PER_MASS

    def _hold(self) -> None:
        """The gantry's spring, on the base."""
        model, data = self.model, self.data
        base = model.jnt_bodyid[0]
        offset = np.array([0.0, 0.0, self.deployment.base_height]) - data.qpos[:3]
        w, *vector = data.qpos[3:7]
        turn = -2.0 * np.copysign(1.0, w) * np.array(vector)  # rotation vector to upright, for small angles
        spring = GANTRY_FREQUENCY**2 * model.body_subtreemass[base] * _PER_MASS
        data.xfrc_applied[base] = spring * np.concatenate([offset, turn])

    def close(self) -> None:
        """Leaves the robot in damping."""
        self.send(damping(self.deployment.kd))


def _id(model: mujoco.MjModel, kind: str, name: str) -> int:
    return mujoco.mj_name2id(model, getattr(mujoco.mjtObj, f"mjOBJ_{kind}"), name)


def load_model(path: Path) -> mujoco.MjModel:
    """The model of a robot on its floor: what `bridge export` left beside the policy (.zip), an MJCF, or a .mjb.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: MuJoCo cannot read it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no model at '{path}'; `--model` takes an MJCF, a .zip or a .mjb.")
    try:
        if path.suffix == ".mjb":
            return mujoco.MjModel.from_binary_path(str(path))
        if path.suffix == ".zip":
            with path.open("rb") as file:
                return mujoco.MjSpec.from_zip(file).compile()
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise ValueError(f"MuJoCo cannot read the model '{path}': {str(error).strip()}") from error
