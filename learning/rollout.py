"""Policy and environment in one program: a step, and the unroll of an iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from brax.training.agents.ppo import networks as ppo_networks
from brax.training.types import Transition
from jaxtyping import Array, Bool, Float

from learning.health import REWARD_TERM, Evidence, by_precedence, no_evidence, watch
from learning.networks import AgentParams
from learning.types import Env, strip_weak_types

EPISODE_WINDOW = 100  # episodes over which the running return and length are averaged

RolloutStep = Callable[[AgentParams, Any, jax.Array], tuple[Any, Transition]]


@flax.struct.dataclass
class EpisodeStatistics:
    """Return and length of the episodes under way, and an exponential average over the finished ones."""

    current_return: Float[Array, " B"]
    current_length: Float[Array, " B"]
    weighted_return: Float[Array, ""]
    weighted_length: Float[Array, ""]
    weight: Float[Array, ""]

    @classmethod
    def zeros(cls, num_envs: int) -> EpisodeStatistics:
        """Nothing finished yet."""
        per_env, total = jnp.zeros(num_envs), jnp.zeros(())
        return cls(per_env, jnp.zeros(num_envs), total, jnp.zeros(()), jnp.zeros(()))

    def add(self, reward: Float[Array, " B"], done: Float[Array, " B"]) -> EpisodeStatistics:
        """The statistics after one more step of every environment."""
        returns, lengths = self.current_return + reward, self.current_length + 1.0
        count = jnp.sum(done)
        keep = (1.0 - 1.0 / EPISODE_WINDOW) ** count
        share = (1.0 - keep) / jnp.maximum(count, 1.0)
        return EpisodeStatistics(
            # `where`, not a product: a failed episode may end in an infinite return
            current_return=jnp.where(done > 0, 0.0, returns),
            current_length=jnp.where(done > 0, 0.0, lengths),
            weighted_return=keep * self.weighted_return + share * jnp.sum(jnp.where(done > 0, returns, 0.0)),
            weighted_length=keep * self.weighted_length + share * jnp.sum(jnp.where(done > 0, lengths, 0.0)),
            weight=keep * self.weight + share * count,
        )

    def metrics(self) -> dict[str, Float[Array, ""]]:
        """Mean return and length of the last ≈ 100 finished episodes; NaN before the first one ends."""
        return {
            "train/episode_return": self.weighted_return / self.weight,
            "train/episode_length": self.weighted_length / self.weight,
        }


def rollout_step(env: Env, networks: ppo_networks.PPONetworks, deterministic: bool = False) -> RolloutStep:
    """One control step of policy, MPC, physics and reward as a single jitted program.

    Args:
        env: The batched environment.
        networks: The agent's networks.
        deterministic: Act by the mean of the distribution instead of a sample.

    Returns:
        A function `(params, env_state, key) -> (env_state, transition)`. `transition.next_observation` is of the state
        that the step reached, before an ended episode was replaced; `transition.discount` is 0 where the episode ended,
        and `transition.extras["state_extras"]["truncation"]` 1 where that was by a time-out. A sampled step also
        carries what the PPO loss needs under `transition.extras["policy_extras"]`.
    """
    make_policy = ppo_networks.make_inference_fn(networks, compute_value=True)

    def step(params: AgentParams, env_state: Any, key: jax.Array) -> tuple[Any, Transition]:
        action, policy_extras = make_policy(tuple(params), deterministic=deterministic)(env_state.obs, key)
        after = strip_weak_types(env.step(env_state, action))
        extras: Any = {"policy_extras": policy_extras, "state_extras": {"truncation": after.info["truncation"]}}
        transition = Transition(
            observation=env_state.obs,
            action=action,
            reward=after.reward,
            discount=1.0 - after.done,
            next_observation=after.info["final_obs"],
            extras=extras,
        )
        return after, transition

    return jax.jit(step)


def bootstrap_truncation(transition: Transition, next_value: Float[Array, " B"], discount: float) -> Transition:
    """Credits a time-out with the value of the state that it cut off.

    A time-out says nothing about the state it happens in, so its return continues: r + γ V(s′) with s′ the state
    reached *before* the reset (Pardo et al. 2018, Time Limits in Reinforcement Learning, eq. 6). With that in the
    reward the step is an ordinary end of an episode: the advantage estimate neither drops it nor looks past the reset.

    Args:
        transition: One step; its reward is that of the environment.
        next_value: V of `transition.next_observation`.
        discount: γ.

    Returns:
        The step with the credited reward and with no truncation left for the loss to mask.
    """
    extras: Any = transition.extras
    truncation = extras["state_extras"]["truncation"]
    return transition._replace(
        reward=transition.reward + discount * truncation * next_value,
        extras={**extras, "state_extras": {"truncation": jnp.zeros_like(truncation)}},
    )


class Unroll(NamedTuple):
    """What `unroll` returns."""

    env_state: Any
    episodes: EpisodeStatistics
    transitions: Transition  # leaves (T, B, …), but next_observation (1, B, …): of the last step only
    metrics: dict[str, Float[Array, ""]]  # the environment's, averaged over steps and environments
    bad: dict[str, Bool[Array, "T B"]]  # where something was not finite, by name
    evidence: Evidence  # the first such environment, before the step


def _not_finite(tree: Any, num_envs: int) -> Bool[Array, " B"]:
    bad = jnp.zeros(num_envs, bool)
    for leaf in jax.tree.leaves(tree):
        bad |= jnp.any(~jnp.isfinite(leaf.reshape(num_envs, -1)), axis=1)
    return bad


def _bad_values(transition: Transition, metrics: Mapping[str, Array], num_envs: int) -> dict[str, Bool[Array, " B"]]:
    terms = {name: value for name, value in metrics.items() if name.startswith(REWARD_TERM)}
    bad = {f"reward term {n.removeprefix(REWARD_TERM)!r}": _not_finite(x, num_envs) for n, x in terms.items()}
    bad |= {
        f"observation {key!r}": _not_finite((transition.observation[key], transition.next_observation[key]), num_envs)
        for key in sorted(transition.observation)
    }
    bad["action"] = _not_finite(transition.action, num_envs)
    return {**bad, "reward": _not_finite((transition.reward, transition.discount), num_envs)}


def unroll(
    step: RolloutStep,
    networks: ppo_networks.PPONetworks,
    params: AgentParams,
    env_state: Any,
    episodes: EpisodeStatistics,
    key: jax.Array,
    length: int,
    discount: float,
) -> Unroll:
    """Takes `length` steps of every environment in one scan.

    Time-outs are already bootstrapped in the returned transitions. These hold what the loss reads and no more: no
    action beside the raw one, and of the observations that follow the steps only the last, from which the unfinished
    episodes are bootstrapped.
    """
    num_envs = env_state.reward.shape[0]

    def first() -> tuple[Array, dict[str, Array]]:
        after, transition = step(params, env_state, key)
        return transition.action, _bad_values(transition, after.metrics, num_envs)

    action, flags = jax.eval_shape(first)
    names = by_precedence(flags)

    def body(carry: tuple[Any, EpisodeStatistics, Evidence], x: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        (env_state, episodes, evidence), (key, index) = carry, x
        after, transition = step(params, env_state, key)
        flags = _bad_values(transition, after.metrics, num_envs)
        bad = jnp.stack([flags[name] for name in names])
        evidence = watch(evidence, bad, index, env_state, transition.action)
        next_value = networks.value_network.apply(params.normalizer, params.value, transition.next_observation)
        metrics = {**after.metrics, "train/reward": transition.reward}
        episodes = episodes.add(transition.reward, after.done)
        kept = bootstrap_truncation(transition, next_value, discount)
        kept = kept._replace(action=(), next_observation=())
        return (after, episodes, evidence), (kept, metrics, bad)

    (env_state, episodes, evidence), (transitions, metrics, bad) = jax.lax.scan(
        body, (env_state, episodes, no_evidence(env_state, action)), (jax.random.split(key, length), jnp.arange(length))
    )
    last = jax.tree.map(lambda x: x[None], env_state.obs)
    # Not in the loop: a GPU computes a mean over robots in one corner of itself, step after step.
    mean_metrics = {name: jnp.mean(value) for name, value in metrics.items()}
    bad = {name: bad[:, i] for i, name in enumerate(names)}
    return Unroll(env_state, episodes, transitions._replace(next_observation=last), mean_metrics, bad, evidence)
