"""The learner: Brax's PPO assembled for batched environments, with checkpoints that resume and runs that report."""

from learning.config import PPOConfig, RunConfig
from learning.health import NonFiniteError
from learning.networks import AgentParams, make_networks
from learning.ppo import Learner, TrainState
from learning.rollout import rollout_step, unroll

__all__ = [
    "AgentParams",
    "Learner",
    "NonFiniteError",
    "PPOConfig",
    "RunConfig",
    "TrainState",
    "make_networks",
    "rollout_step",
    "unroll",
]
