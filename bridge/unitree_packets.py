"""The bytes of Unitree's low-level messages, without a Python object per motor.

A sample of `unitree_messages` is 70 or 350 Python numbers, and taking it apart by the DDS library's own Python code
takes longer than a policy step. Here a message is one numpy record in the layout of the maker's C struct, which is also
what the checksum covers. `PackedLowCmd` and `PackedLowState` let DDS move such records as they are: to the outside they
are samples of the types of `unitree_messages`.

On the wire (OMG's classic CDR, little endian, 4 bytes of header) a message is its C struct but for one place: where the
motors begin, C pads to a multiple of four, CDR does not.

The checksum is CRC-32 with polynomial 0x04c11db7, starting from all ones, over the struct's 32-bit words but the last
(which holds it), most significant bit first (unitree_sdk2, example/g1/low_level). That is the CRC of zlib with the
order of bits reversed in the words going in and in the result, and with zlib's final complement undone.
"""

import dataclasses
import zlib
from typing import Any

import numpy as np
from cyclonedds.idl import annotations, make_idl_struct

from bridge import unitree_messages

_HEADER = b"\x00\x01\x00\x00"  # CDR, little endian
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

# Padding is spelled out: numpy does not copy what it adds itself, and the checksum covers it, as zeros.
_MOTOR_CMD = np.dtype(
    [
        ("mode", "u1"),
        ("pad", "u1", 3),
        ("q", "<f4"),
        ("dq", "<f4"),
        ("tau", "<f4"),
        ("kp", "<f4"),
        ("kd", "<f4"),
        ("reserve", "<u4"),
    ]
)
LOW_CMD = np.dtype(
    [
        ("mode_pr", "u1"),
        ("mode_machine", "u1"),
        ("pad", "u1", 2),
        ("motor_cmd", _MOTOR_CMD, unitree_messages.MOTOR_SLOTS),
        ("reserve", "<u4", 4),
        ("crc", "<u4"),
    ]
)
_IMU_STATE = np.dtype(
    [
        ("quaternion", "<f4", 4),
        ("gyroscope", "<f4", 3),
        ("accelerometer", "<f4", 3),
        ("rpy", "<f4", 3),
        ("temperature", "<i2"),
        ("pad", "u1", 2),
    ]
)
_MOTOR_STATE = np.dtype(
    [
        ("mode", "u1"),
        ("pad", "u1", 3),
        ("q", "<f4"),
        ("dq", "<f4"),
        ("ddq", "<f4"),
        ("tau_est", "<f4"),
        ("temperature", "<i2", 2),
        ("vol", "<f4"),
        ("sensor", "<u4", 2),
        ("motorstate", "<u4"),
        ("reserve", "<u4", 4),
    ]
)
LOW_STATE = np.dtype(
    [
        ("version", "<u4", 2),
        ("mode_pr", "u1"),
        ("mode_machine", "u1"),
        ("pad", "u1", 2),
        ("tick", "<u4"),
        ("imu_state", _IMU_STATE),
        ("motor_state", _MOTOR_STATE, unitree_messages.MOTOR_SLOTS),
        ("wireless_remote", "u1", 40),
        ("reserve", "<u4", 4),
        ("crc", "<u4"),
    ]
)


def crc32(words: bytes) -> int:
    """The maker's CRC-32 of little-endian 32-bit words.

    Args:
        words: bytes, four a word.

    Returns:
        The checksum, as an unsigned 32-bit number.
    """
    most_significant_first = np.frombuffer(words, "<u4").astype(">u4").tobytes()
    reflected = zlib.crc32(most_significant_first.translate(_REVERSED_BITS)) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED_BITS), "big")


def sign(record: np.ndarray) -> None:
    """Writes the checksum of a `LOW_CMD` or `LOW_STATE` record of shape () into its `crc`."""
    record["crc"] = crc32(record.tobytes()[:-4])


def is_signed(record: np.ndarray) -> bool:
    """Whether the `crc` of a `LOW_CMD` or `LOW_STATE` record of shape () is that of its other bytes."""
    return int(record["crc"]) == crc32(record.tobytes()[:-4])


def _serialize(self: Any, buffer: object = None, endianness: object = None, use_version_2: object = None) -> bytes:
    struct, motors = self.record.tobytes(), self.motors
    # The first motor's mode moves up by two bytes, and its q, on a multiple of four, by one word.
    return _HEADER + struct[: motors - 2] + struct[motors : motors + 1] + b"\0" + struct[motors + 4 :]


def _deserialize(cls: Any, data: bytes, has_header: bool = True, use_version_2: object = None) -> Any:
    if data[:2] != _HEADER[:2]:
        raise ValueError(f"{cls.__name__}: a packet with header {data[:4].hex()}, not classic little-endian CDR.")
    first = len(_HEADER) + cls.motors - 2
    struct = data[len(_HEADER) : first] + b"\0\0" + data[first : first + 1] + b"\0\0\0" + data[first + 2 :]
    if len(struct) < cls.dtype.itemsize:
        raise ValueError(f"{cls.__name__}: a packet of {len(struct)} bytes instead of {cls.dtype.itemsize}.")
    return cls(np.frombuffer(bytearray(struct), cls.dtype, count=1).reshape(()))


def _init(self: Any, record: np.ndarray) -> None:
    self.record = record


def packed(message: Any, dtype: np.dtype, array: str) -> Any:
    """A type that is `message` to DDS and one numpy record to us.

    It cannot inherit from `message`: DDS would publish a type with a base, which is another type.

    Args:
        message: one of `unitree_messages`.
        dtype: its C struct.
        array: name of its array of motors.

    Returns:
        A class whose objects are made of a record of shape () and hold it as `record`. Its `deserialize` raises
        ValueError for a packet that is shorter than the message or not classic little-endian CDR.
    """
    offsets: Any = dtype.fields
    fields = {field.name: field.type for field in dataclasses.fields(message)}
    typename = message.__idl_typename__
    cls = make_idl_struct(f"Packed{message.__name__}", typename, fields, dataclassify=False)
    cls = annotations.autoid("sequential")(annotations.final(cls))
    for name, value in {
        "dtype": dtype,
        "motors": offsets[array][1],  # bytes before the first motor in the C struct, the last two of them padding
        "serialize": _serialize,
        "deserialize": classmethod(_deserialize),
        "deserialize_key": classmethod(lambda cls, data, **_: None),  # the messages have no key
        "__init__": _init,
    }.items():
        setattr(cls, name, value)
    return cls


PackedLowCmd = packed(unitree_messages.LowCmd_, LOW_CMD, "motor_cmd")
PackedLowState = packed(unitree_messages.LowState_, LOW_STATE, "motor_state")
