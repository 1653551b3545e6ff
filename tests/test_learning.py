"""The learner: it learns, it resumes exactly, and it fails by name."""

import jax
import pytest
from toy_env import PointMass

from learning import Learner, PPOConfig
from learning.health import raise_if_not_finite

SMALL = PPOConfig(num_envs=128, policy_hidden=(32, 32), value_hidden=(32, 32))


@pytest.fixture(scope="module")
def learner():
    return Learner(PointMass(), SMALL)


def test_it_learns(learner):
    state = learner.init()
    rewards = []
    for i in range(60):
        state, metrics, health = learner.iterate(state)
        raise_if_not_finite(jax.device_get(health), i, SMALL.num_envs)
        rewards.append(float(metrics["train/reward"]))
    assert sum(rewards[:2]) / 2 < 0.8
    assert sum(rewards[-5:]) / 5 > 0.85
