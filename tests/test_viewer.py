"""The viewer: what it draws in a real browser, what its buttons do, and that the loop never waits for it."""

import dataclasses
import os
import re
import signal
import time

import mujoco
import numpy as np
import pytest
from bridge_robots import write_still_policy
from browser import CHROMIUM, Chromium

import train
from bridge import viewer_replay, viewer_shapes
from bridge.commands import Browser
from bridge.controller import Controller
from bridge.loop import Loop, LoopConfig
from bridge.machine import Mode, Request
from bridge.mujoco_robot import MujocoRobot, load_model
from bridge.recorder import row_type
from bridge.robot import PDTarget
from bridge.safety import Fault, watch
from bridge.viewer import MAX_KNOTS, base_velocity, contacts
from bridge.viewer_feed import Feed, open_viewer
from bridge.viewer_scene import standing
from experiments import judge
from experiments.watch import Watch

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian's package: chromium)")
SIZE = (760, 480)
CAMERA, LOOK_AT, FOV = np.array([1.75, -2.05, 1.2]), np.array([0.15, 0.0, 0.6]), 40.0  # of a page just opened


@dataclasses.dataclass
class Stage:
    controller: Controller
    robot: MujocoRobot
    page: object
    feed: Feed


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A G1, a policy that stands still, and a viewer whose page commands."""
    policy = write_still_policy(tmp_path_factory.mktemp("policy"))
    controller = Controller(policy)
    robot = MujocoRobot(load_model(policy.with_suffix(".zip")), controller.deployment)
    page, model = open_viewer(robot, controller.deployment, None, "127.0.0.1:18470", steers=True)
    yield Stage(controller, robot, page, Feed(page, robot, model))
    page.close()


@pytest.fixture(scope="module")
def chromium(stage):
    browser = Chromium(stage.page.url, SIZE)
    browser.wait_for_text("STOP")
    browser.hide_notices()
    yield browser
    browser.close()


def show(stage, qpos, **fields):
    """A robot in some configuration, with the fields that are given and no others."""
    data = stage.robot.data
    data.qpos[:], data.qvel[:] = qpos, 0.0
    mujoco.mj_forward(stage.robot.model, data)
    nothing = {"contacts": 0, "knots": -1, "velocity": np.zeros(3), "command": np.zeros(3), "mode": 0, "fault": 0}
    stage.page.show(qpos=qpos, **(nothing | {"refused": b"", "time": 0.0} | fields))


def pixel(browser, point, origin=(0.0, 0.0)):
    """Where a point of the world is on the page; the world is shifted by `origin`."""
    box = browser.evaluate(
        "(r => [r.x, r.y, r.width, r.height])(document.querySelector('canvas').getBoundingClientRect())"
    )
    forward = (LOOK_AT - CAMERA) / np.linalg.norm(LOOK_AT - CAMERA)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    d = np.asarray(point) - [*origin, 0.0] - CAMERA
    focal = 0.5 * box[3] / np.tan(np.deg2rad(FOV) / 2)
    x = box[0] + 0.5 * box[2] + focal * (d @ right) / (d @ forward)
    y = box[1] + 0.5 * box[3] - focal * (d @ np.cross(right, forward)) / (d @ forward)
    return round(x), round(y)


def patch(image, at, half=2):
    """The mean colour around a pixel."""
    x, y = at
    return image[y - half : y + half + 1, x - half : x + half + 1].reshape(-1, 3).mean(axis=0)


def press(stage, browser, label, name):
    """Clicks, and waits until the loop's side knows."""
    before = int(stage.page.orders[name][0])
    browser.click(label)
    end = time.monotonic() + 5.0
    while stage.page.orders[name][0] == before:
        assert time.monotonic() < end, f"nobody heard of {label}"
        time.sleep(0.01)


def until(browser, condition, seconds=90.0):
    """Screenshots until one is as it should be; the last one. Drawn without a GPU, on cores that others use too."""
    end = time.monotonic() + seconds
    while True:
        image = browser.screenshot()
        if condition(image) or time.monotonic() > end:
            return image
        time.sleep(0.2)  # in which the page may draw


