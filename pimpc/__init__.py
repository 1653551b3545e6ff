"""Batched model predictive control on accelerators: one problem, several methods, an honest answer for each instance."""

from pimpc.problem import LTVProblem
from pimpc.solution import Solution, Status
from pimpc.solve import solve

__all__ = ["LTVProblem", "Solution", "Status", "solve"]
