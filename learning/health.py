"""Detection of values that are not finite, on the device and by name, before they reach a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree


@flax.struct.dataclass
class Culprit:
    """How often something was not finite in an unroll, and where first (meaningless if the count is 0)."""

    count: Int[Array, ""]
    env: Int[Array, ""]
    step: Int[Array, ""]


@flax.struct.dataclass
class Health:
    """What one iteration found out about its own numbers."""

    rollout: dict[str, Culprit]
    learner_finite: dict[str, Bool[Array, ""]]


class NonFiniteError(RuntimeError):
    """NaN or infinity appeared in training.

    Attributes:
        what: The first thing that was not finite: an observation by name, "reward", "loss" or "parameters".
        iteration: The iteration it appeared in, from 0.
    """

    def __init__(self, what: str, iteration: int, detail: str) -> None:
        super().__init__(f"Iteration {iteration}: {what} not finite{detail}.")
        self.what = what
        self.iteration = iteration


def locate(bad: Bool[Array, "T B"]) -> Culprit:
    """Counts the environments with a bad value, and finds the earliest step and its first environment."""
    step = jnp.argmax(jnp.any(bad, axis=1))
    return Culprit(count=jnp.sum(jnp.any(bad, axis=0)), env=jnp.argmax(bad[step]), step=step)


def tree_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every entry of every inexact leaf is finite."""
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array(leaves))


def raise_if_not_finite(health: Health, iteration: int, num_envs: int) -> None:
    """Raises for the first thing that was not finite, in the order in which trouble spreads.

    Args:
        health: Fetched from the device.
        iteration: For the message.
        num_envs: For the message.

    Raises:
        NonFiniteError: If anything was not finite.
    """
    culprits: Mapping[str, Culprit] = {name: c for name, c in health.rollout.items() if int(c.count) > 0}
    if culprits:
        # observations before the reward at equal steps: a reward is computed from the same state
        name = min(culprits, key=lambda name: (int(culprits[name].step), name == "reward"))
        c = culprits[name]
        where = f" in {int(c.count)} of {num_envs} environments (first: environment {int(c.env)} at step {int(c.step)})"
        raise NonFiniteError(name, iteration, where)
    for name, finite in health.learner_finite.items():
        if not bool(finite):
            raise NonFiniteError(name, iteration, " after the gradient steps, though observations and rewards were")
