"""The Unitree G1 with 29 joints.

Rotor inertias, gear ratios, torque and speed limits and the nominal pose are Unitree's figures as mjlab's asset zoo
lists them (g1_constants.py, Apache-2.0); gains follow from the armature by one natural frequency and one damping ratio,
as in BeyondMimic (Liao et al., 2025).
"""

import math
from pathlib import Path

from envs.robots.robot import JointGroup, PoseStd, Robot

NATURAL_FREQUENCY = 2.0 * math.pi * 10.0  # rad/s
DAMPING_RATIO = 2.0


def _reflected_inertia(rotors: tuple[float, float, float], gears: tuple[float, float, float]) -> float:
    """Inertia at the output of a two-stage planetary gearbox, kg m^2: each rotor's, times its gear ratio squared."""
    _, first, second = gears
    return rotors[0] * (first * second) ** 2 + rotors[1] * second**2 + rotors[2]


def _group(pattern: str, armature: float, effort: float, velocity: float, motors: int = 1) -> JointGroup:
    """`motors` parallel motors on each joint, gains for the natural frequency and damping ratio above."""
    return JointGroup(
        pattern=pattern,
        frequency=NATURAL_FREQUENCY,
        damping_ratio=DAMPING_RATIO,
        inertia="armature",
        effort=motors * effort,
        armature=motors * armature,
        velocity=velocity,
    )


# Motors by the maker's names: rotor inertias in kg m^2 and gear ratios of the two stages.
_M5020 = _reflected_inertia((0.139e-4, 0.017e-4, 0.169e-4), (1.0, 1.0 + 46.0 / 18.0, 1.0 + 56.0 / 16.0))
_M7520_14 = _reflected_inertia((0.489e-4, 0.098e-4, 0.533e-4), (1.0, 4.5, 1.0 + 48.0 / 22.0))
_M7520_22 = _reflected_inertia((0.489e-4, 0.109e-4, 0.738e-4), (1.0, 4.5, 5.0))
_M4010 = _reflected_inertia((0.068e-4, 0.0, 0.0), (1.0, 5.0, 5.0))

G1 = Robot(
    name="g1",
    mjcf=Path(__file__).parent / "assets" / "g1.xml",
    base_body="pelvis",
    imu_site="imu",
    foot_sites=("left_foot", "right_foot"),
    foot_geoms=(
        tuple(f"left_foot_{i}" for i in range(1, 5)),
        tuple(f"right_foot_{i}" for i in range(1, 5)),
    ),
    joint_groups=(
        _group(r".*_(shoulder_(pitch|roll|yaw)|elbow|wrist_roll)_joint", _M5020, effort=25.0, velocity=37.0),
        _group(r".*_hip_(pitch|yaw)_joint|waist_yaw_joint", _M7520_14, effort=88.0, velocity=32.0),
        _group(r".*_(hip_roll|knee)_joint", _M7520_22, effort=139.0, velocity=20.0),
        _group(r".*_wrist_(pitch|yaw)_joint", _M4010, effort=5.0, velocity=22.0),
        # Ankles, waist roll and waist pitch are driven by two motors through a linkage, taken as 1:1.
        _group(r"waist_(roll|pitch)_joint|.*_ankle_(pitch|roll)_joint", _M5020, effort=25.0, velocity=37.0, motors=2),
    ),
    default_pose=(
        (r".*_hip_pitch_joint", -0.312),
        (r".*_knee_joint", 0.669),
        (r".*_ankle_pitch_joint", -0.363),
        (r".*_shoulder_pitch_joint", 0.2),
        (r"left_shoulder_roll_joint", 0.2),
        (r"right_shoulder_roll_joint", -0.2),
        (r".*_elbow_joint", 0.6),
    ),
    # MPC-RL (Li et al., 2026), by joint kind; the waist, which their robot has not, stays close to upright.
    pose_std=(
        PoseStd(r".*_hip_pitch_joint", standing=0.025, walking=0.1),
        PoseStd(r".*_hip_(roll|yaw)_joint", standing=0.15, walking=0.15),
        PoseStd(r".*_knee_joint", standing=0.05, walking=0.35),
        PoseStd(r".*_ankle_(pitch|roll)_joint", standing=0.05, walking=0.15),
        PoseStd(r"waist_(roll|pitch|yaw)_joint", standing=0.05, walking=0.1),
        PoseStd(r".*_(shoulder_(pitch|roll|yaw)|elbow)_joint", standing=0.05, walking=0.2),
        PoseStd(r".*_wrist_(roll|pitch|yaw)_joint", standing=0.1, walking=0.3),
    ),
    # MPC-RL: thighs, each hand and its thigh; feet and shins, which its release means to watch but cannot.
    limb_pairs=(
        ("left_thigh", "right_thigh"),
        ("left_hand", "left_thigh"),
        ("right_hand", "right_thigh"),
        ("left_foot_hull", "right_foot_hull"),
        ("left_foot_hull", "right_shin"),
        ("right_foot_hull", "left_shin"),
    ),
)
