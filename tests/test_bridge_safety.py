"""Every way in which a robot must be told to go limp, by injecting it: each test fails when its guard is taken out."""

import contextlib
import dataclasses
import os
import signal

import numpy as np
import pytest
from bridge_robots import LyingRobot, Script, make_loop, write_still_policy

from bridge.commands import RATE, Keyboard, Limiter
from bridge.machine import Machine, Mode, Request, advance
from bridge.robot import damping
from bridge.safety import Fault, SafetyConfig, clip_target, limits, uprightness
from bridge.session import succeeded

SINCE = 0.2  # s, when faults begin
WITHIN = 0.020  # s


@pytest.fixture(autouse=True)
def keep_collecting(monkeypatch):
    """A full collection takes longer here than all else in these tests; another test is about it."""
    monkeypatch.setattr("bridge.loop.no_collection", contextlib.nullcontext)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_still_policy(tmp_path_factory.mktemp("still"))


def changed(field, index, value):
    """A reading with one number replaced."""

    def lie(state):
        numbers = getattr(state, field).copy()
        numbers[index] = value
        return dataclasses.replace(state, **{field: numbers})

    return lie


def tilted(degrees):
    half = np.deg2rad(degrees) / 2
    return lambda state: dataclasses.replace(state, quaternion=np.array([np.cos(half), np.sin(half), 0.0, 0.0]))


class Held:
    """The first reading again and again: with its own time (packets lost), or with the present one (sensors frozen)."""

    def __init__(self, frozen):
        self.first, self.frozen = None, frozen

    def __call__(self, state):
        self.first = self.first or state
        return dataclasses.replace(self.first, time=state.time) if self.frozen else self.first


class Stuck:
    """Some of the sensors repeat their first reading while the others go on."""

    def __init__(self, *fields):
        self.first, self.fields = None, fields

    def __call__(self, state):
        self.first = self.first or state
        return dataclasses.replace(state, **{field: getattr(self.first, field) for field in self.fields})


class Late:
    """Readings as they were `delay` seconds ago, as if packets were queued somewhere."""

    def __init__(self, delay):
        self.delay, self.seen = delay, []

    def __call__(self, state):
        self.seen.append(state)
        old = [s for s in self.seen if s.time <= state.time - self.delay]
        return old[-1] if old else self.seen[0]


KNEE, BEYOND = 3, 1.01  # index of a joint; share of a limit
LIMITS = SafetyConfig()


def beyond(limit):
    """Something of the knee, a little beyond what `limit` makes of the robot."""

    def lie_about(deployment):
        field, value = limit(deployment)
        return changed(field, KNEE, value)

    return lie_about


OUTSIDE = {
    "knee beyond its range": (
        beyond(lambda d: ("q", d.position_limits[KNEE, 1] + BEYOND * LIMITS.position_margin)),
        Fault.POSITION,
    ),
    "knee before its range": (
        beyond(lambda d: ("q", d.position_limits[KNEE, 0] - BEYOND * LIMITS.position_margin)),
        Fault.POSITION,
    ),
    "fast joint": (beyond(lambda d: ("qd", -BEYOND * d.velocity_limit[KNEE])), Fault.VELOCITY),
    "torque beyond its limit": (
        beyond(lambda d: ("tau", -BEYOND * LIMITS.torque_factor * d.effort[KNEE])),
        Fault.TORQUE,
    ),
}
LIES = {
    "hot motor": (changed("temperature", 7, BEYOND * LIMITS.temperature), Fault.TEMPERATURE),
    "tilt": (tilted(BEYOND * LIMITS.tilt), Fault.TILT),
    **{
        f"NaN in {field}": (changed(field, 0, np.nan), Fault.NOT_FINITE)
        for field in ("q", "qd", "tau", "quaternion", "gyro", "temperature")
    },
    "infinite velocity": (changed("qd", 2, np.inf), Fault.NOT_FINITE),
    "no attitude": (lambda state: dataclasses.replace(state, quaternion=np.zeros(4)), Fault.NOT_FINITE),
    "packets lost": (Held(frozen=False), Fault.STALE),
    "packets delayed": (Late(1.5 * LIMITS.stale_seconds), Fault.STALE),
    "sensors frozen": (Held(frozen=True), Fault.FROZEN),
    "IMU frozen": (Stuck("quaternion", "gyro"), Fault.FROZEN),
    "joints frozen": (Stuck("q", "qd", "tau"), Fault.FROZEN),
}


