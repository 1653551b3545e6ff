"""The G1 against its published figures, what is measured from a compiled robot, and robots defined elsewhere."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs.capsules import capsule_gaps
from envs.config import VelocityConfig
from envs.kinematics import kinematics
from envs.physics import nominal_params
from envs.robots import G1, JointGroup, PoseStd, Robot, RobotModel, compile_robot, get_robot
from learning.serialize import from_json, to_json

# Unitree's figures for the 29-joint G1 (revision 1.0), left side: lower and upper limit [rad], torque limit [N m],
# armature [kg m^2].
LEG = {
    "hip_pitch": (-2.5307, 2.8798, 88.0, 0.01017752),
    "hip_roll": (-0.5236, 2.9671, 139.0, 0.025101925),
    "hip_yaw": (-2.7576, 2.7576, 88.0, 0.01017752),
    "knee": (-0.087267, 2.8798, 139.0, 0.025101925),
    "ankle_pitch": (-0.87267, 0.5236, 50.0, 0.00721945),
    "ankle_roll": (-0.2618, 0.2618, 50.0, 0.00721945),
}
WAIST = {
    "waist_yaw": (-2.618, 2.618, 88.0, 0.01017752),
    "waist_roll": (-0.52, 0.52, 50.0, 0.00721945),
    "waist_pitch": (-0.52, 0.52, 50.0, 0.00721945),
}
ARM = {
    "shoulder_pitch": (-3.0892, 2.6704, 25.0, 0.003609725),
    "shoulder_roll": (-1.5882, 2.2515, 25.0, 0.003609725),
    "shoulder_yaw": (-2.618, 2.618, 25.0, 0.003609725),
    "elbow": (-1.0472, 2.0944, 25.0, 0.003609725),
    "wrist_roll": (-1.97222, 1.97222, 25.0, 0.003609725),
    "wrist_pitch": (-1.61443, 1.61443, 5.0, 0.00425),
    "wrist_yaw": (-1.61443, 1.61443, 5.0, 0.00425),
}
MIRRORED = ("hip_roll", "shoulder_roll")  # the joints whose limits are not the same on both sides
# Mass of each part [kg].
MASSES = {
    "pelvis": 3.813,
    "waist_yaw_link": 0.214,
    "waist_roll_link": 0.086,
    "torso_link": 7.818,
    "hip_pitch_link": 1.35,
    "hip_roll_link": 1.52,
    "hip_yaw_link": 1.702,
    "knee_link": 1.932,
    "ankle_pitch_link": 0.074,
    "ankle_roll_link": 0.608,
    "shoulder_pitch_link": 0.718,
    "shoulder_roll_link": 0.643,
    "shoulder_yaw_link": 0.734,
    "elbow_link": 0.6,
    "wrist_roll_link": 0.085445,
    "wrist_pitch_link": 0.48405,
    "wrist_yaw_link": 0.254576,
}


def published_joints() -> dict[str, tuple[float, float, float, float]]:
    table = {f"{joint}_joint": row for joint, row in WAIST.items()}
    for joint, (lower, upper, effort, armature) in (LEG | ARM).items():
        table[f"left_{joint}_joint"] = (lower, upper, effort, armature)
        right = (-upper, -lower) if joint in MIRRORED else (lower, upper)
        table[f"right_{joint}_joint"] = (*right, effort, armature)
    return table


@pytest.fixture(scope="module")
def g1() -> RobotModel:
    return compile_robot(get_robot("g1"))


def test_g1_has_the_published_joints(g1: RobotModel):
    table = published_joints()
    assert g1.mj_model.nv == 35 and g1.num_joints == 29
    assert set(g1.joint_names) == set(table)
    figures = np.array([table[name] for name in g1.joint_names])
    np.testing.assert_allclose(g1.joint_limits, figures[:, :2], atol=1e-6)
    np.testing.assert_array_equal(g1.effort, figures[:, 2])
    np.testing.assert_allclose(g1.armature, figures[:, 3], rtol=1e-6)


def test_g1_has_the_published_masses(g1: RobotModel):
    model = g1.mj_model
    assert g1.mass == pytest.approx(33.34, abs=5e-3)
    for body in range(1, model.nbody):
        name = re.sub("^(left|right)_", "", model.body(body).name)
        assert model.body_mass[body] == pytest.approx(MASSES[name], rel=1e-9)


def test_g1_is_symmetric(g1: RobotModel):
    # The published frames differ between the sides by at most 0.1 mm, the inertias by at most 1 %.
    model = g1.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = g1.default_qpos
    mujoco.mj_forward(model, data)
    mirror = np.array([1, -1, 1])
    inertia = np.zeros((2, 3, 3))
    for left in range(model.nbody):
        name = model.body(left).name
        if not name.startswith("left_"):
            continue
        right = model.body(name.replace("left_", "right_")).id
        np.testing.assert_allclose(data.xipos[left] * mirror, data.xipos[right], atol=1.5e-4)
        for side, body in enumerate((left, right)):
            R = data.ximat[body].reshape(3, 3)
            inertia[side] = R @ np.diag(model.body_inertia[body]) @ R.T
        np.testing.assert_allclose(np.outer(mirror, mirror) * inertia[0], inertia[1], atol=1e-2 * np.trace(inertia[1]))


def test_actuators_are_clipped_position_controllers(g1: RobotModel):
    model = g1.mj_model
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    data.qpos[:] = g1.default_qpos
    data.qpos[g1.qpos_adr] += 0.1 * rng.normal(size=29)
    data.qvel[:] = rng.normal(size=35)
    data.ctrl[:] = g1.default_joint_pos + rng.normal(size=29)
    mujoco.mj_forward(model, data)
    torque = g1.kp * (data.ctrl - data.qpos[g1.qpos_adr]) - g1.kd * data.qvel[g1.dof_adr]
    clipped = np.clip(torque, -g1.effort, g1.effort)
    assert np.any(clipped != torque)
    np.testing.assert_allclose(data.qfrc_actuator[g1.dof_adr], clipped, atol=1e-9)
    np.testing.assert_array_equal(data.qfrc_actuator[:6], 0.0)


def test_gains_follow_from_the_armature(g1: RobotModel):
    # With the armature alone as its inertia, each joint has 10 Hz and twice the critical damping.
    np.testing.assert_allclose(np.sqrt(g1.kp / g1.armature) / (2 * np.pi), 10.0)
    np.testing.assert_allclose(g1.kd / (2 * np.sqrt(g1.kp * g1.armature)), 2.0)
    np.testing.assert_allclose(g1.action_scale * g1.kp, 0.25 * g1.effort)


def test_nominal_pose_stands_on_the_floor(g1: RobotModel):
    model = g1.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = g1.default_qpos
    mujoco.mj_forward(model, data)
    feet = np.concatenate(g1.foot_geom_ids)
    bottoms = data.geom_xpos[feet, 2] - model.geom_size[feet, 0]
    assert bottoms.min() == pytest.approx(0.0, abs=1e-12)
    assert bottoms.max() < 2e-3  # the published pose tilts the soles by a third of a degree
    np.testing.assert_allclose(data.site_xpos[g1.foot_site_ids, 2], 0.0, atol=2e-3)
    # The centre of mass is over the soles.
    p_com, p_feet = data.subtree_com[0], data.site_xpos[g1.foot_site_ids]
    assert g1.com_height == pytest.approx(p_com[2])
    assert np.all(np.abs((p_com - p_feet)[:, 0]) < g1.sole[:2].min())
    np.testing.assert_allclose(g1.foot_offset_com, p_feet - p_com, atol=1e-12)
    np.testing.assert_allclose(g1.hip_offset_base, p_feet - data.xpos[g1.base_body_id], atol=1e-12)
    assert g1.termination_height < g1.base_height


def test_inertia_is_that_of_the_locked_body(g1: RobotModel):
    # Spinning the locked robot about its centre of mass at rate w gives the angular momentum I w.
    model = g1.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = g1.default_qpos
    data.qvel[3:6] = w = np.array([0.3, -0.5, 0.7])
    mujoco.mj_forward(model, data)
    mujoco.mj_subtreeVel(model, data)
    np.testing.assert_allclose(g1.inertia @ w, data.subtree_angmom[g1.base_body_id], rtol=1e-10)


def test_sole_is_where_the_feet_can_press(g1: RobotModel):
    toe, heel, half_width = g1.sole
    model = g1.mj_model
    for site, geoms in zip(g1.foot_site_ids, g1.foot_geom_ids, strict=True):
        p_site = model.geom_pos[geoms] - model.site_pos[site]  # the site's axes are those of the foot's body
        np.testing.assert_allclose(model.site_quat[site], [1, 0, 0, 0])
        corners = {(round(float(x), 9), round(float(y), 9)) for x, y, _ in p_site}
        expected = {(x, y) for x in (toe, -heel) for y in (half_width, -half_width)}
        assert corners == {(round(float(x), 9), round(float(y), 9)) for x, y in expected}


def test_soft_limits_lie_inside_the_limits(g1: RobotModel):
    span, soft = np.diff(g1.joint_limits), np.diff(g1.soft_limits)
    np.testing.assert_allclose(soft, 0.9 * span)
    np.testing.assert_allclose(g1.soft_limits.mean(1), g1.joint_limits.mean(1), atol=1e-12)
    assert np.all(g1.default_joint_pos > g1.soft_limits[:, 0]) and np.all(g1.default_joint_pos < g1.soft_limits[:, 1])


def test_gaps_between_limbs_are_those_of_mujoco(g1: RobotModel):
    model, data = g1.mj_model, mujoco.MjData(g1.mj_model)
    gaps = jax.jit(lambda qpos: kinematics(nominal_params(g1), g1, qpos, jnp.zeros(model.nv)).limb_gaps)
    assert np.all(gaps(jnp.asarray(g1.default_qpos, jnp.float32)) > 0.1)
    rng, smallest = np.random.default_rng(0), np.inf
    for _ in range(300):
        quaternion = rng.standard_normal(4)
        joints = rng.uniform(*g1.joint_limits.T)
        data.qpos[:] = np.concatenate([rng.standard_normal(3), quaternion / np.linalg.norm(quaternion), joints])
        mujoco.mj_kinematics(model, data)
        expected = [mujoco.mj_geomDistance(model, data, int(a), int(b), 9.0, None) for a, b in g1.limb_geom_ids]
        np.testing.assert_allclose(gaps(jnp.asarray(data.qpos, jnp.float32)), expected, atol=3e-6)
        smallest = min(smallest, *expected)
    assert smallest < 0.0  # some overlapped


@pytest.mark.parametrize(
    ("ends", "gap"),
    [
        ([[[0, 0, 0], [1, 0, 0]], [[0, 1, 0], [1, 1, 0]]], 1.0),  # parallel
        ([[[0, 0, 0], [1, 0, 0]], [[2, 0, 0], [3, 0, 0]]], 1.0),  # in line
        ([[[-1, 0, 0], [1, 0, 0]], [[0, -1, 0.5], [0, 1, 0.5]]], 0.5),  # crossing
        ([[[0, 0, 0], [1, 0, 0]], [[4, 4, 0], [4, 9, 0]]], 5.0),  # end to end
        ([[[-1, 0, 0], [1, 0, 0]], [[0, -1, 0], [0, 1, 0]]], 0.0),  # through each other
    ],
)
def test_distance_of_two_axes(ends, gap):
    ends = jnp.array(ends, jnp.float32)
    for pair in (ends, ends[::-1], ends[:, ::-1]):
        assert float(capsule_gaps(pair, jnp.array([0.1, 0.2]))) == pytest.approx(gap - 0.3, abs=1e-6)


def test_only_feet_touch_only_the_floor(g1: RobotModel):
    model = g1.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = g1.default_qpos
    data.qpos[2] = 0.1  # the whole lower body is in the floor
    mujoco.mj_forward(model, data)
    pairs = {tuple(sorted(contact.geom)) for contact in data.contact[: data.ncon]}
    assert pairs == {(g1.floor_geom_id, int(geom)) for geom in np.concatenate(g1.foot_geom_ids)}


BIPED = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body name="hips" pos="0 0 1">
      <freejoint/>
      <inertial mass="5" pos="0 0 0.1" diaginertia="0.1 0.1 0.1"/>
      <site name="gyro"/>
      <geom type="box" size="0.1 0.1 0.1"/>
      <body name="leg_l" pos="0 0.1 0">
        <inertial mass="1" pos="0 0 -0.2" diaginertia="0.01 0.01 0.001"/>
        <joint name="hip_l" axis="0 1 0" range="-1 1" limited="true"/>
        <site name="sole_l" pos="0 0 -0.52"/>
        <geom name="heel_l" size="0.02" pos="-0.1 0.03 -0.5" mass="0"/>
        <geom name="toe_l" size="0.02" pos="0.15 0.04 -0.5" mass="0"/>
      </body>
      <body name="leg_r" pos="0 -0.1 0">
        <inertial mass="1" pos="0 0 -0.2" diaginertia="0.01 0.01 0.001"/>
        <joint name="hip_r" axis="0 1 0"/>
        <site name="sole_r" pos="0 0 -0.52"/>
        <geom name="heel_r" size="0.02" pos="-0.1 -0.03 -0.5" mass="0"/>
        <geom name="toe_r" size="0.02" pos="0.15 -0.04 -0.5" mass="0"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""

BIPED_MODULE = """
from pathlib import Path
from envs.robots import JointGroup, PoseStd, Robot

