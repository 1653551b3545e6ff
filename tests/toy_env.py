"""A batched, auto-resetting point mass in the shape that the learner asks of an environment."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class State:
    pipeline_state: Any
    obs: Any
    reward: Any
    done: Any
    metrics: Any
    info: Any


@dataclasses.dataclass(frozen=True)
class PointMass:
    """A mass on a line is pushed to the origin; leaving |x| < 3 ends the episode, and so does its time.

    A curriculum widens the start positions each time an episode ends by its time-out. For tests to tamper with,
    `info["bonus"]` is added to the reward, and `info["load"]` is a term of it that doubles with every step.
    """

    episode_length: int = 50
    dt: float = 0.1
    random_first_phase: bool = True

    @property
    def observation_size(self):
        return {"state": 2, "privileged_state": 3}

    @property
    def action_size(self):
        return 1

    def _obs(self, pipeline):
        x, v = pipeline["x"], pipeline["v"]
        state = jnp.stack([x, v], axis=-1)
        return {"state": state, "privileged_state": jnp.concatenate([state, jnp.abs(x)[:, None]], axis=-1)}

    def _start(self, keys, level):
        draws = jax.vmap(lambda k: jax.random.uniform(k, (2,), minval=-1.0, maxval=1.0))(keys)
        return {"x": draws[:, 0] * (1.0 + level), "v": 0.5 * draws[:, 1]}

    def reset(self, keys):
        n = keys.shape[0]
        level = jnp.zeros(n)
        pipeline = self._start(keys, level)
        steps = jax.vmap(lambda k: jax.random.randint(jax.random.fold_in(k, 1), (), 0, self.episode_length))(keys)
        obs = self._obs(pipeline)
        zeros = jnp.zeros(n)
        info = {
            "key": keys,
            "level": level,
            "steps": steps * self.random_first_phase,
            "bonus": zeros,
            "load": zeros,
            "truncation": zeros,
            "final_obs": obs,
        }
        return State(
            pipeline, obs, zeros, zeros, dict.fromkeys(("distance", "far", "reward/effort", "reward/load"), zeros), info
        )

    def step(self, state, action):
        force = jnp.clip(action[:, 0], -3.0, 3.0)
        v = state.pipeline_state["v"] + self.dt * force
        x = state.pipeline_state["x"] + self.dt * v
        steps = state.info["steps"] + 1
        fell = jnp.abs(x) > 3.0
        done = fell | (steps >= self.episode_length)
        timed_out = done & ~fell
        reached = {"x": x, "v": v}
        final_obs = self._obs(reached)
        effort = -0.01 * force**2
        level = jnp.where(timed_out, jnp.minimum(state.info["level"] + 0.1, 1.0), state.info["level"])
        keys = jax.vmap(jax.random.split)(state.info["key"])
        fresh = self._start(keys[:, 0], level)
        pipeline = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, reached)
        info = {
            "key": keys[:, 1],
            "level": level,
            "steps": jnp.where(done, 0, steps),
            "bonus": state.info["bonus"],
            "load": 2.0 * state.info["load"],
            "truncation": timed_out.astype(jnp.float32),
            "final_obs": final_obs,
        }
        reward = jnp.exp(-(x**2)) + effort + state.info["bonus"] + info["load"]
        metrics = {"distance": jnp.abs(x), "reward/effort": effort, "reward/load": info["load"]}
        metrics["far"] = (jnp.abs(x) > 1.0).astype(jnp.float32)
        return State(pipeline, self._obs(pipeline), reward, done.astype(jnp.float32), metrics, info)


class Ladder:
    """Rewards do not depend on actions: x = −1 at the start and 1 ever after, and the reward is x before the step.

    It never fails; episodes are cut after four steps. Hence V(1) = 1 / (1 − γ) and V(−1) = −1 + γ V(1), whereas taking
    the cut for an end, or bootstrapping from the observation after the reset, gives much less.
    """

    action_size = 1

    @property
    def observation_size(self):
        return {"state": 1, "privileged_state": 1}

    def reset(self, keys):
        n = keys.shape[0]
        obs = dict.fromkeys(self.observation_size, -jnp.ones((n, 1)))
        steps = jnp.arange(n) % 4  # out of phase, or whole unrolls would see the same steps
        info = {"truncation": jnp.zeros(n), "final_obs": obs, "steps": steps}
        return State(-jnp.ones(n), obs, jnp.zeros(n), jnp.zeros(n), {}, info)

    def step(self, state, action):
        del action
        steps = state.info["steps"] + 1
        cut = steps >= 4
        x = jnp.where(cut, -1.0, 1.0)
        obs = dict.fromkeys(self.observation_size, x[:, None])
        final_obs = dict.fromkeys(self.observation_size, jnp.ones_like(x)[:, None])
        done = cut.astype(jnp.float32)
        info = {"truncation": done, "final_obs": final_obs, "steps": jnp.where(cut, 0, steps)}
        return State(x, obs, state.pipeline_state, done, {}, info)
