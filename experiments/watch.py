"""A policy in its training environment, in a browser, as fast as time itself, with the MPC's plan drawn in."""

from __future__ import annotations

import contextlib
import time
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from bridge.histogram import Histogram
from bridge.viewer import MAX_KNOTS, UNKNOWN, Viewer, base_velocity, contacts
from envs.state import State
from envs.velocity import VelocityEnv
from learning.policy import Policy

NEVER = 1e6  # control steps until the environment draws a command of its own


class Watch:
    """One robot, its policy and its MPC, compiled."""

    def __init__(self, env: VelocityEnv, policy: Policy) -> None:
        """Prepares an environment.

        Args:
            env: whose commands are overruled by the page's sliders.
            policy: a function of its observation.
        """
        self.env, self.every = env, env.config.guidance.every
        self.model = env.robot.mj_model
        self._data = mujoco.MjData(self.model)
        self._reset, self._advance = jax.jit(env.reset), jax.jit(self._step)
        self._policy = policy
        self.timing, self.solves, self.failures, self.late = Histogram(), 0, 0, 0

    def _step(self, state: State, command: jax.Array) -> tuple[State, dict[str, Any]]:
        """A control step under a command, and what a view needs."""
        task = state.info["task"]
        task = task.replace(command=command[None], command_wait=jnp.full(1, NEVER))
        state = state.replace(info=state.info | {"task": task})
        action = self._policy(state.obs)
        target = jax.vmap(self.env.one.joint_targets)(action, task.encoder_bias)
        state = self.env.step(state, action)
        physics, guidance = state.pipeline_state, state.info["task"].guidance
        shown = self.env.snapshot(state) | {
            "qvel": physics.qvel[0],
            "warmstart": physics.qacc_warmstart[0],
            "target": target[0],
            "tick": state.info["tick"][0],
        }
        if guidance is not None:
            shown |= {"solved": guidance.solved[0], "plan_age": guidance.age[0] * self.env.dt}
        return state, shown

    def reset(self, seed: int) -> State:
        """An episode's start; it ends when the robot falls or after `episode_seconds`, and begins anew by itself."""
        return self._reset(jax.random.split(jax.random.PRNGKey(seed), 1))

    def compile(self) -> State:
        """An episode's start, with nothing left to compile."""
        self.advance(self.reset(0), np.zeros(3))
        self.timing, self.solves, self.failures = Histogram(), 0, 0
        return self.reset(0)

    def advance(self, state: State, command: np.ndarray) -> tuple[State, dict[str, np.ndarray]]:
        """A control step, timed, and what the MPC did in it counted.

        Args:
            state: from `reset` or `advance`.
            command: v_x, v_y [m/s], ω_z [rad/s].

        Returns:
            The next state, and what `fields` takes.
        """
        began = time.perf_counter()
        state, shown = self._advance(state, jnp.asarray(command, jnp.float32))
        shown = jax.tree.map(np.asarray, shown)
        self.timing.add(time.perf_counter() - began)
        if "solved" in shown and shown["tick"] % self.every == 0:
            self.solves += 1
            self.failures += not shown["solved"]
        return state, shown

    def fields(self, shown: dict[str, np.ndarray], command: np.ndarray) -> dict[str, Any]:
        """What the viewer shows of a step; contact forces are what C MuJoCo finds in the same state."""
        data = self._data
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = shown["qpos"], shown["qvel"], shown["warmstart"]
        data.ctrl[:] = shown["target"]
        mujoco.mj_forward(self.model, data)
        fields = {
            "qpos": shown["qpos"],
            "velocity": base_velocity(shown["qpos"], shown["qvel"]),
            "command": command,
            "time": shown["tick"] * self.env.dt,
            "steps": self.timing.counts,
            "longest_step": self.timing.largest,
            "overruns": self.late,
        }
        fields |= contacts(self.model, data)
        if "solved" not in shown:
            return fields | {"knots": UNKNOWN}
        path, com_path = shown["com_path"][:MAX_KNOTS], np.zeros((MAX_KNOTS, 3))
        com_path[: len(path)] = path
        plan = {name: shown[name] for name in ("landing", "landing_valid", "foot", "force", "solved", "plan_age")}
        return (
            fields | plan | {"knots": len(path), "com_path": com_path, "solves": self.solves, "failures": self.failures}
        )

    def open(self, address: str, command: tuple[float, float, float]) -> Viewer:
        """Starts the page.

        Args:
            address: host and port.
            command: the first one, v_x, v_y [m/s], ω_z [rad/s].
        """
        ranges = self.env.config.command
        return Viewer(
            self.model,
            address,
            title=f"{self.env.robot.robot.name} and its MPC",
            buttons=("reset",),
            pause=True,
            ranges=np.array([ranges.v_x, ranges.v_y, ranges.w_z]),
            command=np.array(command),
            step_name="env step",
        )


def watch(env: VelocityEnv, policy: Policy, address: str, command: tuple[float, float, float]) -> None:
    """Lets a robot walk before a browser until Ctrl-C comes.

    Args:
        env: the task; its commands are those of the page.
        policy: that walks.
        address: host and port of the page.
        command: the first one, v_x, v_y [m/s], ω_z [rad/s].
    """
    run = Watch(env, policy)
    print("Compiling the environment, which takes a minute or two the first time.", flush=True)
    state = run.compile()
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(run.open(address, command)) as viewer:
        _loop(run, viewer, state)


def _loop(run: Watch, viewer: Viewer, state: State) -> NoReturn:
    resets, dt = 0, run.env.dt
    due = time.monotonic()
    while True:
        while viewer.paused:
            time.sleep(0.02)
            due = time.monotonic()
        if viewer.orders["reset"][0] != resets:
            resets = int(viewer.orders["reset"][0])
            state = run.reset(resets)
        command = viewer.orders["command"][0].copy()
        state, shown = run.advance(state, command)
        if viewer.due():
            viewer.show(**run.fields(shown, command))
        due += dt
        late = time.monotonic() - due
        run.late += late > 0
        if late > 0:  # slower than time: go on from here
            due += late
        time.sleep(max(-late, 0.0))