BIPED = Robot(
    name="biped", mjcf=Path(__file__).parent / "biped.xml", base_body="hips", imu_site="gyro",
    foot_sites=("sole_l", "sole_r"), foot_geoms=(("heel_l", "toe_l"), ("heel_r", "toe_r")),
    joint_groups=(JointGroup("hip_.", kp=50.0, kd=2.0, effort=30.0, armature=0.01),),
    default_pose=(), pose_std=(PoseStd(".*", standing=0.1, walking=0.2),),
)
"""


@pytest.fixture
def biped(tmp_path: Path) -> Robot:
    (tmp_path / "biped.xml").write_text(BIPED)
    (tmp_path / "my_biped.py").write_text(BIPED_MODULE)
    return get_robot(f"{tmp_path / 'my_biped.py'}:BIPED")


def test_a_robot_from_elsewhere_compiles(biped: Robot):
    model = compile_robot(biped)
    assert model.mass == pytest.approx(7.0)
    assert model.joint_names == ("hip_l", "hip_r")
    assert model.base_height == pytest.approx(0.52)
    np.testing.assert_allclose(model.sole, [0.15, 0.1, 0.03])
    np.testing.assert_allclose(model.hip_offset_base, [[0, 0.1, -0.52], [0, -0.1, -0.52]], atol=1e-12)
    np.testing.assert_allclose(model.soft_limits[0], [-0.9, 0.9])
    assert np.all(np.isinf(model.soft_limits[1]))


def test_a_stored_robot_is_found_from_another_directory(biped: Robot, tmp_path: Path, monkeypatch):
    folder = Path(tmp_path.name)
    monkeypatch.chdir(tmp_path.parent)
    stored = to_json(VelocityConfig(robot=f"{folder}/../{folder}/my_biped.py:BIPED"))
    monkeypatch.chdir("/")
    found = from_json(VelocityConfig, stored).robot
    assert found == f"{tmp_path.resolve()}/my_biped.py:BIPED"
    assert get_robot(found) == biped
    for name in ("g1", "envs.robots.g1:G1"):  # are no paths
        assert VelocityConfig(robot=name).robot == name


def test_robots_are_found_by_module_too(g1: RobotModel):
    assert get_robot("envs.robots.g1:G1") is G1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mjcf": Path("/nowhere/biped.xml")}, "no MJCF at '/nowhere/biped.xml'"),
        ({"base_body": "pelvis"}, "no body named 'pelvis'"),
        ({"base_body": "leg_l"}, "'leg_l' must carry the MJCF's one free joint"),
        ({"imu_site": "imu"}, "no site named 'imu' (imu_site)"),
        ({"imu_site": "sole_l"}, "'sole_l' (imu_site) must be on 'hips'"),
        ({"foot_sites": ("sole_l", "foot_r")}, "no site named 'foot_r' (foot_sites)"),
        ({"foot_geoms": (("heel_l",), ("heel",))}, "no geom named 'heel' (foot_geoms)"),
        ({"foot_geoms": (("heel_l",), ())}, "'sole_r' has no geoms"),
        ({"foot_geoms": (("heel_r",), ("toe_r",))}, "'heel_r' and site 'sole_l' must be on the same body"),
        (
            {"joint_groups": (JointGroup("hip_l", 1.0, 1.0, effort=1.0, armature=1.0),)},
            "'hip_r' is matched by no joint group",
        ),
        ({"limb_pairs": (("toe_l", "shin"),)}, "no capsule geom named 'toe_l' (limb_pairs)"),
        ({"default_pose": (("knee", 1.0),)}, "default pose pattern 'knee' matches no joint"),
        ({"pose_std": (PoseStd("hip_l", 1.0, 1.0),)}, "'hip_r' is matched by no pose std"),
    ],
)
def test_mistakes_get_one_clear_sentence(biped: Robot, change: dict, message: str):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)) as info:
        compile_robot(dataclasses.replace(biped, **change))
    text = str(info.value)
    assert "biped" in text and text.endswith(".") and "\n" not in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '<site name="gyro"/>',
            '<site name="gyro" euler="0 0 1"/>',
            "'gyro' (imu_site) must have the axes of the base",
        ),
        ('<joint name="hip_r"', '<joint name="hip_r" type="slide"', "all joints but the free one must be hinges"),
        ("</worldbody>", '<body name="ball"/></worldbody>', "all bodies must hang on 'hips', and ['ball'] do not"),
        ('<geom name="toe_r"', '<geom name="toe_r" type="cylinder"', "'toe_r' (foot_geoms) must be a sphere"),
        # What MuJoCo refuses: on reading, on compiling, and for the names of what is added.
        ("</mujoco>", "", "biped.xml': parse error"),
        ('mass="5"', 'mass="five"', "biped.xml': bad format in attribute 'mass', Element 'inertial', line 7."),
        ('range="-1 1"', 'range="1 -1"', "biped.xml': range[0] should be smaller than range[1] in joint"),
        ('<geom type="box"', '<geom name="floor" type="box"', "biped.xml': repeated name 'floor' in geom."),
    ],
)
def test_unfit_models_get_one_clear_sentence(biped: Robot, old: str, new: str, message: str):
    biped.mjcf.write_text(
        BIPED.replace(old, new).replace('size="0.02" pos="0.15 -0.04', 'size="0.02 1" pos="0.15 -0.04')
    )
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        compile_robot(biped)
    text = str(info.value)
    assert text.startswith("Robot 'biped':") and text.endswith(".") and "\n" not in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("g2", "known: g1"),
        ("no_such_module_here:ROBOT", "'no_such_module_here' cannot be imported"),
        ("no/such/file.py:ROBOT", "'no/such/file.py' does not exist"),
        ("envs.robots.g1:G2", "has no Robot named 'G2'"),
    ],
)
def test_unknown_robots_get_one_clear_sentence(name: str, message: str):
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        get_robot(name)
    assert repr(name) in str(info.value) and "\n" not in str(info.value)
