"""The quality gate: C MuJoCo's loop against a plain one, metrics of signals known by hand, verdicts and exit codes.

One program is compiled, for a batch of two, and shared by all tests that simulate.
"""

import copy
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import train
from envs import velocity
from envs.commands import CommandConfig, constant
from experiments.judge import load
from learning import gate, gate_report, metrics, record
from learning.closed_loop import ClosedLoop, Episodes, Signals
from learning.policy import save_policy

DT = 0.02
FORWARD = np.array([[0.5, 0.0, 0.0], [0.0, 0.2, 0.5]])
WALK = Episodes(FORWARD, np.zeros(2, bool), 60)


@pytest.fixture(scope="module")
def shipped():
    return load(train.SHIPPED_POLICY)


@pytest.fixture(scope="module")
def env(shipped):
    return velocity.make(dataclasses.replace(shipped[1], backend="jax"))


@pytest.fixture(scope="module")
def loop(env, shipped):
    return ClosedLoop(env, shipped[0], threads=2)


@pytest.fixture(scope="module")
def zero_policy(shipped):
    policy = shipped[0]
    return dataclasses.replace(policy, weights=jax.tree.map(jnp.zeros_like, policy.weights))


@pytest.fixture(scope="module")
def walk(loop):
    return loop.run(WALK)


# ---------------------------------------------------------------------------------------------------- the closed loop


def test_the_loop_equals_a_plain_one(env, loop, walk):
    """The same targets on one robot with `mj_step`, its solver started warm, from the same start."""
    robot = env.robot
    model = copy.copy(robot.mj_model)
    model.opt.iterations, model.opt.ls_iterations = 100, 50
    data = mujoco.MjData(model)
    data.qpos[:] = loop.start(WALK)[0]
    foot_bodies = [int(b) for b in robot.foot_body_ids]
    for step in range(60):
        squares, powers = [], []
        for _ in range(env.config.decimation):
            data.ctrl[:] = walk.target[step, 0]
            before = data.qvel[robot.dof_adr].copy()
            mujoco.mj_step(model, data)
            squares.append(np.mean(data.actuator_force**2))
            powers.append(np.sum(np.abs(data.actuator_force * before)))
        touching = {int(model.geom_bodyid[contact.geom[1]]) for contact in data.contact}
        assert [body in touching for body in foot_bodies] == walk.contact[step, 0].tolist()
        w, x, y, z = data.qpos[3:7]
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        c, s = math.cos(yaw), math.sin(yaw)
        expected = np.array([[c, s], [-s, c]]) @ data.qvel[:2]
        np.testing.assert_allclose(walk.velocity[step, 0], expected, atol=1e-4)
        np.testing.assert_allclose(walk.yaw_rate[step, 0], data.qvel[5], atol=1e-3)
        np.testing.assert_allclose(walk.torque_squared[step, 0], np.mean(squares), rtol=1e-2)
        np.testing.assert_allclose(walk.power[step, 0], np.mean(powers), rtol=1e-2, atol=0.1)
    assert 0.2 < walk.contact[:, 0].all(axis=1).mean() < 0.9  # it steps


def test_the_policy_is_told_what_the_environment_tells_it(env, walk, shipped):
    """The first targets follow from the observation at rest, written out: no rotation, default pose, phase zero."""
    obs = np.concatenate([np.zeros(3), [0, 0, -1], np.zeros(3 * 29), FORWARD[1], [0, 1]])
    action = shipped[0](jnp.asarray(obs, jnp.float32))
    expected = env.robot.default_joint_pos + env.robot.action_scale * np.asarray(action)
    np.testing.assert_allclose(walk.target[0, 1], expected, atol=1e-4)


def test_noise_reaches_only_those_that_have_it(loop, walk):
    noisy = loop.run(dataclasses.replace(WALK, noisy=np.array([True, False]), steps=20))
    assert np.all(np.any(noisy.target[:, 0] != walk.target[:20, 0], axis=1))
    np.testing.assert_array_equal(noisy.target[:, 1], walk.target[:20, 1])


def test_a_kick_changes_the_velocity_once_and_of_one_robot_only(loop, walk):
    kick, when = np.array([[0.3, -0.4], [0.6, 0.0]]), np.array([30, 1000])
    kicked = loop.run(dataclasses.replace(WALK, steps=31, kick=kick, kick_step=when))
    np.testing.assert_array_equal(kicked.velocity[:, 1], walk.velocity[:31, 1])
    np.testing.assert_array_equal(kicked.velocity[:30, 0], walk.velocity[:30, 0])
    assert np.linalg.norm(kicked.velocity[30, 0] - walk.velocity[30, 0]) == pytest.approx(0.5, rel=0.5)


