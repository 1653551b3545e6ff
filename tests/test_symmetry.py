"""A robot and its mirror image: reflected observations are the observations of the reflected robot."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from toy_env import PointMass

from envs import observations, symmetry, velocity
from envs.config import VelocityConfig
from envs.physics import PhysicsState, nominal_params
from envs.robots import compile_robot, get_robot
from learning import Learner, PPOConfig
from learning.update import with_mirror_images


@pytest.fixture(scope="module")
def env():
    return velocity.make(VelocityConfig(backend="jax"))


def reflected(env, qpos, qvel):
    """The state of the mirror image of a robot, in the world's plane y = 0."""
    robot, joints = env.robot, env.mirror.action
    vector, axial = np.array(symmetry.VECTOR), np.array(symmetry.AXIAL)
    q, v = qpos.copy(), qvel.copy()
    q[:3], q[4:7] = vector * qpos[:3], axial * qpos[4:7]
    v[:3], v[3:6] = vector * qvel[:3], axial * qvel[3:6]
    q[robot.qpos_adr] = np.asarray(joints(jnp.asarray(qpos[robot.qpos_adr])))
    v[robot.dof_adr] = np.asarray(joints(jnp.asarray(qvel[robot.dof_adr])))
    return q, v


def random_state(env, rng):
    qpos = env.robot.default_qpos + 0.1 * rng.standard_normal(env.robot.mj_model.nq)
    qpos[3:7] /= np.linalg.norm(qpos[3:7])
    return qpos, rng.standard_normal(env.robot.mj_model.nv)


def test_twice_reflected_is_unchanged(env):
    for swap in (env.mirror.action, *env.mirror.observations.values()):
        x = jnp.asarray(np.random.default_rng(0).standard_normal(len(swap.sign)), jnp.float32)
        np.testing.assert_array_equal(swap(swap(x)), x)
        assert not np.array_equal(swap(x), x)


def test_left_and_right_change_places_and_the_waist_stays(env):
    names, (index, sign) = env.robot.joint_names, env.mirror.action
    for i, name in enumerate(names):
        assert names[index[i]] == name.replace("left", "?").replace("right", "left").replace("?", "right")
        assert sign[i] == (1 if "pitch" in name or "knee" in name or "elbow" in name else -1)


def test_reflected_observations_are_those_of_the_mirror_image(env):
    rng, robot = np.random.default_rng(1), env.robot
    state = random_state(env, rng)
    action, command = rng.standard_normal(robot.num_joints), rng.standard_normal(3)
    force, contact, targets = rng.standard_normal((2, 3)), rng.random(2), rng.standard_normal(9)
    vector, axial = np.array(symmetry.VECTOR), np.array(symmetry.AXIAL)

    def observe(state, action, command, phase, contact, force, targets):
        physics = PhysicsState(*(jnp.asarray(v, jnp.float32) for v in (*state, np.zeros_like(state[1]))))
        kin = env.one.kinematics(nominal_params(robot), physics)
        actor = env.one.proprioception(kin, physics, jnp.zeros(robot.num_joints), action, command, phase)
        return {
            "state": actor,
            "privileged_state": observations.privileged(actor, kin, contact, force, targets, jnp.float32(robot.mass)),
        }

    seen = observe(state, action, command, 0.2, contact, force, targets)
    image = observe(
        reflected(env, *state),
        np.asarray(env.mirror.action(jnp.asarray(action))),
        command * [1, -1, -1],
        0.7,
        contact[::-1],
        force[::-1] * vector,
        np.concatenate([targets[:3] * vector, targets[3:6] * vector, targets[6:] * axial]),
    )
    for name, expected in env.mirror.observation(seen).items():
        np.testing.assert_allclose(expected, image[name], atol=2e-3, err_msg=name)  # G1's own asymmetry: 1 mm
        assert np.abs(np.asarray(seen[name]) - image[name]).max() > 0.5


