"""What must be known to run a policy on its robot. It travels inside the ONNX file, as JSON under one metadata key."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from jaxtyping import Float

FORMAT = 1
METADATA_KEY = "mpc_rl_deployment"


@dataclasses.dataclass(frozen=True, eq=False)
class Deployment:
    """A policy's contract with its robot; arrays have one entry for each of the nj joints, in the policy's order."""

    robot: str  # name
    joint_names: tuple[str, ...]
    default_joint_pos: Float[np.ndarray, " nj"]  # rad; the standing pose, which actions are added to
    action_scale: Float[np.ndarray, " nj"]  # rad per unit action
    kp: Float[np.ndarray, " nj"]  # N m/rad
    kd: Float[np.ndarray, " nj"]  # N m s/rad
    position_limits: Float[np.ndarray, "nj 2"]  # rad (lower, upper), ±inf where there is none
    velocity_limit: Float[np.ndarray, " nj"]  # rad/s, inf where none is known
    effort: Float[np.ndarray, " nj"]  # N m, torque limit
    control_dt: float  # s, between two steps of the policy
    physics_dt: float  # s, of the simulation that it was trained in
    observation: dict[str, int]  # names and sizes of the blocks of the observation, in order
    gait_period: float  # s, of the phase clock
    gait_duty_factor: float  # stance share of the period
    gait_offsets: tuple[float, float]  # cycles, (left, right)
    gait_deadband: float  # m/s and rad/s: commands up to this norm mean "stand"
    command_ranges: Float[np.ndarray, "3 2"]  # v_x, v_y [m/s], ω_z [rad/s] (lower, upper) that it was trained on
    versions: dict[str, str]  # of what wrote the file
    base_height: float  # m, of the base over the floor in the standing pose

    @property
    def num_joints(self) -> int:
        """Number of joints (nj)."""
        return len(self.joint_names)

    def __post_init__(self) -> None:
        shapes = {field: (self.num_joints,) for field in _PER_JOINT}
        shapes |= {"position_limits": (self.num_joints, 2), "command_ranges": (3, 2)}
        for field, shape in shapes.items():
            if getattr(self, field).shape != shape:
                raise ValueError(f"Deployment.{field} has shape {getattr(self, field).shape}; {shape} is needed.")
        if not (self.control_dt > 0 and self.gait_period > 0):
            raise ValueError("Deployment.control_dt and .gait_period are durations in seconds and must be positive.")


_PER_JOINT = ("default_joint_pos", "action_scale", "kp", "kd", "velocity_limit", "effort")
_ARRAYS = (*_PER_JOINT, "position_limits", "command_ranges")


def to_json(deployment: Deployment) -> str:
    """As one line of JSON; infinite limits become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [plain(v) for v in value] if value.ndim else plain(float(value))
        return (float(value) if np.isfinite(value) else None) if isinstance(value, float | np.floating) else value

    fields = {field.name: getattr(deployment, field.name) for field in dataclasses.fields(deployment)}
    return json.dumps({"format": FORMAT} | {name: plain(value) for name, value in fields.items()})


def from_json(text: str) -> Deployment:
    """Reads what `to_json` wrote.

    Raises:
        ValueError: it is of another format, or something is missing.
    """
    data = json.loads(text)
    if data.pop("format", None) != FORMAT:
        raise ValueError(f"The deployment data is of another format than this version reads ({FORMAT}).")
    expected = {field.name for field in dataclasses.fields(Deployment)}
    if set(data) != expected:
        raise ValueError(f"The deployment data has the wrong fields: {sorted(set(data) ^ expected)}.")
    lower_upper = np.array([-np.inf, np.inf])
    for name in _ARRAYS:
        values = np.array(data[name], float)  # null becomes NaN
        unlimited = lower_upper if name == "position_limits" else np.inf
        data[name] = np.where(np.isnan(values), unlimited, values)
    data["joint_names"], data["gait_offsets"] = tuple(data["joint_names"]), tuple(data["gait_offsets"])
    return Deployment(**data)
