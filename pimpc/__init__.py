"""Batched model predictive control: one problem, several methods, an honest answer for each instance."""

from pimpc.condensed import CondensedADMM
from pimpc.problem import LTVProblem
from pimpc.residuals import kkt_residuals
from pimpc.solution import Solution, Status
from pimpc.solve import solve

__all__ = ["CondensedADMM", "LTVProblem", "Solution", "Status", "kkt_residuals", "solve"]
