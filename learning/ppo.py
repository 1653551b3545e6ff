"""Proximal policy optimization: one iteration as one compiled function.

The networks, the loss and the running statistics are Brax's. The loop is not: `brax.training.agents.ppo.train` drops
time-outs from the loss, saves parameters only, and is built on `jax.pmap`. Here environments are sharded over the
devices with `NamedSharding`, an iteration (unroll, time-out bootstrap, gradient steps, statistics) is compiled once,
and its state, which is donated, is all that a resumed run needs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from brax.training.acme import running_statistics
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt32

from learning.config import PPOConfig
from learning.health import Health, locate, tree_finite
from learning.networks import (
    AgentParams,
    Weights,
    init_normalizer,
    make_networks,
    std_range,
    std_within_bounds,
    without_std,
)
from learning.rollout import EpisodeStatistics, rollout_step, unroll
from learning.types import Env, Mirror, check_env_states, strip_weak_types
from learning.update import Learned, make_optimizer, update

ENV_AXIS = "env"
# Two turns of a loop become one: its state moves between two buffers and need not be copied back after each. On an H100
# that is 7 of 223 ms, for 8 s more of compiling.
DOUBLE_BUFFER = {"xla_gpu_enable_while_loop_unrolling": "WHILE_LOOP_UNROLLING_DOUBLE_BUFFER"}


@flax.struct.dataclass
class TrainState:
    """Everything that the next iteration depends on, and hence everything that is saved."""

    iteration: Int[Array, ""]
    key: UInt32[Array, " 2"]
    weights: Weights
    optimizer_state: optax.OptState
    learning_rate: Float[Array, ""]
    normalizer: running_statistics.RunningStatisticsState
    env_state: Any
    episodes: EpisodeStatistics

    @property
    def agent(self) -> AgentParams:
        """What the agent acts and judges by."""
        return AgentParams(self.normalizer, self.weights.policy, self.weights.value)


class _ShardedEnv:
    """The environment with its batch split over the devices, each running the step of its own part.

    Under `jax.shard_map` also what the compiler cannot partition (kernels, batched factorizations) stays local.
    """

    def __init__(self, env: Env, mesh: Mesh) -> None:
        self.observation_size = dict(env.observation_size)
        self.action_size = env.action_size
        if mesh.size == 1:
            self.reset, self.step = jax.jit(env.reset), jax.jit(env.step)
            return
        spec = PartitionSpec(ENV_AXIS)
        split = functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        self.reset, self.step = jax.jit(split(env.reset)), jax.jit(split(env.step))


def _mirror_of(env: Env) -> Mirror:
    try:
        mirror = getattr(env, "mirror", None)
    except ValueError as error:
        raise ValueError(f"{error} Learn without mirror images then: PPOConfig.mirror = False.") from error
    if mirror is None:
        raise ValueError("PPOConfig.mirror needs an environment that says what its mirror image is (`Env.mirror`).")
    return mirror


class Learner:
    """PPO on one environment: makes the first state, and maps a state to the next.

    Attributes:
        config: The settings.
        env: The environment.
        networks: Brax's networks, for `learning.rollout_step` and the like.
        action_size: Entries of an action.
        compile_seconds: Time spent in tracing and compiling so far.
    """

    def __init__(self, env: Env, config: PPOConfig, devices: Sequence[Any] | None = None) -> None:
        """Builds the networks and checks the environment; compiles nothing.

        Args:
            env: The batched environment.
            config: The settings.
            devices: Devices over which the environments are split; all local ones by default.

        Raises:
            ValueError: If the environment is not of the shape that `learning.types.Env` describes, or its batch cannot
                be split evenly.
        """
        devices = list(devices or jax.local_devices())
        if config.num_envs % len(devices):
            raise ValueError(f"{config.num_envs} environments cannot be split evenly over {len(devices)} devices.")
        mesh = Mesh(np.array(devices), (ENV_AXIS,))
        self.config, self.env = config, env
        self.compile_seconds = 0.0
        self._env = _ShardedEnv(env, mesh)
        self._mirror = _mirror_of(env) if config.mirror else None
        self.networks = make_networks(config, self._env.observation_size, self._env.action_size)
        self.action_size = self._env.action_size
        self._step = rollout_step(self._env, self.networks)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec(ENV_AXIS))
        self._abstract_state = jax.eval_shape(self._init, jax.random.PRNGKey(config.seed))
        self._check()
        self.shardings = self._state_shardings()
        self._jitted_init = jax.jit(self._init, out_shardings=self.shardings)

    def _check(self) -> None:
        state = self._abstract_state.env_state
        action = jax.ShapeDtypeStruct((self.config.num_envs, self._env.action_size), jnp.float32)
        stepped = jax.eval_shape(lambda s, a: strip_weak_types(self._env.step(s, a)), state, action)
        check_env_states(state, stepped, self._env.observation_size, self.config.num_envs)

    def _state_shardings(self) -> TrainState:
        """Leaves of the environments and their statistics are split, everything else is on every device."""
        everywhere = jax.tree.map(lambda _: self._replicated, self._abstract_state)
        per_env = functools.partial(jax.tree.map, lambda x: self._split if x.ndim else self._replicated)
        return everywhere.replace(
            env_state=per_env(self._abstract_state.env_state), episodes=per_env(self._abstract_state.episodes)
        )

    def _init(self, key: UInt32[Array, " 2"]) -> TrainState:
        key, key_policy, key_value, key_env = jax.random.split(key, 4)
        weights: Any = Weights(
            policy=self.networks.policy_network.init(key_policy), value=self.networks.value_network.init(key_value)
        )
        state = TrainState(
            iteration=jnp.zeros((), jnp.int32),
            key=key,
            weights=weights,
            optimizer_state=make_optimizer(self.config).init(weights),
            learning_rate=jnp.asarray(self.config.learning_rate, jnp.float32),
            normalizer=init_normalizer(self.config, self._env.observation_size),
            env_state=self._env.reset(jax.random.split(key_env, self.config.num_envs)),
            episodes=EpisodeStatistics.zeros(self.config.num_envs),
        )
        return strip_weak_types(state)

    def init(self) -> TrainState:
        """The state before the first iteration, drawn from `config.seed`."""
        start = time.perf_counter()
        state = self._jitted_init(jax.random.PRNGKey(self.config.seed))
        jax.block_until_ready(state)
        self.compile_seconds += time.perf_counter() - start
        return state

    def place(self, state: TrainState) -> TrainState:
        """Puts a state from the host onto the devices."""
        return jax.device_put(state, self.shardings)

    @property
    def abstract_state(self) -> TrainState:
        """Shapes and types of a state."""
        return self._abstract_state

    def _iterate(self, state: TrainState) -> tuple[TrainState, dict[str, Float[Array, ""]], Health]:
        config = self.config
        key, key_unroll, key_update = jax.random.split(state.key, 3)
        rolled = unroll(
            self._step,
            self.networks,
            state.agent,
            state.env_state,
            state.episodes,
            key_unroll,
            config.unroll_length,
            config.discount,
        )
        before = Learned(state.weights, state.optimizer_state, state.learning_rate)
        learned, losses = update(
            before, rolled.transitions, state.normalizer, self.networks, config, key_update, self._mirror
        )
        # after the gradient steps: the probability ratios need the statistics that the actions were drawn with
        seen: Any = rolled.transitions.observation
        if self._mirror is not None:
            seen = jax.tree.map(lambda *of: jnp.concatenate(of, axis=1), seen, self._mirror.observation(seen))
        normalizer = running_statistics.update(state.normalizer, seen)
        policy = learned.weights.policy
        health = Health(
            rollout={name: locate(bad) for name, bad in rolled.bad.items()},
            learner_finite={
                "loss": jnp.isfinite(losses["loss/total"]),
                "parameters": tree_finite(
                    (without_std(policy), learned.replace(weights=learned.weights.value), normalizer)
                ),
            },
            std_within_bounds=std_within_bounds(policy, config),
            std=std_range(policy),
            evidence=rolled.evidence,
        )
        after = TrainState(
            iteration=state.iteration + 1,
            key=key,
            weights=learned.weights,
            optimizer_state=learned.optimizer_state,
            learning_rate=learned.learning_rate,
            normalizer=normalizer,
            env_state=rolled.env_state,
            episodes=rolled.episodes,
        )
        return strip_weak_types(after), {**rolled.metrics, **rolled.episodes.metrics(), **losses}, health

    @functools.cached_property
    def compiled(self) -> jax.stages.Compiled:
        """The iteration as one executable. Compiled once, ahead of time: another shape is an error, not a recompile."""
        start = time.perf_counter()
        jitted = jax.jit(
            self._iterate, donate_argnums=0, out_shardings=(self.shardings, self._replicated, self._replicated)
        )
        placed = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self._abstract_state, self.shardings
        )
        options: Any = DOUBLE_BUFFER if self.config.double_buffer else None  # which a CPU's compiler takes no notice of
        compiled = jitted.lower(placed).compile(compiler_options=options)
        self.compile_seconds += time.perf_counter() - start
        return compiled

    def iterate(self, state: TrainState) -> tuple[TrainState, dict[str, Float[Array, ""]], Health]:
        """One iteration: `unroll_length` steps of every environment, then the gradient steps.

        Args:
            state: The state before. Its buffers are reused: it must not be used again.

        Returns:
            The state after, the metrics, and what was not finite (see `raise_if_not_finite`), all on the device.
        """
        return self.compiled(state)
