"""What a training run is made of: the algorithm (`PPOConfig`) and its bookkeeping (`RunConfig`)."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimization with the settings of MPC-RL (section on training; the same as rsl_rl's defaults).

    One iteration takes `num_envs · unroll_length` samples and makes `num_epochs · num_minibatches` gradient steps.
    """

    num_envs: int = 4096  # environments stepped in parallel
    unroll_length: int = 24  # control steps per environment and iteration
    num_epochs: int = 5  # passes over the samples of an iteration
    num_minibatches: int = 4  # gradient steps per pass; each takes whole unrolls of num_envs / num_minibatches envs
    discount: float = 0.99  # γ per control step
    gae_lambda: float = 0.95  # λ of the generalized advantage estimate
    clip: float = 0.2  # ε of the probability ratio
    value_clip: float | None = 0.2  # change of a value, in units of return, that one iteration rewards; None: no limit
    value_cost: float = 1.0  # weight of ½ (V − V_target)²
    entropy_cost: float = 0.01  # weight of the policy's entropy, per nat
    learning_rate: float = 1e-3  # of Adam, at the start
    value_learning_rate: float | None = None  # of the critic, constant, as its steps move no policy; None: as the actor
    learning_rate_min: float = 1e-5  # bounds of the adaptive learning rate
    learning_rate_max: float = 1e-2
    learning_rate_factor: float = 1.5  # the learning rate is divided or multiplied by this
    target_kl: float = 0.01  # nats; above twice this the learning rate falls, below half of it it rises
    max_grad_norm: float = 1.0  # global norm to which a gradient is clipped
    policy_hidden: tuple[int, ...] = (512, 256, 128)  # units per hidden layer, ELU
    value_hidden: tuple[int, ...] = (512, 256, 128)
    bfloat16: bool = False  # hidden layers in bfloat16; the last ones, losses and all that is kept stay in float32
    double_buffer: bool = False  # on a GPU, two turns of a loop become one: less is copied, compiling takes longer
    init_std: float = 1.0  # standard deviation of the first actions, in units of the action
    min_std: float = 0.01  # bounds that the learned standard deviation cannot leave
    max_std: float = 10.0
    mean_init_scale: float = 0.01  # variance scale of the last policy layer at the start: first mean actions are ≈ 0
    normalize_observations: bool = True  # by running mean and standard deviation
    normalizer_epsilon: float = 1e-4  # added to the variance: a constant observation is scaled by 100 at most
    mirror: bool = False  # learn from the mirror image of every sample too; the environment says what that is
    policy_obs_key: str = "state"  # what the actor sees
    value_obs_key: str = "privileged_state"  # what the critic sees
    seed: int = 0  # of everything random: weights, environments, actions, minibatches

    def __post_init__(self) -> None:
        """Rejects settings with which no iteration can run."""
        for name in ("num_envs", "unroll_length", "num_epochs", "num_minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"PPOConfig.{name} must be at least 1, got {getattr(self, name)}.")
        if self.num_envs % self.num_minibatches:
            raise ValueError(
                f"PPOConfig.num_envs ({self.num_envs}) must be a multiple of num_minibatches ({self.num_minibatches})."
            )
        if not 0 < self.min_std <= self.init_std <= self.max_std:
            raise ValueError(
                "PPOConfig needs 0 < min_std ≤ init_std ≤ max_std, got "
                f"{self.min_std}, {self.init_std}, {self.max_std}."
            )
        if not 0 < self.learning_rate_min <= self.learning_rate <= self.learning_rate_max:
            raise ValueError(
                "PPOConfig needs 0 < learning_rate_min ≤ learning_rate ≤ learning_rate_max, got "
                f"{self.learning_rate_min}, {self.learning_rate}, {self.learning_rate_max}."
            )
        if self.value_learning_rate is not None and self.value_learning_rate <= 0:
            raise ValueError(f"PPOConfig.value_learning_rate must be positive, got {self.value_learning_rate}.")

    @property
    def samples_per_iteration(self) -> int:
        """Environment steps taken by one iteration."""
        return self.num_envs * self.unroll_length


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """When a run stops, and what it leaves behind."""

    total_env_steps: int = 200_000_000  # stop after this many environment steps in all, resumed ones included
    max_minutes: float | None = None  # stop after this wall-clock time of this process, compilation included
    checkpoint_minutes: float = 5.0  # wall-clock time between checkpoints
    checkpoint_iterations: int | None = None  # save every so many iterations as well; makes saving reproducible
    keep_checkpoints: int = 3  # the newest ones that stay on disk
    log_iterations: int = 1  # iterations between rows of the metrics
    progress_seconds: float = 10.0  # between progress lines where the output is not a terminal
