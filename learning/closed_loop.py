"""A policy in closed loop with C MuJoCo: the physics it was not trained in.

Observation, gait clock, noise and joint targets are the environment's own functions, compiled for all robots at once;
the servos and the contacts are C MuJoCo's, stepped by its own thread pool. The MPC is not solved: a policy is deployed
without it. Bodies are nominal and encoders unbiased.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import mujoco.rollout
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs.observations import actor_layout, add_noise
from envs.physics import PhysicsState, foot_contacts, nominal_params
from envs.task import base_velocity, has_fallen
from envs.velocity import VelocityEnv, on_flat_ground
from learning.policy import Policy

# MuJoCo's own limits and tolerance: the contact solver converges, whatever little a training step can afford.
SOLVER_ITERATIONS, LINE_SEARCH_ITERATIONS = 100, 50


@dataclasses.dataclass(frozen=True)
class Episodes:
    """What B robots are told and what is done to them; all of them start at rest in the default pose."""

    command: Float[np.ndarray, "B 3"]  # v_x, v_y [m/s], ω_z [rad/s], the same for a whole episode
    noisy: Bool[np.ndarray, " B"]  # with the sensor noise of the training, or with none
    steps: int  # control steps of an episode
    seed: int = 0  # of headings and noise
    kick: Float[np.ndarray, "B 2"] | None = None  # m/s, added once to the base's horizontal velocity, world frame
    kick_step: Int[np.ndarray, " B"] | None = None  # control step before whose physics that happens


@dataclasses.dataclass(frozen=True)
class Signals:
    """What happened, by control step T and robot B: index t is the state after t + 1 steps. Zero after a fall."""

    alive: Bool[np.ndarray, "T B"]  # neither fallen nor diverged
    velocity: Float[np.ndarray, "T B 2"]  # m/s, of the base's origin, in its yaw frame
    yaw_rate: Float[np.ndarray, "T B"]  # rad/s, about the base's z axis, as commanded and trained
    slip: Float[np.ndarray, "T B 2"]  # m/s, horizontal speed of each sole's centre; zero for a foot in the air
    contact: Bool[np.ndarray, "T B 2"]  # feet (left, right) on the floor
    target: Float[np.ndarray, "T B nj"]  # rad, joint targets during the step
    limit_excess: Float[np.ndarray, "T B"]  # rad, of the joint furthest outside its range
    overlap: Bool[np.ndarray, "T B"]  # a pair of limbs that must keep clear of each other overlaps
    torque_squared: Float[np.ndarray, "T B"]  # (N m)², mean over joints and the step's physics steps
    saturated: Float[np.ndarray, "T B"]  # share of joints and physics steps at the torque limit
    power: Float[np.ndarray, "T B"]  # W, mechanical: Σ |τ q̇| over joints, mean over physics steps


class _Memory(NamedTuple):
    """What the controller of each robot remembers between control steps."""

    phase: Float[Array, " B"]
    moving: Bool[Array, " B"]
    last_action: Float[Array, "B nj"]


class ClosedLoop:
    """A policy, its task and a thread pool; what is compiled is shared by all runs with as many robots."""

    def __init__(self, env: VelocityEnv, policy: Policy, threads: int | None = None) -> None:
        """Prepares a policy's task.

        Args:
            env: the task that it was trained on; its physics backend is not used, nor is its ground: it is flat here.
            policy: a function of the actor's observation.
            threads: of the physics; by default as many as there are cores.

        Raises:
            ValueError: the policy is not one for this robot's observation and joints.
        """
        sizes = sum(actor_layout(env.robot.num_joints).values()), env.robot.num_joints
        if (policy.spec.observation_size, policy.spec.action_size) != sizes:
            raise ValueError(
                f"The policy maps {policy.spec.observation_size} observations to {policy.spec.action_size} actions; "
                f"robot {env.config.robot!r} has {sizes[0]} observations and takes {sizes[1]} actions."
            )
        self.env = env = on_flat_ground(env)
        self._cpu = jax.local_devices(backend="cpu")[0]
        self._policy = jax.device_put(policy, self._cpu)
        self._physics = BatchedMuJoCo(env.robot.mj_model, env.config.decimation, threads)

    def run(self, episodes: Episodes, report: Callable[[int], Any] = lambda step: None) -> Signals:
        """Runs all episodes side by side; robots that have fallen are left out from then on.

        Args:
            episodes: what to do.
            report: called with the number of control steps done, after each.

        Returns:
            The signals of all episodes.
        """
        with jax.default_device(self._cpu):
            return self._run(episodes, report)

    def start(self, episodes: Episodes) -> Float[np.ndarray, "B nq"]:
        """Where episodes start: where the environment's resets put nominal robots, at rest."""
        one, batch = self.env.one, len(episodes.command)
        home = one.kinematics(nominal_params(self.env.robot), one.at_home())
        keys = jax.random.split(jax.random.PRNGKey(episodes.seed + 1), batch)
        return np.asarray(jax.vmap(lambda key: one.stand(key, home)[0].qpos)(keys), float)

    def _run(self, episodes: Episodes, report: Callable[[int], Any]) -> Signals:
        robot, batch = self.env.robot, len(episodes.command)
        keys = jax.random.split(jax.random.PRNGKey(episodes.seed), episodes.steps + 1)
        state = self._physics.rest(self.start(episodes))
        memory = _Memory(jnp.zeros(batch), jnp.zeros(batch, bool), jnp.zeros((batch, robot.num_joints)))
        sensors = np.zeros((batch, robot.mj_model.nsensordata))
        told = (jnp.asarray(episodes.command, jnp.float32), jnp.asarray(episodes.noisy))
        signals = _blank(episodes.steps, batch, robot.num_joints)
        memory, target, _ = _react(self.env, self._policy, memory, *told, *self._sense(state, sensors), keys[0])
        alive = np.arange(batch)
        for step in range(episodes.steps):
            self._kick(episodes, step, state)
            ctrl = np.asarray(target, float)[alive]
            states, sensors[alive] = self._physics.step(state[alive], ctrl)
            state[alive] = states[:, -1]
            sensed = self._sense(state, sensors)
            memory, target, seen = _react(self.env, self._policy, memory, *told, *sensed, keys[step + 1])
            up = np.isfinite(states[:, -1]).all(axis=1) & ~np.asarray(seen.pop("fallen"))[alive]
            alive = alive[up]
            row = {name: np.asarray(value)[alive] for name, value in seen.items()}
            row |= {"alive": True, "target": ctrl[up], **self._effort(states[up], ctrl[up])}
            for name, value in row.items():
                getattr(signals, name)[step, alive] = value
            report(step + 1)
            if not alive.size:
                break
        return signals

    def _sense(
        self, state: Float[np.ndarray, "B n"], sensors: Float[np.ndarray, "B m"]
    ) -> tuple[Float[np.ndarray, "B nq"], Float[np.ndarray, "B nv"], Float[np.ndarray, "B m"]]:
        """Positions, velocities and sensors in float32; those of a robot that has diverged are zero."""
        finite = np.isfinite(state).all(axis=1, keepdims=True)
        qpos, qvel = self._physics.split(state)
        qpos, qvel, sensors = (np.where(finite, x, 0.0).astype(np.float32) for x in (qpos, qvel, sensors))
        return qpos, qvel, sensors

    def _kick(self, episodes: Episodes, step: int, state: Float[np.ndarray, "B n"]) -> None:
        """Adds the kicks that are due, in place."""
        if episodes.kick is not None and episodes.kick_step is not None:
            due = episodes.kick_step == step
            velocity = self._physics.split(state)[1]
            velocity[due, :2] += episodes.kick[due]

    def _effort(self, states: Float[np.ndarray, "b s n"], ctrl: Float[np.ndarray, "b nj"]) -> dict[str, np.ndarray]:
        """What the servos did during a step: their torques at the start of each of its physics steps."""
        robot = self.env.robot
        qpos, qvel = self._physics.split(states[:, :-1])
        qd = qvel[..., robot.dof_adr]
        torque = robot.kp * (ctrl[:, None] - qpos[..., robot.qpos_adr]) - robot.kd * qd
        torque = np.clip(torque, -robot.effort, robot.effort)
        return {
            "torque_squared": np.mean(torque**2, axis=(1, 2)),
            "saturated": np.mean(np.abs(torque) >= robot.effort, axis=(1, 2)),
            "power": np.mean(np.sum(np.abs(torque * qd), axis=2), axis=1),
        }


