"""The one entry point: solve a problem with a method, and judge the answer independently of the method."""

from typing import Any

from pimpc.problem import LTVProblem
from pimpc.solution import Solution


def solve(problem: LTVProblem, method: Any = None, warm_start: Any = None) -> Solution:
    """Solves one problem; use `jax.vmap` for a batch (under construction)."""
    raise NotImplementedError("The methods are not written yet.")