@pytest.mark.parametrize("name", [*OUTSIDE, *LIES])
def test_a_bad_reading_ends_in_damping_at_once(policy, name):
    lie, fault = (OUTSIDE | LIES)[name]
    robot = LyingRobot(policy, None if name in OUTSIDE else lie, SINCE)
    robot.lie = robot.lie or lie(robot.deployment)
    loop = make_loop(robot)
    loop.run()
    assert [mode for _, mode, _ in loop.events] == [Mode.STAND_UP, Mode.POLICY, Mode.DAMPING]
    assert loop.events[-1][2] is fault
    assert SINCE - 1e-9 <= robot.damped_at() <= SINCE + WITHIN + 1e-9


def test_without_a_fault_nothing_happens(policy):
    robot = LyingRobot(policy)
    loop = make_loop(robot)
    loop.run()
    assert [mode for _, mode, _ in loop.events] == [Mode.STAND_UP, Mode.POLICY]
    assert robot.damped_at() >= 0.4 - 1e-9  # at the end


def test_a_bad_reading_ends_a_stand_up_too(policy):
    robot = LyingRobot(policy, changed("gyro", 1, np.nan), 0.03)
    loop = make_loop(robot)
    loop.run()
    assert [mode for _, mode, _ in loop.events] == [Mode.STAND_UP, Mode.DAMPING]
    assert robot.damped_at() <= 0.03 + WITHIN


def test_short_gaps_and_repeats_are_borne(policy):
    """One lost packet, and one repeated reading, are no fault."""

    def lie(state):
        step = round(state.time / 0.005)
        return previous[-1] if step % 5 == 0 and previous.append(previous[-1]) is None else keep(state)

    previous = []

    def keep(state):
        previous.append(state)
        return state

    loop = make_loop(LyingRobot(policy, lie, 0.001))
    loop.run()
    assert loop.machine.mode is Mode.POLICY


def test_torque_at_its_limit_is_a_fault_only_after_a_while(policy):
    robot = LyingRobot(policy, None, SINCE)
    robot.lie = changed("tau", KNEE, robot.deployment.effort[KNEE])
    loop = make_loop(robot, seconds=SINCE + 2 * LIMITS.saturation_seconds)
    loop.run()
    assert loop.events[-1][2] is Fault.TORQUE
    waited = SINCE + LIMITS.saturation_seconds
    assert waited - loop.period - 1e-9 <= robot.damped_at() <= waited + WITHIN


def test_a_robot_that_falls_is_limp_before_it_is_down(policy):
    """No lie: without the gantry, a robot that only holds its pose tips over."""
    robot = LyingRobot(policy)

    def release(robot):
        robot.gantry = False

    robot.before_step.append(release)
    loop = make_loop(robot, seconds=4.0, safety=SafetyConfig(position_margin=1.0))
    loop.run()
    assert loop.events[-1][2] is Fault.TILT
    heights = [robot.data.qpos[2]]
    assert heights[0] < 0.5 * robot.deployment.base_height  # it fell all the same


def test_a_robot_that_sends_nothing_stays_limp(policy):
    robot = LyingRobot(policy, lambda state: None, 0.0)
    loop = make_loop(robot)
    with pytest.raises(TimeoutError, match="sent no state"):
        loop.run()
    assert robot.told and all(damps for _, damps in robot.told)
    loop.tick(robot.now())  # even if it is asked to stand up
    assert loop.machine.mode is Mode.DAMPING and Fault.NO_STATE.value in loop.machine.refused


def test_a_robot_that_answers_late_is_waited_for(policy):
    robot = LyingRobot(policy)
    robot.lie = lambda state: state if state.time > 0.1 else None
    robot.since = 0.0
    loop = make_loop(robot)
    loop.run()
    assert loop.events[0][0] > 0.1 and loop.machine.mode is Mode.STAND_UP


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP])
def test_a_signal_ends_in_damping(policy, number):
    robot = LyingRobot(policy)

    def strike(robot):
        if abs(robot.data.time - SINCE) < 1e-6:
            os.kill(os.getpid(), number)

    robot.before_step.append(strike)
    loop = make_loop(robot, seconds=1.0)
    handler = signal.getsignal(number)
    loop.run()
    assert loop.events[-1][2] is Fault.SIGNAL
    assert SINCE <= robot.damped_at() <= SINCE + WITHIN
    assert robot.data.time < 0.3  # the run ended
    assert signal.getsignal(number) is handler


