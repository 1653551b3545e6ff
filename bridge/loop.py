"""The control loop: one thread at a fixed rate, the same for every robot.

A tick reads the state, asks the operator, checks everything and tells the robot; every `ticks_per_step` of them is a
step of the policy. Checks run at every tick, so a fault is met within a fraction of a control period. Whatever ends the
loop, the last thing that the robot is told is to damp.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from jaxtyping import Float

from bridge.controller import Controller
from bridge.histogram import Histogram
from bridge.machine import Machine, Mode, Request, advance, stand_up_target
from bridge.robot import PDTarget, Robot, RobotState, damping
from bridge.safety import Fault, History, SafetyConfig, body_fault, clip_target, limits, link_fault, watch

# All that a terminal sends: Ctrl-\ would end the process, and Ctrl-Z stop it, with the robot's joints stiff.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How the loop runs."""

    ticks_per_step: int = 10  # of the loop in a control step of the policy: at 50 Hz, 10 make ticks of 2 ms
    stand_seconds: float = 3.0  # s, of a stand-up
    connect_seconds: float = 5.0  # s to wait for the first state
    seconds: float = float("inf")  # s, after which the run ends
    seconds_after_fault: float = float(
        "inf"
    )  # s of damping after a fault before the run ends; else the operator ends it
    safety: SafetyConfig = dataclasses.field(default_factory=SafetyConfig)

    def __post_init__(self) -> None:
        if self.ticks_per_step < 1 or not self.stand_seconds > 0:
            raise ValueError("LoopConfig: ticks_per_step must be at least 1 and stand_seconds positive.")


class Operator(Protocol):
    """Whoever says where to go."""

    def poll(self, now: float) -> tuple[Float[np.ndarray, " 3"], Request]:
        """The velocity command (v_x, v_y [m/s], ω_z [rad/s]) and what is asked for, at time `now` [s]; never blocks."""
        ...


class Recorder(Protocol):
    """Whoever keeps a log."""

    def write(self, loop: Loop) -> None:
        """Called once a control step, after the robot was told; a change of mode begins a new step."""
        ...


