"""A trained policy by itself: a function of the observation, in a file of about a megabyte, without any environment."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from brax.training import networks as brax_networks
from brax.training import types as brax_types
from brax.training.acme import running_statistics
from flax import linen
from jaxtyping import Array, Float, PyTree

from learning.config import PPOConfig
from learning.networks import AgentParams

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """What, beside numbers, makes a policy.

    Attributes:
        observation_size: Entries n of the observation.
        action_size: Entries nu of the action.
        hidden: Units per hidden ELU layer.
        obs_key: Name of the observation it acts on.
        normalize: Whether observations are normalized by `Policy.mean` and `Policy.std`.
        extra: JSON text of whatever the exporter added: observation layout, action scale, joint names, gains.
    """

    observation_size: int
    action_size: int
    hidden: tuple[int, ...]
    obs_key: str
    normalize: bool
    extra: str = "{}"


@flax.struct.dataclass
class Policy:
    """A policy as a pytree: it passes through `jax.jit`, and two policies of one shape share a compilation.

    Attributes:
        mean: Mean (n,) of the observations.
        std: Standard deviation (n,) of the observations.
        weights: Parameters of Brax's policy network.
        spec: Layout.
    """

    mean: Float[Array, " n"]
    std: Float[Array, " n"]
    weights: PyTree
    spec: PolicySpec = flax.struct.field(pytree_node=False)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the exporter added: observation layout, action scale, and the like."""
        return json.loads(self.spec.extra)

    def distribution(
        self, obs: Mapping[str, Float[Array, "*batch n"]] | Float[Array, "*batch n"]
    ) -> tuple[Float[Array, "*batch nu"], Float[Array, "*batch nu"]]:
        """Mean and standard deviation of the action, in the environment's action units.

        Args:
            obs: The observation, or a mapping that holds it under `spec.obs_key`.
        """
        x = obs[self.spec.obs_key] if isinstance(obs, Mapping) else obs
        statistics = running_statistics.NestedMeanStd(mean=self.mean, std=self.std)
        return _network(self.spec).apply(statistics, self.weights, x)

    def __call__(
        self, obs: Mapping[str, Float[Array, "*batch n"]] | Float[Array, "*batch n"]
    ) -> Float[Array, "*batch nu"]:
        """The mean action; see `distribution`."""
        return self.distribution(obs)[0]

    def sample(
        self, obs: Mapping[str, Float[Array, "*batch n"]] | Float[Array, "*batch n"], key: Array
    ) -> Float[Array, "*batch nu"]:
        """A random action; see `distribution`."""
        mean, std = self.distribution(obs)
        return mean + std * jax.random.normal(key, mean.shape)


def _network(spec: PolicySpec) -> brax_networks.FeedForwardNetwork:
    preprocess: Any = running_statistics.normalize if spec.normalize else brax_types.identity_observation_preprocessor
    return brax_networks.make_policy_network(
        spec.action_size,
        spec.observation_size,
        preprocess_observations_fn=preprocess,
        hidden_layer_sizes=spec.hidden,
        activation=linen.elu,
        obs_key=spec.obs_key,
        distribution_type="normal",
        noise_std_type="log",
    )


def make_policy(
    agent: AgentParams, config: PPOConfig, action_size: int, metadata: Mapping[str, Any] | None = None
) -> Policy:
    """The policy of an agent, copied out of its training state.

    Args:
        agent: Parameters; their buffers may be donated afterwards.
        config: Settings the agent was made with.
        action_size: Entries of an action.
        metadata: JSON-serializable facts that travel with the policy.
    """
    statistics: Any = agent.normalizer
    mean, std, weights = jax.tree.map(
        jnp.asarray,
        jax.device_get((statistics.mean[config.policy_obs_key], statistics.std[config.policy_obs_key], agent.policy)),
    )
    spec = PolicySpec(
        observation_size=mean.shape[-1],
        action_size=action_size,
        hidden=tuple(config.policy_hidden),
        obs_key=config.policy_obs_key,
        normalize=config.normalize_observations,
        extra=json.dumps(dict(metadata or {}), sort_keys=True),
    )
    return Policy(mean=mean, std=std, weights=weights, spec=spec)


def save_policy(policy: Policy, path: str | os.PathLike[str]) -> Path:
    """Writes a policy as one `.npz` file, replacing an older one only once the new one is complete.

    The file holds `mean`, `std`, one array per parameter (`weights/…`) and the layout as JSON text under `spec`.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = flax.traverse_util.flatten_dict(policy.weights, sep="/")
    arrays: dict[str, Any] = {f"weights/{name}": np.asarray(value) for name, value in flat.items()}
    spec = json.dumps({"format": FORMAT, **dataclasses.asdict(policy.spec)})
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            np.savez_compressed(file, mean=policy.mean, std=policy.std, spec=np.array(spec), **arrays)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    temporary.chmod(0o644)
    os.replace(temporary, path)
    return path


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Reads a policy that `save_policy` wrote.

    Args:
        path: The `.npz` file, or a run directory that holds a `policy.npz`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a policy, or of a newer format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "policy.npz"
    if not path.exists():
        raise FileNotFoundError(f"There is no policy at '{path}'.")
    try:
        with path.open("rb") as file:
            data = dict(np.load(file, allow_pickle=False))
        spec = json.loads(str(data.pop("spec")))
        mean, std = jnp.asarray(data.pop("mean")), jnp.asarray(data.pop("std"))
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"'{path}' is not a policy file.") from error  # what NumPy says of it is no help
    if spec.pop("format") != FORMAT:
        raise ValueError(f"'{path}' was written in another format than this version reads ({FORMAT}).")
    flat = {name.removeprefix("weights/"): jnp.asarray(value) for name, value in data.items()}
    spec["hidden"] = tuple(spec["hidden"])
    return Policy(mean, std, flax.traverse_util.unflatten_dict(flat, sep="/"), PolicySpec(**spec))
