"""Gains from effective inertia: closed forms, the mass matrix of C MuJoCo, and what the robots make of them."""

import dataclasses

import mujoco
import numpy as np
import pytest

from bridge import gains as report
from bridge.__main__ import main
from envs.robots import G1, THEMIS, JointGroup, compile_robot, gains

# A rod of 1.2 kg with its centre 0.3 m from a horizontal hinge, in free space.
PENDULUM = """<mujoco><option gravity="0 0 0" timestep="0.0002" integrator="implicitfast"/><worldbody><body>
<joint name="hinge" axis="0 1 0" armature="0.05"/>
<inertial pos="0 0 -0.3" mass="1.2" diaginertia="0.02 0.03 0.01"/></body></worldbody>
<actuator><position name="hinge" joint="hinge" kp="1" kv="1"/></actuator></mujoco>"""
PENDULUM_INERTIA = 0.03 + 1.2 * 0.3**2 + 0.05  # kg m², about the hinge, armature once


@pytest.fixture(scope="module", params=[G1, THEMIS], ids=["g1", "themis"])
def robot(request):
    return compile_robot(request.param)


def test_the_effective_inertia_of_one_joint_is_the_parallel_axis_theorem():
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    found = gains.effective_inertia(model, np.array([0.7]), np.array([0]))
    np.testing.assert_allclose(found, PENDULUM_INERTIA, rtol=1e-12)


@pytest.mark.parametrize(("hertz", "ratio"), [(2.0, 0.3), (1.5, 1.0), (3.0, 2.0)])
def test_a_joint_with_these_gains_answers_as_the_closed_form_says(hertz, ratio):
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    data = mujoco.MjData(model)
    omega = 2 * np.pi * hertz
    kp, kd = gains.stiffness(PENDULUM_INERTIA, omega), gains.damping(PENDULUM_INERTIA, omega, ratio)
    model.actuator_gainprm[0, 0] = kp
    model.actuator_biasprm[0, 1:3] = -kp, -kd
    data.ctrl[0] = 0.1
    path = []
    for _ in range(5000):
        mujoco.mj_step(model, data)
        path.append((data.time, data.qpos[0]))
    time, q = np.array(path).T
    np.testing.assert_allclose(q, 0.1 * gains.step_response(time, omega, ratio), atol=2e-4)
    np.testing.assert_allclose(gains.natural_frequency(kp, np.array(PENDULUM_INERTIA)), omega)
    np.testing.assert_allclose(gains.damping_ratio(kp, kd, np.array(PENDULUM_INERTIA)), ratio)


def test_the_effective_inertia_is_the_torque_of_a_unit_acceleration(robot):
    """By C MuJoCo's inverse dynamics, which does not form the mass matrix."""
    model = robot.mj_model
    data = mujoco.MjData(model)
    found = gains.effective_inertia(model, robot.default_qpos, robot.dof_adr)
    model.opt.gravity[:] = 0.0
    for i, dof in enumerate(robot.dof_adr):
        data.qpos[:], data.qvel[:], data.qacc[:] = robot.default_qpos, 0.0, 0.0
        data.qpos[2] += 1.0  # off the floor
        data.qacc[dof] = 1.0
        mujoco.mj_inverse(model, data)
        np.testing.assert_allclose(found[i], data.qfrc_inverse[dof], rtol=1e-6)
    model.opt.gravity[2] = -9.81
    assert (found > robot.armature).all()


def test_groups_may_ask_for_a_natural_frequency_of_the_effective_inertia():
    figures = [dataclasses.replace(g, inertia="effective", frequency=9.0, damping_ratio=0.7) for g in G1.joint_groups]
    robot = compile_robot(dataclasses.replace(G1, joint_groups=tuple(figures)))
    inertia = gains.effective_inertia(robot.mj_model, robot.default_qpos, robot.dof_adr)
    np.testing.assert_allclose(gains.natural_frequency(robot.kp, inertia), 9.0)
    np.testing.assert_allclose(gains.damping_ratio(robot.kp, robot.kd, inertia), 0.7)
    np.testing.assert_allclose(robot.mj_model.actuator_gainprm[:, 0], robot.kp)  # what the servos of the env have
    np.testing.assert_allclose(robot.action_scale * robot.kp, 0.25 * robot.effort)


def test_the_robots_that_ship_keep_their_gains():
    """A policy was trained with them."""
    g1, themis = compile_robot(G1), compile_robot(THEMIS)
    np.testing.assert_allclose(g1.kp, g1.armature * (2 * np.pi * 10.0) ** 2)
    np.testing.assert_allclose(themis.kp[:3], 35.0)


@pytest.mark.parametrize(
    "figures",
    [{}, {"kp": 1.0}, {"kp": 1.0, "kd": 1.0, "frequency": 1.0}, {"frequency": 1.0}, {"kd": 1.0, "frequency": 1.0}],
)
def test_a_group_gives_its_gains_in_one_way(figures):
    with pytest.raises(ValueError, match="give either kp and kd, or frequency and damping_ratio"):
        JointGroup("knee", effort=1.0, armature=1.0, **figures)


def test_the_report_compares_what_it_says(robot):
    found = report.report(robot, frequency=2.0, ratio=0.8)
    np.testing.assert_allclose(found.by_effective.frequency, 2.0)
    np.testing.assert_allclose(found.by_effective.damping_ratio, 0.8)
    # Tuned for the rotor alone, every joint is slower and less damped than asked for, by the same factor.
    share = np.sqrt(found.armature / found.effective)
    np.testing.assert_allclose(found.by_armature.frequency, 2.0 * share)
    np.testing.assert_allclose(found.by_armature.damping_ratio, 0.8 * share)
    np.testing.assert_array_equal(found.own.kp, robot.kp)
    np.testing.assert_allclose(found.own.saturation * robot.kp, robot.effort)


def test_by_default_each_group_keeps_its_frequency(robot):
    found = report.report(robot)
    if robot.robot is G1:
        np.testing.assert_allclose(found.wanted_frequency, 10.0)
        np.testing.assert_allclose(found.by_armature.kp, robot.kp)
    else:
        hips = [i for i, name in enumerate(robot.joint_names) if "hip_pitch" in name or "knee" in name]
        np.testing.assert_allclose(found.wanted_frequency[hips], np.median(found.own.frequency[hips]))


def test_the_command_prints_a_line_a_joint_and_draws(tmp_path, capsys):
    plot = tmp_path / "gains.png"
    assert main(["gains", "themis", "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in compile_robot(THEMIS).joint_names)
    assert plot.stat().st_size > 10_000
