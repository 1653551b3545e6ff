"""A run from the command line, on whatever robot: operator, log, loop, and the report at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from bridge.commands import GAMEPAD_HELP, KEYS_HELP, Browser, Gamepad, Keyboard, Profile, read_profile
from bridge.controller import Controller
from bridge.deployment import Deployment
from bridge.loop import Loop, LoopConfig, Operator
from bridge.machine import Mode
from bridge.recorder import LogRecorder
from bridge.robot import Robot
from bridge.safety import Fault, SafetyConfig
from bridge.viewer import ADDRESS, Viewer
from bridge.viewer_feed import Feed, open_viewer


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What a run is asked for on the command line, whatever robot it drives."""

    policy: Path = Path("policy.onnx")
    """What `export` wrote."""
    profile: Path | None = None
    """CSV of commands: time, vx, vy, wz. Without it, the keyboard commands."""
    gamepad: bool = False
    """Commands by the first gamepad."""
    seconds: float = float("inf")
    """Time on the robot's clock after which the run ends (s)."""
    stand_seconds: float = 3.0
    """Duration of the stand-up (s)."""
    log: Path | None = None
    """A new folder for the log of the run."""
    viewer: bool = False
    """Show the robot in a browser, whose page commands unless a profile or a gamepad does."""
    viewer_address: str = ADDRESS
    """Host and port of its page; host 0.0.0.0 lets every machine of the network in, and command the robot."""
    safety: SafetyConfig = dataclasses.field(default_factory=SafetyConfig)
    """Limits."""

    def loop_config(self, ticks_per_step: int) -> LoopConfig:
        """Of the loop; a scripted run ends soon after a fault, any other when the operator ends it."""
        return LoopConfig(
            ticks_per_step=ticks_per_step,
            stand_seconds=self.stand_seconds,
            seconds=self.seconds,
            seconds_after_fault=float("inf") if self.profile is None else 1.0,
            safety=self.safety,
        )


def open_operator(
    options: RunOptions, deployment: Deployment, stack: contextlib.ExitStack, page: Viewer | None = None
) -> Operator:
    """Who commands: a CSV if one is given, a gamepad if asked for, else the viewer's page, else the keyboard.

    Args:
        options: of the run.
        deployment: of the policy.
        stack: closes it at the end.
        page: the viewer's, whose stop button counts whoever commands.

    Raises:
        ValueError, FileNotFoundError: the CSV cannot be used, or there is no gamepad.
    """
    if options.profile is not None:
        scripted = Profile(read_profile(options.profile), deployment, options.stand_seconds)
        return scripted if page is None else Browser(page, deployment, scripted)
    if page is not None and not options.gamepad:
        return Browser(page, deployment)
    operator = Gamepad(deployment) if options.gamepad else Keyboard(deployment)
    stack.callback(operator.close)
    print(GAMEPAD_HELP if options.gamepad else KEYS_HELP)
    if not options.gamepad and not sys.stdin.isatty():
        print("The standard input is no terminal: keys are read from it until it ends, then the robot stays limp.")
    return operator if page is None else Browser(page, deployment, operator)


def drive(
    robot: Robot,
    controller: Controller,
    options: RunOptions,
    ticks_per_step: int,
    model: Path,
    on_tick: Callable[[Loop], None] = lambda loop: None,
) -> Loop:
    """Runs, prints what happened as it happens, and the timing at the end.

    Args:
        robot: that moves.
        controller: the policy.
        options: of the run.
        ticks_per_step: of the loop, in a control step of the policy.
        model: of the robot, zipped, to be copied into the log and drawn by the viewer.
        on_tick: called at the end of every tick.

    Returns:
        The loop, when it is over.
    """
    deployment = controller.deployment
    with contextlib.ExitStack() as stack:
        stack.callback(robot.close)
        watchers = [Console(), on_tick]
        page = None
        if options.viewer:
            commands = options.profile is None and not options.gamepad
            page, drawn = open_viewer(robot, deployment, model, options.viewer_address, commands)
            stack.callback(page.close)
            watchers.append(Feed(page, robot, drawn))
        operator = open_operator(options, deployment, stack, page)
        recorder = LogRecorder(options.log, deployment, model) if options.log is not None else None
        if recorder is not None:
            stack.callback(recorder.close)

        def watch(loop: Loop) -> None:
            for watcher in watchers:
                watcher(loop)

        loop = Loop(robot, controller, operator, options.loop_config(ticks_per_step), recorder, watch)
        try:
            loop.run()
        finally:
            if recorder is not None and recorder.failed:
                print("The log is incomplete: the disk refused to take it.")
    print(summary(loop))
    return loop


class Console:
    """Prints changes of mode, faults and refusals as they happen."""

    def __init__(self) -> None:
        self._events = 0
        self._refused = ""

    def __call__(self, loop: Loop) -> None:
        """Prints what is new."""
        for when, mode, fault in loop.events[self._events :]:
            print(f"{when:9.3f} s  {mode.name}{'' if fault is Fault.NONE else ': ' + fault.value}", flush=True)
        self._events = len(loop.events)
        if loop.machine.refused != self._refused:
            self._refused = loop.machine.refused
            print(self._refused, flush=True)


def summary(loop: Loop) -> str:
    """The timing of a run."""
    lines = [
        f"policy step, from reading to having told the robot: {loop.latency}",
        f"ticks of {1e3 * loop.period:.1f} ms began late by: {loop.lateness}",
        f"{loop.overruns} ticks late by more than a period, {loop.clipped} policy steps with clipped targets",
    ]
    return "\n".join(lines)


def succeeded(loop: Loop) -> bool:
    """Whether the policy moved the robot and no fault, nor an emergency stop, ended that."""
    walked = any(mode is Mode.POLICY for _, mode, _ in loop.events)
    return walked and all(fault is Fault.NONE for _, _, fault in loop.events)