def test_a_signal_at_the_end_of_a_tick_is_a_fault_too(policy):
    """After the tick's checks: the run must not look as if it had ended by itself."""
    robot = LyingRobot(policy)
    loop = make_loop(robot, on_tick=lambda loop: os.kill(os.getpid(), signal.SIGTERM) if loop.now >= SINCE else None)
    loop.run()
    assert loop.events[-1][1:] == (Mode.DAMPING, Fault.SIGNAL) and not succeeded(loop)
    assert robot.damped_at() <= SINCE + WITHIN


@pytest.mark.parametrize("key", [b" ", b"\x1b", b"wwwq ", b" 12"])
def test_a_key_ends_in_damping(policy, key):
    robot = LyingRobot(policy)
    read_end, write_end = os.pipe()
    keyboard = Keyboard(robot.deployment, read_end)
    keys = {0.0: b"1", 0.1: b"2", SINCE: key}

    def press(robot):
        for when in [when for when in keys if robot.data.time >= when - 1e-9]:
            os.write(write_end, keys.pop(when))

    robot.before_step.append(press)
    loop = make_loop(robot, keyboard)
    loop.run()
    os.close(write_end)
    assert loop.machine.mode is Mode.DAMPING
    assert [mode for _, mode, _ in loop.events] == [Mode.STAND_UP, Mode.POLICY, Mode.DAMPING]
    assert SINCE <= robot.damped_at() <= SINCE + WITHIN


def test_a_lost_terminal_ends_in_damping(policy):
    robot = LyingRobot(policy)
    read_end, write_end = os.pipe()
    os.write(write_end, b"1")

    def hang_up(robot):
        if abs(robot.data.time - 0.03) < 1e-6:
            os.close(write_end)

    robot.before_step.append(hang_up)
    loop = make_loop(robot, Keyboard(robot.deployment, read_end))
    loop.run()
    assert loop.events[-1][2] is Fault.EMERGENCY_STOP
    assert robot.damped_at() <= 0.03 + WITHIN


@pytest.mark.parametrize("where", ["controller", "operator", "robot", "recorder", "on_tick"])
def test_any_exception_ends_in_damping_and_is_not_swallowed(policy, where):
    def fail(*_):
        raise RuntimeError("injected")

    robot = LyingRobot(policy, fail if where == "robot" else None, SINCE)
    script = Script()
    options = {}

    class Failing:
        def write(self, loop):
            if loop.now >= SINCE:
                fail()

    if where == "recorder":
        options["recorder"] = Failing()
    if where == "on_tick":
        options["on_tick"] = lambda loop: fail() if loop.now >= SINCE else None
    loop = make_loop(robot, script, **options)
    part, name = {"controller": (robot.controller, "step"), "operator": (script, "poll")}.get(where, (None, ""))
    if part is not None:
        original = getattr(part, name)
        setattr(part, name, lambda *a: fail() if robot.data.time >= SINCE else original(*a))
    with pytest.raises(RuntimeError, match="injected"):
        loop.run()
    assert loop.events[-1][1:] == (Mode.DAMPING, Fault.EXCEPTION)
    assert SINCE <= robot.damped_at() <= SINCE + WITHIN


def test_a_keyboard_interrupt_inside_the_policy_ends_in_damping(policy):
    robot = LyingRobot(policy)

    def interrupt(*_):
        raise KeyboardInterrupt

    loop = make_loop(robot)
    robot.controller.step = interrupt
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert robot.damped_at() <= 0.1 + WITHIN


def test_an_action_that_is_not_finite_never_reaches_the_robot(policy):
    robot = LyingRobot(policy)
    loop = make_loop(robot)
    original = robot.controller.step

    def step(state, command):
        target = original(state, command)
        if robot.data.time >= SINCE - 1e-9:
            target[5] = np.nan
        return target

    robot.controller.step = step
    sent = []
    send = robot.send
    robot.send = lambda target: (sent.append(target.q.copy()), send(target))
    loop.run()
    assert loop.events[-1][2] is Fault.ACTION
    assert robot.damped_at() <= SINCE + WITHIN
    assert np.isfinite(sent).all()


