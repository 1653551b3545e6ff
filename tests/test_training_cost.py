"""The training benchmark: an iteration is taken apart, and its workers answer through whatever else is printed."""

import subprocess
import sys

import jax
import pytest

from experiments import benchmark_training, training_cost


@pytest.fixture(scope="module")
def row():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # nearly all of the time is compilation
    yield training_cost.compile_cost(num_envs=4, every=(2,))(1)
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.timeout(900)
def test_an_iteration_is_taken_apart(row):
    (run,) = row["guided"]
    assert set(run["part_seconds"]) == {"physics", "mpc", "policy", "update"}
    assert min(run["part_seconds"].values()) > 0
    assert sum(run["shares"].values()) == pytest.approx(1)
    assert run["shares"]["mpc"] == pytest.approx(12 * run["part_seconds"]["mpc"] / run["iteration_seconds"])
    assert run["steps_per_second"] == pytest.approx(4 * 24 / run["iteration_seconds"])
    slower = 1 / run["steps_per_second"] - 1 / row["unguided_steps_per_second"]
    assert run["guidance_cost"] == pytest.approx(slower * run["steps_per_second"])


def test_the_table_has_a_line_for_each_rate(row):
    lines = benchmark_training.table([row]).splitlines()
    assert len(lines) == 3 and {line.count("|") for line in lines} == {11}
    assert lines[2].startswith("| 4 | 2 |")


def say(*lines):
    program = ";".join(f"print({line!r}, flush=True)" for line in lines)
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_worker_is_heard_through_what_libraries_print():
    with say("Module wp.k 123 load on device 'cuda:0'", "result: {}", "result: later") as worker:
        assert benchmark_training._answer(worker, 8) == "{}\n"
    with say("Module again") as worker, pytest.raises(RuntimeError, match="8 robots ended without a result"):
        benchmark_training._answer(worker, 8)
