"""A second process that damps the robot when the first one dies or gets stuck.

What a robot does when commands stop is up to its maker, and not published for the G1. So the process that drives it
starts this one, tells it at every command that it is alive, and says goodbye at its end. If the sign of life is late,
or the connection breaks without a goodbye (which it does when the process is killed), the keeper commands
damping in its place, and closes the connection: a driver that wakes up again finds that it is not in charge any more.

    python -m bridge.keeper SOCKET INTERFACE DOMAIN PATIENCE       (started by `Keeper`)
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from bridge.dds import Network
from bridge.priority import PRIORITY, ask_for_real_time
from bridge.robot import RobotError
from bridge.unitree_messages import COMMAND_TOPIC
from bridge.unitree_packets import LOW_CMD, PackedLowCmd

PATIENCE = 0.010  # s without a sign of life: half of the 20 ms in which a robot must damp
PERIOD = 0.002  # s between two commands of the keeper's own
KEEP_SECONDS = 10.0  # s for which it commands damping
ALIVE, READY, GOODBYE = b".", b"r", b"q"


class TakenOverError(RobotError):
    """The keeper is in charge of the robot, because this process gave no sign of life, or it is dead itself."""


class Keeper:
    """The driver's side of the connection."""

    def __init__(self, network: Network, patience: float = PATIENCE) -> None:
        """Starts the process.

        Args:
            network: in which it is to command.
            patience: s without a sign of life after which it does.
        """
        self._socket, theirs = socket.socketpair()
        arguments = (theirs.fileno(), network.interface, network.domain, patience)
        command = [sys.executable, "-m", "bridge.keeper", *map(str, arguments)]
        # A session of its own: Ctrl-C in the terminal is for the driver alone.
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        self._socket.setblocking(False)
        self._told = False

    def ready(self) -> bool:
        """Whether it has found the robot; until then nothing may be commanded.

        Raises:
            TakenOverError: it has died.
        """
        with contextlib.suppress(BlockingIOError):
            if self._socket.recv(1) != READY:
                raise TakenOverError("The keeper process has ended before it was needed.")
            return True
        return False

    def alive(self, damping: np.ndarray) -> None:
        """Gives a sign of life; must come before each command.

        Args:
            damping: the signed `LOW_CMD` record, of shape (), that the keeper will send if it has to.

        Raises:
            TakenOverError: it commands the robot now, or is dead.
        """
        try:
            self._socket.send(ALIVE if self._told else damping.tobytes())
        except OSError as error:
            raise TakenOverError(
                "The keeper has damped the robot, because this process was stuck; or the keeper is dead."
            ) from error
        self._told = True

    def close(self, goodbye: bool = True) -> None:
        """Ends the connection.

        Args:
            goodbye: whether the robot has been left in damping. If not, the keeper is told nothing, and damps it.
        """
        if goodbye:
            with contextlib.suppress(OSError):
                self._socket.send(GOODBYE)
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0 if goodbye else 0.0)


def main(descriptor: int, interface: str, domain: int, patience: float) -> None:
    """The keeper's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ask_for_real_time(PRIORITY + 1)  # a driver that never sleeps must not keep this process from running
    connection = socket.socket(fileno=descriptor)
    network = Network(interface, domain)
    writer = network.writer(COMMAND_TOPIC, PackedLowCmd)
    while not writer.get_matched_subscriptions():
        if select.select([connection], [], [], 0.01)[0]:  # nothing is due yet: the driver has ended
            return
    connection.send(READY)
    damping = connection.recv(LOW_CMD.itemsize, socket.MSG_WAITALL)
    if len(damping) < LOW_CMD.itemsize or watch(connection, patience):
        return
    connection.close()
    sample = PackedLowCmd(np.frombuffer(damping, LOW_CMD, count=1).reshape(()))
    end = time.monotonic() + KEEP_SECONDS
    while time.monotonic() < end:
        writer.write(sample)
        time.sleep(PERIOD)


def watch(connection: socket.socket, patience: float) -> bool:
    """Waits for the driver's end; whether it said goodbye."""
    while select.select([connection], [], [], patience)[0]:
        try:
            heard = connection.recv(4096)
        except OSError:
            return False
        if not heard or GOODBYE in heard:
            return bool(heard)
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
