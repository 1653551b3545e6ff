"""A run from the command line, on whatever robot: operator, log, loop, and the report at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from bridge.commands import GAMEPAD_HELP, KEYS_HELP, Browser, Gamepad, Keyboard, Profile, read_profile
from bridge.controller import Controller
from bridge.loop import Loop, LoopConfig, Operator
from bridge.machine import Mode
from bridge.recorder import LogRecorder
from bridge.robot import Robot
from bridge.safety import Fault
from bridge.viewer import Viewer
from bridge.viewer_feed import Feed, open_viewer


def open_operator(
    controller: Controller,
    config: LoopConfig,
    profile: Path | None,
    gamepad: bool,
    stack: contextlib.ExitStack,
    page: Viewer | None = None,
) -> Operator:
    """Who commands: a CSV if one is given, a gamepad if asked for, else the viewer's page, else the keyboard.

    Args:
        controller: the policy.
        config: of the loop.
        profile: a CSV of commands; see `bridge.commands.read_profile`.
        gamepad: use the first gamepad.
        stack: closes it at the end.
        page: the viewer's, whose stop button counts whoever commands.

    Raises:
        ValueError, FileNotFoundError: the CSV cannot be used, or there is no gamepad.
    """
    if profile is not None:
        scripted = Profile(read_profile(profile), controller.deployment, config.stand_seconds)
        return scripted if page is None else Browser(page, controller.deployment, scripted)
    if page is not None and not gamepad:
        return Browser(page, controller.deployment)
    operator = Gamepad(controller.deployment) if gamepad else Keyboard(controller.deployment)
    stack.callback(operator.close)
    print(GAMEPAD_HELP if gamepad else KEYS_HELP)
    return operator if page is None else Browser(page, controller.deployment, operator)


def drive(
    robot: Robot,
    controller: Controller,
    config: LoopConfig,
    *,
    profile: Path | None = None,
    gamepad: bool = False,
    log: Path | None = None,
    model: Path | None = None,
    viewer: str | None = None,
    on_tick: Callable[[Loop], None] | None = None,
) -> Loop:
    """Runs, prints what happened as it happens, and the timing at the end.

    Args:
        robot: that moves.
        controller: the policy.
        config: of the loop.
        profile: a CSV of commands.
        gamepad: use the first gamepad.
        log: a new folder for the log.
        model: of the robot, zipped, to be copied into the log and drawn by the viewer.
        viewer: host and port of a browser viewer; see `bridge.viewer`.
        on_tick: called at the end of every tick.

    Returns:
        The loop, when it is over.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(robot.close)
        page = feed = None
        if viewer is not None:
            page, robot_model = open_viewer(
                robot, controller.deployment, model, viewer, profile is None and not gamepad
            )
            stack.callback(page.close)
            feed = Feed(page, robot, robot_model)
        operator = open_operator(controller, config, profile, gamepad, stack, page)
        recorder = LogRecorder(log, controller.deployment, model) if log is not None else None
        if recorder is not None:
            stack.callback(recorder.close)
        told = {"events": 0, "refused": ""}

        def report(loop: Loop) -> None:
            for when, mode, fault in loop.events[told["events"] :]:
                print(f"{when:9.3f} s  {mode.name}{'' if fault is Fault.NONE else ': ' + fault.value}", flush=True)
            told["events"] = len(loop.events)
            if loop.machine.refused != told["refused"]:
                told["refused"] = loop.machine.refused
                print(loop.machine.refused, flush=True)
            if on_tick is not None:
                on_tick(loop)
            if feed is not None:
                feed(loop)

        loop = Loop(robot, controller, operator, config, recorder, report)
        try:
            loop.run()
        finally:
            if recorder is not None and recorder.failed:
                print("The log is incomplete: the disk refused to take it.")
    print(summary(loop))
    return loop


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
