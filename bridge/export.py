"""From a trained policy to one ONNX file that says all there is to know about running it. The only user of JAX here.

The graph is built by hand from the policy's numbers: observation minus mean, over standard deviation, and a perceptron
of ELU layers. What is written has been compared with the JAX policy on a thousand observations.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import onnx
import onnxruntime
from jaxtyping import Float
from onnx import TensorProto, helper, numpy_helper

from bridge.deployment import METADATA_KEY, Deployment, to_json
from bridge.observation import layout

if TYPE_CHECKING:
    from envs.config import VelocityConfig
    from envs.robots import Robot
    from learning.policy import Policy

OBSERVATIONS, TOLERANCE = 1000, 1e-5
OPSET = 17
PACKAGES = ("mpc-rl", "jax", "brax", "mujoco", "onnx", "onnxruntime", "numpy")


def export(run: Path, out: Path) -> tuple[Path, Path, float]:
    """Writes a run's policy as ONNX, and beside it the model of its robot on a flat floor.

    Args:
        run: run directory or policy file.
        out: the `.onnx` file; the model goes to the same name with `.zip`.

    Returns:
        Both paths and the largest difference from the JAX policy [units of action].

    Raises:
        FileNotFoundError: there is no such policy.
        ValueError: the policy cannot be deployed, or ONNX does not reproduce it.
    """
    from envs.config import VelocityConfig
    from envs.robots import get_robot
    from learning.policy import load_policy
    from learning.serialize import from_json

    policy = load_policy(run)
    facts = policy.metadata
    if "env" not in facts:
        raise ValueError(f"The policy at '{run}' does not say which task it was trained on, so it cannot be deployed.")
    config = from_json(VelocityConfig, json.dumps(facts["env"]))
    robot = get_robot(config.robot)
    deployment = describe(facts, config, robot)
    model = build(policy, deployment)
    difference = verify(model, policy)
    scene = out.with_suffix(".zip")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_scene(robot, config, scene)
    temporary = out.with_suffix(".onnx.part")
    onnx.save(model, str(temporary))
    temporary.replace(out)
    return out, scene, difference


def describe(facts: Mapping[str, Any], config: VelocityConfig, robot: Robot) -> Deployment:
    """The policy's contract with its robot.

    Numbers that the policy was trained with come from its own metadata, what it does not hold (limits, gait) from the
    robot's data.

    Raises:
        ValueError: the robot's data are no longer those that the policy was trained with, or the observation is not one
            that the bridge can build.
    """
    from envs.robots import compile_robot
    from pimpc.gait import GaitConfig

    compiled = compile_robot(robot, timestep=config.physics_dt)
    if tuple(facts["joint_names"]) != compiled.joint_names:
        raise ValueError(f"Robot {robot.name!r} no longer has the joints that this policy was trained with.")
    if dict(facts["observation"]) != layout(compiled.num_joints):
        raise ValueError("This policy has an observation that the bridge cannot build.")
    gait = GaitConfig(period=facts["gait_period"], duty_factor=robot.gait_duty_factor)
    command = config.command
    return Deployment(
        robot=robot.name,
        joint_names=compiled.joint_names,
        default_joint_pos=np.array(facts["default_joint_pos"]),
        action_scale=np.array(facts["action_scale"]),
        kp=np.array(facts["kp"]),
        kd=np.array(facts["kd"]),
        position_limits=compiled.joint_limits,
        velocity_limit=compiled.velocity_limit,
        effort=compiled.effort,
        control_dt=facts["control_dt"],
        physics_dt=config.physics_dt,
        observation=dict(layout(compiled.num_joints)),
        gait_period=gait.period,
        gait_duty_factor=gait.duty_factor,
        gait_offsets=gait.offsets,
        gait_deadband=gait.deadband,
        command_ranges=np.array([command.v_x, command.v_y, command.w_z]),
        versions=versions(),
        base_height=compiled.base_height,
    )


def versions() -> dict[str, str]:
    """Of what the file was made with."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def build(policy: Policy, deployment: Deployment) -> onnx.ModelProto:
    """The ONNX model of a policy: input `obs` (1, n), output `action` (1, nj), both float32.

    Raises:
        ValueError: the policy's parameters are not those of a perceptron, or its size is not the robot's.
    """
    size, nj = policy.spec.observation_size, policy.spec.action_size
    if size != sum(deployment.observation.values()) or nj != deployment.num_joints:
        raise ValueError(f"The policy maps {size} observations to {nj} actions, which is not what its robot has.")
    nodes: list[onnx.NodeProto] = []
    numbers: list[onnx.TensorProto] = []

    def constant(name: str, value: Any) -> str:
        numbers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    last = "obs"
    if policy.spec.normalize:
        nodes.append(helper.make_node("Sub", [last, constant("mean", policy.mean)], ["centred"]))
        nodes.append(helper.make_node("Div", ["centred", constant("std", policy.std)], ["normalized"]))
        last = "normalized"
    layers = perceptron(policy)
    for i, (kernel, bias) in enumerate(layers):
        final = i == len(layers) - 1
        inputs = [last, constant(f"kernel_{i}", kernel), constant(f"bias_{i}", bias)]
        nodes.append(helper.make_node("Gemm", inputs, ["action" if final else f"linear_{i}"]))
        if not final:
            nodes.append(helper.make_node("Elu", [f"linear_{i}"], [f"hidden_{i}"], alpha=1.0))
            last = f"hidden_{i}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "policy",
        [value("obs", TensorProto.FLOAT, [1, size])],
        [value("action", TensorProto.FLOAT, [1, nj])],
        numbers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="mpc-rl")
    model.ir_version = 8
    helper.set_model_props(model, metadata(deployment))
    onnx.checker.check_model(model, full_check=True)
    return model