@needs_browser
def test_the_robot_is_seen_where_it_is(stage, chromium):
    """Its black waist and hand are black on the page where they should be, and are there no more when they move."""
    model, data = stage.robot.model, stage.robot.data
    qpos = data.qpos.copy()
    show(stage, qpos, mode=int(Mode.POLICY))
    black = (model.geom_rgba[:, :3].max(axis=1) < 0.2) & (model.geom_type == mujoco.mjtGeom.mjGEOM_ELLIPSOID)
    [palm] = np.flatnonzero(black & (model.geom_bodyid == model.body("left_wrist_yaw_link").id))
    waist, hand = data.body("waist_yaw_link").xpos.copy(), data.geom_xpos[palm].copy()
    at = pixel(chromium, waist), pixel(chromium, hand)
    image = until(chromium, lambda image: all(patch(image, p).max() < 90 for p in at))
    assert all(patch(image, p).max() < 90 for p in at), ([patch(image, p) for p in at], chromium.errors)
    assert patch(image, pixel(chromium, hand - np.array([0.0, 0.0, 0.25]))).min() > 180  # the floor behind
    raised = qpos.copy()
    raised[model.joint("left_shoulder_pitch_joint").qposadr[0]] -= 1.5
    show(stage, raised, mode=int(Mode.POLICY))
    at_now = pixel(chromium, data.geom_xpos[palm])
    moved = until(chromium, lambda image: patch(image, at_now).max() < 90)
    assert patch(moved, at_now).max() < 90
    assert patch(image, at_now).min() > 180
    assert patch(moved, at[1]).min() > 180
    show(stage, qpos)


@needs_browser
def test_the_plan_is_seen_and_its_failure_too(stage, chromium):
    """The CoM's path is yellow where it leads, grey when the solve failed, and the panel says so."""
    path = np.zeros((MAX_KNOTS, 3))
    path[:2] = (0.1, -0.4, 0.5), (0.5, -0.4, 0.5)
    fields = {"knots": 2, "com_path": path, "solves": 7, "landing_valid": np.zeros(2), "force": np.zeros((2, 3))}
    at = pixel(chromium, path[:2].mean(axis=0))
    qpos = stage.robot.data.qpos.copy()
    show(stage, qpos, **fields, solved=1, failures=0, plan_age=0.1)

    def yellow(image):
        r, g, b = patch(image, at, 0)
        return r > 150 and r > g + 30 and g > b + 40

    assert yellow(until(chromium, yellow))
    assert "MPC solved" in chromium.wait_for_text("MPC")
    show(stage, qpos, **fields, solved=0, failures=3, plan_age=0.6)

    def grey(image):
        return np.ptp(patch(image, at, 0)) < 20 and patch(image, at, 0).max() < 215

    assert grey(until(chromium, grey))
    text = chromium.wait_for_text("MPC FAILED")
    assert "3 of 7" in text


@needs_browser
def test_the_panel_says_what_the_loop_does_and_its_buttons_are_obeyed(stage, chromium):
    """Stand up, hand over, stop by the page; then the fault is read there, and after a reset it is gone."""
    robot, page = stage.robot, stage.page
    robot.reset()
    robot.gantry = True
    texts = {}

    def on_tick(loop):
        page._due = 0.0
        stage.feed(loop)
        if loop.machine.mode is Mode.STAND_UP and "stand" not in texts:
            texts["stand"] = chromium.wait_for_text("STAND_UP")
            press(stage, chromium, "Policy", "walk")
        elif loop.machine.mode is Mode.POLICY and "policy" not in texts:
            texts["policy"] = chromium.wait_for_text("POLICY")
            press(stage, chromium, "STOP (go limp)", "stop")
        elif loop.machine.fault is Fault.EMERGENCY_STOP and "stop" not in texts:
            texts["stop"] = chromium.wait_for_text("emergency stop")
            press(stage, chromium, "Reset", "reset")

    operator = Browser(page, stage.controller.deployment)
    press(stage, chromium, "Stand up", "stand")
    config = LoopConfig(ticks_per_step=4, stand_seconds=1e-3, seconds=0.2)
    loop = Loop(robot, stage.controller, operator, config, None, on_tick)
    loop.run()
    told = [(mode, fault) for _, mode, fault in loop.events]
    assert told[:2] == [(Mode.STAND_UP, Fault.NONE), (Mode.POLICY, Fault.NONE)]
    assert told[2] == (Mode.DAMPING, Fault.EMERGENCY_STOP)
    assert set(texts) == {"stand", "policy", "stop"}
    assert loop.machine.fault is Fault.NONE
    assert robot.gantry
    chromium.wait_for_text(r"(?s)^(?!.*emergency).*DAMPING")
    assert not chromium.errors


@needs_browser
def test_a_closed_browser_is_a_stop(stage, chromium):
    """Last of the browser's tests: it ends it."""
    operator = Browser(stage.page, stage.controller.deployment)
    assert operator.poll(0.0)[1] is Request.NONE
    stage.page.orders["command"][0] = (0.5, 0.0, 0.0)
    assert np.allclose(operator.poll(0.1)[0], (0.15, 0.0, 0.0))  # limited to 1.5 m/s²
    chromium.close()
    end = time.monotonic() + 5.0
    while stage.page.watched and time.monotonic() < end:
        time.sleep(0.02)
    assert operator.poll(0.2)[1] is Request.STOP


