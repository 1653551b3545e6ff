"""Reward terms as pure functions of a context, and the papers' weighted tables."""

from rewards.context import Context, Guidance
from rewards.tables import (
    BASE_RL,
    MPC_GUIDANCE,
    NO_BASE,
    NO_GUIDANCE,
    BaseWeights,
    GuidanceWeights,
    RegularizationWeights,
    Tables,
    evaluate,
    guidance_terms,
    weighted_terms,
)

__all__ = [
    "BASE_RL",
    "MPC_GUIDANCE",
    "NO_BASE",
    "NO_GUIDANCE",
    "BaseWeights",
    "Context",
    "Guidance",
    "GuidanceWeights",
    "RegularizationWeights",
    "Tables",
    "evaluate",
    "guidance_terms",
    "weighted_terms",
]
