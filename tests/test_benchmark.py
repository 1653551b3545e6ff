"""The benchmarks: of the solver, from its measures of accuracy to a toy run from end to end, and of the training."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import pimpc
from experiments import benchmark_solver, benchmark_training, compare_kernels
from experiments.benchmark_solver import BenchmarkConfig, Pace
from experiments.solver_accuracy import Answer, measure
from experiments.solver_jax import in_a_row
from experiments.solver_methods_cpu import Clarabel
from experiments.solver_methods_jax import OurInteriorPoint
from experiments.solver_problems import load, repeat_in_time, select
from experiments.solver_programs import condensed_programs, make_stages, restore_inputs, sparse_programs
from experiments.solver_records import Records, load_points, table


def test_what_is_declared_of_the_problems_is_true():
    pimpc.validate(load(10).problem)
    pimpc.validate(load(12).problem)


def test_the_recorded_optimum_is_accurate_and_a_perturbed_one_is_not():
    problems = load(10)
    everything, solved = np.arange(problems.count), np.ones(problems.count, bool)
    right = measure(problems, Answer(everything, problems.u_opt, solved))
    assert right["input_error_worst"] == 0.0
    assert abs(right["cost_excess_worst"]) < 1e-9
    assert right["primal_worst"] < 1e-9 and right["violation_worst"] < 1e-6
    assert right["kkt_worst"] is None  # there were no multipliers
    assert right["within_1e-3"] == right["solved_share"] == 1.0

    u = problems.u_opt.copy()
    u[3] *= 1.01
    u[5] = np.nan
    wrong = measure(problems, Answer(everything, u, solved))
    assert wrong["input_error_median"] == 0.0
    assert wrong["input_error_worst"] == wrong["cost_excess_worst"] == wrong["violation_worst"] == np.inf
    alone = measure(problems, Answer(np.array([3]), u[3:4], solved[:1]))
    assert alone["input_error_worst"] == pytest.approx(0.01)
    assert alone["cost_excess_worst"] > 1e-5 or alone["violation_worst"] > 1.0
    assert alone["within_1e-3"] == 0.0


def test_calls_in_a_row_are_made_without_waiting_and_counted():
    made = []

    def call():
        made.append(time.sleep(0.01))
        return np.zeros(1)

    assert 0.01 <= in_a_row(call, calls=5) < 0.1
    assert len(made) == 6  # the first one is not timed


def test_the_sparse_program_is_the_problem():
    problems = load(10)
    chosen = np.array([7])
    stages = make_stages(select(problems.problem, chosen))
    (program,) = sparse_programs(stages)
    solver = Clarabel({"tolerance": 1e-9})
    given = solver.convert(program)
    solver.setup(given)
    found = solver.solve(given)
    N, _, _, m = program.shape
    u = restore_inputs(stages, 0, program.inputs(found.z))
    answer = Answer(chosen, u[None], np.array([True]), found.rows.reshape(1, N, m), program.inputs(found.bounds)[None])
    quality = measure(problems, answer)
    assert quality["input_error_worst"] < 1e-6
    assert quality["kkt_worst"] < 1e-8


def test_the_condensed_program_has_the_same_optimum():
    problems = load(10)
    stages = make_stages(select(problems.problem, slice(4)))
    programs = condensed_programs(stages)
    np.testing.assert_allclose(programs.P.diagonal(axis1=1, axis2=2), 1.0)
    z = problems.u_opt[:4].reshape(4, -1) / programs.unit
    assert (np.einsum("bri,bi->br", programs.G, z) - programs.h).max() < 1e-6
    slack = programs.h - np.einsum("bri,bi->br", programs.G, z)
    slope = np.einsum("bij,bj->bi", programs.P, z) + programs.q
    for i in range(4):  # the gradient is a combination of the active rows
        active = programs.G[i][slack[i] < 1e-6]
        rest = slope[i] - active.T @ np.linalg.lstsq(active.T, slope[i], rcond=None)[0]
        assert np.abs(rest).max() < 1e-6


def test_stages_repeat_in_time_and_the_reference_goes_on():
    recorded = load(10).problem
    longer = repeat_in_time(recorded, 25)
    np.testing.assert_array_equal(longer.B[:, 10:20], recorded.B)
    np.testing.assert_array_equal(longer.x_ref[:, :10], recorded.x_ref)
    steps = np.diff(longer.x_ref, axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-9)


def test_a_pilot_comes_before_a_large_batch():
    pace = Pace()
    assert pace.size(10, 4096, budget=10.0) == 64
    pace.saw(10, 64, 0.5)
    assert pace.size(10, 4096, budget=10.0) == 1024
    pace.saw(10, 1024, 0.6)
    assert pace.size(10, 4096, budget=10.0) == 4096
    assert pace.size(100, 1024, budget=10.0) == 1


def test_missing_data_is_one_sentence(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--methods", "clarabel", "--batches", "1", "--out", str(tmp_path)]
    assert benchmark_solver.main(arguments) == 2
    assert "There are no recorded problems at" in capsys.readouterr().err
    assert benchmark_solver.main(["--methods", "simplex"]) == 2
    assert "There is no method 'simplex'" in capsys.readouterr().err


def test_a_setting_that_no_method_has_is_one_sentence(tmp_path, capsys):
    wrong = ["--methods", "PiADMM", "--settings", "1e-03", "--out", str(tmp_path)]
    assert benchmark_solver.main(wrong) == 2
    assert "None of these methods has a setting '1e-03'" in capsys.readouterr().err


def test_a_full_name_means_that_method_alone():
    assert [m.name for m in benchmark_solver._chosen(("InteriorPoint",))] == ["InteriorPoint"]
    assert len(benchmark_solver._chosen(("interior",))) > 1


def test_a_new_point_replaces_only_its_own(tmp_path):
    path = tmp_path / "benchmark_cpu.json"
    old = {"method": "A", "setting": "1", "N": 10, "batch": 1, "seconds_per_problem": 1.0}
    first = Records(path, {"cpu": "old"})
    first.put(old)
    first.put({**old, "method": "B"})
    second = Records(path, {"cpu": "new"})
    second.put({**old, "seconds_per_problem": 2.0})
    environments, points = load_points(path)
    assert {(p["method"], p["seconds_per_problem"]) for p in points} == {("A", 2.0), ("B", 1.0)}
    machines = {p["method"]: environments[p["environment"]]["cpu"] for p in points}
    assert machines == {"A": "new", "B": "old"}
    second.put({**old, "method": "B"})
    assert len(load_points(path)[0]) == 1  # nothing is left of the old machine
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_text("[]")
    with pytest.raises(ValueError, match="holds no results"):
        Records(path, {})


def test_a_toy_run_from_end_to_end(tmp_path, monkeypatch):
    settings, sweep = OurInteriorPoint.settings, Clarabel.sweep()  # one of each is enough
    monkeypatch.setattr(OurInteriorPoint, "settings", lambda *arguments: settings(*arguments)[2:3])
    monkeypatch.setattr(Clarabel, "sweep", staticmethod(lambda: sweep[1:2]))
    config = BenchmarkConfig(
        methods=("InteriorPoint", "PiADMM", "clarabel"), batches=(2,), horizons=(10,), repeats=2, out=tmp_path
    )
    benchmark_solver.benchmark(config)
    path = tmp_path / "benchmark_cpu.json"
    content = json.loads(path.read_text())
    points = {(p["method"], p["setting"]): p for p in content["points"]}
    assert {name for name, _ in points} == {"InteriorPoint", "PiADMM", "Clarabel"}
    for point in points.values():
        assert point["measured"] == point["batch"] == 2 and point["N"] == 10
        assert 0 < point["seconds_min"] <= point["seconds_median"]
        assert point["seconds_per_problem"] == pytest.approx(point["seconds_median"] / 2)
        assert content["environments"][point["environment"]]["versions"]["jax"]
        assert point["accuracy"]["kkt_worst"] is not None
        assert ("compile_seconds" in point) != ("setup_seconds" in point)
    ours = points["InteriorPoint", "1e-05"]
    assert ours["accuracy"]["kkt_worst"] < 2e-5 and ours["accuracy"]["solved_share"] == 1.0
    assert ours["memory"]["argument_bytes"] > 0
    exact = next(p for (name, _), p in points.items() if name == "Clarabel")
    assert exact["accuracy"]["input_error_worst"] < 1e-2
    assert path.with_suffix(".png").stat().st_size > 10_000
    assert "InteriorPoint" in table(points.values())

    again = dataclasses.replace(config, methods=("clarabel",), batches=(1,))
    benchmark_solver.benchmark(again)
    assert len(json.loads(path.read_text())["points"]) == len(points) + 1


def test_comparing_two_solvers_finds_what_they_differ_in(capsys):
    cases = compare_kernels.cases(4)
    exact, rough = (pimpc.InteriorPoint(tolerance=tolerance, kernels="xla") for tolerance in (1e-5, 1e-1))
    walk = compare_kernels.compare(cases[1], exact, exact, 1e-6)
    assert walk["agree"] and walk["statuses"][0] == {"SOLVED": 4} and max(walk["errors"]) < 1e-2
    assert not compare_kernels.compare(cases[1], rough, exact, 1e-3)["agree"]
    mixed = compare_kernels.compare(cases[3], exact, exact, 1e-6)
    assert mixed["statuses"][1] == {"SOLVED": 2, "INFEASIBLE": 2}
    assert cases[-1].problem.B.shape == (1, 400, 9, 12)
    assert compare_kernels.main([]) == 2 and "no NVIDIA GPU" in capsys.readouterr().err


def test_rounding_may_decide_between_solved_and_solved_inaccurate_and_nothing_else():
    solved, short, most = pimpc.Status.SOLVED, pimpc.Status.SOLVED_INACCURATE, pimpc.Status.MAX_ITERATIONS
    plain = np.array([solved] * 49 + [short])
    one, two = plain.copy(), plain.copy()
    one[0], two[:2] = short, short
    better = np.full(50, solved)
    assert compare_kernels.same_verdicts(one, plain, 0.02) and not compare_kernels.same_verdicts(two, plain, 0.02)
    assert compare_kernels.same_verdicts(better, plain, 0.0) and not compare_kernels.same_verdicts(one, plain, 0.0)
    for plainly in (solved, short):
        assert not compare_kernels.same_verdicts(np.array([most]), np.array([plainly]), 1.0)
        assert not compare_kernels.same_verdicts(np.array([plainly]), np.array([most]), 1.0)


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get("BENCHMARKS"), reason="minutes of compilation; BENCHMARKS=1 runs it")
@pytest.mark.timeout(900)
def test_a_small_training_is_measured():
    config = benchmark_training.TrainingBenchmarkConfig(every=(2, 10), bfloat16=True, double_buffer=True, iterations=1)
    (row,) = benchmark_training.measure_all(config, (4,))
    run, rare = row["guided"]  # only the first keeps answers, in states that the other's programs would not take
    assert rare["every"] == 10 and set(rare["part_seconds"]) == set(run["part_seconds"])
    assert set(run["part_seconds"]) == {"physics", "mpc", "policy", "update"}
    assert min(run["part_seconds"].values()) > 0
    assert run["steps_per_second"] == pytest.approx(4 * 24 / run["iteration_seconds"])
    slower = 1 / run["steps_per_second"] - 1 / row["unguided_steps_per_second"]
    assert run["guidance_cost"] == pytest.approx(slower * run["steps_per_second"])


def test_a_file_is_no_directory_for_the_results(tmp_path, capsys):
    (tmp_path / "a_file").touch()
    assert benchmark_training.main(["--out", str(tmp_path / "a_file")]) == 2
    assert capsys.readouterr().err.endswith("a_file' is a file; --out takes a directory.\n")


def test_parts_count_as_often_as_they_happen():
    parts = {"physics": 0.4, "mpc": 0.05, "policy": 0.01, "update": 0.1}
    shares = benchmark_training.shares(parts, iteration=2.0, steps=24, every=12)
    expected = {"physics": 0.2, "mpc": 0.05, "policy": 0.12, "update": 0.05, "rest": 0.58}
    assert shares == pytest.approx(expected)


def test_guidance_costs_what_it_adds_to_an_iteration():
    config = benchmark_training.TrainingBenchmarkConfig(every=(2,))
    timed = {
        every: {
            "iteration_seconds": seconds, "steps_per_second": 64 / seconds, "unroll_length": 16, "mirror": True,
            "peak_bytes": 100 + every,
        }
        for every, seconds in ((0, 3.0), (2, 4.0))
    }  # fmt: skip
    parts = {2: {"part_seconds": {"physics": 2.0, "mpc": 0.05, "policy": 0.01, "update": 0.6}}}
    row = benchmark_training.summary(config, timed, parts)
    assert (row["unguided_steps_per_second"], row["peak_bytes"]) == (64 / 3, 102)
    assert (row["guided"][0]["steps_per_second"], row["guided"][0]["guidance_cost"]) == (16.0, 0.25)
    assert row["guided"][0]["shares"] == pytest.approx(
        {"physics": 0.5, "mpc": 0.1, "policy": 0.04, "update": 0.15, "rest": 0.21}
    )


@pytest.mark.parametrize("flags", [("--every", "0"), ("--every",), ("--num-envs", "0"), ("--iterations", "0")])
def test_nothing_to_measure_is_said(flags, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark_training.main([*flags])
    assert end.value.code == 2 and "at least" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "code", "sentence"),
    [
        (
            RuntimeError("The measurement of 4 robots ended."),
            1,
            "benchmark_training.py: The measurement of 4 robots ended.",
        ),
        (KeyboardInterrupt(), 130, "Stopped; nothing was measured."),
    ],
)
def test_what_ends_it_early_is_one_sentence(ending, code, sentence, tmp_path, monkeypatch, capsys):
    def fail(config, sizes):
        raise ending
        yield

    monkeypatch.setattr(benchmark_training, "measure_all", fail)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else main would leave it behind
    assert benchmark_training.main(["--num-envs", "4", "--out", str(tmp_path)]) == code
    assert capsys.readouterr().err.strip() == sentence


def test_the_table_has_a_line_for_each_rate():
    shares = dict.fromkeys(("physics", "mpc", "policy", "update", "rest"), 0.2)
    guided = [{"every": k, "steps_per_second": 1e5 / k, "guidance_cost": 0.1, "shares": shares} for k in (1, 2)]
    row = {"num_envs": 4, "unguided_steps_per_second": 2e5, "peak_bytes": 3 << 29, "guided": guided}
    lines = benchmark_training.table([row]).splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {12}
    assert lines[3].startswith("| 4 | 2 | 50,000 | 200,000 | 10.0% | 20% |")
    assert lines[3].endswith("| 1.5 GiB |")


def say(*lines):
    program = ";".join(f"print({line!r}, flush=True)" for line in lines)
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_worker_is_heard_through_what_libraries_print():
    with say("Module wp.k 123 load on device 'cuda:0'", "result: {}", "result: []") as worker:
        assert benchmark_training._answer(worker, 8) == {}
    with say("Module again") as worker, pytest.raises(RuntimeError, match="8 robots ended without a result"):
        benchmark_training._answer(worker, 8)


def test_a_worker_that_has_died_is_missed_when_it_is_to_answer(monkeypatch):
    workers = []

    def start(*_):
        workers.append(say('result: {"compile_seconds": 1}'))
        return workers[-1]

    monkeypatch.setattr(benchmark_training, "_start", start)
    with pytest.raises(RuntimeError, match="8 robots ended without a result"):
        next(benchmark_training.measure_all(benchmark_training.TrainingBenchmarkConfig(), (8,)))
    assert len(workers) == 3 and None not in [worker.returncode for worker in workers]