def test_a_page_that_nobody_hears_from_holds_nothing_up(stage):
    """Frozen or killed, the viewer costs the loop nothing, and a pause that it asked for is over."""
    page = stage.page
    page.orders["paused"], page.orders["clients"] = 1, 1
    os.kill(page._process.pid, signal.SIGSTOP)
    page.orders["clients"] = 1
    began = time.monotonic()
    stage.robot.hold(lambda: page.paused)
    assert time.monotonic() - began < 2.0
    worst = 0.0
    for _ in range(200):
        began = time.perf_counter()
        page.show(time=1.0, qpos=stage.robot.data.qpos)
        worst = max(worst, time.perf_counter() - began)
    assert worst < 0.02  # s; microseconds, but for what else this machine does
    assert not page.alive
    os.kill(page._process.pid, signal.SIGCONT)
    end = time.monotonic() + 5.0
    while not page.alive and time.monotonic() < end:
        time.sleep(0.02)
    assert page.alive
    page.close()
    assert page._process.returncode == 0  # it ended by itself when nobody was left to feed it


def test_contacts_carry_a_standing_robot(stage):
    robot = stage.robot
    robot.reset()
    robot.gantry = False
    deployment = stage.controller.deployment
    zero = np.zeros(deployment.num_joints)
    target = PDTarget(deployment.default_joint_pos, zero, 3 * deployment.kp, 3 * deployment.kd, zero)
    for _ in range(40):
        robot.send(target)
        robot.step()
    found = contacts(robot.model, robot.data)
    weight = 9.81 * robot.model.body_mass.sum()
    assert found["contacts"] >= 3
    assert np.abs(found["contact_points"][: found["contacts"], 2]).max() < 0.01
    # Newton: the floor carries what gravity and the acceleration of the masses ask for.
    mujoco.mj_rnePostConstraint(robot.model, robot.data)
    momentum_rate = sum(robot.model.body_mass[b] * _com_acceleration(robot, b) for b in range(1, robot.model.nbody))
    assert found["contact_forces"][:, 2].sum() == pytest.approx(weight + momentum_rate, rel=0.02)


def _com_acceleration(robot, body):
    out = np.zeros(6)
    mujoco.mj_objectAcceleration(robot.model, robot.data, mujoco.mjtObj.mjOBJ_BODY, body, out, 0)
    return out[5] - 9.81


@pytest.mark.parametrize("yaw", [0.0, 2.0])
def test_velocity_is_told_in_the_yaw_frame(yaw):
    qpos, qvel = np.zeros(7), np.zeros(6)
    tilt = np.array([np.cos(0.2), 0.0, np.sin(0.2), 0.0])  # 0.4 rad forward
    mujoco.mju_mulQuat(qpos[3:7], np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]), tilt)
    qvel[:2] = 0.7 * np.array([np.cos(yaw), np.sin(yaw)])
    back = np.zeros(4)
    mujoco.mju_negQuat(back, qpos[3:7])
    mujoco.mju_rotVecQuat(qvel[3:6], np.array([0.0, 0.0, 0.3]), back)
    assert np.allclose(base_velocity(qpos, qvel), (0.7, 0.0, 0.3))


def test_drawn_bodies_have_the_volume_of_their_geoms():
    """Every kind of geom: closed, the right way out, and as large as MuJoCo takes it to be."""
    kinds = {
        "sphere": "0.1",
        "capsule": "0.05 0.1",
        "cylinder": "0.05 0.1",
        "ellipsoid": "0.1 0.05 0.2",
        "box": "0.1 0.2 0.05",
    }
    tetrahedron = '<asset><mesh name="m" vertex="0 0 0 0.3 0 0 0 0.2 0 0 0 0.1"/></asset>'
    geoms = [f'<geom type="{kind}" size="{size}"/>' for kind, size in kinds.items()] + ['<geom type="mesh" mesh="m"/>']
    bodies = "".join(f'<body pos="1 0 0" euler="20 30 40">{geom}</body>' for geom in geoms)
    model = mujoco.MjModel.from_xml_string(f"<mujoco>{tetrahedron}<worldbody>{bodies}</worldbody></mujoco>")
    for body in range(1, model.nbody):
        [(_, (vertices, faces))] = viewer_shapes.body_meshes(model, body)
        a, b, c = (vertices[faces[:, i]] for i in range(3))
        volume = np.sum(a * np.cross(b, c)) / 6
        assert volume == pytest.approx(model.body_mass[body] / 1000.0, rel=0.03)
        centre = np.sum((a + b + c) / 4 * np.sum(a * np.cross(b, c), axis=1)[:, None], axis=0) / 6 / volume
        assert np.allclose(centre, model.body_ipos[body], atol=1e-3)


