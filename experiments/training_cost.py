"""One training of the benchmark, in a process of its own as any training: whole iterations, then the parts of one."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from envs import guidance as mpc
from envs import velocity
from envs.velocity import VelocityEnv
from experiments import variants
from experiments.presets import preset
from learning.ppo import Learner, TrainState
from learning.rollout import bootstrap_truncation, rollout_step
from learning.types import fetch_scalars
from learning.update import Learned, update

WARM_UP = 3  # iterations before the clock runs: the first ones start from robots that all stand


@dataclasses.dataclass(frozen=True)
class Training:
    """What a process measures."""

    num_envs: int
    every: int  # control steps between solves; 0: no MPC
    tolerance: float  # of the solver
    bfloat16: bool  # whether the networks' hidden layers are
    double_buffer: bool  # how loops are compiled
    iterations: int  # on the clock


def stages(training: Training) -> Iterator[dict[str, Any]]:
    """Does one thing after another: compiles, runs iterations, and with guidance compiles the parts, and runs them.

    Yields:
        What each stage has found. The next begins when it is asked for, so that several processes can compile side by
        side and have the device to themselves in turn.
    """
    env, learner = _make(training)
    begun = time.monotonic()
    _ = learner.compiled
    yield {"compile_seconds": time.monotonic() - begun}
    seconds, state = _iteration_seconds(learner, training.iterations)
    ppo, stats = learner.config, jax.local_devices()[0].memory_stats() or {}
    yield {
        "iteration_seconds": seconds,
        "steps_per_second": ppo.samples_per_iteration / seconds,
        "unroll_length": ppo.unroll_length,
        "mirror": ppo.mirror,
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }
    if training.every:
        parts = _compile_parts(env, learner)
        yield {}
        yield {"part_seconds": {name: _seconds(partial(part, state)) for name, part in parts.items()}}


def _make(training: Training) -> tuple[VelocityEnv, Learner]:
    config = preset("auto")
    changes = {name: getattr(training, name) for name in ("num_envs", "bfloat16", "double_buffer")}
    config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, **changes))
    if training.every:
        config = variants.guidance(config, every=training.every, tolerance=training.tolerance)
    else:
        config = variants.base(config)
    env = velocity.make(config.env)
    return env, Learner(env, config.ppo, jax.local_devices()[:1])


def _compile_parts(env: VelocityEnv, learner: Learner) -> dict[str, Callable[[TrainState], Any]]:
    """The parts of an iteration as programs of their own: all its physics, one solve, one inference, one update."""
    ppo, abstract = learner.config, learner.abstract_state

    def physics(state: TrainState) -> Any:
        task, before = state.env_state.info["task"], state.env_state.pipeline_state
        target = jnp.broadcast_to(jnp.asarray(env.robot.default_joint_pos), (ppo.num_envs, env.action_size))
        step = partial(env.physics.step, task.params, ctrl=target, num_substeps=env.config.decimation)
        return jax.lax.fori_loop(0, ppo.unroll_length, lambda _, now: step(now)[0], before)

    def plan(state: TrainState) -> Any:
        task, before = state.env_state.info["task"], state.env_state.pipeline_state
        kin = jax.vmap(env.one.kinematics)(task.params, before)
        inputs = jax.vmap(env.one.plan_inputs)(task.params, kin, task.phase, task.command)
        solve = partial(mpc.solve, env.config.guidance, env.gait, dt=env.dt)
        return jax.default_matmul_precision("highest")(jax.vmap(solve))(inputs, task.guidance)

    def policy(state: TrainState) -> Any:
        nets, seen = learner.networks, state.env_state.obs
        logits = nets.policy_network.apply(state.normalizer, state.weights.policy, seen)
        return logits, nets.value_network.apply(state.normalizer, state.weights.value, seen)

    def learn(state: TrainState) -> Any:
        step = rollout_step(env, learner.networks)
        one = jax.eval_shape(lambda s: step(s.agent, s.env_state, s.key)[1], abstract)
        one = jax.eval_shape(lambda t: bootstrap_truncation(t, t.reward, ppo.discount), one)
        one = one._replace(action=(), next_observation=())
        last = jax.tree.map(lambda x: x[None], state.env_state.obs)
        drawn = jax.tree.map(lambda x: jnp.full((ppo.unroll_length, *x.shape), 0.1, x.dtype), one)
        before, drawn = _learned(state), drawn._replace(next_observation=last)
        mirror = env.mirror if ppo.mirror else None
        return update(before, drawn, state.normalizer, learner.networks, ppo, state.key, mirror)

    functions = {"physics": physics, "mpc": plan, "policy": policy, "update": learn}
    with ThreadPoolExecutor() as pool:
        compiled = pool.map(lambda f: jax.jit(f).lower(abstract).compile(), functions.values())
        return dict(zip(functions, compiled, strict=True))


def _learned(state: TrainState) -> Learned:
    return Learned(state.weights, state.optimizer_state, state.learning_rate)


def _iteration_seconds(learner: Learner, iterations: int) -> tuple[float, TrainState]:
    """Median time of an iteration of training, and the state that it came to."""
    state, seconds = learner.init(), []
    for i in range(WARM_UP + iterations):
        start = time.perf_counter()
        state = _iterate(learner, state)
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), state


def _iterate(learner: Learner, state: TrainState) -> TrainState:
    """As a training does it: scalars are fetched, and nothing else is kept until the next iteration.

    What is kept can move the memory of that one, and at new addresses Warp captures its graph of the physics anew.
    """
    state, metrics, health = learner.iterate(state)
    fetch_scalars((metrics, health))
    return state


def _seconds(call: Callable[[], Any], repeats: int = 10) -> float:
    jax.block_until_ready(call())
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - start)
    return statistics.median(found)