def test_a_robot_that_diverges_or_is_knocked_over_has_fallen_and_harms_no_neighbour(loop, walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of its warnings
    for kick in (math.nan, 8.0):
        kicks = np.array([[kick, 0.0], [0.0, 0.0]])
        signals = loop.run(dataclasses.replace(WALK, kick=kicks, kick_step=np.array([5, 5])))
        assert signals.alive[:5, 0].all() and not signals.alive[-1, 0]
        assert np.all(np.diff(signals.alive.astype(int), axis=0) <= 0)
        for field in dataclasses.fields(Signals):
            values = getattr(signals, field.name)
            assert np.all(np.isfinite(values)) and not np.any(values[~signals.alive[:, 0], 0]), field.name
            np.testing.assert_array_equal(values[:, 1], getattr(walk, field.name)[:, 1], field.name)


def test_a_policy_of_another_robot_is_refused(env, shipped):
    spec = dataclasses.replace(shipped[0].spec, observation_size=7)
    with pytest.raises(ValueError, match=r"maps 7 observations to 29 actions; robot 'g1' has 98"):
        ClosedLoop(env, dataclasses.replace(shipped[0], spec=spec))


# ------------------------------------------------------------------------------------------------------------- metrics


def made_up(steps=400, batch=1, **changes):
    """A robot that stands motionless with both feet on the floor, but for the changes."""
    still = {
        "alive": np.ones((steps, batch), bool),
        "velocity": np.zeros((steps, batch, 2)),
        "yaw_rate": np.zeros((steps, batch)),
        "slip": np.zeros((steps, batch, 2)),
        "contact": np.ones((steps, batch, 2), bool),
        "target": np.zeros((steps, batch, 3)),
        "limit_excess": np.zeros((steps, batch)),
        "overlap": np.zeros((steps, batch), bool),
        "torque_squared": np.zeros((steps, batch)),
        "saturated": np.zeros((steps, batch)),
        "power": np.zeros((steps, batch)),
    }
    return Signals(**(still | changes))


TIME = DT * np.arange(400)


def test_a_robot_that_stands_costs_nothing_and_is_off_by_its_command():
    still = made_up()
    assert all(value[0] == 0.0 for value in metrics.effort(still, DT).values())
    figures = metrics.tracking(still, np.array([[0.3, -0.4, 0.7]]), 100, 40)
    assert figures["velocity_error"][0] == pytest.approx(0.5)
    assert figures["yaw_rate_error"][0] == pytest.approx(0.7)


def test_sway_is_no_error_of_the_mean_and_an_offset_is():
    """v = command + offset + sway with the period of the gait, whose mean over a cycle is the offset exactly."""
    sway = 0.2 * np.sin(2 * np.pi * TIME / 0.8)
    velocity = np.stack([0.5 + 0.03 + sway, np.full(400, 0.04)], axis=1)[:, None]
    rate = (1.0 - 0.05 + sway)[:, None]
    rate[:100] = 55.0  # before it counts
    figures = metrics.tracking(made_up(velocity=velocity, yaw_rate=rate), np.array([[0.5, 0.0, 1.0]]), 100, 40)
    assert figures["velocity_error"][0] == pytest.approx(0.05)
    assert figures["yaw_rate_error"][0] == pytest.approx(0.05)
    assert figures["velocity_error_instantaneous"][0] > 0.12
    assert figures["v_x"][0] == pytest.approx(0.53, abs=0.01)


def test_the_time_after_a_fall_does_not_count():
    alive = (TIME < 4.0)[:, None] & np.array([True, False])
    velocity = np.where(alive[..., None], 1.0, 7.0) * np.array([1.0, 0.0])
    figures = metrics.tracking(made_up(batch=2, alive=alive, velocity=velocity), np.zeros((2, 3)), 100, 40)
    assert figures["velocity_error"][0] == pytest.approx(1.0)
    assert np.isnan(figures["velocity_error"][1])  # fell before anything counted


def test_slip_is_the_speed_of_feet_on_the_floor():
    contact = np.zeros((400, 1, 2), bool)
    contact[:100, :, 0], contact[:300, :, 1] = True, True
    slip = np.where(contact, np.array([0.4, 0.0]), 9.0)
    assert metrics.foot_slip(made_up(contact=contact, slip=slip))[0] == pytest.approx(0.1)
    assert np.isnan(metrics.foot_slip(made_up(contact=np.zeros((400, 1, 2), bool)))[0])


def test_cost_of_transport_is_energy_per_weight_and_distance():
    """80 W at 0.5 m/s with 400 N: 80 / (400 · 0.5) = 0.4; a robot told to stand is left out."""
    velocity = np.tile([0.3, 0.4], (400, 2, 1))
    signals = made_up(batch=2, velocity=velocity, power=np.full((400, 2), 80.0))
    totals = metrics.transport(signals, np.array([[0.3, 0.4, 0.0], [0.0, 0.0, 1.0]]), 100, 40, DT)
    assert totals["distance"] == pytest.approx([0.5 * DT * 261, 0.0])
    assert metrics.cost_of_transport(totals["energy"].sum(), 400.0, totals["distance"].sum()) == pytest.approx(0.4)
    assert math.isnan(metrics.cost_of_transport(0.0, 400.0, 0.0))


def test_jerk_is_the_third_derivative_of_the_targets():
    target = (2.0 * TIME**3)[:, None, None] * np.array([1.0, 0.0, 0.0])  # 12 rad/s³ on one joint of three
    assert metrics.joint_jerk(made_up(target=target), DT)[0] == pytest.approx(12.0 / math.sqrt(3), rel=1e-6)


def test_violations_are_shares_of_time():
    first = np.arange(400)[:, None] < 100
    figures = metrics.effort(
        made_up(overlap=first, limit_excess=0.01 * first, saturated=0.5 * first, torque_squared=16.0 * first), DT
    )
    assert figures["self_collision"][0] == figures["joint_limit_violated"][0] == pytest.approx(0.25)
    assert (figures["torque_saturated"][0], figures["torque_rms"][0]) == pytest.approx((0.125, 2.0))


# ------------------------------------------------------------------------------------------------- episodes, verdicts


def test_the_grid_spans_the_commands_and_stands_first():
    config = CommandConfig()
    grid = gate.command_grid(config)
    assert len(grid) == 125 == len(np.unique(grid, axis=0))
    np.testing.assert_array_equal(grid[0], 0.0)
    for axis, (low, high) in enumerate((config.v_x, config.v_y, config.w_z)):
        assert (grid[:, axis].min(), grid[:, axis].max()) == (low, high)
    np.testing.assert_array_equal(gate.command_grid(constant((0.5, 0.0, 0.1)))[:, 0], 0.5)


def test_all_commands_come_with_noise_and_without():
    grid = gate.command_grid(CommandConfig())
    episodes = gate.plain_episodes(grid, gate.GateConfig(), DT)
    assert (len(episodes.command), episodes.steps) == (256, 1000)
    for half in (episodes.noisy, ~episodes.noisy):
        assert half.sum() == 128 and len(np.unique(episodes.command[half], axis=0)) == 125


def test_a_whole_gate_goes_through_the_grid_in_order():
    """As when the recorded results were made: an episode's heading and noise depend on its place."""
    grid = gate.command_grid(CommandConfig())
    for episodes in (250, 256):
        command = gate.plain_episodes(grid, gate.GateConfig(episodes=episodes), DT).command
        half = np.arange(episodes // 2) % 125
        np.testing.assert_array_equal(command, grid[np.concatenate([half, half])])


@pytest.mark.parametrize("episodes", [16, 32, 64, 249])
def test_few_episodes_are_spread_over_the_commands(episodes):
    grid = gate.command_grid(CommandConfig())
    chosen = gate.plain_episodes(grid, gate.GateConfig(episodes=episodes), DT)
    again = gate.plain_episodes(grid, gate.GateConfig(episodes=episodes, seed=1), DT)
    np.testing.assert_array_equal(chosen.command, again.command)
    for half in (chosen.noisy, ~chosen.noisy):
        commands = chosen.command[half]
        np.testing.assert_array_equal(commands[0], 0.0)
        assert len(np.unique(commands, axis=0)) == half.sum()
        for axis in range(3):
            np.testing.assert_array_equal(np.unique(commands[:, axis]), np.unique(grid[:, axis]))
        middle, reach = (grid.max(axis=0) + grid.min(axis=0)) / 2, np.ptp(grid, axis=0) / 2
        assert np.all(np.abs(commands.mean(axis=0) - middle) < 0.4 * reach)


def test_a_grid_of_one_command_is_that_command():
    grid = gate.command_grid(constant((0.5, 0.0, 0.1)))
    assert len(grid) == 1
    np.testing.assert_array_equal(
        gate.plain_episodes(grid, gate.GateConfig(episodes=3), DT).command, np.tile(grid, (3, 1))
    )


def test_kicks_differ_in_strength_only():
    grid = gate.command_grid(CommandConfig())
    weak, strong = (gate.pushed_episodes(grid, gate.GateConfig(), DT, strength) for strength in (0.25, 1.0))
    np.testing.assert_allclose(np.linalg.norm(weak.kick, axis=1), 0.25)
    np.testing.assert_allclose(4.0 * weak.kick, strong.kick)
    np.testing.assert_array_equal(weak.kick_step, strong.kick_step)
    assert np.all((weak.kick_step >= 150) & (weak.kick_step <= 250)) and weak.steps == 500
    assert np.abs(weak.kick.mean(axis=0)).max() < 0.05  # from all sides


GOOD = {"episodes": 256, "falls": 0, "velocity_error": 0.1, "yaw_rate_error": 0.15}


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, set()),
        ({"episodes": 255}, {"episodes"}),
        ({"falls": 1}, {"falls"}),
        ({"velocity_error": 0.1001}, {"velocity_error"}),
        ({"velocity_error": math.nan}, {"velocity_error"}),
        ({"yaw_rate_error": 0.1501}, {"yaw_rate_error"}),
        ({"push_survival": 0.9499}, {"push_survival"}),
    ],
)
def test_each_bar_holds_just_so(change, failing):
    summary = GOOD | {"push_survival": 0.95} | change
    verdicts = gate.judge(summary, summary.pop("push_survival"), gate.Bars())
    assert {v.name for v in verdicts if not v.passed} == failing