def test_a_log_is_drawn_on_the_floor(stage):
    """Without a base position, a robot stands with its lowest foot on the floor."""
    model, data = stage.robot.model, mujoco.MjData(stage.robot.model)
    data.qpos[:] = stage.robot.data.qpos
    data.qpos[2] = 5.0
    height = standing(model, data)
    data.qpos[2] = height
    mujoco.mj_forward(model, data)
    assert min(contact.dist for contact in data.contact[: data.ncon]) == pytest.approx(0.0, abs=1e-6)


class Audience:
    """A viewer for so many views, which it keeps."""

    def __init__(self, views):
        self.orders = {"reset": [0]}
        self.paused, self.views, self.shown = False, views, []

    @property
    def alive(self):
        return len(self.shown) < self.views

    def due(self):
        return True

    def show(self, **fields):
        self.shown.append({name: np.copy(value) for name, value in fields.items()})


def test_a_log_is_shown_row_by_row_and_again(stage):
    deployment, model = stage.controller.deployment, stage.robot.model
    rows = np.zeros(3, row_type(deployment.num_joints))
    rows["time"] = (10.0, 10.02, 10.04)
    rows["quaternion"], rows["gyro"][1] = (1, 0, 0, 0), (0.0, 0.0, 0.5)
    rows["q"] = np.linspace(0, 1, rows["q"].size).reshape(rows["q"].shape)
    rows["mode"], rows["fault"][2] = Mode.POLICY, 4
    audience = Audience(5)
    began = time.monotonic()
    viewer_replay.play(rows, deployment, model, audience)
    assert time.monotonic() - began > 0.07  # at the pace of then
    assert [round(float(view["time"]), 2) for view in audience.shown] == [10.0, 10.02, 10.04, 10.0, 10.02]
    adr = [model.joint(name).qposadr[0] for name in deployment.joint_names]
    assert np.allclose(audience.shown[1]["qpos"][adr], rows["q"][1])
    assert np.isnan(audience.shown[1]["qpos"][:3]).all()
    assert np.allclose(audience.shown[1]["velocity"], (np.nan, np.nan, 0.5), equal_nan=True)
    assert list(Fault)[int(audience.shown[2]["fault"])] is Fault.FROZEN


class Senses:
    """A robot that only has sensors."""

    def __init__(self, robot):
        self.joint_names, self.state = robot.joint_names, robot.read()


def test_of_a_robot_of_metal_only_what_its_sensors_say_is_shown(stage):
    stage.robot.reset()
    robot, audience = Senses(stage.robot), Audience(9)
    audience.orders = {"reset": np.zeros(1), "paused": np.zeros(1)}
    loop = Loop(stage.robot, stage.controller, Browser(stage.page, stage.controller.deployment), LoopConfig())
    loop.history = watch(None, robot.state, loop.limits)
    Feed(audience, robot, stage.robot.model)(loop)
    [view] = audience.shown
    assert np.isnan(view["qpos"][:3]).all()
    assert np.allclose(view["qpos"][7:], stage.robot.data.qpos[7:])
    assert "contacts" not in view


PICTURE = os.environ.get("VIEWER_PICTURE")


@needs_browser
@pytest.mark.skipif(not PICTURE, reason="makes the README's picture, VIEWER_PICTURE=path.png; compiles the environment")
def test_a_walk_with_its_plan_is_a_picture():
    """`train.py play --viewer` up to its browser: the policy walks, the MPC's plan lies ahead of it, in sight."""
    policy, config = judge.load(train.SHIPPED_POLICY)
    run = Watch(train._undisturbed(config), policy)
    page = run.open("127.0.0.1:18480", (0.7, 0.0, -0.1))
    state, command = run.compile(), page.orders["command"][0].copy()
    for _ in range(206):
        state, shown = run.advance(state, command)
    fields = run.fields(shown, command)
    browser = Chromium(page.url, (1200, 750))
    for _ in range(90):  # the world comes to rest under the robot
        page.show(**fields)
        time.sleep(0.04)
    text = browser.wait_for_text("MPC solved")
    browser.hide_notices()
    origin, ahead = shown["qpos"][:2], shown["com_path"][8]

    def in_sight(image):
        r, g, b = patch(image, pixel(browser, ahead, origin), 1)
        return r > 150 and g > b + 40

    assert in_sight(until(browser, in_sight))
    browser.screenshot(PICTURE)
    assert re.search(r"MPC failures\s+0 of 2\d", text), text
    assert fields["contact_forces"][:, 2].sum() > 100
    assert not browser.errors
    assert os.path.getsize(PICTURE) < 400_000
    browser.close()
    page.close()
