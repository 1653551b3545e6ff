"""The gradient steps of one iteration: Brax's PPO loss, Adam, and a learning rate that holds the policy's KL step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from brax.training.acme import running_statistics
from brax.training.agents.ppo import losses as ppo_losses
from brax.training.agents.ppo import networks as ppo_networks
from brax.training.types import Transition
from jaxtyping import Array, Float, Int

from learning.config import PPOConfig
from learning.networks import AgentParams, Weights, limit_std
from learning.types import Mirror

LOSS_NAMES = {
    "total_loss": "loss/total",
    "policy_loss": "loss/policy",
    "v_loss": "loss/value",
    "entropy_loss": "loss/entropy",
    "kl_mean": "policy/kl",
    "policy_dist_mean_std": "policy/std",
    "policy_dist_min_std": "policy/std_min",
    "policy_dist_max_std": "policy/std_max",
}


@flax.struct.dataclass
class Learned:
    """What the gradient steps change."""

    weights: Weights
    optimizer_state: optax.OptState
    learning_rate: Float[Array, ""]


def make_optimizer(config: PPOConfig) -> optax.GradientTransformation:
    """Clipping to a global norm, then Adam's direction; the learning rate is applied outside, as it is adapted."""
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam())


def adapt_learning_rate(learning_rate: Float[Array, ""], kl: Float[Array, ""], config: PPOConfig) -> Float[Array, ""]:
    """The learning rate for a gradient step, from the KL divergence that the policy has moved in this iteration.

    Divided by `learning_rate_factor` above 2 `target_kl`, multiplied by it below ½ `target_kl`, and kept within its
    bounds (Schulman et al. 2017, section 4, applied to the learning rate as rsl_rl does).
    """
    lower = jnp.maximum(learning_rate / config.learning_rate_factor, config.learning_rate_min)
    higher = jnp.minimum(learning_rate * config.learning_rate_factor, config.learning_rate_max)
    return jnp.where(kl > 2.0 * config.target_kl, lower, jnp.where(kl < 0.5 * config.target_kl, higher, learning_rate))


def _descend(weights: Any, direction: Any, rate: Float[Array, ""] | float) -> Any:
    return jax.tree.map(lambda w, d: w - rate * d, weights, direction)


def minibatch_indices(config: PPOConfig, key: jax.Array) -> Int[Array, "steps envs"]:
    """Environments of each gradient step: a fresh permutation per epoch, cut into minibatches.

    Whole unrolls are drawn, as Brax does, since the loss estimates advantages along them.
    """
    permute = functools.partial(jax.random.permutation, x=config.num_envs)
    order = jax.vmap(permute)(jax.random.split(key, config.num_epochs))
    return order.reshape(config.num_epochs * config.num_minibatches, -1)


def with_mirror_images(
    transitions: Transition,
    mirror: Mirror,
    agent: AgentParams,
    networks: ppo_networks.PPONetworks,
) -> Transition:
    """The transitions of as many environments again, left and right exchanged.

    An image counts as likely as its original (Mittal et al. 2024, Symmetry Considerations for Learning Task Symmetric
    Robot Policies), or as the policy makes it in the mirrored state, if that is likelier: probability ratios start at 1
    or below, however asymmetric the policy still is. Ratios to what a policy would hardly ever do have no bound.
    """
    extras: Any = transitions.extras
    seen: Any = transitions.observation
    after: Any = transitions.next_observation
    observation = mirror.observation(seen)
    raw_action = mirror.action(extras["policy_extras"]["raw_action"])
    likely = extras["policy_extras"]["log_prob"]
    logits = networks.policy_network.apply(agent.normalizer, agent.policy, observation)
    policy_extras = {
        "raw_action": raw_action,
        "log_prob": jnp.maximum(networks.parametric_action_distribution.log_prob(logits, raw_action), likely),
        "distribution_params": logits,
        "value": networks.value_network.apply(agent.normalizer, agent.value, observation),
    }
    images = transitions._replace(
        observation=observation,
        next_observation=mirror.observation(after),
        extras={**extras, "policy_extras": policy_extras},
    )
    return jax.tree.map(lambda one, other: jnp.concatenate([one, other], axis=1), transitions, images)


def _make_loss(networks: ppo_networks.PPONetworks, config: PPOConfig) -> Callable[..., Any]:
    return functools.partial(
        ppo_losses.compute_ppo_loss,
        ppo_network=networks,
        entropy_cost=config.entropy_cost,
        discounting=config.discount,
        gae_lambda=config.gae_lambda,
        clipping_epsilon=config.clip,
        normalize_advantage=True,
        vf_coefficient=config.value_cost,
        clipping_epsilon_value=config.value_clip,
    )


def update(
    learned: Learned,
    transitions: Transition,
    normalizer: running_statistics.RunningStatisticsState,
    networks: ppo_networks.PPONetworks,
    config: PPOConfig,
    key: jax.Array,
    mirror: Mirror | None = None,
) -> tuple[Learned, dict[str, Float[Array, ""]]]:
    """All epochs of gradient steps on the samples of one iteration, as one scan.

    Brax's loss estimates advantages anew in every minibatch with the current critic, and normalizes them there.

    Args:
        learned: Weights, optimizer state and learning rate before.
        transitions: From `learning.rollout.unroll`, time first.
        normalizer: The statistics that the actions were drawn with; they must not change before the update, or the
            probability ratios would start away from 1.
        networks: The agent's networks.
        config: Settings.
        key: For the permutations.
        mirror: If given, every minibatch holds the mirror images of its transitions as well.

    Returns:
        What was learned, and the metrics averaged over the gradient steps.
    """
    optimizer, loss = make_optimizer(config), _make_loss(networks, config)
    key_order, key_loss = jax.random.split(key)
    order = minibatch_indices(config, key_order)
    if mirror is not None:
        agent = AgentParams(normalizer, learned.weights.policy, learned.weights.value)
        transitions = with_mirror_images(transitions, mirror, agent, networks)
        order = jnp.concatenate([order, order + config.num_envs], axis=1)

    def gradient_step(learned: Learned, envs: Int[Array, " envs"]) -> tuple[Learned, dict[str, Array]]:
        minibatch = jax.tree.map(lambda x: jnp.swapaxes(jnp.take(x, envs, axis=1), 0, 1), transitions)
        # The key would sample the entropy of a squashed distribution; that of a normal one is exact.
        grads, metrics = jax.grad(loss, has_aux=True)(learned.weights, normalizer, minibatch, key_loss)
        learning_rate = adapt_learning_rate(learned.learning_rate, metrics["kl_mean"], config)
        direction, optimizer_state = optimizer.update(grads, learned.optimizer_state)
        # A policy near its KL limit must slow down; a critic that slowed down with it would leave it nothing to climb.
        value_rate = learning_rate if config.value_learning_rate is None else config.value_learning_rate
        weights = Weights(
            policy=limit_std(_descend(learned.weights.policy, direction.policy, learning_rate), config),
            value=_descend(learned.weights.value, direction.value, value_rate),
        )
        named = {name: metrics[brax_name] for brax_name, name in LOSS_NAMES.items()}
        named["loss/gradient_norm"] = optax.tree.norm(grads)
        return Learned(weights, optimizer_state, learning_rate), named

    learned, metrics = jax.lax.scan(gradient_step, learned, order)
    metrics = {name: jnp.mean(value) for name, value in metrics.items()}
    return learned, {**metrics, "policy/learning_rate": learned.learning_rate}