def test_a_loop_that_is_late_ends_in_damping(policy):
    robot = LyingRobot(policy)
    sleep = robot.sleep_until
    pause = 1.5 * LIMITS.overrun_seconds
    robot.sleep_until = lambda time: sleep(time + pause * (abs(time - SINCE) < 1e-6))  # the process is not scheduled
    loop = make_loop(robot)
    loop.run()
    assert loop.events[-1][2] is Fault.OVERRUN
    assert robot.damped_at() <= SINCE + pause + 1e-9  # at once, when it runs again
    assert loop.overruns == 1  # the ticks that were missed are left out, not made up for
    assert len(robot.told) < 0.4 / loop.period


@pytest.mark.parametrize("where", ["controller", "recorder", "on_tick"])
def test_a_tick_that_takes_too_long_ends_in_damping(policy, where):
    """Time passes inside the tick: a slow network, a slow disk, a slow terminal."""
    robot, script = LyingRobot(policy), Script()
    pause = 1.5 * LIMITS.overrun_seconds

    def dawdle(*_):
        if robot.data.time >= SINCE - 1e-9 and not dawdled:
            dawdled.append(robot.data.time)
            robot.sleep_until(robot.data.time + pause)

    class Slow:
        write = staticmethod(dawdle)

    dawdled = []
    options = {"recorder": {"recorder": Slow()}, "on_tick": {"on_tick": dawdle}}.get(where, {})
    loop = make_loop(robot, script, **options)
    if where == "controller":
        step = robot.controller.step
        robot.controller.step = lambda *a: (dawdle(), step(*a))[1]
    loop.run()
    assert loop.events[-1][1:] == (Mode.DAMPING, Fault.OVERRUN)
    assert robot.damped_at() <= dawdled[0] + pause + loop.period + 1e-9  # in the very next tick
    assert loop.overruns == 1 and loop.lateness.largest > LIMITS.overrun_seconds
    assert len(robot.told) < 0.4 / loop.period  # the ticks that were missed are not made up for


def test_a_command_that_cannot_be_sent_ends_in_damping(policy):
    """Once: the next one, which is to damp, gets through."""
    robot = LyingRobot(policy)
    send = robot.send
    failed = []

    def fail_once(target):
        if robot.data.time >= SINCE - 1e-9 and not failed:
            failed.append(True)
            raise RuntimeError("injected")
        send(target)

    robot.send = fail_once
    loop = make_loop(robot)
    with pytest.raises(RuntimeError, match="injected"):
        loop.run()
    assert loop.events[-1][1:] == (Mode.DAMPING, Fault.EXCEPTION)
    assert SINCE <= robot.damped_at() <= SINCE + WITHIN


def test_joints_damp_by_themselves_when_nobody_speaks(policy):
    """A process that is killed can say nothing: the robot's own watchdog must do it."""
    robot = LyingRobot(policy)
    loop = make_loop(robot, seconds=SINCE)
    robot.close = lambda: None
    robot.send, send = lambda target: None if loop._ended else send(target), robot.send
    loop.run()
    silent = robot.data.time
    robot.sleep_until(silent + WITHIN)
    ids = [robot.model.actuator(name).id for name in robot.joint_names]
    assert (robot.model.actuator_gainprm[ids, 0] == 0).all()
    assert (robot.model.actuator_biasprm[ids, 1] == 0).all() and (robot.model.actuator_biasprm[ids, 2] < 0).all()


def test_after_a_fault_the_robot_moves_again_only_when_it_is_gone_and_asked_to(policy):
    hot = changed("temperature", 0, BEYOND * LIMITS.temperature)
    robot = LyingRobot(policy, lambda state: hot(state) if state.time < 0.3 else state, SINCE)
    loop = make_loop(robot, Script({0.25: Request.STAND, 0.28: Request.WALK, 0.35: Request.STAND}), seconds=0.4)
    loop.run()
    modes = [(round(when, 3), mode) for when, mode, _ in loop.events]
    assert modes == [(0.0, Mode.STAND_UP), (0.1, Mode.POLICY), (0.2, Mode.DAMPING), (0.35, Mode.STAND_UP)]


