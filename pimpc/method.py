"""What `pimpc.solve` asks of a method."""

import abc
import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int, PyTree

from pimpc.problem import LTVProblem
from pimpc.residuals import Multipliers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a method found for one problem; `pimpc.solve` judges it."""

    u: Float[Array, "N nu"]
    multipliers: Multipliers
    iterations: Int[Array, ""]
    infeasible: Bool[Array, ""]  # the method holds a certificate that no inputs satisfy the constraints
    state: PyTree  # from which the next solve may start


class Method(abc.ABC):
    """A solver with its settings. Methods are frozen dataclasses, hence hashable and static under `jax.jit`."""

    tolerance: float  # relative residual below which a plan counts as solved

    @abc.abstractmethod
    def cold_start(self, problem: LTVProblem) -> PyTree:
        """The state from which to start without a previous solution; finite for every problem."""

    @abc.abstractmethod
    def run(self, problem: LTVProblem, state: PyTree | None, runnable: Bool[Array, ""]) -> Outcome:
        """Iterates on one problem without a `horizon`, and not at all where `runnable` is false.

        Without a `state` it starts cold.
        """
