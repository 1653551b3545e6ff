"""The environment state, in the functional shape and with the field names of Brax."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

Observation = dict[str, Float[Array, "B _"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A batch of B environments after a step; every leaf has the leading axis B.

    `obs` holds `state` (the actor's, noisy) and `privileged_state` (the critic's). `info["final_obs"]` is the
    observation of the state that the step reached, before an ended episode was replaced by a fresh one: it equals `obs`
    where `done` is 0, and it is what a time-out (`info["truncation"]`) bootstraps from.
    """

    pipeline_state: Any
    obs: Observation
    reward: Float[Array, " B"]
    done: Float[Array, " B"]
    metrics: dict[str, Float[Array, " B"]]
    info: dict[str, Any]

    def replace(self, **changes: Any) -> State:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
