"""The low-level messages of Unitree's humanoids, as types that DDS knows.

Type names, field names, order and sizes are those of the maker's `unitree_hg` definitions (unitree_sdk2 and
unitree_sdk2_python, BSD-3-Clause): two programs exchange samples only if both agree on all of these. Angles are in rad,
velocities in rad/s, torques in N m, temperatures in degrees C. Fields that are described as reserved by the maker, or
not at all, are carried and not used.
"""

# ruff: noqa: N801 (the names are the maker's)

from dataclasses import dataclass

from cyclonedds.idl import IdlStruct, annotations, types

MOTOR_SLOTS = 35  # in each message; a G1 has 29 motors and leaves the rest empty
COMMAND_TOPIC = "rt/lowcmd"
STATE_TOPIC = "rt/lowstate"


@dataclass
@annotations.final
@annotations.autoid("sequential")
class MotorCmd_(IdlStruct, typename="unitree_hg.msg.dds_.MotorCmd_"):
    """What one motor is told; it computes kp (q - q_measured) + kd (dq - dq_measured) + tau."""

    mode: types.uint8  # 1: enabled, 0: disabled
    q: types.float32
    dq: types.float32
    tau: types.float32
    kp: types.float32
    kd: types.float32
    reserve: types.uint32


@dataclass
@annotations.final
@annotations.autoid("sequential")
class LowCmd_(IdlStruct, typename="unitree_hg.msg.dds_.LowCmd_"):
    """What all motors are told."""

    mode_pr: types.uint8  # 0: ankles and waist by pitch and roll, 1: by the two motors behind them
    mode_machine: types.uint8  # the robot's variant, to be copied from its state
    motor_cmd: types.array[MotorCmd_, MOTOR_SLOTS]
    reserve: types.array[types.uint32, 4]
    crc: types.uint32


@dataclass
@annotations.final
@annotations.autoid("sequential")
class IMUState_(IdlStruct, typename="unitree_hg.msg.dds_.IMUState_"):
    """One inertial measurement unit."""

    quaternion: types.array[types.float32, 4]  # w x y z
    gyroscope: types.array[types.float32, 3]  # rad/s
    accelerometer: types.array[types.float32, 3]  # m/s^2
    rpy: types.array[types.float32, 3]  # rad
    temperature: types.int16


@dataclass
@annotations.final
@annotations.autoid("sequential")
class MotorState_(IdlStruct, typename="unitree_hg.msg.dds_.MotorState_"):
    """What one motor measures."""

    mode: types.uint8
    q: types.float32
    dq: types.float32
    ddq: types.float32
    tau_est: types.float32
    temperature: types.array[types.int16, 2]  # the maker names them no further; the hotter one counts here
    vol: types.float32
    sensor: types.array[types.uint32, 2]
    motorstate: types.uint32  # an error code, 0 if all is well
    reserve: types.array[types.uint32, 4]


@dataclass
@annotations.final
@annotations.autoid("sequential")
class LowState_(IdlStruct, typename="unitree_hg.msg.dds_.LowState_"):
    """What the robot measures."""

    version: types.array[types.uint32, 2]
    mode_pr: types.uint8
    mode_machine: types.uint8
    tick: types.uint32  # ms on the robot's clock
    imu_state: IMUState_
    motor_state: types.array[MotorState_, MOTOR_SLOTS]
    wireless_remote: types.array[types.uint8, 40]
    reserve: types.array[types.uint32, 4]
    crc: types.uint32