class BatchedMuJoCo:
    """C MuJoCo for many robots of one model: states in, states of all physics steps out."""

    def __init__(self, model: mujoco.MjModel, substeps: int, threads: int | None = None) -> None:
        """Copies the model, and gives its contact solver what it needs to converge.

        Args:
            model: the robot on its floor.
            substeps: physics steps of a control step.
            threads: by default as many as there are cores for this process.
        """
        self.model = copy.copy(model)
        self.model.opt.iterations, self.model.opt.ls_iterations = SOLVER_ITERATIONS, LINE_SEARCH_ITERATIONS
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # a robot that diverges is not put upright
        self._substeps = substeps
        threads = threads or len(os.sched_getaffinity(0))
        self._pool = mujoco.rollout.Rollout(nthread=threads)
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]

    def rest(self, qpos: Float[np.ndarray, "B nq"]) -> Float[np.ndarray, "B n"]:
        """States at rest at `qpos`; a state is time, qpos, qvel."""
        return np.concatenate([np.zeros((len(qpos), 1)), qpos, np.zeros((len(qpos), self.model.nv))], axis=1)

    def split(self, state: Float[np.ndarray, "*B n"]) -> tuple[Float[np.ndarray, "*B nq"], Float[np.ndarray, "*B nv"]]:
        """Views of qpos and qvel in states."""
        return state[..., 1 : 1 + self.model.nq], state[..., 1 + self.model.nq :]

    def step(
        self, state: Float[np.ndarray, "B n"], ctrl: Float[np.ndarray, "B nu"]
    ) -> tuple[Float[np.ndarray, "B s n"], Float[np.ndarray, "B m"]]:
        """One control step under constant joint targets, each physics step with a cold contact solver.

        Args:
            state: of all robots.
            ctrl: joint targets [rad].

        Returns:
            The states before and after each physics step (s = substeps + 1), and the last one's sensors.
        """
        control = np.repeat(ctrl[:, None], self._substeps, axis=1)
        states, sensors = (np.asarray(x) for x in self._pool.rollout(self.model, self._data, state, control))
        return np.concatenate([state[:, None], states], axis=1), sensors[:, -1]