def test_the_policy_takes_over_only_from_a_robot_that_stands():
    q = np.zeros(2)
    limp = Machine()
    assert advance(limp, Request.WALK, Fault.NONE, Fault.NONE, q, 0.0, 1.0).mode is Mode.DAMPING
    up = advance(limp, Request.STAND, Fault.NONE, Fault.NONE, q, 0.0, 1.0)
    assert up.mode is Mode.STAND_UP
    early = advance(up, Request.WALK, Fault.NONE, Fault.NONE, q, 0.5, 1.0)
    assert early.mode is Mode.STAND_UP and early.refused
    assert advance(up, Request.WALK, Fault.NONE, Fault.NONE, q, 1.0, 1.0).mode is Mode.POLICY
    assert advance(limp, Request.STAND, Fault.STALE, Fault.NONE, q, 0.0, 1.0).mode is Mode.DAMPING
    for mode in (Mode.STAND_UP, Mode.POLICY):
        for fault in Fault:
            if fault is not Fault.NONE:
                after = advance(Machine(mode, start=q), Request.WALK, fault, Fault.NONE, q, 9.0, 1.0)
                assert (after.mode, after.fault) == (Mode.DAMPING, fault)


def test_targets_are_kept_where_they_ask_for_no_more_than_full_torque(policy):
    robot = LyingRobot(policy)
    d = robot.deployment
    bounds = limits(d, SafetyConfig())
    loop = make_loop(robot, safety=SafetyConfig(position_margin=10.0, torque_factor=99.0, velocity_factor=99.0))
    robot.controller.step = lambda state, command: np.full(29, 100.0)
    sent = []
    send = robot.send
    robot.send = lambda target: (sent.append(target.q.copy()), send(target))
    loop.run()
    largest = np.max(sent, axis=0)
    np.testing.assert_allclose(d.kp * (largest - d.position_limits[:, 1]), d.effort)
    assert loop.clipped > 0
    out = np.zeros(29)
    inside = d.position_limits[:, 1] + 0.99 * d.effort / d.kp
    assert not clip_target(inside, bounds, out) and np.array_equal(out, inside)


def test_commands_change_slowly_and_stay_within_what_was_trained(policy):
    robot = LyingRobot(policy)
    limit = Limiter(robot.deployment)
    commands = [np.zeros(3)]
    commands += [limit(np.array([9.0, -9.0, 9.0]), 0.02 * k).copy() for k in range(100)]
    assert (np.abs(np.diff(commands, axis=0)) <= 0.02 * np.array(RATE) + 1e-12).all()
    (ahead, _), (_, right), (turn, _) = robot.deployment.command_ranges[:, ::-1]
    np.testing.assert_allclose(commands[-1], [ahead, right, turn])  # the ends of the ranges of the training
    np.testing.assert_array_equal(limit(np.array([np.nan, 0.0, 0.0]), 99.0), 0.0)


def test_uprightness_is_the_cosine_of_the_tilt():
    rng = np.random.default_rng(0)
    for degrees in (0.0, 30.0, 90.0, 170.0):
        axis = rng.standard_normal(2)
        axis /= np.linalg.norm(axis)
        half = np.deg2rad(degrees) / 2
        lean = np.array([np.cos(half), *(np.sin(half) * axis), 0.0])
        yaw = np.array([np.cos(0.7), 0.0, 0.0, np.sin(0.7)])
        w, x, y, z = yaw
        product = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]) @ lean
        np.testing.assert_allclose(uprightness(3.0 * product), np.cos(np.deg2rad(degrees)), atol=1e-12)


def test_a_limit_that_is_no_number_is_refused():
    """Nothing is beyond NaN: the check would be off without a word."""
    for field in dataclasses.fields(SafetyConfig):
        with pytest.raises(ValueError, match=field.name):
            SafetyConfig(**{field.name: float("nan")})


def test_damping_resists_and_pulls_nowhere(policy):
    target = damping(LyingRobot(policy).deployment.kd)
    assert (target.kp == 0).all() and (target.kd > 0).all() and (target.tau == 0).all() and (target.qd == 0).all()
