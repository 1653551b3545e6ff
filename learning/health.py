"""Detection of values that are not finite, on the device and by name, before they reach a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

REWARD_TERM = "reward/"  # prefix of the environment's metrics that are terms of the reward
_PRECEDENCE = ("action", "observation", "reward term", "reward")  # in which a bad number spreads within a step


@flax.struct.dataclass
class Culprit:
    """How often something was not finite in an unroll, and where first (meaningless if the count is 0)."""

    count: Int[Array, ""]
    env: Int[Array, ""]
    step: Int[Array, ""]


@flax.struct.dataclass
class Evidence:
    """The first environment that went bad in an unroll, as it was before that step; meaningless if `found` is not set.

    `state` (a batch of one) and `action` repeat the step: `env.step(state, action)`.
    """

    found: Bool[Array, " 1"]
    env: Int[Array, " 1"]
    step: Int[Array, " 1"]  # of the iteration, from 0
    state: Any  # leaves (1, …)
    action: Float[Array, "1 nu"]


@flax.struct.dataclass
class Health:
    """What one iteration found out about its own numbers."""

    rollout: dict[str, Culprit]
    learner_finite: dict[str, Bool[Array, ""]]
    std_within_bounds: Bool[Array, ""]
    std: dict[str, Float[Array, ""]]  # the policy's standard deviation after the iteration: least and largest
    evidence: Evidence


class NonFiniteError(RuntimeError):
    """NaN or infinity appeared in training.

    Attributes:
        what: The first thing that was not finite: "action", an observation or a reward term by name, "reward", "loss",
            "parameters" or "standard deviation".
        iteration: The iteration it appeared in, from 0.
        in_rollout: Whether it appeared in an environment, of which there is evidence then, or in the learning.
    """

    def __init__(self, what: str, iteration: int, detail: str, in_rollout: bool) -> None:
        super().__init__(f"Iteration {iteration}: {what} {detail}.")
        self.what = what
        self.iteration = iteration
        self.in_rollout = in_rollout


def by_precedence(names: Iterable[str]) -> list[str]:
    """Names of what can be bad in a step, causes before effects: policy, state, terms of the reward, their sum."""
    return sorted(names, key=lambda name: (_PRECEDENCE.index(name.split(" '")[0]), name))


def first_env(bad: Bool[Array, "K B"]) -> Int[Array, ""]:
    """The first environment of the first thing that was bad in a step, if anything was."""
    return jnp.argmax(bad[jnp.argmax(jnp.any(bad, axis=1))])


def watch(evidence: Evidence, bad: Bool[Array, "K B"], step: Int[Array, ""], state: Any, action: Array) -> Evidence:
    """Keeps the first bad environment of an unroll.

    By a condition: on a GPU its host asks in every step, which takes less than to copy a hundred arrays for nothing.

    Args:
        evidence: So far.
        bad: Where something was not finite in this step, causes before effects.
        step: Of the unroll.
        state: Of the environments, before the step.
        action: Applied in the step.
    """

    def take() -> Evidence:
        env = first_env(bad)
        row, taken = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, env, 1), (state, action))
        return Evidence(jnp.ones(1, bool), env[None], step[None], row, taken)

    return jax.lax.cond(jnp.any(bad) & ~evidence.found[0], take, lambda: evidence)


def no_evidence(state: Any, action: Any) -> Evidence:
    """What `watch` begins with.

    Args:
        state: Of the environments, as arrays or shapes.
        action: Likewise.
    """
    zero = jnp.zeros(1, jnp.int32)
    row, none = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), (state, action))
    return Evidence(jnp.zeros(1, bool), zero, zero, row, none)


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

    The learned standard deviation is checked too. It is learned as a logarithm and projected onto its bounds after each
    gradient step, so that it can only leave them as NaN, or by a mistake there.

    Args:
        health: Its scalars fetched from the device.
        iteration: For the message.
        num_envs: For the message.

    Raises:
        NonFiniteError: If anything was not finite, or the standard deviation is out of its bounds.
    """
    culprits: Mapping[str, Culprit] = {name: c for name, c in health.rollout.items() if int(c.count) > 0}
    if culprits:
        name = min(by_precedence(culprits), key=lambda name: int(culprits[name].step))
        c = culprits[name]
        where = (
            f"not finite in {int(c.count)} of {num_envs} environments "
            f"(first: environment {int(c.env)} at step {int(c.step)} of the iteration)"
        )
        raise NonFiniteError(name, iteration, where, in_rollout=True)
    for name, finite in health.learner_finite.items():
        if not bool(finite):
            after = "not finite after the gradient steps, though observations and rewards were"
            raise NonFiniteError(name, iteration, after, in_rollout=False)
    if not bool(health.std_within_bounds):
        least, largest = float(health.std["min"]), float(health.std["max"])
        outside = f"of the policy out of its bounds: between {least:g} and {largest:g} after the gradient steps"
        raise NonFiniteError("standard deviation", iteration, outside, in_rollout=False)
