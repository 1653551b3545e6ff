"""One step of a deployed policy: a reading and a command in, joint targets out, through ONNX on one CPU thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Float

from bridge.deployment import METADATA_KEY, Deployment, from_json
from bridge.observation import GaitClock, layout, observe
from bridge.robot import RobotState


class Controller:
    """A policy and what it remembers between steps. All its arrays are made once."""

    def __init__(self, path: Path) -> None:
        """Loads a file that `bridge export` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no ONNX file, or none of ours.
        """
        self._session, self.deployment = load(path)
        nj = self.deployment.num_joints
        size = sum(self.deployment.observation.values())
        self.observation = np.zeros((1, size), np.float32)
        self.action = np.zeros((1, nj), np.float32)
        self.command = np.zeros(3)
        self.target = np.zeros(nj)
        self.clock = GaitClock(self.deployment)
        self._bind(size, nj)
        self._session.run_with_iobinding(self._binding)  # the first call allocates
        self.reset()

    def _bind(self, size: int, nj: int) -> None:
        """Lets the session read and write our own arrays."""
        self._binding = self._session.io_binding()
        for bind, name, array, shape in (
            (self._binding.bind_input, self._session.get_inputs()[0].name, self.observation, (1, size)),
            (self._binding.bind_output, self._session.get_outputs()[0].name, self.action, (1, nj)),
        ):
            bind(name, "cpu", 0, np.float32, shape, array.ctypes.data)

    def reset(self) -> None:
        """Forgets the past: as at the start of an episode."""
        self.clock.reset()
        self.action[:] = 0.0
        self.target[:] = self.deployment.default_joint_pos

    def step(self, state: RobotState, command: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " nj"]:
        """The joint targets of one control step.

        Args:
            state: the newest reading.
            command: v_x, v_y [m/s], ω_z [rad/s], base yaw frame.

        Returns:
            Joint targets [rad], in an array that the next step overwrites; not finite if the action is not.
        """
        self.command[:] = command
        default = self.deployment.default_joint_pos
        observe(state, default, self.action[0], self.command, self.clock.phase, self.observation)
        self._session.run_with_iobinding(self._binding)
        np.multiply(self.deployment.action_scale, self.action[0], out=self.target)
        self.target += default
        self.clock.advance(self.command)
        return self.target


def load(path: Path) -> tuple[onnxruntime.InferenceSession, Deployment]:
    """The session, on one thread that never spins, and the deployment data of an exported policy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ONNX file, or none of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no exported policy at '{path}'; `python -m bridge export RUN` writes one.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"'{path}' is not an ONNX file: {error}") from error
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise ValueError(f"'{path}' was not written by `python -m bridge export`: it says nothing about its robot.")
    deployment = from_json(metadata[METADATA_KEY])
    if deployment.observation != layout(deployment.num_joints):
        raise ValueError(f"'{path}' wants an observation that the bridge cannot build: {deployment.observation}.")
    shapes = session.get_inputs()[0].shape, session.get_outputs()[0].shape
    if shapes != ([1, sum(deployment.observation.values())], [1, deployment.num_joints]):
        raise ValueError(f"'{path}' maps shapes {shapes[0]} to {shapes[1]}, which do not fit its own metadata.")
    return session, deployment
