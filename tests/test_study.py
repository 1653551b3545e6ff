"""Studies: variants differ in what they are named for, runs are kept and resumed, the report is what the runs say."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colors, image
from toy_env import PointMass

from envs import velocity
from experiments import headline, study, study_curves, study_report, study_runs, variants
from experiments.presets import TrainConfig, preset
from experiments.study import STUDIES, StudyConfig
from learning import gate, record
from learning.checkpoint import CheckpointError
from learning.config import PPOConfig, RunConfig
from learning.health import NonFiniteError
from learning.policy import load_policy
from learning.run import train as run_training
from rewards import weighted_terms

TOY = PPOConfig(num_envs=8, unroll_length=5, num_minibatches=2, num_epochs=1, policy_hidden=(8,), value_hidden=(8,))


def toy(seed=0, iterations=4):
    steps = iterations * TOY.samples_per_iteration
    run = RunConfig(total_env_steps=steps, checkpoint_iterations=1, keep_checkpoints=1)
    return TrainConfig(ppo=dataclasses.replace(TOY, seed=seed), run=run)


def toy_trainer(config, run_dir, resume, callback):
    """As `launch`, with a toy to train on."""
    return run_training(
        PointMass(), config.ppo, run_dir, run=config.run, settings=dataclasses.asdict(config), resume=resume,
        callback=callback, devices=jax.local_devices()[:1],
    )  # fmt: skip


def test_every_study_names_variants_that_exist_and_starts_from_the_preset():
    config = preset("gpu")
    known = variants.variants(config)
    for names in STUDIES.values():
        assert set(names) <= set(known) and names.count("mpc") <= 1
    assert dataclasses.replace(variants.apply(config, "mpc")) == config
    with pytest.raises(ValueError, match="no variant 'mpd'"):
        variants.apply(config, "mpd")


@pytest.mark.parametrize("name", sorted({name for names in STUDIES.values() for name in names} - {"mpc"}))
def test_a_variant_changes_guidance_or_its_rewards_and_nothing_else(name):
    config = preset("gpu")
    changed = variants.apply(config, name)
    before, after = (dataclasses.asdict(c) for c in (config, changed))
    differing = set(record.differences(before, after)) - {"variant"}
    assert differing
    assert all(key.startswith(("env.guidance.", "env.rewards.base.", "env.rewards.mpc.")) for key in differing)
    assert changed.env.rewards.regularization == config.env.rewards.regularization


@pytest.mark.parametrize("name", ["base", "released_solver", "horizon_20"])
def test_a_variant_can_be_stepped(name):
    """Traced, not compiled: shapes agree from reset to step."""
    config = variants.apply(preset("cpu"), name).env
    env = velocity.make(dataclasses.replace(config, backend="jax"))
    start = jax.eval_shape(env.reset, jax.ShapeDtypeStruct((2, 2), jnp.uint32))
    after = jax.eval_shape(env.step, start, jax.ShapeDtypeStruct((2, env.action_size), jnp.float32))
    assert jax.tree.map(lambda x: x.shape, start) == jax.tree.map(lambda x: x.shape, after)
    assert set(after.metrics) == set(env.metric_names)
    assert {f"reward/{term}" for term in weighted_terms(config.rewards)} <= set(after.metrics)
    assert ("mpc/failed" in after.metrics) == config.guidance.enabled
    assert len(env.mirror.observations["privileged_state"].sign) == after.obs["privileged_state"].shape[1]


def test_a_reward_that_follows_a_plan_needs_one():
    with pytest.raises(ValueError, match=r"guidance\.enabled = False, but the reward follows the plan"):
        variants.guidance(preset("cpu"), enabled=False)


def test_a_run_is_made_once_kept_along_the_way_and_goes_on_where_it_stopped(tmp_path):
    run_dir = tmp_path / "mpc_seed0"
    calls = []

    def trainer(config, run_dir, resume, callback):
        calls.append(resume)
        short = config if resume else toy(iterations=2)  # the first time it is cut short …
        result = toy_trainer(dataclasses.replace(config, run=short.run), run_dir, resume, callback)
        if not resume:
            (run_dir / record.CONFIG).write_text(json.dumps(dataclasses.asdict(config), default=str))
        return result if resume else dataclasses.replace(result, stopped_by="signal")

    assert not study.train(toy(), run_dir, 4, trainer)
    assert not (run_dir / study.FINISHED).exists()
    assert study.train(toy(), run_dir, 4, trainer)
    assert study.train(toy(), run_dir, 4, trainer)
    assert calls == [False, True]  # … the second time it goes on, the third there is nothing to do
    kept = sorted((run_dir / study_runs.POLICIES).glob("*.npz"))
    assert [int(path.stem) for path in kept] == [40, 80, 120, 160]
    assert load_policy(kept[-1]).spec.action_size == 1
    with pytest.raises(ValueError, match=r"was trained with ppo.seed = 0, not 1"):
        study.train(toy(seed=1), run_dir, 4, trainer)


@pytest.mark.parametrize("first", range(6))
def test_the_first_policy_that_passes_is_found_by_bisection(tmp_path, first):
    (tmp_path / study_runs.POLICIES).mkdir()
    steps = [100, 200, 300, 400, 500]
    for count in steps:
        (tmp_path / study_runs.POLICIES / f"{count:012d}.npz").touch()
    rows = [{"env_steps": count, "minutes": count / 100} for count in steps]
    (tmp_path / record.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def passes(path: Path) -> bool:
        asked.append(int(path.stem))
        return steps.index(int(path.stem)) >= first

    found = study_runs.crossing(tmp_path, first < 5, passes)
    expected = (steps[first], steps[first] / 100) if first < 5 else (None, None)
    assert (found["env_steps"], found["minutes"]) == expected
    assert len(asked) == len(set(asked)) <= 3 and 500 not in asked


@pytest.fixture
def gated(tmp_path, monkeypatch):
    """A finished run of three policies, of which the last two pass, and the gates run on it as (policy, episodes)."""
    run_dir, asked = tmp_path / "mpc_seed0", []
    (run_dir / study_runs.POLICIES).mkdir(parents=True)
    for count in (100, 200, 300):
        (run_dir / study_runs.POLICIES / f"{count:012d}.npz").touch()
    rows = [{"env_steps": count, "minutes": count / 100} for count in (100, 200, 300)]
    (run_dir / record.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def judge(path, out, episodes, title):
        steps = "" if path == run_dir else f" after {int(path.stem)} samples"
        assert title == f"Gate of mpc_seed0{steps}"
        asked.append((path.stem, episodes))
        error = None if path.stem == "000000000100" else 0.05  # it fell before anything counted
        found = {"episodes": episodes, "falls": 0, "velocity_error": error, "yaw_rate_error": 0.1, "push_survival": 1.0}
        record.write_json(out / "gate.json", {**found, "bars": dataclasses.asdict(gate.Bars())})

    monkeypatch.setattr(study_runs, "judge", judge)
    return run_dir, asked


def test_gates_of_different_sizes_are_not_mixed(gated):
    run_dir, asked = gated
    crossing = run_dir / study_runs.CROSSING
    for episodes in (4, 6):
        study_runs.judge_run(run_dir, episodes)
        assert json.loads(crossing.read_text()) == {"env_steps": 200, "minutes": 2.0, "episodes": episodes}
        assert json.loads((run_dir / "gate.json").read_text())["episodes"] == episodes
        assert [name for name, _ in asked] == ["mpc_seed0", "000000000200", "000000000100"]  # the last one once
        assert {size for _, size in asked} == {episodes}
        asked.clear()
    study_runs.judge_run(run_dir, 6)
    assert not asked  # nothing left to do


def test_an_interrupted_gate_is_one_sentence_and_the_run_is_free_again(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "train", lambda *_: True)
    monkeypatch.setattr(study_runs, "judge", interrupt)
    assert study.main(["solver", "--runs", str(tmp_path), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "\nstudy.py: interrupted. The same command goes on.\n"
    with study.claim(tmp_path / "mpc_seed0") as mine:
        assert mine


@pytest.mark.parametrize("kind", [CheckpointError, lambda text: NonFiniteError("reward", 3, text, in_rollout=True)])
def test_a_training_that_fails_is_one_sentence(kind, tmp_path, monkeypatch, capsys):
    def fail(*_):
        error = kind("went wrong")
        error.add_note("The last good checkpoint is 'c'.")
        raise error

    monkeypatch.setattr(study, "train", fail)
    assert study.main(["solver", "--runs", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("study.py: ") and "went wrong" in said[0]
    assert said[1:] == ["The last good checkpoint is 'c'."]


def test_a_crossing_that_does_not_say_was_found_by_gates_like_the_one_beside_it(gated):
    run_dir, asked = gated
    study_runs.judge_run(run_dir, 256)
    record.write_json(run_dir / study_runs.CROSSING, {"env_steps": 300, "minutes": 3.0})
    asked.clear()
    study_runs.judge_run(run_dir, 256)
    assert not asked and json.loads((run_dir / study_runs.CROSSING).read_text())["env_steps"] == 300
    study_runs.judge_run(run_dir, 6)
    assert json.loads((run_dir / study_runs.CROSSING).read_text())["env_steps"] == 200


def write_run(run_dir, slope, falls, crossing, start=1.0):
    run_dir.mkdir(parents=True)
    rows = [
        {"env_steps": i * 1e6, "minutes": start + i / 10, **dict.fromkeys(study_report.CURVES, 1.0 - slope * i)}
        for i in range(1, 6)
    ]
    (run_dir / record.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    record.write_json(run_dir / "versions.json", {"device": "NVIDIA H200"})
    found = {
        "passed": falls == 0,
        "episodes": 4 + falls,
        "falls": falls,
        **dict.fromkeys(study_report.FIGURES, 0.1 + 0.1 * falls),
    }
    record.write_json(run_dir / "gate.json", found)
    record.write_json(
        run_dir / study_runs.CROSSING, {"env_steps": crossing, "minutes": crossing and start + crossing / 1e7}
    )


def loaded(run_dir):
    run = study_curves.load(run_dir)
    assert run is not None
    return run


def test_a_run_belongs_to_one_process_at_a_time(tmp_path, capsys):
    runs = [tmp_path / f"{name}_seed0" for name in STUDIES["solver"]]
    with study.claim(runs[0]) as first, study.claim(runs[1]) as second, study.claim(runs[0]) as again:
        assert first and second and not again
        assert study.main(["solver", "--seeds", "0", "--runs", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("another process is at it") == 2
    with study.claim(runs[0]) as mine:
        assert mine
    assert not any(run.exists() for run in runs)


def test_the_report_is_the_mean_and_the_range_over_the_seeds_that_there_are(tmp_path):
    write_run(tmp_path / "mpc_seed0", 0.1, 0, 3e6)
    write_run(tmp_path / "mpc_seed1", 0.2, 2, None, start=3.0)
    write_run(tmp_path / "base_seed0", 0.0, 1, None)
    (tmp_path / "mpc_seed1" / "versions.json").write_text('{"device": "NVIDIA H100", "git_commit": "abc"}')
    text = study_report.report("guidance", ("mpc", "base", "reference"), (0, 1, 2), tmp_path, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "guidance.json").read_text())["variants"]
    assert [row["runs"] for row in rows] == [["mpc_seed0", "mpc_seed1"], ["base_seed0"]]  # reference was not run
    assert rows[0]["gate/falls"] == {"mean": 1.0, "min": 0.0, "max": 2.0, "each": [0.0, 2.0]}
    assert rows[0]["passed"] == [True, False]
    assert rows[0]["gpu"][1] == "NVIDIA H100" and rows[0]["versions"][1]["git_commit"] == "abc"  # each run's own
    assert rows[0]["gpu"][0] != "NVIDIA H100" and len(rows[0]["versions"]) == 2
    np.testing.assert_allclose(rows[0]["score/lin_vel"]["mean"], 0.25)
    np.testing.assert_allclose(rows[0]["gate/passed_after_minutes"]["mean"], 1.3)
    np.testing.assert_allclose(rows[0]["gate/passed_after_cold_minutes"]["mean"], 3.3)  # as late as seed 1 began
    assert rows[1]["gate/passed_after_minutes"] is None
    lines = text.splitlines()
    assert lines[0] == "| | mpc | base |"
    assert "| episodes of the gate | 5 (4, 6) | 5 |" in lines  # gates of different sizes show
    assert "| falls | 1 (0, 2) | 1 |" in lines and "| gate | passed, failed | failed |" in lines
    assert "| first policy through the gate after [min] | 1.30, – | – |" in lines  # no mean of those that passed alone
    assert (tmp_path / "out" / "guidance.png").stat().st_size > 10_000


def colours_of(path):
    return {tuple(pixel) for pixel in np.unique((image.imread(path)[..., :3] * 255).round().reshape(-1, 3), axis=0)}


def test_the_headline_shows_mpc_rl_beside_base_rl_and_nothing_else(tmp_path):
    blue, brown = (tuple(255 * x for x in colors.to_rgb(colour)) for colour in study_curves.COLOURS[:2])
    for name in ("mpc", "base", "reference"):
        write_run(tmp_path / f"{name}_seed0", 0.1, 0, 3e6)
    study_report.report("guidance", ("mpc", "base", "reference"), (0,), tmp_path, tmp_path)
    found = {name: [loaded(tmp_path / f"{name}_seed0")] for name in ("mpc", "reference")}
    study_curves.start_cold(found["mpc"])
    headline.headline(found, tmp_path / "alone.png")
    assert {blue, brown} <= colours_of(tmp_path / "guidance_headline.png")
    assert blue in (alone := colours_of(tmp_path / "alone.png")) and brown not in alone


def test_seeds_are_compared_as_if_each_had_compiled(tmp_path):
    for seed, start in enumerate((0.2, 1.0, 0.4)):
        write_run(tmp_path / f"mpc_seed{seed}", 0.1, 0, 3e6, start)
    runs = [loaded(tmp_path / f"mpc_seed{seed}") for seed in range(3)]
    study_curves.start_cold(runs)
    for run in runs:
        np.testing.assert_allclose([row["cold_minutes"] for row in run["curve"]], 1.0 + np.arange(1, 6) / 10)
        np.testing.assert_allclose(run["crossing"]["cold_minutes"], 1.3)


def test_smoothing_keeps_a_line_and_leaves_out_what_was_not_measured():
    rows = [{"minutes": i / 60, "score": None if i == 7 else 1.0 + 2.0 * i / 60} for i in range(500)]
    curve = study_curves.smooth(rows, "minutes", "score")
    assert 490 < len(curve) < 500
    np.testing.assert_allclose(curve[:, 1], 1.0 + 2.0 * curve[:, 0])
    assert study_curves.smooth(rows[7:8], "minutes", "score").shape == (0, 2)


def test_a_curve_has_settled_where_it_last_came_from_above():
    curve = np.array([[0.0, 0.1], [1.0, 0.5], [2.0, 0.15], [3.0, 0.3], [4.0, 0.19], [5.0, 0.1]])
    assert study_curves.settled(curve, 0.2) == 4.0  # it begins below, and dips once
    assert study_curves.settled(curve[:4], 0.2) is None
    assert study_curves.settled(curve, 1.0) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds"], "seeds is empty"),
        (["--seeds", "0", "0"], "seeds = (0, 0): each can be given once"),
        (["--env-steps", "-5"], "env_steps = -5: must be at least 0"),
        (["--snapshots", "0"], "snapshots = 0: must be at least 1"),
        (["--episodes", "1"], "episodes = 1: the gate takes at least"),
        (["--episodes", "-4"], "episodes = -4: the gate takes at least"),
        (["--runs", "a_file"], "'a_file' is a file; --runs takes a directory."),
        (["--out", "a_file"], "'a_file' is a file; --out takes a directory."),
        (["--runs", "a_file/x"], "'a_file/x' cannot be made (Not a directory); choose another directory with --runs."),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    monkeypatch.setattr(study, "train", lambda *_: pytest.fail("it trains"))
    try:
        code = study.main(["solver", *arguments])
    except SystemExit as stop:  # the command line's own way to refuse
        code = stop.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_study_leaves_the_recorded_results_alone_unless_told(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(study, "train", lambda *_: True)
    monkeypatch.setattr(study_report, "report", lambda *arguments: written.append(arguments[-1]))
    size = ["solver", "--preset", "cpu", "--seeds", "0", "--episodes", "0"]
    monkeypatch.chdir(tmp_path)
    assert study.main(size) == study.main([*size, "--runs", "toy"]) == 0
    assert set(written) == {Path("runs/studies/report"), Path("toy/report")}


def test_settings_take_the_study_into_account():
    config = study.settings(StudyConfig("guidance", preset="cpu", env_steps=10_000, num_envs=16), "base", seed=5)
    assert (config.ppo.seed, config.ppo.num_envs, config.variant) == (5, 16, "base")
    assert not config.env.guidance.enabled
    iterations = config.run.total_env_steps / config.ppo.samples_per_iteration
    assert iterations / config.run.checkpoint_iterations >= 8


SMALL = {
    "guidance": ("mpc", "base"),
    "landmarks": ("mpc", "look_ahead"),
    "horizon": ("horizon_5", "mpc"),
    "rate": ("mpc", "rate_25"),
    "solver": ("mpc", "released_solver"),
    "terms": ("mpc", "without_mpc_foot"),
    "randomization": ("mpc", "blind"),
}


@pytest.mark.timeout(1200)
def test_every_study_from_end_to_end(tmp_path, capsys, monkeypatch):
    """Two variants of each, trained a little on a CPU; `mpc` is the same run for all. The gate has tests of its own.

    A variant compiles for a minute, so without STUDIES=all in the environment it is `guidance` only.
    """
    assert SMALL.keys() == STUDIES.keys()
    size = ["--preset", "cpu", "--num-envs", "4", "--env-steps", "192", "--seeds", "0", "--episodes", "0"]
    where = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    names = SMALL if os.environ.get("STUDIES") == "all" else ("guidance",)
    for name in names:
        variants_of_it = SMALL[name]
        assert set(variants_of_it) <= set(STUDIES[name])
        monkeypatch.setitem(STUDIES, name, variants_of_it)
        assert study.main([name, *size, *where]) == 0
        out = capsys.readouterr().out
        assert "going on" not in out and ("mpc_seed0: training" in out) == (name == "guidance")
        rows = json.loads((tmp_path / "out" / f"{name}.json").read_text())["variants"]
        assert [(row["variant"], row["env_steps"]["mean"]) for row in rows] == [(v, 192) for v in variants_of_it]
        assert all(0 < row["score/lin_vel"]["mean"] <= 1 for row in rows)
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 0
    assert study.main(["guidance", *size, *where]) == 0  # nothing left to do
    assert "_seed0: training" not in capsys.readouterr().out
