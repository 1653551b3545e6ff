"""Faults of a robot's sensors and of the line to it, for tests: lost, late and damaged packets, NaN, frozen sensors."""

from __future__ import annotations

import dataclasses
import math
from collections import deque

import numpy as np


@dataclasses.dataclass(frozen=True)
class FaultConfig:
    """What goes wrong, and when; nothing by default."""

    after: float = math.inf  # s of the robot's time since a joint was first told to be stiff
    state_loss: float = 0.0  # share of the robot's packets that are lost
    command_loss: float = 0.0  # share of the packets to the robot that are lost
    delay: tuple[float, float] = (0.0, 0.0)  # s, bounds of the delay of each packet in both directions
    damage: float = 0.0  # share of packets in both directions in which one bit is wrong
    nan: bool = False  # a gyroscope reads NaN
    frozen: bool = False  # the sensors repeat one reading, in packets with fresh ticks and checksums
    seed: int = 0


class Line:
    """One direction of a link: packets go in, and come out late, damaged or never; in order, which DDS sees to."""

    def __init__(self, config: FaultConfig, loss: float, seed: int) -> None:
        """A line without faults until `broken` is set.

        Args:
            config: what happens to packets then.
            loss: share that is lost then.
            seed: distinguishes the lines of one link.
        """
        self.broken = False
        self._config, self._loss = config, loss
        self._rng = np.random.default_rng((config.seed, seed))
        self._under_way: deque[tuple[float, np.ndarray]] = deque()
        self._due = 0.0  # s, when the latest packet arrives

    def push(self, now: float, record: np.ndarray) -> None:
        """Sends a packet, a numpy struct of shape (), at time `now` [s]."""
        due, rng = now, self._rng
        if self.broken:
            if rng.random() < self._loss:
                return
            due += rng.uniform(*self._config.delay)
            if rng.random() < self._config.damage:
                record = damaged(record, rng)
        self._due = max(self._due, due)
        self._under_way.append((self._due, record))

    def pop(self, now: float) -> list[np.ndarray]:
        """The packets that have arrived by `now` [s]."""
        arrived = []
        while self._under_way and self._under_way[0][0] <= now:
            arrived.append(self._under_way.popleft()[1])
        return arrived


def damaged(record: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy of a numpy struct of shape () in which one random bit is wrong, in a part that its checksum covers."""
    data = bytearray(record.tobytes())
    data[rng.integers(len(data) - 4)] ^= 1 << int(rng.integers(8))
    return np.frombuffer(data, record.dtype, count=1).reshape(())


class Sensors:
    """What the robot's sensors make of a reading: as it is, or as the faults have it."""

    def __init__(self, config: FaultConfig) -> None:
        """Working sensors until `broken` is set."""
        self.broken = False
        self._config = config
        self._stuck: np.ndarray | None = None

    def read(self, record: np.ndarray) -> np.ndarray:
        """The reading that is sent in place of a `LOW_STATE` record of shape (), whose tick stays."""
        if not self.broken:
            return record
        if self._config.frozen:
            self._stuck = record.copy() if self._stuck is None else self._stuck
            tick, record = record["tick"], self._stuck.copy()
            record["tick"] = tick
        if self._config.nan:
            record["imu_state"]["gyroscope"][1] = np.nan
        return record
