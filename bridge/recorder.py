"""The log of a run: a folder with a header and one growing file of rows of fixed size, complete up to the last row.

Rows are appended with one system call each and never rewritten, so a killed process loses nothing that it had logged.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bridge.deployment import Deployment, from_json, to_json
from bridge.safety import Fault

if TYPE_CHECKING:
    from bridge.loop import Loop

HEADER, ROWS, MODEL = "header.json", "steps.bin", "model.zip"
FORMAT = 1


def row_type(num_joints: int) -> np.dtype:
    """One row: numbers of a control step, in the units of `bridge.robot`."""
    joints = (num_joints,)
    return np.dtype(
        [
            ("time", "<f8"),  # s, of the robot's clock when the loop began the step
            ("state_time", "<f8"),  # s, of the reading
            ("mode", "<i4"),  # of `bridge.machine.Mode`
            ("fault", "<i4"),  # index in `bridge.safety.Fault`
            ("command", "<f4", (3,)),
            ("quaternion", "<f4", (4,)),
            ("gyro", "<f4", (3,)),
            *((name, "<f4", joints) for name in ("q", "qd", "tau", "temperature")),
            *((name, "<f4", joints) for name in ("target", "kp", "kd", "action")),
            ("phase", "<f4"),  # cycles, of the step to come
        ]
    )


class LogRecorder:
    """Writes a log as the loop runs. A disk that fails ends the log and not the run."""

    def __init__(self, folder: Path, deployment: Deployment, model: Path | None = None) -> None:
        """Begins a log.

        Args:
            folder: a new or empty one.
            deployment: of the policy.
            model: of the robot, zipped; a copy goes into the log, for the replay.

        Raises:
            FileExistsError: there is a log already.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / ROWS).exists():
            raise FileExistsError(f"There is a log in '{folder}' already.")
        self._faults = {fault: i for i, fault in enumerate(Fault)}
        kind = row_type(deployment.num_joints)
        header = {
            "format": FORMAT,
            "row_bytes": kind.itemsize,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "faults": [fault.name for fault in self._faults],
            "deployment": to_json(deployment),
        }
        (folder / HEADER).write_text(json.dumps(header, indent=1))
        if model is not None and model.is_file():
            shutil.copyfile(model, folder / MODEL)
        self._row = np.zeros(1, kind)
        self._file = os.open(folder / ROWS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.failed = False  # the log is incomplete

    def write(self, loop: Loop) -> None:
        """See `bridge.loop.Recorder`."""
        state = loop.state
        if self.failed or state is None:
            return
        row = self._row
        row["time"], row["state_time"] = loop.now, state.time
        row["mode"], row["fault"] = int(loop.machine.mode), self._faults[loop.machine.fault]
        row["command"] = loop.command
        for name in ("quaternion", "gyro", "q", "qd", "tau", "temperature"):
            row[name] = getattr(state, name)
        row["target"], row["kp"], row["kd"] = loop.target.q, loop.target.kp, loop.target.kd
        row["action"], row["phase"] = loop.controller.action, loop.controller.clock.phase
        try:
            self.failed = os.write(self._file, row.tobytes()) != row.nbytes
        except OSError:
            self.failed = True

    def close(self) -> None:
        """Ends the log."""
        os.close(self._file)


def read_log(folder: Path) -> tuple[Deployment, np.ndarray]:
    """Reads a log, of a run that may still go on or that was killed.

    Returns:
        The policy's deployment data and the rows, of `row_type`.

    Raises:
        FileNotFoundError: there is no log.
        ValueError: it is of another format.
    """
    if not (folder / HEADER).is_file():
        raise FileNotFoundError(f"There is no log in '{folder}'.")
    header = json.loads((folder / HEADER).read_text())
    deployment = from_json(header["deployment"])
    kind = row_type(deployment.num_joints)
    if header["format"] != FORMAT or header["row_bytes"] != kind.itemsize:
        raise ValueError(f"The log in '{folder}' is of another format than this version reads ({FORMAT}).")
    data = (folder / ROWS).read_bytes()
    whole = len(data) - len(data) % kind.itemsize  # the last row of a killed process may be cut
    return deployment, np.frombuffer(data[:whole], kind)
