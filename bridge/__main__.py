"""From a checkpoint to a robot.

    python -m bridge gains [ROBOT]              what the gains do to each joint, and what others would
    python -m bridge export [RUN]               a policy as ONNX, with its robot's model beside it
    python -m bridge sim POLICY.onnx            the control loop on C MuJoCo
    python -m bridge robot POLICY.onnx          the control loop on a Unitree G1 over DDS
    python -m bridge robot-sim POLICY.onnx      a simulated G1 for it
    python -m bridge replay LOG                 a log's joint targets, simulated: what differs; --viewer shows it
    python -m bridge benchmark POLICY.onnx      how long a policy step and a start-up take

Each has --help. bridge/README.md leads through them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from bridge.deployment import Deployment

SHIPPED_RUN = Path(__file__).parents[1] / "experiments" / "results" / "g1_walk"


@dataclasses.dataclass(frozen=True)
class GainsCommand:
    """Prints a robot's gains, by effective inertia and by armature alone, and draws step responses."""

    robot: str = "g1"
    """A known robot, path/to/file.py:NAME or module:NAME."""
    frequency: float | None = None
    """Natural frequency of the alternatives (Hz); by default what each joint group has."""
    damping_ratio: float | None = None
    """Damping ratio of the alternatives; by default what each joint group has."""
    plot: Path | None = Path("gains.png")
    """Where the step responses go; None for no plot."""


@dataclasses.dataclass(frozen=True)
class ExportCommand:
    """Writes a policy as ONNX, after comparing it with the JAX policy, and its robot's model beside it."""

    run: Path = SHIPPED_RUN
    """Run directory or policy file."""
    out: Path = Path("policy.onnx")
    """The file to write; the model goes to the same name with .zip."""


@dataclasses.dataclass(frozen=True)
class ReplayCommand:
    """Simulates a log's joint targets and draws the joints over the logged ones, or shows the log in a browser."""

    log: Path
    """The log's folder."""
    model: Path | None = None
    """The robot on its floor (MJCF, .zip or .mjb); by default the one in the log."""
    window: float = 0.5
    """Seconds between two starts from the logged state."""
    out: Path | None = None
    """The plot; by default replay.png in the log."""
    viewer: bool = False
    """Show the log in a browser instead."""
    viewer_address: str = "127.0.0.1:8080"
    """Host and port of its page."""


@dataclasses.dataclass(frozen=True)
class BenchmarkCommand:
    """Times the policy step and the start-up."""

    policy: Path = Path("policy.onnx")
    """What `export` wrote."""
    steps: int = 20000
    """Policy steps to time."""
    out: Path | None = None
    """JSON to write; by default it is only printed."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand; what the user or the robot is to blame for ends in one sentence, and exit code 2 or 1."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "gains": gains,
        "export": export,
        "sim": simulate,
        "robot": robot,
        "robot-sim": simulate_robot,
        "replay": replay,
        "benchmark": benchmark,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    name = arguments.pop(0)
    if name not in commands:
        print(f"bridge: there is no subcommand {name!r}; there are {', '.join(commands)}.", file=sys.stderr)
        return 2
    try:
        return commands[name](arguments)
    except ModuleNotFoundError as error:
        print(
            f"bridge {name}: {error}; `uv sync --extra bridge --extra robot` installs what it needs.", file=sys.stderr
        )
        return 2
    except (ValueError, OSError) as error:
        print(f"bridge {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"bridge {name}: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        from bridge.robot import RobotError

        if not isinstance(error, RobotError):
            raise
        print(f"bridge {name}: {error}", file=sys.stderr)
        return 1


def parse(kind: type, arguments: list[str], name: str, positional: str = "") -> Any:
    """The arguments of a subcommand, whose first one may be given without its flag."""
    import tyro

    if positional and arguments and not arguments[0].startswith("-"):
        arguments = [f"--{positional}", *arguments]
    return tyro.cli(kind, args=arguments, prog=f"bridge {name}")


def gains(arguments: list[str]) -> int:
    """Prints and draws."""
    config = parse(GainsCommand, arguments, "gains", "robot")
    from bridge import gains
    from envs.robots import compile_robot, get_robot

    found = gains.report(compile_robot(get_robot(config.robot)), config.frequency, config.damping_ratio)
    print(gains.table(found))
    if config.plot is not None:
        gains.plot(found, config.plot)
        print(f"Step responses: {config.plot}")
    return 0


def export(arguments: list[str]) -> int:
    """Writes the ONNX file and the model."""
    config = parse(ExportCommand, arguments, "export", "run")
    from bridge.export import OBSERVATIONS
    from bridge.export import export as write

    policy, scene, difference = write(config.run, config.out)
    print(f"{policy}: within {difference:.1g} of the JAX policy on {OBSERVATIONS} observations. Model: {scene}")
    return 0


def simulate(arguments: list[str]) -> int:
    """Runs the loop on C MuJoCo."""
    from bridge.simulate import SimCommand, run

    return run(parse(SimCommand, arguments, "sim", "policy"))


def robot(arguments: list[str]) -> int:
    """Runs the loop on a G1 over DDS."""
    from bridge.hardware import RobotCommand, run

    return run(parse(RobotCommand, arguments, "robot", "policy"))


def simulate_robot(arguments: list[str]) -> int:
    """Is a G1 over DDS."""
    from bridge.simulated_robot import RobotSimCommand, run

    return run(parse(RobotSimCommand, arguments, "robot-sim", "policy"))


def replay(arguments: list[str]) -> int:
    """Prints each joint's error, and draws."""
    config = parse(ReplayCommand, arguments, "replay", "log")
    from bridge import replay
    from bridge.mujoco_robot import load_model
    from bridge.recorder import MODEL, read_log

    deployment, rows = read_log(config.log)
    if config.viewer:
        return show_log(config, deployment, rows)
    rows = replay.policy_rows(rows)
    q, starts = replay.simulate(rows, deployment, load_model(config.model or config.log / MODEL), config.window)
    found = replay.errors(rows["q"], q)
    print(f"{len(rows)} control steps, started anew from the log every {config.window:g} s; errors in rad")
    for i, name in enumerate(deployment.joint_names):
        print(f"{name:30s}  rms {found['rms'][i]:8.4f}  max {found['max'][i]:8.4f}")
    out = config.out or config.log / "replay.png"
    replay.plot(rows, q, starts, deployment, out)
    print(f"Plot: {out}")
    return 0


def show_log(config: ReplayCommand, deployment: Deployment, rows: np.ndarray) -> int:
    """Shows a log in a browser until Ctrl-C comes."""
    from bridge.mujoco_robot import load_model
    from bridge.recorder import MODEL
    from bridge.viewer import Viewer
    from bridge.viewer_replay import play

    if not len(rows):
        raise ValueError(f"The log in '{config.log}' is empty.")
    model = load_model(config.model or config.log / MODEL)
    viewer = Viewer(model, config.viewer_address, title=f"log {config.log.name}", buttons=("reset",), pause=True)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(viewer):
        play(rows, deployment, model, viewer)
    return 0


def benchmark(arguments: list[str]) -> int:
    """Times, prints and perhaps writes."""
    config = parse(BenchmarkCommand, arguments, "benchmark", "policy")
    from bridge.benchmark import measure, write

    found = measure(config.policy, config.steps)
    print(found)
    if config.out is not None:
        write(found, config.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
