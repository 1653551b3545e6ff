"""Batched model predictive control: one problem, several methods, an honest answer for each instance."""

from pimpc.condensed import CondensedADMM
from pimpc.pi_admm import PiADMM
from pimpc.problem import LTVProblem
from pimpc.residuals import kkt_residuals
from pimpc.solution import Solution, Status
from pimpc.solve import solve
from pimpc.validation import validate

__all__ = ["CondensedADMM", "LTVProblem", "PiADMM", "Solution", "Status", "kkt_residuals", "solve", "validate"]
