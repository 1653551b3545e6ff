"""The house rules: who may import whom, no knob that nothing reads, errors in one sentence, a README that is true."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

import train
from bridge.hardware import RobotCommand
from bridge.loop import LoopConfig
from bridge.simulate import SimCommand
from bridge.simulated_robot import RobotSimCommand
from envs.config import VelocityConfig
from experiments.presets import TrainConfig, preset
from learning.gate import Bars, GateConfig
from learning.policy import load_policy
from learning.serialize import from_json, to_json
from pimpc import InteriorPoint, PiADMM

ROOT = Path(__file__).parents[1]
PACKAGES = ("pimpc", "envs", "rewards", "learning", "experiments", "bridge")
SOURCES = [*(p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))), ROOT / "train.py"]

FORBIDDEN = {
    "pimpc": {
        "mujoco",
        "brax",
        "flax",
        "optax",
        "orbax",
        "envs",
        "rewards",
        "learning",
        "experiments",
        "bridge",
        "train",
    },
    "rewards": {"mujoco", "brax", "envs", "learning", "pimpc", "experiments", "bridge", "train"},
    "envs": {"brax", "optax", "orbax", "learning", "experiments", "bridge", "train", "tyro"},
    "learning": {"experiments", "bridge", "train", "tyro"},
    "bridge": {"brax", "flax", "optax", "orbax", "rewards", "experiments", "train"},
}
# Files of the bridge that look at trained policies and robots' data; all others run on a robot's computer without JAX.
OFFLINE = {"export.py", "gains.py", "__main__.py"}


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_only_what_they_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & FORBIDDEN[room], path


def test_what_runs_on_a_robot_needs_no_jax():
    """`__main__` imports lazily; a test of the bridge looks at what a run has imported."""
    for path in sorted((ROOT / "bridge").rglob("*.py")):
        if path.name not in OFFLINE:
            assert not imported(path) & {"jax", "onnx", "envs", "learning", "pimpc", "tyro"}, path


def config_classes(kind: type) -> set[type]:
    """A configuration and all configurations inside it."""
    found = {kind}
    for field in dataclasses.fields(kind):
        value = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if dataclasses.is_dataclass(value):
            found |= config_classes(type(value))
    return found


def read_attributes() -> set[str]:
    """Names read as attributes, or by name through `getattr`, anywhere in the sources."""
    names = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names


def test_no_configuration_field_is_read_by_nothing():
    weights = {"BaseWeights", "RegularizationWeights", "GuidanceWeights"}  # read by name: see rewards.tables
    reads = read_attributes()
    classes = config_classes(TrainConfig) | {
        InteriorPoint,
        PiADMM,
        train.PlayConfig,
        train.EvalConfig,
        Bars,
        GateConfig,
        SimCommand,
        LoopConfig,
        RobotCommand,
        *config_classes(RobotSimCommand),
    }
    assert {"VelocityConfig", "PPOConfig", "CentroidalConfig"} <= {c.__name__ for c in classes}
    for cls in classes:
        for field in dataclasses.fields(cls):
            assert cls.__name__ in weights or field.name in reads, f"{cls.__name__}.{field.name} is read by nothing"


def test_every_configuration_survives_json():
    for name in ("cpu", "gpu"):
        config = preset(name)
        assert from_json(TrainConfig, to_json(config)) == config
    with pytest.raises(ValueError, match="no field 'robots'"):
        from_json(VelocityConfig, '{"robots": "g1"}')


def test_every_field_is_a_flag():
    config = tyro.cli(
        TrainConfig,
        args=["--env.guidance.weights", "uniform", "--env.rewards.mpc.mpc-com", "3", "--ppo.num-envs", "8"],
        default=preset("cpu"),
    )
    assert (config.env.guidance.weights, config.env.rewards.mpc.mpc_com, config.ppo.num_envs) == ("uniform", 3.0, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "there is no subcommand 'fly'"),
        (["train", "--preset", "tpu"], "There is no preset 'tpu'"),
        (["train", "--env.robot", "r2d2"], "There is no robot 'r2d2'"),
        (["train", "--resume", "no/such/run"], "no/such/run"),
        (["play", "no/such/run"], "There is no policy at 'no/such/run'"),
        (["eval", "README.md"], "train.py eval: 'README.md' is not a policy file.\n"),
        (["train", "--runs", "README.md"], "'README.md' is a file; --runs takes a directory."),
        (["play", "--seconds", "-1"], "--seconds -1: the length of a film is positive."),
        (["play", "--seconds", "0"], "--seconds 0: the length"),
        (["play", "--seconds", "inf"], "--seconds inf: the length"),
        (["play", "--out", "tests"], "--out tests: it takes the name of a film"),
        (["play", "--out", "walk.txt"], "ends in .mp4, .mov or .mkv."),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list((ROOT / "runs").glob("r2d2*")), "a run that never began left a directory"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ppo.num-envs", "6"], "must be a multiple of"),
        (["--env.guidance.evry", "2"], "--env.guidance.every"),  # suggests what was meant
        (["--env.guidance.every", "often"], "int"),
        (["--env.guidance.centroidal.horizon", "0"], "CentroidalConfig.horizon = 0: it counts stages"),
        (["--video-seconds", "-1"], "video_seconds = -1: the length of a film, or 0 for none."),
    ],
)
def test_a_wrong_flag_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["train", "--preset", "cpu", *arguments])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_help_is_quick_to_ask_for():
    out = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0
    assert "play" in out.stdout and "eval" in out.stdout


def test_the_shipped_policy_says_how_to_play_it():
    policy = load_policy(train.SHIPPED_POLICY)
    config = from_json(VelocityConfig, to_json(preset("gpu").env))
    assert config.robot == policy.metadata["robot"] == "g1"
    assert policy.spec.action_size == len(policy.metadata["joint_names"]) == 29
    assert sum(policy.metadata["observation"].values()) == policy.spec.observation_size


def test_the_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"train\.py (\w+)", readme)
    assert {"play", "eval"} <= set(commands)
    assert set(commands) <= {"train", "play", "eval"}
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / target).exists(), target
    assert "pip install uv && uv run train.py" in readme
    assert "pip install uv && uv run pytest" in readme


def test_the_bridges_page_names_commands_that_exist():
    page = (ROOT / "bridge" / "README.md").read_text()
    named = set(re.findall(r"python -m bridge (\w+)", page))
    assert named >= {"gains", "export", "sim", "replay", "benchmark"}
    for name in named:
        out = subprocess.run([sys.executable, "-m", "bridge", name, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert out.returncode == 0, name
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "bridge" / target).exists(), target
