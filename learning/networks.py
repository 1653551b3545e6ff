"""Actor and critic: Brax's networks with the layout of MPC-RL."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from brax.training import networks as brax_networks
from brax.training import types as brax_types
from brax.training.acme import running_statistics
from brax.training.agents.ppo import networks as ppo_networks
from flax import linen
from jaxtyping import Array, Bool, Float, PyTree

from learning.config import PPOConfig


@flax.struct.dataclass
class Weights:
    """The trained parameters, under the names that Brax's loss reads."""

    policy: PyTree
    value: PyTree


class AgentParams(NamedTuple):
    """What an agent acts and judges by, in the order of Brax's own parameter triples."""

    normalizer: running_statistics.RunningStatisticsState
    policy: PyTree
    value: PyTree


def make_networks(config: PPOConfig, observation_size: Mapping[str, int], action_size: int) -> ppo_networks.PPONetworks:
    """Brax's PPO networks: two independent ELU perceptrons and a normal distribution over actions.

    The standard deviation does not depend on the state and is learned as its logarithm, which cannot become negative
    (a directly learned one can, and then ends the training; see `limit_std` for its bounds).

    Args:
        config: Layer sizes and precision, observation keys, first standard deviation, normalization.
        observation_size: Entries of each observation.
        action_size: Entries of an action.

    Returns:
        The pair of networks and the action distribution, without parameters.

    Raises:
        ValueError: If the environment does not offer an observation that the config names.
    """
    for field in ("policy_obs_key", "value_obs_key"):
        if getattr(config, field) not in observation_size:
            raise ValueError(
                f"PPOConfig.{field} is {getattr(config, field)!r}, but the environment observes "
                f"{sorted(observation_size)}."
            )
    preprocess: Any = (
        running_statistics.normalize if config.normalize_observations else brax_types.identity_observation_preprocessor
    )
    if config.bfloat16:
        preprocess = _then_round(preprocess)
    networks: Any = ppo_networks.make_ppo_networks(
        dict(observation_size),
        action_size,
        preprocess_observations_fn=preprocess,
        policy_hidden_layer_sizes=config.policy_hidden,
        value_hidden_layer_sizes=config.value_hidden,
        activation=linen.elu,
        policy_obs_key=config.policy_obs_key,
        value_obs_key=config.value_obs_key,
        distribution_type="normal",
        noise_std_type="log",
        init_noise_std=config.init_std,
        state_dependent_std=False,
        mean_kernel_init_fn=functools.partial(
            jax.nn.initializers.variance_scaling, config.mean_init_scale, "fan_in", "uniform"
        ),
    )
    if not config.bfloat16:
        return networks
    return networks.replace(
        policy_network=_rounded(networks.policy_network, len(config.policy_hidden)),
        value_network=_rounded(networks.value_network, len(config.value_hidden)),
    )


def _then_round(preprocess: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *arguments: preprocess(*arguments).astype(jnp.bfloat16)


def _rounded(network: brax_networks.FeedForwardNetwork, hidden: int) -> brax_networks.FeedForwardNetwork:
    """The network with its hidden layers in bfloat16, given inputs in bfloat16.

    flax computes a layer in the wider of the types of its input and weights: the last layer, whose weights are not
    rounded, in float32. More than half of an update's time is the traffic of activations, which this halves.
    """
    names = {f"hidden_{i}" for i in range(hidden)}

    def rounded(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf.astype(jnp.bfloat16) if any(getattr(entry, "key", None) in names for entry in path) else leaf

    def apply(normalizer: Any, parameters: PyTree, observation: Any) -> Any:
        return network.apply(normalizer, jax.tree_util.tree_map_with_path(rounded, parameters), observation)

    return dataclasses.replace(network, apply=apply)


def init_normalizer(
    config: PPOConfig, observation_size: Mapping[str, int]
) -> running_statistics.RunningStatisticsState:
    """Empty running statistics of every observation.

    Brax's exponential mode merges batch moments with weights n / N (Chan, Golub and LeVeque 1979), hence the exact mean
    and variance, without a sum of squares that loses digits after 1e9 samples.
    """
    specs = {key: jax.ShapeDtypeStruct((size,), jnp.float32) for key, size in observation_size.items()}
    return running_statistics.init_state(specs, std_eps=config.normalizer_epsilon, mode="ema")


def _is_log_std(path: tuple[Any, ...]) -> bool:
    return any(getattr(entry, "key", None) == "std_logparam" for entry in path)


def limit_std(policy: PyTree, config: PPOConfig) -> PyTree:
    """Projects the learned log standard deviation onto [log `min_std`, log `max_std`]."""
    low, high = jnp.log(config.min_std), jnp.log(config.max_std)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.clip(leaf, low, high) if _is_log_std(path) else leaf, policy
    )


def std_range(policy: PyTree) -> dict[str, Float[Array, ""]]:
    """The least and the largest learned standard deviation; both NaN if any is."""
    leaves = jax.tree_util.tree_leaves_with_path(policy)
    std = jnp.exp(jnp.concatenate([leaf.reshape(-1) for path, leaf in leaves if _is_log_std(path)]))
    return {"min": jnp.min(std), "max": jnp.max(std)}


def std_within_bounds(policy: PyTree, config: PPOConfig) -> Bool[Array, ""]:
    """Whether `limit_std` has been at work: false for NaN. Bounds are kept in float32, for the logarithm."""
    std = std_range(policy)
    return (std["min"] >= config.min_std * (1 - 1e-5)) & (std["max"] <= config.max_std * (1 + 1e-5))


def without_std(policy: PyTree) -> list[Array]:
    """All other weights of the policy."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(policy) if not _is_log_std(path)]
