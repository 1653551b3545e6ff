"""Westwood's THEMIS with 28 joints, the robot of MPC-RL.

Motors with their limits, gains, the walking pose, its tolerances and the gait's period are those released with the
paper (Li et al., arXiv 2606.05687). The gains are soft: the legs' natural frequencies are 1 to 2 Hz, so a joint that
bears load is far from its target, and told to keep the nominal pose the robot falls forward within a second and a half.
"""

from pathlib import Path

from envs.robots.robot import JointGroup, PoseStd, Robot

THEMIS = Robot(
    name="themis",
    mjcf=Path(__file__).parent / "assets" / "themis.xml",
    base_body="base_link",
    imu_site="imu",
    foot_sites=("left_foot", "right_foot"),
    foot_geoms=(
        tuple(f"left_foot_{i}" for i in range(1, 5)),
        tuple(f"right_foot_{i}" for i in range(1, 5)),
    ),
    joint_groups=(
        JointGroup(r".*_hip_(yaw|roll)_joint", kp=35.0, kd=5.0, effort=67.0, armature=0.0297, velocity=15.0),
        JointGroup(r".*_(hip_pitch|knee)_joint", kp=35.0, kd=8.0, effort=180.0, armature=0.1153, velocity=10.0),
        JointGroup(r".*_ankle_(pitch|roll)_joint", kp=20.0, kd=3.0, effort=36.0, armature=0.009, velocity=20.0),
        JointGroup(
            r".*_(shoulder|elbow|wrist)_(pitch|roll|yaw)_joint",
            kp=15.0,
            kd=2.0,
            effort=20.0,
            armature=0.009,
            velocity=20.0,
        ),
        JointGroup(r"head_(yaw|pitch)_joint", kp=10.0, kd=1.0, effort=10.5, armature=0.0182, velocity=20.0),
    ),
    default_pose=(
        (r".*_hip_pitch_joint", -0.2),
        (r".*_knee_joint", 0.5),
        (r".*_ankle_pitch_joint", -0.3),
        (r".*_shoulder_pitch_joint", 0.2),
        (r"left_shoulder_roll_joint", 0.25),
        (r"right_shoulder_roll_joint", -0.25),
        (r"left_shoulder_yaw_joint", -0.1),
        (r"right_shoulder_yaw_joint", 0.1),
        (r".*_elbow_pitch_joint", 1.2),
    ),
    pose_std=(
        PoseStd(r".*_hip_pitch_joint", standing=0.025, walking=0.1),
        PoseStd(r".*_hip_(roll|yaw)_joint", standing=0.15, walking=0.15),
        PoseStd(r".*_knee_joint", standing=0.05, walking=0.35),
        PoseStd(r".*_ankle_(pitch|roll)_joint", standing=0.05, walking=0.15),
        PoseStd(r".*_(shoulder|elbow)_(pitch|roll|yaw)_joint", standing=0.05, walking=0.2),
        PoseStd(r".*_wrist_(pitch|yaw)_joint", standing=0.1, walking=0.3),
        PoseStd(r"head_(yaw|pitch)_joint", standing=0.05, walking=0.1),
    ),
    limb_pairs=(
        ("left_thigh", "right_thigh"),
        ("left_hand", "left_thigh"),
        ("right_hand", "right_thigh"),
        ("left_foot_hull", "right_foot_hull"),
        ("left_foot_hull", "right_shin"),
        ("right_foot_hull", "left_shin"),
    ),
    gait_period=0.9,
    # The base is the chest: at 0.7 of its height the robot kneels, its hips no higher than a thigh over the floor.
    termination_height_factor=0.7,
)
