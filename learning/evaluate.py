"""How well a policy does: whole episodes of its mean action, in one compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from learning.policy import Policy
from learning.types import Env, strip_weak_types

Evaluator = Callable[[Policy, UInt32[Array, " 2"]], dict[str, Float[Array, ""]]]


def make_evaluator(env: Env, num_episodes: int, max_steps: int) -> Evaluator:
    """Makes a jitted function that runs one episode in each of `num_episodes` environments.

    The loop ends with the last episode. Steps after an environment's first episode count for nothing, so that no
    episode counts twice and short ones weigh no more than long ones. Give an environment whose resets start episodes
    at their beginning: one that starts them at random phases, as training wants, is judged on what is left of them.

    Args:
        env: The batched environment.
        num_episodes: Size of the batch.
        max_steps: Steps after which episodes still running are cut off.

    Returns:
        A function `(policy, key) -> metrics`: `episode_return` and `episode_length` (mean over episodes), `fall_rate`
        (episodes that failed), `unfinished_rate` (episodes that were cut off), and every metric of the environment
        (mean over the counted steps).
    """

    def advance(policy: Policy, state: Any) -> Any:
        return strip_weak_types(env.step(state, policy(state.obs)))

    @jax.jit
    def evaluate(policy: Policy, key: UInt32[Array, " 2"]) -> dict[str, Float[Array, ""]]:
        state = strip_weak_types(env.reset(jax.random.split(key, num_episodes)))
        active = jnp.ones(num_episodes, bool)
        zeros = jnp.zeros(num_episodes)
        totals = (
            {"episode_return": zeros, "episode_length": zeros, "fall_rate": zeros},
            dict.fromkeys(state.metrics, zeros),
        )

        def running(carry: tuple[Any, Bool[Array, " B"], Any, Array]) -> Bool[Array, ""]:
            return jnp.any(carry[1]) & (carry[3] < max_steps)

        def body(carry: tuple[Any, Bool[Array, " B"], Any, Array]) -> tuple[Any, Bool[Array, " B"], Any, Array]:
            state, active, totals, step = carry
            state = advance(policy, state)
            fell = state.done * (1.0 - state.info["truncation"])
            episode = {"episode_return": state.reward, "episode_length": jnp.ones(num_episodes), "fall_rate": fell}
            terms = (episode, dict(state.metrics))
            totals = jax.tree.map(lambda total, term: total + jnp.where(active, term, 0.0), totals, terms)
            return state, active & (state.done == 0), totals, step + 1

        carry = (state, active, totals, jnp.zeros((), jnp.int32))
        _, active, (per_episode, per_step), _ = jax.lax.while_loop(running, body, carry)
        steps = jnp.sum(per_episode["episode_length"])
        return {
            **{name: jnp.sum(total) / steps for name, total in per_step.items()},
            **{name: jnp.mean(total) for name, total in per_episode.items()},
            "unfinished_rate": jnp.mean(active.astype(jnp.float32)),
        }

    return evaluate
