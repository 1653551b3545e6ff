"""What the learner asks of an environment, and the check that says in one sentence what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

RESERVED = ("train/", "loss/", "policy/", "perf/", "eval/")  # metric prefixes that belong to the learner


class EnvState(Protocol):
    """A batch of B environments; every leaf has the leading axis B."""

    @property
    def obs(self) -> dict[str, Float[Array, "B _"]]:
        """Observations by name."""
        ...

    @property
    def reward(self) -> Float[Array, " B"]:
        """Reward of the last step."""
        ...

    @property
    def done(self) -> Float[Array, " B"]:
        """1 where the last step ended the episode, by a failure or a time-out."""
        ...

    @property
    def metrics(self) -> dict[str, Float[Array, " B"]]:
        """Values of the last step, to be averaged."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """Holds `truncation` (B,) and `final_obs` (like `obs`)."""
        ...


class Mirror(Protocol):
    """Exchanges left and right; twice is nothing."""

    def observation(self, obs: dict[str, Float[Array, "*batch _"]]) -> dict[str, Float[Array, "*batch _"]]:
        """Reflects every observation."""
        ...

    @property
    def action(self) -> Callable[[Float[Array, "*batch nu"]], Float[Array, "*batch nu"]]:
        """Reflects an action."""
        ...


class Env(Protocol):
    """A batched environment that resets its ended episodes by itself.

    It may also have `failure_metrics`, names of metrics that are 0 or 1 (see `learning.progress.Failures`), and
    `replay_inputs` (see `learning.replay`).
    """

    @property
    def observation_size(self) -> Mapping[str, int]:
        """Entries of each observation."""
        ...

    @property
    def action_size(self) -> int:
        """Entries of an action."""
        ...

    def reset(self, keys: UInt32[Array, "B 2"]) -> Any:
        """Starts one episode per key."""
        ...

    def step(self, state: Any, action: Float[Array, "B nu"]) -> Any:
        """Advances every environment by one control step."""
        ...


def _named_leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_fields(state: Any, observation_size: Mapping[str, int], num_envs: int) -> None:
    for name in ("truncation", "final_obs"):
        if name not in state.info:
            raise ValueError(f"The environment's state.info lacks {name!r}, which time-outs are bootstrapped from.")
    for where, obs in (("state.obs", state.obs), ("state.info['final_obs']", state.info["final_obs"])):
        for key, size in observation_size.items():
            if key not in obs:
                raise ValueError(f"The environment's {where} lacks {key!r}; it holds {sorted(obs)}.")
            if obs[key].shape != (num_envs, size):
                raise ValueError(
                    f"The environment's {where}[{key!r}] has the shape {obs[key].shape}, "
                    f"not ({num_envs}, {size}) as observation_size says."
                )
    for key in state.metrics:
        if key.startswith(RESERVED):
            raise ValueError(f"The environment's metric {key!r} uses a prefix of the learner: {', '.join(RESERVED)}.")
    for name, leaf in _named_leaves(state).items():
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"The environment's state{name} is a typed random key; keep raw (B, 2) keys, as it is saved."
            )
        if leaf.shape[:1] != (num_envs,):
            raise ValueError(
                f"The environment's state{name} has the shape {leaf.shape}; every leaf needs the leading axis "
                f"{num_envs} (the environments)."
            )


def check_env_states(reset: Any, step: Any, observation_size: Mapping[str, int], num_envs: int) -> None:
    """Checks the shapes that `env.reset` and `env.step` return, before anything is compiled.

    Args:
        reset: State returned by `env.reset`, as arrays or as `jax.ShapeDtypeStruct`.
        step: State returned by `env.step` from it.
        observation_size: What the environment announces.
        num_envs: Size B of the batch.

    Raises:
        ValueError: If something of the contract in `Env` is missing, in one sentence.
    """
    _check_fields(reset, observation_size, num_envs)
    before, after = _named_leaves(reset), _named_leaves(step)
    if before.keys() != after.keys():
        odd = ", ".join(sorted(before.keys() ^ after.keys()))
        raise ValueError(f"env.reset and env.step return states of different structure; not in both: {odd}.")
    for name, leaf in before.items():
        if (leaf.shape, leaf.dtype) != (after[name].shape, after[name].dtype):
            raise ValueError(
                f"env.step changes state{name} from {leaf.dtype}{list(leaf.shape)} to "
                f"{after[name].dtype}{list(after[name].shape)}."
            )


@jax.jit
def _stacked(scalars: list[Array]) -> Float[Array, " n"]:
    return jnp.stack([jnp.asarray(x, jnp.float32) for x in scalars])


def fetch_scalars(tree: Any) -> Any:
    """The same tree with its scalars as numpy floats, brought to the host in one transfer instead of one for each.

    Integers and truth values come back as floats, exact up to 2^24. Arrays stay where they are.
    """
    leaves, structure = jax.tree.flatten(tree)
    scalars = iter(np.asarray(_stacked([x for x in leaves if not np.ndim(x)])))
    return jax.tree.unflatten(structure, [x if np.ndim(x) else next(scalars) for x in leaves])


def strip_weak_types(tree: Any) -> Any:
    """The same arrays with types that Python scalars do not promote, so that a step has the type of a reset."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.asarray(x).dtype), tree)