class Loop:
    """A run: the robot, its policy, its operator, and what the loop remembers between ticks."""

    def __init__(
        self,
        robot: Robot,
        controller: Controller,
        operator: Operator,
        config: LoopConfig,
        recorder: Recorder | None = None,
        on_tick: Callable[[Loop], None] | None = None,
    ) -> None:
        """Prepares a run.

        Args:
            robot: that moves.
            controller: the policy.
            operator: who commands it.
            config: how.
            recorder: keeps a log.
            on_tick: called at the end of every tick.

        Raises:
            ValueError: the robot's joints are not the policy's.
        """
        deployment = controller.deployment
        if robot.joint_names != deployment.joint_names:
            raise ValueError("The robot's joints are not the policy's, or not in its order.")
        self.robot, self.controller, self.operator, self.config = robot, controller, operator, config
        self._recorder, self._on_tick = recorder, on_tick
        self.period = deployment.control_dt / config.ticks_per_step  # s, of a tick
        self.limits = limits(deployment, config.safety)
        self.machine, self.history = Machine(), None
        self.command = np.zeros(3)
        nj = deployment.num_joints
        self._q = np.zeros(nj)
        self._limp = damping(deployment.kd)
        self._drive = PDTarget(q=self._q, qd=np.zeros(nj), kp=deployment.kp, kd=deployment.kd, tau=np.zeros(nj))
        self.target = self._limp  # the latest one sent
        self.now = 0.0  # s, of the present tick
        self.events: list[tuple[float, Mode, Fault]] = []  # changes of mode
        self.clipped = 0  # policy steps whose target had to be clipped
        self.overruns = 0  # ticks that came later than a period
        self.latency = Histogram()  # s, from reading the state to having told the robot, of the policy's steps
        self.lateness = Histogram()  # s, by which ticks began late
        self._ticks = 0  # since the mode began
        self._signal, self._ended = False, False

    @property
    def state(self) -> RobotState | None:
        """The newest reading."""
        history: History | None = self.history
        return None if history is None else history.state

    @property
    def signalled(self) -> bool:
        """Whether a signal has asked the run to end."""
        return self._signal

    def rest(self) -> None:
        """Damping without a fault, as at the start: for a simulation that was put back to its own."""
        self._change(Machine(Mode.DAMPING, Fault.NONE, self.now))

    def run(self) -> None:
        """Runs until the operator quits, a signal comes or the time is over; leaves the robot in damping, always.

        Raises:
            TimeoutError: the robot sends no state at all.
        """
        with self._signals(), no_collection():
            try:
                self._connect()
                start = due = self.robot.now()
                while not self._ended:
                    self.tick(due)
                    # Ticks that this one came too late for are left out, not made up for. If it took too long itself,
                    # the next one is late, and has to see that.
                    due += self.period * (1.0 + np.floor(max(self.now - due, 0.0) / self.period))
                    self.robot.sleep_until(due)
                    self._ended |= due - start >= self.config.seconds
            except BaseException:
                self._change(Machine(Mode.DAMPING, Fault.EXCEPTION, self.now))
                raise
            finally:
                with contextlib.suppress(Exception):
                    self.robot.send(self._limp)
                self.robot.close()

    def _connect(self) -> None:
        """Waits for the first state, in damping.

        Raises:
            TimeoutError: none comes.
        """
        deadline = self.robot.now() + self.config.connect_seconds
        while self.robot.read() is None and not self._signal:
            if self.robot.now() > deadline:
                raise TimeoutError(Fault.NO_STATE.value)
            self.robot.send(self._limp)
            self.robot.sleep_until(self.robot.now() + self.period)

    def tick(self, due: float) -> None:
        """One tick, which should have begun at `due` [s]."""
        began = time.perf_counter()
        self.now = self.robot.now()
        late = max(self.now - due, 0.0)
        self.lateness.add(late)
        self.overruns += late > self.period
        state = self.robot.read()
        if state is not None:
            self.history = watch(self.history, state, self.limits)
        command, request = self.operator.poll(self.now)
        self.command[:] = command
        link = self._link_fault(late)
        body = Fault.NONE
        if link is Fault.NONE and self.history is not None:
            body = body_fault(self.history, self.limits, self.config.safety)
        q = None if state is None else state.q
        machine = advance(self.machine, request, link, body, q, self.now, self.config.stand_seconds)
        self._change(machine)
        is_step = self._ticks % self.config.ticks_per_step == 0
        self.target = self._choose(is_step)
        self.robot.send(self.target)
        if is_step and self.machine.mode is Mode.POLICY:
            self.latency.add(time.perf_counter() - began)
        self._finish(request, is_step)

    def _link_fault(self, late: float) -> Fault:
        """What is wrong with the process or with the reading, the former first."""
        if self._signal:
            return Fault.SIGNAL
        if late > self.config.safety.overrun_seconds:
            return Fault.OVERRUN
        return link_fault(self.history, self.now, self.config.safety)

    def _change(self, machine: Machine) -> None:
        """Takes a new state of the machine."""
        changed = machine.mode is not self.machine.mode
        self.machine = machine
        if changed:
            self.events.append((self.now, machine.mode, machine.fault))
            self._ticks = 0
            if machine.mode is Mode.POLICY:
                self.controller.reset()

    def _choose(self, is_step: bool) -> PDTarget:
        """What the robot is told now; at a step, the policy's is a new one."""
        machine, state = self.machine, self.state
        if machine.mode is Mode.STAND_UP and machine.start is not None:
            progress = (self.now - machine.since) / self.config.stand_seconds
            self._q[:] = stand_up_target(machine.start, self.controller.deployment.default_joint_pos, progress)
            return self._drive
        if machine.mode is not Mode.POLICY or state is None:
            return self._limp
        if is_step:
            wanted = self.controller.step(state, self.command)
            if not np.isfinite(wanted).all():
                self._change(Machine(Mode.DAMPING, Fault.ACTION, self.now))
                return self._limp
            self.clipped += clip_target(wanted, self.limits, self._q)
        return self._drive

    def _finish(self, request: Request, is_step: bool) -> None:
        """What is left to do in a tick once the robot has been told."""
        if self._recorder is not None and is_step:
            self._recorder.write(self)
        self._ticks += 1
        faulted = self.machine.mode is Mode.DAMPING and self.machine.fault is not Fault.NONE
        waited = self.now - self.machine.since >= self.config.seconds_after_fault
        # A signal since the checks of this tick is met by the next one's.
        told = self._signal and self.machine.mode is Mode.DAMPING
        self._ended |= request is Request.QUIT or told or (faulted and waited)
        if self._on_tick is not None:
            self._on_tick(self)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Lets signals end the run instead of the process; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            self._signal = True

        before = {number: signal.signal(number, note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the garbage collector from stopping the loop: a collection takes longer than a tick."""
    gc.collect()
    gc.freeze()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
