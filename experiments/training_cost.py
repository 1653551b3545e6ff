"""One size of the training benchmark: whole iterations with and without guidance, and their parts, on the clock."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from envs import guidance as mpc
from envs import velocity
from envs.velocity import VelocityEnv
from experiments import variants
from experiments.presets import TrainConfig, preset
from learning.ppo import Learner, TrainState
from learning.rollout import bootstrap_truncation, rollout_step
from learning.update import Learned, update

WARM_UP = 3  # iterations before the clock runs: the first ones start from robots that all stand


@dataclasses.dataclass(frozen=True)
class _Run:
    """A training that is compiled and ready."""

    config: TrainConfig
    env: VelocityEnv
    learner: Learner


def compile_cost(
    num_envs: int, every: tuple[int, ...], tolerance: float, bfloat16: bool = False
) -> Callable[[int], dict[str, Any]]:
    """Compiles everything that is measured for a number of robots.

    Args:
        num_envs: robots.
        every: control steps between solves, one training each.
        tolerance: of the solver.
        bfloat16: whether the networks' hidden layers are.

    Returns:
        A function that takes the number of timed iterations and measures.
    """
    started = time.monotonic()
    config = preset("auto")
    config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, num_envs=num_envs, bfloat16=bfloat16))
    guided = [_run(variants.guidance(config, every=k, tolerance=tolerance)) for k in every]
    unguided = _run(variants.base(config))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda run: run.learner.compiled, (*guided, unguided)))
        parts = [_compile_parts(run, pool) for run in guided]  # whether answers are kept differs between them
    seconds = time.monotonic() - started
    return partial(_measure, guided, unguided, parts, seconds)


def _run(config: TrainConfig) -> _Run:
    env = velocity.make(config.env)
    return _Run(config, env, Learner(env, config.ppo, jax.local_devices()[:1]))


def _compile_parts(run: _Run, pool: ThreadPoolExecutor) -> dict[str, Callable[[TrainState], Any]]:
    """The parts of an iteration as programs of their own: all its physics, one solve, one inference, one update."""
    env, learner = run.env, run.learner
    ppo = learner.config
    abstract = learner.abstract_state

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
    compiled = pool.map(lambda f: jax.jit(f).lower(abstract).compile(), functions.values())
    return dict(zip(functions, compiled, strict=True))


def _learned(state: TrainState) -> Learned:
    return Learned(state.weights, state.optimizer_state, state.learning_rate)


def _measure(
    guided: list[_Run],
    unguided: _Run,
    parts: list[dict[str, Callable[[TrainState], Any]]],
    compile_seconds: float,
    iterations: int,
) -> dict[str, Any]:
    num_envs = unguided.config.ppo.num_envs
    base = _iteration_seconds(unguided, iterations)[0]
    samples = unguided.config.ppo.samples_per_iteration
    rows = []
    for run, programs in zip(guided, parts, strict=True):
        seconds, state = _iteration_seconds(run, iterations)
        each = {name: _seconds(partial(part, state)) for name, part in programs.items()}
        rows.append(
            {
                "every": run.config.env.guidance.every,
                "iteration_seconds": seconds,
                "steps_per_second": samples / seconds,
                "guidance_cost": 1.0 - base / seconds,
                "part_seconds": each,
                "shares": _shares(each, seconds, run.config.ppo.unroll_length, run.config.env.guidance.every),
            }
        )
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "num_envs": num_envs,
        "mirror": unguided.config.ppo.mirror,
        "bfloat16": unguided.config.ppo.bfloat16,
        "tolerance": guided[0].config.env.guidance.tolerance,
        "compile_seconds": compile_seconds,
        "unguided_steps_per_second": samples / base,
        "guided": rows,
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }


def _iteration_seconds(run: _Run, iterations: int) -> tuple[float, TrainState]:
    """Median time of an iteration of training, and the state that it came to."""
    state, seconds = run.learner.init(), []
    for i in range(WARM_UP + iterations):
        start = time.perf_counter()
        state, _, _ = jax.block_until_ready(run.learner.iterate(state))
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), state


def _seconds(call: Callable[[], Any], repeats: int = 10) -> float:
    jax.block_until_ready(call())
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _shares(each: dict[str, float], iteration: float, steps: int, every: int) -> dict[str, float]:
    """Of an iteration; the rest is kinematics, rewards, observations, resets and bookkeeping."""
    times = {"physics": 1, "mpc": steps / every, "policy": steps, "update": 1}
    shares = {name: each[name] * count / iteration for name, count in times.items()}
    return {**shares, "rest": 1.0 - sum(shares.values())}
