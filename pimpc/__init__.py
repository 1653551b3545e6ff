"""Batched model predictive control: one problem, several methods, an honest answer for each instance.

The solver stands by itself (`LTVProblem`, `solve`); the centroidal MPC of a biped is built on it (`build_problem`).
"""

from pimpc.centroidal import CentroidalConfig, build_problem, can_stand, reference_plan, to_plan
from pimpc.footholds import FootholdConfig
from pimpc.gait import GaitConfig
from pimpc.interior_point import InteriorPoint, WarmStart
from pimpc.pi_admm import PiADMM
from pimpc.plan import CentroidalModel, CentroidalState, ContactPlan, Plan
from pimpc.problem import LTVProblem, Structure
from pimpc.residuals import Multipliers, kkt_residuals
from pimpc.shift import shift
from pimpc.solution import Solution, Status
from pimpc.solve import solve
from pimpc.validation import validate

__all__ = [
    "CentroidalConfig",
    "CentroidalModel",
    "CentroidalState",
    "ContactPlan",
    "FootholdConfig",
    "GaitConfig",
    "InteriorPoint",
    "LTVProblem",
    "Multipliers",
    "PiADMM",
    "Plan",
    "Solution",
    "Status",
    "Structure",
    "WarmStart",
    "build_problem",
    "can_stand",
    "kkt_residuals",
    "reference_plan",
    "shift",
    "solve",
    "to_plan",
    "validate",
]