def result_of(velocity_error, episodes=256):
    summary = {**GOOD, "episodes": episodes, "velocity_error": velocity_error, "cost_of_transport": math.nan}
    command = gate.command_grid(CommandConfig())
    names = ("velocity_error", "yaw_rate_error", "power", "torque_rms", "foot_slip", "v_x", "yaw_rate")
    return gate.GateResult(
        command=command,
        fell=np.zeros(len(command), bool),
        per_episode={name: np.full(len(command), velocity_error) for name in names},
        summary={name: summary for name in ("all", "with_noise", "without_noise")},
        survival={0.25: 1.0, 0.5: 0.97},
        verdicts=gate.judge(summary, 0.97, gate.Bars()),
    )


@pytest.mark.parametrize(("velocity_error", "code"), [(0.09, 0), (0.11, 1)])
def test_the_exit_code_is_the_verdict(velocity_error, code, env, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(velocity, "make", lambda config: env)
    monkeypatch.setattr(gate, "run_gate", lambda *_: result_of(velocity_error))
    assert train.main(["eval", "--out", str(tmp_path / "new")]) == code
    assert ("FAIL" in capsys.readouterr().out) == bool(code)
    found = json.loads((tmp_path / "new" / "gate.json").read_text())
    wanted = {"robot", "gpu", "versions", "train_seconds", "episodes", "falls", "push_survival", "passed"}
    assert wanted | {"velocity_error", "yaw_rate_error"} <= set(found)
    assert (found["robot"], found["episodes"], found["falls"], found["gpu"]) == ("g1", 256, 0, "NVIDIA H200")
    assert (found["velocity_error"], found["push_survival"], found["passed"]) == (velocity_error, 0.97, not code)
    assert found["cost_of_transport"] is None and found["versions"]["mujoco"] == mujoco.__version__
    assert (tmp_path / "new" / "gate.png").stat().st_size > 10_000


def test_a_gate_of_fewer_episodes_is_written_beside_the_recorded_one(env, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(velocity, "make", lambda config: env)
    monkeypatch.setattr(gate_report, "draw", lambda result, heading, path: path.touch())

    def judged(episodes, velocity_error):
        """The velocity errors of all gates that are there after one more."""
        monkeypatch.setattr(gate, "run_gate", lambda *_: result_of(velocity_error, episodes))
        train.main(["eval", "--episodes", str(episodes), "--out", str(tmp_path)])
        assert {p.stem for p in tmp_path.glob("*.png")} == {p.stem for p in tmp_path.glob("*.json")}
        return {p.name: json.loads(p.read_text())["velocity_error"] for p in tmp_path.glob("*.json")}

    assert judged(16, 0.01) == {"gate.json": 0.01}
    assert judged(256, 0.02) == {"gate.json": 0.02}
    capsys.readouterr()
    assert judged(32, 0.03) == {"gate.json": 0.02, "gate_32.json": 0.03}
    said = capsys.readouterr().out
    assert f"Figures: {tmp_path}/gate_32.json" in said
    assert f"'{tmp_path}/gate.json' is of more episodes and stays." in said
    assert judged(256, 0.04) == {"gate.json": 0.04, "gate_32.json": 0.03}


def test_what_was_known_of_a_training_outlives_a_gate_without_its_metrics(env, zero_policy, tmp_path, monkeypatch):
    monkeypatch.setattr(velocity, "make", lambda config: env)
    monkeypatch.setattr(gate_report, "draw", lambda result, heading, path: path.touch())
    monkeypatch.setattr(gate, "run_gate", lambda *_: result_of(0.01))
    path, other = (save_policy(zero_policy, tmp_path / name) for name in ("policy.npz", "other.npz"))
    recorded = tmp_path / "gate.json"

    def judged(policy):
        assert train.main(["eval", str(policy)]) == 0
        found = json.loads(recorded.read_text())
        return found["policy"], found["train_seconds"], found["velocity_error"]

    recorded.write_text('{"policy": "a_run", "train_seconds": 287.5, "velocity_error": 0.5}')
    assert judged(path) == judged(tmp_path) == ("a_run", 287.5, 0.01)
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 1, "minutes": 2.0}\n')
    assert judged(path) == ("policy.npz", 120.0, 0.01)
    (tmp_path / "metrics.jsonl").unlink()
    assert judged(other) == ("other.npz", None, 0.01)  # the record was another policy's
    assert judged(path) == ("policy.npz", None, 0.01)


def test_commands_without_a_measurement_are_grey_and_unlabelled():
    figure = Figure()
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    x, y = np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0])
    gate_report._heat(axis, x, y, np.array([0.1, 0.2, math.nan]), 0.1)
    assert [text.get_text() for text in axis.texts] == ["0.10", "0.20"]
    canvas.draw()
    upper = np.asarray(canvas.buffer_rgba())[10:200, 10:-10, :3]  # neither was measured
    assert np.unique(upper.reshape(-1, 3), axis=0).tolist() == [[204, 204, 204]]


