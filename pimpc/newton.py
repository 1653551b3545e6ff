"""The Newton steps of one problem: by recursions over its stages, or with its states eliminated."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from pimpc import condensing, riccati, rows
from pimpc.choice import Kernels
from pimpc.constraints import unflatten
from pimpc.problem import LTVProblem
from pimpc.residuals import fixed_inputs, newton_steps

Slope = tuple[Float[Array, "N nx"], Float[Array, "N nu"]]


class Newton:
    """What the steps of one problem have in common."""

    def __init__(self, problem: LTVProblem, kernels: Kernels) -> None:
        """Chooses a way, and eliminates the states if that is it.

        Args:
            problem: One problem without a `horizon`.
            kernels: `"condensed"`: the states are eliminated; `"auto"`: if that is faster; all others: recursions.

        Raises:
            ValueError: If the states are to be eliminated and have bounds.
        """
        self._problem, self._free = problem, ~fixed_inputs(problem)
        self._kernels: Kernels = kernels
        condenses = kernels == "condensed" or (kernels == "auto" and condensing.pays(problem))
        self._condensed = condensing.condense(problem, self._free) if condenses else None

    def unconstrained(self, slopes: list[Slope]) -> list[riccati.Step]:
        """As `pimpc.residuals.newton_steps`."""
        if self._condensed is None:
            return newton_steps(self._problem, slopes, self._kernels)
        factors = condensing.factorize(self._condensed)
        return [condensing.minimize(factors, l_x, jnp.where(self._free, l_u, 0)) for l_x, l_u in slopes]

    def factorize(self, D: Float[Array, " M"]) -> Callable[[Array, Array], riccati.Step]:
        """Factorizes the Hessian + Cᵀ D C; returns what minimizes it with linear terms (l_x, l_u)."""
        if self._condensed is None:
            recursions = rows.factorize(self._problem, D, self._kernels)
            return lambda l_x, l_u: riccati.minimize(recursions, l_x, jnp.where(self._free, l_u, 0))
        on = unflatten(self._problem, D)
        factors = condensing.factorize(self._condensed, on.rows, on.inputs)
        return lambda l_x, l_u: condensing.minimize(factors, l_x, jnp.where(self._free, l_u, 0))
