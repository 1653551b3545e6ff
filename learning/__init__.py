"""The learner: Brax's PPO assembled for batched environments, with checkpoints that resume and runs that report."""

from learning.checkpoint import CheckpointError, LayoutError, restore
from learning.config import PPOConfig, RunConfig
from learning.evaluate import make_evaluator
from learning.health import NonFiniteError
from learning.networks import AgentParams, make_networks
from learning.policy import Policy, load_policy, make_policy, save_policy
from learning.ppo import Learner, TrainState
from learning.record import new_run_directory, plot_learning_curve
from learning.result import TrainResult
from learning.rollout import rollout_step, unroll
from learning.run import run_learner, train

__all__ = [
    "AgentParams",
    "CheckpointError",
    "LayoutError",
    "Learner",
    "NonFiniteError",
    "PPOConfig",
    "Policy",
    "RunConfig",
    "TrainResult",
    "TrainState",
    "load_policy",
    "make_evaluator",
    "make_networks",
    "make_policy",
    "new_run_directory",
    "plot_learning_curve",
    "restore",
    "rollout_step",
    "run_learner",
    "save_policy",
    "train",
    "unroll",
]
