"""Problems of every size against an independent solver, and batches on several devices."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_problems import clarabel_inputs, random_problem

import pimpc
from pimpc import InteriorPoint, Status


@settings(max_examples=5, deadline=None, derandomize=True, database=None)
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