def test_physics_has_the_symmetry(env):
    model, robot = env.robot.mj_model, env.robot
    rng = np.random.default_rng(2)
    start = robot.default_qpos.copy(), np.zeros(model.nv)
    data = [mujoco.MjData(model) for _ in range(2)]
    for one, (qpos, qvel) in zip(data, (start, reflected(env, *start)), strict=True):
        one.qpos[:], one.qvel[:] = qpos, qvel
    for _ in range(40):  # 0.2 s on both feet
        ctrl = robot.default_joint_pos + 0.3 * rng.standard_normal(robot.num_joints)
        data[0].ctrl[:], data[1].ctrl[:] = ctrl, np.asarray(env.mirror.action(jnp.asarray(ctrl)))
        for one in data:
            mujoco.mj_step(model, one)
    q, _ = reflected(env, data[0].qpos, data[0].qvel)
    assert np.abs(data[0].qpos - start[0]).max() > 0.1
    np.testing.assert_allclose(data[1].qpos, q, atol=0.01)


def test_a_robot_that_is_not_symmetric_is_named():
    robot = get_robot("g1")
    odd = dataclasses.replace(robot, default_pose=(("left_elbow_joint", 0.1), *robot.default_pose))
    with pytest.raises(
        ValueError, match=r"'g1' is not its own mirror image in the default position of '.*_elbow_joint'"
    ):
        symmetry.mirror(compile_robot(odd))


class Lopsided(PointMass):
    """A point mass without a reflection of its own."""

    @property
    def mirror(self):
        raise ValueError("It is not its own mirror image.")


class Sided(PointMass):
    """The point mass, and its reflection."""

    mirror = symmetry.Mirror(
        symmetry.Swap(np.arange(1), -np.ones(1)),
        {
            "state": symmetry.Swap(np.arange(2), -np.ones(2)),
            "privileged_state": symmetry.Swap(np.arange(3), np.array([-1.0, -1.0, 1.0])),
        },
    )


SMALL = PPOConfig(
    num_envs=16, unroll_length=8, num_minibatches=2, num_epochs=2, policy_hidden=(16,), value_hidden=(16,), mirror=True
)


def test_images_are_as_likely_as_their_originals_or_likelier():
    learner = Learner(Sided(), SMALL)
    state = learner.init()
    _, transition = learner._step(state.agent, state.env_state, jax.random.PRNGKey(0))
    one = jax.tree.map(lambda x: x[None], transition)
    both = with_mirror_images(one, Sided.mirror, state.agent, learner.networks)
    extras = both.extras["policy_extras"]
    np.testing.assert_array_equal(extras["raw_action"][:, 16:], -extras["raw_action"][:, :16])
    np.testing.assert_array_equal(both.reward[:, 16:], both.reward[:, :16])
    logits = learner.networks.policy_network.apply(state.normalizer, state.weights.policy, both.observation)
    log_prob = learner.networks.parametric_action_distribution.log_prob(logits, extras["raw_action"])
    np.testing.assert_allclose(extras["distribution_params"], logits, rtol=1e-5)
    likelier = np.maximum(log_prob[:, 16:], log_prob[:, :16])
    np.testing.assert_allclose(extras["log_prob"], np.concatenate([log_prob[:, :16], likelier], axis=1), rtol=1e-5)


def test_images_that_the_policy_would_never_draw_keep_the_loss_finite():
    learner = Learner(Sided(), SMALL)
    state = learner.init()
    far = jax.tree.map(lambda x: x, state.weights.policy)
    far = jax.tree.map_with_path(lambda path, x: x + 50.0 if "bias" in jax.tree_util.keystr(path) else x, far)
    odd = state.replace(weights=state.weights.replace(policy=far))  # far to one side wherever it is
    after, metrics, _ = learner.iterate(odd)
    assert np.isfinite(metrics["loss/total"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.weights))


def test_a_policy_that_learns_from_its_images_becomes_symmetric():
    def oddness(mirror):
        learner = Learner(Sided(), dataclasses.replace(SMALL, num_envs=64, mirror=mirror))
        state = learner.init()
        for _ in range(30):
            state, _, _ = learner.iterate(state)
        x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (64, 2)), jnp.float32)

        def mean(x):
            obs = {"state": x, "privileged_state": jnp.zeros((64, 3))}
            logits = learner.networks.policy_network.apply(state.normalizer, state.weights.policy, obs)
            return learner.networks.parametric_action_distribution.mode(logits)

        return float(jnp.abs(mean(x) + mean(-x)).mean() / jnp.abs(mean(x)).mean())

    assert oddness(True) < 0.5 * oddness(False)


def test_an_environment_without_an_image_is_told_so():
    with pytest.raises(ValueError, match="says what its mirror image is"):
        Learner(PointMass(), SMALL)
    with pytest.raises(ValueError, match="Learn without mirror images then"):
        Learner(Lopsided(), SMALL)
