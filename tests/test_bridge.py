"""A policy is the same through the bridge: exported, fed by NumPy, walked by the loop, logged and replayed."""

import contextlib
import gc
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import onnx
import pytest

from bridge import replay
from bridge.__main__ import main
from bridge.commands import Gamepad, Keyboard, Profile
from bridge.controller import Controller
from bridge.deployment import METADATA_KEY, from_json, to_json
from bridge.export import build, describe, export, verify
from bridge.loop import Loop, LoopConfig, no_collection
from bridge.machine import Mode, Request, stand_up_target
from bridge.mujoco_robot import MujocoRobot, load_model
from bridge.observation import GaitClock, observe
from bridge.recorder import ROWS, LogRecorder, read_log
from bridge.robot import PDTarget, RobotState
from bridge.safety import Fault
from envs import velocity
from envs.config import VelocityConfig
from envs.observations import actor_layout
from envs.physics import PhysicsState, nominal_params
from learning.closed_loop import ClosedLoop, Episodes
from learning.policy import load_policy
from learning.serialize import from_json as config_from_json

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "experiments" / "results" / "g1_walk"
COMMANDS = np.array(
    [[0, 0, 0, 0], [2, 0.8, 0, 0], [6, -0.4, 0, 0], [9, 0, 0.3, 0], [12, 0.5, 0, 0.8], [16, 0, 0, 0], [20, 0, 0, 0]],
    float,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped policy; the export itself compares it with JAX."""
    path, scene, difference = export(SHIPPED, tmp_path_factory.mktemp("export") / "policy.onnx")
    assert scene.is_file() and difference <= 1e-5
    return path


@pytest.fixture(scope="module")
def env():
    facts = load_policy(SHIPPED).metadata["env"]
    return velocity.make(config_from_json(VelocityConfig, json.dumps(facts | {"backend": "jax"})))


@pytest.fixture(scope="module")
def walk(exported, tmp_path_factory):
    """Twenty seconds under changing commands: the log's folder, the loop, and the base's velocity at each step."""
    folder = tmp_path_factory.mktemp("walk") / "log"
    controller = Controller(exported)
    robot = MujocoRobot(load_model(exported.with_suffix(".zip")), controller.deployment)
    robot.gantry = True
    base = []

    def watch(loop):
        robot.gantry = robot.gantry and loop.machine.mode is not Mode.POLICY
        if loop.machine.mode is Mode.POLICY:
            w, x, y, z = robot.data.qpos[3:7]
            yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
            c, s, v = np.cos(yaw), np.sin(yaw), robot.data.qvel
            base.append([c * v[0] + s * v[1], -s * v[0] + c * v[1], v[5], robot.data.qpos[2]])

    config = LoopConfig(ticks_per_step=4, stand_seconds=1.0, seconds_after_fault=0.5)
    operator = Profile(COMMANDS, controller.deployment, config.stand_seconds)
    recorder = LogRecorder(folder, controller.deployment, exported.with_suffix(".zip"))
    loop = Loop(robot, controller, operator, config, recorder, watch)
    loop.run()
    recorder.close()
    return folder, loop, np.array(base)


# --- Export ----------------------------------------------------------------------------------------------------------


def test_the_file_says_what_the_robot_must_know(exported, env):
    model = onnx.load(str(exported))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    deployment = from_json(facts[METADATA_KEY])
    assert deployment.joint_names == env.robot.joint_names
    for name, value in (("kp", env.robot.kp), ("kd", env.robot.kd), ("action_scale", env.robot.action_scale)):
        np.testing.assert_array_equal(getattr(deployment, name), value)
    assert deployment.control_dt == env.dt and deployment.observation == actor_layout(29)
    np.testing.assert_array_equal(deployment.position_limits, env.robot.joint_limits)
    assert facts["joint_names"].split(",") == list(env.robot.joint_names)
    np.testing.assert_array_equal([float(x) for x in facts["joint_stiffness"].split(",")], env.robot.kp)
    assert {node.op_type for node in model.graph.node} == {"Sub", "Div", "Gemm", "Elu"}


def test_the_deployment_data_survive_json(exported):
    deployment = Controller(exported).deployment
    again = from_json(to_json(deployment))
    assert to_json(again) == to_json(deployment)
    unlimited = json.loads(to_json(deployment)) | {"velocity_limit": [None] * 29, "position_limits": [[None, 1.0]] * 29}
    read = from_json(json.dumps(unlimited))
    assert np.isposinf(read.velocity_limit).all() and np.isneginf(read.position_limits[:, 0]).all()
    with pytest.raises(ValueError, match="another format"):
        from_json(json.dumps(unlimited | {"format": 99}))
    with pytest.raises(ValueError, match="kp"):
        from_json(json.dumps(unlimited | {"kp": [1.0]}))


def test_a_network_that_differs_is_refused_and_nothing_is_written(tmp_path, monkeypatch, env):
    policy = load_policy(SHIPPED)
    deployment = describe(policy.metadata, env.config, env.robot.robot)
    verify(build(policy, deployment), policy)
    with pytest.raises(ValueError, match="differ by"):
        verify(build(policy.replace(mean=policy.mean + 1e-3), deployment), policy)
    monkeypatch.setattr("bridge.export.TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="nothing was written"):
        export(SHIPPED, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_the_model_beside_the_policy_is_the_one_of_the_training(exported, env):
    model, trained = load_model(exported.with_suffix(".zip")), env.robot.mj_model
    assert (model.nq, model.nu, model.nsensor, model.opt.timestep) == (
        trained.nq,
        trained.nu,
        trained.nsensor,
        trained.opt.timestep,
    )
    for field in ("body_mass", "body_inertia", "dof_armature", "jnt_range", "geom_size", "geom_friction"):
        np.testing.assert_allclose(getattr(model, field), getattr(trained, field), rtol=1e-5, atol=1e-7)


def test_meshes_travel_with_the_model(tmp_path, monkeypatch):
    from bridge.export import write_scene

    vertices = " ".join(f"{x} {y} {z}" for x in (0, 0.1) for y in (0, 0.1) for z in (0, 0.1)).split()
    lines = [f"v {' '.join(vertices[i : i + 3])}" for i in range(0, 24, 3)]
    faces = ["f 1 2 3", "f 2 3 4", "f 5 6 7", "f 6 7 8", "f 1 5 6"]
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "box.obj").write_text("\n".join(lines + faces))
    (tmp_path / "robot.xml").write_text(
        '<mujoco><compiler meshdir="parts"/><asset><mesh name="box" file="box.obj" inertia="convex"/></asset>'
        '<worldbody><body name="base"><geom type="mesh" mesh="box"/></body></worldbody></mujoco>'
    )
    spec = mujoco.MjSpec.from_file(str(tmp_path / "robot.xml"))
    monkeypatch.setattr("envs.robots.robot.robot_spec", lambda robot, timestep: (spec, ()))

    class Robot:
        mjcf = tmp_path / "robot.xml"

    write_scene(Robot(), VelocityConfig(), tmp_path / "robot.zip")
    assert any(name.endswith("box.obj") for name in zipfile.ZipFile(tmp_path / "robot.zip").namelist())
    (tmp_path / "parts" / "box.obj").unlink()
    assert load_model(tmp_path / "robot.zip").nmesh == 1


# --- The same controller ---------------------------------------------------------------------------------------------


def test_the_observation_is_the_environments(env):
    rng = np.random.default_rng(0)
    robot, batch = env.robot, 16
    qpos = rng.standard_normal((batch, robot.mj_model.nq))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    qvel = rng.standard_normal((batch, robot.mj_model.nv))
    action, command, phase = rng.standard_normal((batch, 29)), rng.standard_normal((batch, 3)), rng.random(batch)

    def seen(qpos, qvel, action, command, phase):
        physics = PhysicsState(qpos, qvel, jnp.zeros_like(qvel))
        kin = env.one.kinematics(nominal_params(robot), physics)
        return env.one.proprioception(kin, physics, jnp.zeros(29), action, command, phase)

    single = [jnp.asarray(x, jnp.float32) for x in (qpos, qvel, action, command, phase)]
    expected = np.asarray(jax.jit(jax.vmap(seen))(*single))
    found = np.zeros((1, 98), np.float32)
    for i in range(batch):
        zero = np.zeros(29)
        q, qd = qpos[i, robot.qpos_adr], qvel[i, robot.dof_adr]
        state = RobotState(0.0, q, qd, zero, 2.0 * qpos[i, 3:7], qvel[i, 3:6], zero)
        observe(state, robot.default_joint_pos, action[i], command[i], phase[i], found)
        np.testing.assert_allclose(found[0], expected[i], atol=2e-6)


def test_the_phase_clock_is_the_environments(env, exported):
    """Walking, stopping in every phase, turning, side-stepping and commands within the dead band."""
    rng = np.random.default_rng(1)
    runs, steps = 64, 400
    kinds = np.array([[0, 0, 0], [0.06, 0.06, 0], [0.5, 0, 0], [0, 0.3, 0], [0, -0.3, 0], [0, 0, 0.5], [0, 0.05, -0.9]])
    held = rng.integers(1, 60, (runs, steps))
    commands = np.stack([np.repeat(kinds[rng.integers(0, len(kinds), steps)], h, axis=0)[:steps] for h in held])
    commands = commands.astype(np.float32)

    def step(carry, command):
        carry = env.one.clock(*carry, command)
        return carry, carry

    start = (jnp.float32(0), jnp.bool_(False))
    phases, moving = jax.jit(jax.vmap(lambda c: jax.lax.scan(step, start, c)[1]))(commands)
    deployment = Controller(exported).deployment
    for run in range(runs):
        clock = GaitClock(deployment)
        found = []
        for command in commands[run]:
            clock.advance(command)
            found.append((clock.phase, clock.moving))
        mine = np.array(found)
        apart = np.abs(mine[:, 0] - phases[run])
        assert np.minimum(apart, 1 - apart).max() < 1e-5
        np.testing.assert_array_equal(mine[:, 1].astype(bool), moving[run])
    assert np.asarray(moving).mean() > 0.3 and (~np.asarray(moving)).mean() > 0.1


def test_the_bridge_walks_as_the_closed_loop_of_the_gate_does(env, exported, monkeypatch):
    """Half a second, in which a difference anywhere (observation, clock, gains, physics) would grow."""
    steps = 25
    episodes = Episodes(np.array([[0.6, 0.0, 0.3]]), np.zeros(1, bool), steps)
    qpos = env.robot.default_qpos.copy()
    qpos[:7] = (0.3, -0.2, qpos[2] + 0.01, np.cos(0.6), 0.0, 0.0, np.sin(0.6))
    # Its own start is as good, and takes as long to compile as all the rest.
    monkeypatch.setattr(ClosedLoop, "start", lambda self, episodes: qpos[None])
    loop = ClosedLoop(env, load_policy(SHIPPED), threads=1)
    expected = loop.run(episodes).target[:, 0]
    controller = Controller(exported)
    d = controller.deployment
    robot = MujocoRobot(load_model(exported.with_suffix(".zip")), d, command_timeout=np.inf)
    robot.put(qpos, np.zeros(robot.model.nv))
    zero = np.zeros(29)
    for k in range(steps):
        target = controller.step(robot.read(), episodes.command[0])
        np.testing.assert_allclose(target, expected[k], atol=1e-4, err_msg=f"step {k}")
        robot.send(PDTarget(q=target, qd=zero, kp=d.kp, kd=d.kd, tau=zero))
        robot.sleep_until((k + 1) * d.control_dt)


# --- The loop ------------------------------------------------------------------------------------------------------


def test_the_shipped_policy_walks_twenty_seconds_through_the_loop(walk):
    _, loop, base = walk
    assert [(mode, fault) for _, mode, fault in loop.events] == [
        (Mode.STAND_UP, Fault.NONE),
        (Mode.POLICY, Fault.NONE),
        (Mode.DAMPING, Fault.NONE),
    ]
    assert loop.latency.counts.sum() == 1000
    ticks_per_second = round(1 / loop.period)
    assert len(base) >= 20 * ticks_per_second - 1
    assert base[:, 3].min() > 0.65  # m, it never got near the floor
    for row, (begin, *command) in enumerate(COMMANDS[:-1]):
        # Over whole gait cycles at the end of each stretch, when the limits on the command's rate are behind.
        last = round(COMMANDS[row + 1, 0] * ticks_per_second)
        first = max(last - round(2 * 0.8 * ticks_per_second), round(begin * ticks_per_second))
        mean = base[first:last, :3].mean(axis=0)
        assert np.linalg.norm(mean[:2] - command[:2]) < 0.12, (begin, mean)
        assert abs(mean[2] - command[2]) < 0.12, (begin, mean)


def test_the_simulated_joints_obey_the_protocols_law(exported):
    controller = Controller(exported)
    robot = MujocoRobot(load_model(exported.with_suffix(".zip")), controller.deployment)
    rng = np.random.default_rng(0)
    robot.put(robot.data.qpos + 0.0, rng.standard_normal(robot.model.nv))
    state = robot.read()
    q, qd, kp, kd, tau = rng.standard_normal((5, 29)) * np.array([[0.3], [1.0], [20.0], [3.0], [5.0]])
    target = PDTarget(q=state.q + q, qd=qd, kp=np.abs(kp), kd=np.abs(kd), tau=tau)
    robot.send(target)
    mujoco.mj_forward(robot.model, robot.data)
    effort = controller.deployment.effort
    wanted = np.clip(target.kp * (target.q - state.q) + target.kd * (target.qd - state.qd) + tau, -effort, effort)
    found = [robot.data.actuator(name).force[0] for name in robot.joint_names]
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert (np.abs(wanted) == effort).any() and (np.abs(wanted) < effort).any()


def test_in_real_time_simulated_time_is_the_walls(exported):
    controller = Controller(exported)
    robot = MujocoRobot(load_model(exported.with_suffix(".zip")), controller.deployment, real_time=True)
    began = time.monotonic()
    for k in range(1, 21):
        robot.sleep_until(0.005 * k)
        assert robot.read().time >= 0.005 * k - 1e-9
    elapsed = time.monotonic() - began
    assert elapsed > 0.095
    time.sleep(0.03)
    assert robot.now() >= 0.13 - 1e-3  # a loop that is late can see it


def test_the_stand_up_begins_and_ends_at_rest():
    start, end = np.array([1.0, -2.0]), np.array([0.0, 3.0])
    path = np.array([stand_up_target(start, end, p) for p in np.linspace(-0.1, 1.1, 121)])
    np.testing.assert_array_equal(path[0], start)
    np.testing.assert_allclose(path[-1], end)
    speed = np.abs(np.diff(path, axis=0))
    assert (speed[[9, 10, 109, 110]] < 0.05 * speed.max(axis=0)).all()
    assert (np.diff(path[:, 1]) >= -1e-12).all()


def test_the_collector_rests_during_a_run_and_works_again_after():
    with contextlib.suppress(RuntimeError), no_collection():
        assert not gc.isenabled() and gc.get_freeze_count() > 0
        raise RuntimeError
    assert gc.isenabled() and gc.get_freeze_count() == 0


# --- Log and replay ------------------------------------------------------------------------------------------------


def test_the_log_holds_every_step_and_survives_a_kill(walk, tmp_path):
    folder, loop, _ = walk
    deployment, rows = read_log(folder)
    assert to_json(deployment) == to_json(loop.controller.deployment)
    policy = replay.policy_rows(rows)
    assert len(policy) == 1000 and (policy["fault"] == 0).all()
    np.testing.assert_allclose(np.diff(policy["time"]), 0.02, atol=1e-9)
    told = deployment.default_joint_pos + deployment.action_scale * policy["action"]
    np.testing.assert_allclose(policy["target"], told, atol=1e-5)
    assert (rows["kp"][rows["mode"] == Mode.DAMPING] == 0).all()
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "header.json").write_text((folder / "header.json").read_text())
    (cut / ROWS).write_bytes((folder / ROWS).read_bytes()[:-7])
    assert len(read_log(cut)[1]) == len(rows) - 1
    with pytest.raises(FileExistsError):
        LogRecorder(folder, deployment)


def test_a_replay_tells_a_right_model_from_a_wrong_one(walk, exported):
    folder, _, _ = walk
    deployment, rows = read_log(folder)
    rows = replay.policy_rows(rows)[100:600]
    model = load_model(folder / "model.zip")
    right, starts = replay.simulate(rows, deployment, model, window=0.5)
    assert starts.sum() == 20
    np.testing.assert_allclose(right[starts], rows["q"][starts], atol=1e-6)
    error = replay.errors(rows["q"], right)["rms"]
    assert error.mean() < 0.02  # rad; without the guess of the base's velocity, which is not in the log, it is 0.03
    model.dof_armature[6:] *= 4.0
    model.body_mass *= 1.3
    wrong = replay.errors(rows["q"], replay.simulate(rows, deployment, model, window=0.5)[0])["rms"]
    assert np.median(wrong / error) > 1.5


# --- Operators -----------------------------------------------------------------------------------------------------


def test_a_gamepad_commands_and_stops(exported, tmp_path):
    """Events as Linux's joystick interface writes them, through a pipe."""
    deployment = Controller(exported).deployment
    device = tmp_path / "js0"
    os.mkfifo(device)
    gamepad = Gamepad(deployment, device)
    writer = os.open(device, os.O_WRONLY)

    def event(value, kind, number):
        os.write(writer, struct.pack("IhBB", 0, value, kind, number))

    event(-32767, 0x02, 1)  # left stick forward
    event(16000, 0x02, 3)  # right stick half to the right
    event(-1000, 0x02, 0)  # within the dead zone
    event(1, 0x01, 3)
    assert gamepad.poll(0.0)[1] is Request.STAND
    for k in range(1, 101):
        command, request = gamepad.poll(0.02 * k)
    np.testing.assert_allclose(command, [1.0, 0.0, -16000 / 32767], atol=1e-9)
    assert request is Request.NONE
    event(1, 0x01, 1)
    event(1, 0x01, 0)  # the stop wins over what comes with it
    assert gamepad.poll(3.0)[1] is Request.STOP
    os.close(writer)  # unplugged
    assert gamepad.poll(4.0)[1] is Request.STOP
    gamepad.close()


def test_keys_command_and_halt(exported):
    deployment = Controller(exported).deployment
    read_end, write_end = os.pipe()
    keyboard = Keyboard(deployment, read_end)
    os.write(write_end, b"1" + 20 * b"w" + b"aaj")
    assert keyboard.poll(0.0)[1] is Request.STAND
    np.testing.assert_allclose(keyboard.poll(5.0)[0], [1.0, 0.2, 0.2])
    os.write(write_end, b"x")
    keyboard.poll(5.1)
    np.testing.assert_allclose(keyboard.poll(10.0)[0], 0.0)
    os.write(write_end, b"q")
    os.close(write_end)
    assert keyboard.poll(11.0)[1] is Request.QUIT  # the last word, though nothing can be said after it
    assert keyboard.poll(12.0)[1] is Request.STOP


# --- The command line ----------------------------------------------------------------------------------------------


def test_running_a_policy_imports_no_jax(exported):
    code = (
        "import sys; from bridge.__main__ import main; "
        f"main(['sim', {str(exported)!r}, '--fast', '--seconds', '0']); "
        "print(sorted({'jax', 'flax', 'brax', 'matplotlib', 'onnx', 'envs', 'learning'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert out.stdout.splitlines()[-1] == "[]", out.stdout + out.stderr


def test_sim_and_replay_from_the_command_line(exported, tmp_path, capsys):
    profile = tmp_path / "profile.csv"
    profile.write_text("time,vx,vy,wz\n0,0.5,0,0\n1,0,0,0\n")
    log = tmp_path / "log"
    quick = ["--fast", "--stand-seconds", "0.5", "--profile", str(profile)]
    assert main(["sim", str(exported), *quick, "--log", str(log)]) == 0
    assert "POLICY" in capsys.readouterr().out
    assert main(["replay", str(log)]) == 0
    assert (log / "replay.png").stat().st_size > 10_000
    assert main(["sim", str(exported), *quick, "--safety.tilt", "0.01"]) == 1
    assert Fault.TILT.value in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "there is no subcommand 'fly'"),
        (["sim", "no.onnx"], "There is no exported policy at 'no.onnx'"),
        (["sim", "README.md"], "'README.md' is not an ONNX file"),
        (["sim", "{policy}", "--model", "README.md"], "cannot read the model 'README.md'"),
        (["sim", "{policy}", "--profile", "{policy}"], "is no velocity profile"),
        (["replay", "no/log"], "There is no log in 'no/log'"),
        (["export", "no/such/run"], "There is no policy at 'no/such/run'"),
        (["gains", "r2d2"], "There is no robot 'r2d2'"),
        (["gains", "g1", "--frequency", "-1"], "must be positive"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, exported, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main([argument.format(policy=exported) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_model_of_another_robot_is_refused(exported):
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    )
    with pytest.raises(ValueError, match="no actuated joint named 'left_hip_pitch_joint'"):
        MujocoRobot(model, Controller(exported).deployment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "columns time, vx, vy, wz"),
        ("time,vx,vy,wz\n0,fast,0,0\n", "not a number"),
        ("time,vx,vy,wz\n1,0,0,0\n1,0,0,0\n", "must be finite"),
        ("time,vx,vy,wz\n0,nan,0,0\n", "must be finite"),
        ("", "no velocity profile"),
    ],
)
def test_a_bad_profile_is_refused(exported, tmp_path, capsys, text, message):
    path = tmp_path / "profile.csv"
    path.write_text(text)
    assert main(["sim", str(exported), "--fast", "--profile", str(path)]) == 2
    assert message in capsys.readouterr().err
