"""Problems of every size against an independent solver, and batches on several devices.

Every size compiles a program of its own, so few are drawn, always the same, beside the corners. More, drawn anew, on
request: `RANDOM_PROBLEMS=100 uv run pytest tests/test_random_problems.py`, some four seconds each on one core.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mpc_problems import clarabel_inputs, float64_costs, random_problem

import pimpc
from pimpc import InteriorPoint, Status
from pimpc.problem import given_fields

COUNT = os.environ.get("RANDOM_PROBLEMS")


@pytest.mark.timeout(0 if COUNT else 300)
@settings(max_examples=int(COUNT or 5), deadline=None, derandomize=not COUNT, database=None, print_blob=bool(COUNT))
@example(seed=0, nx=24, nu=18, N=33, m=8, full=True, state_bounds=True)
@example(seed=1, nx=2, nu=18, N=64, m=8, full=False, state_bounds=True)
@example(seed=2, nx=4, nu=3, N=1, m=4, full=True, state_bounds=True)
@given(
    seed=st.integers(0, 10**6),
    nx=st.integers(2, 24),
    nu=st.integers(1, 18),
    N=st.integers(1, 64),
    m=st.integers(0, 8),
    full=st.booleans(),
    state_bounds=st.booleans(),
)
def test_problems_of_every_size_agree_with_clarabel(seed, nx, nu, N, m, full, state_bounds):
    N = min(N, 1400 // (nx + nu))  # clarabel is given dense matrices
    with jax.enable_x64(True):
        sizes = {"N": N, "nx": nx, "nu": nu, "m": m}
        problem = random_problem(seed, np.float64, **sizes, state_bounds=state_bounds, full=full, stable=True)
        solution = pimpc.solve(problem, InteriorPoint(tolerance=1e-10))
        assert solution.status == Status.SOLVED
        expected = clarabel_inputs(problem)
        np.testing.assert_allclose(solution.u, expected, atol=1e-4 * np.abs(expected).max())


def test_bounds_on_states_hold_in_float32():
    """Random problems at the tolerance that the page calls right for float32."""
    seeds = [*range(63), 153]  # the last one is where float32 ends: a step more is not a number
    problems = [random_problem(seed, np.float32, N=6, nx=3, nu=2, m=3) for seed in seeds]
    batch = jax.device_get(jax.tree.map(lambda *leaves: np.stack(leaves), *problems))
    solution = jax.device_get(jax.jit(jax.vmap(lambda p: pimpc.solve(p, InteriorPoint(tolerance=1e-5))))(batch))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(solution))
    assert set(solution.status) <= {Status.SOLVED, Status.SOLVED_INACCURATE, Status.MAX_ITERATIONS}
    assert np.mean(solution.status == Status.SOLVED) >= 0.95
    x = solution.x[:, 1:]
    outside = np.maximum(x - batch.x_max, batch.x_min - x).max(axis=(1, 2))
    solved = solution.status == Status.SOLVED
    assert np.all(outside[solved] <= 1e-4)
    assert np.mean(np.abs(outside) < 1e-3) >= 0.5  # where none binds, nothing is tested
    data = {name: np.asarray(leaf, float) for name, leaf in given_fields(batch).items()}
    optimal = float64_costs(data, np.stack([clarabel_inputs(problem) for problem in problems]))
    np.testing.assert_allclose(float64_costs(data, solution.u)[solved], optimal[solved], rtol=1e-4)


_SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from mpc_problems import random_problem
import pimpc

mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
problems = [random_problem(seed, np.float32, N=4, nx=3, nu=2, m=3) for seed in range(6)]
batch = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
apart = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("batch")))
solve = jax.vmap(pimpc.solve)
by_compiler = jax.jit(solve)(apart)
specs = {"in_specs": PartitionSpec("batch"), "out_specs": PartitionSpec("batch"), "check_vma": False}
by_hand = jax.jit(jax.shard_map(solve, mesh=mesh, **specs))
assert len(by_compiler.u.sharding.device_set) == 2, by_compiler.u.sharding
for found in (by_compiler, by_hand(apart)):
    jax.tree.map(np.testing.assert_array_equal, found, solve(batch))
"""


def test_a_batch_may_lie_on_several_devices():
    here = Path(__file__).parent
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(here.parent)!r}, {str(here)!r}]\n{_SHARDED}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