def test_a_policy_that_does_nothing_fails_the_gate(env, zero_policy, tmp_path, monkeypatch):
    short = gate.GateConfig(episodes=2, seconds=4.0, push_strengths=(1.0,), push_seconds=4.0, push_time=(0.5, 1.0))
    monkeypatch.setattr(velocity, "make", lambda config: env)
    monkeypatch.setattr(gate, "GateConfig", lambda **_: short)
    path = save_policy(zero_policy, tmp_path / "policy.npz")
    assert train.main(["eval", str(path)]) == 1
    found = json.loads((tmp_path / "gate.json").read_text())
    assert list(found["push_survival_by_strength"]) == ["0.5", "1"]
    assert (found["falls"], found["velocity_error"], found["push_survival"]) == (2, None, 0.0)  # fell before it counts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", "1"], "episodes = 1: the gate takes at least"),
        (["--seed", "-1"], "seed = -1: must be at least 0."),
        (["--out", "README.md"], "'README.md' is a file; --out takes a directory."),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, env, monkeypatch, capsys):
    monkeypatch.setattr(velocity, "make", lambda config: env)
    monkeypatch.chdir(train.SHIPPED_POLICY.parents[3])
    assert train.main(["eval", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_interruption_is_one_sentence(env, monkeypatch, capsys, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(velocity, "make", lambda config: env)
    monkeypatch.setattr(gate, "run_gate", interrupt)
    assert train.main(["eval", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\ntrain.py eval: interrupted.\n"
    assert not (tmp_path / "gate.json").exists()


def test_training_facts_are_what_the_directory_says(tmp_path):
    assert set(record.training_facts(tmp_path).values()) == {None}
    (tmp_path / "versions.json").write_text('{"device": "cpu", "jax": "1"}')
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 1, "minutes": 1.0}\n{"env_steps": 2, "minutes": 2.5}\n')
    facts = record.training_facts(tmp_path)
    assert (facts["gpu"], facts["train_seconds"], facts["train_versions"]["jax"]) == (None, 150.0, "1")
    (tmp_path / "versions.json").write_text('{"device": "NVIDIA H200"}')
    assert record.training_facts(tmp_path)["gpu"] == "NVIDIA H200"