def perceptron(policy: Policy) -> list[tuple[Float[np.ndarray, "m n"], Float[np.ndarray, " n"]]]:
    """Kernel and bias of each layer of the network that gives the mean action, the last one linear.

    Raises:
        ValueError: the parameters have other names than Brax gives them.
    """
    params = policy.weights["params"]
    try:
        hidden = [params["MLP_0"][f"hidden_{i}"] for i in range(len(policy.spec.hidden))]
        layers = [*hidden, params["Dense_0"]]
        return [(np.asarray(layer["kernel"]), np.asarray(layer["bias"])) for layer in layers]
    except KeyError as error:
        raise ValueError(
            f"The policy's network has no parameter {error}: it is not one that this export knows."
        ) from error


def metadata(deployment: Deployment) -> dict[str, str]:
    """What travels in the file: our own entry, and the entries that mjlab's deployment tools look for.

    Numbers are written in full there; a comma separates entries.
    """

    def listed(values: Any) -> str:
        return ",".join(str(v) for v in values)

    return {
        METADATA_KEY: to_json(deployment),
        "joint_names": listed(deployment.joint_names),
        "joint_stiffness": listed(deployment.kp.tolist()),
        "joint_damping": listed(deployment.kd.tolist()),
        "default_joint_pos": listed(deployment.default_joint_pos.tolist()),
        "action_scale": listed(deployment.action_scale.tolist()),
        "observation_names": listed(deployment.observation),
        "command_names": "base_velocity",
    }


def verify(model: onnx.ModelProto, policy: Policy, seed: int = 0) -> float:
    """Compares the model with the policy that it was made of.

    Observations are drawn with the mean and standard deviation that the normalizer saw; every tenth is ten times
    further out.

    Returns:
        The largest difference of an action's entry, relative to it where it is larger than 1.

    Raises:
        ValueError: it is larger than `TOLERANCE`.
    """
    import jax.numpy as jnp

    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((OBSERVATIONS, policy.spec.observation_size))
    draws[::10] *= 10.0
    observations = (np.asarray(policy.mean) + np.asarray(policy.std) * draws).astype(np.float32)
    expected = np.asarray(policy(jnp.asarray(observations)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = np.concatenate([np.asarray(session.run(None, {"obs": row[None]})[0]) for row in observations])
    difference = float(np.max(np.abs(found - expected) / np.maximum(1.0, np.abs(expected))))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"ONNX and the JAX policy differ by {difference:.2g}, more than {TOLERANCE:g}; nothing was written."
        )
    return difference


def write_scene(robot: Robot, config: VelocityConfig, path: Path) -> None:
    """Writes the robot on a flat floor, with actuators and meshes, as a zipped MJCF.

    Args:
        robot: the robot.
        config: whose physics step it gets.
        path: of the `.zip`.
    """
    from envs.robots.robot import robot_spec

    spec, _ = robot_spec(robot, timestep=config.physics_dt)
    folder = Path(robot.mjcf).parent
    for asset in (*spec.meshes, *spec.textures, *spec.hfields):
        if asset.file:
            directory = spec.texturedir if isinstance(asset, mujoco.MjsTexture) else spec.meshdir
            spec.assets[asset.file] = (folder / directory / asset.file).read_bytes()
    with path.open("wb") as file:
        spec.to_zip(file)