def _blank(steps: int, batch: int, num_joints: int) -> Signals:
    """Signals of robots that have all fallen at once."""
    trailing = {"velocity": (2,), "slip": (2,), "contact": (2,), "target": (num_joints,)}
    flags = {"alive", "contact", "overlap"}
    return Signals(
        **{
            field.name: np.zeros((steps, batch, *trailing.get(field.name, ())), bool if field.name in flags else "f4")
            for field in dataclasses.fields(Signals)
        }
    )


@partial(jax.jit, static_argnums=0)
def _react(
    env: VelocityEnv,
    policy: Policy,
    memory: _Memory,
    command: Float[Array, "B 3"],
    noisy: Bool[Array, " B"],
    qpos: Float[Array, "B nq"],
    qvel: Float[Array, "B nv"],
    sensors: Float[Array, "B m"],
    key: PRNGKeyArray,
) -> tuple[_Memory, Float[Array, "B nj"], dict[str, Array]]:
    """What the controller makes of a state: its memory for the next one, joint targets, and the state's signals."""
    one, robot = env.one, env.robot
    no_bias = jnp.zeros(robot.num_joints)

    def perceive(
        memory: _Memory, command: Array, noisy: Array, qpos: Array, qvel: Array, sensors: Array, key: Array
    ) -> tuple[Array, Array, Array, dict[str, Array]]:
        physics = PhysicsState(qpos, qvel, jnp.zeros_like(qvel))
        kin = one.kinematics(nominal_params(robot), physics)
        obs = one.proprioception(kin, physics, no_bias, memory.last_action, command, memory.phase)
        obs = jnp.where(noisy, add_noise(key, env.config.noise, obs), obs)
        phase, moving = one.clock(memory.phase, memory.moving, command)
        contact = foot_contacts(robot, sensors).in_contact
        q = qpos[robot.qpos_adr]
        seen = {
            "fallen": has_fallen(robot, kin, env.config.tilt_limit),
            "velocity": base_velocity(kin)[:2],
            "yaw_rate": kin.w_base[2],
            "slip": jnp.where(contact, jnp.linalg.norm(kin.v_world_foot[:, :2], axis=-1), 0.0),
            "contact": contact,
            "limit_excess": jnp.maximum(robot.joint_limits[:, 0] - q, q - robot.joint_limits[:, 1]).max(initial=0.0),
            "overlap": jnp.any(kin.limb_gaps < 0),
        }
        return obs, phase, moving, seen

    keys = jax.random.split(key, len(command))
    obs, phase, moving, seen = jax.vmap(perceive)(memory, command, noisy, qpos, qvel, sensors, keys)
    action = policy(obs)
    target = jax.vmap(one.joint_targets, in_axes=(0, None))(action, no_bias)
    return _Memory(phase, moving, action), target, seen
