"""The problems of the solver benchmark: recorded walking problems with certified optima, of any horizon.

N = 10 and N = 50 are recorded files with their optima. Any other horizon repeats the stages of the N = 50 file in time
(or takes the first N of them): stage k has the data of the recorded stage k mod 50, and the reference goes on moving as
it did, so that nothing jumps. Their optima are our own float64 solves at 1e-11, and clarabel must agree on a few.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import pimpc
from experiments.solver_methods_cpu import Clarabel
from experiments.solver_programs import make_stages, restore_inputs, sparse_programs
from pimpc.problem import given_fields

DATA = Path(__file__).parents[1] / "tests" / "data"
RECORDED = {10: "walk_n10", 50: "walk_n50"}
FEET = ((12, 6), (12, 6))  # rows and inputs of each foot
REPEATED = 50  # the recorded horizon that others are made of
AGREEMENT = 1e-5  # with clarabel, relative to the largest input; at N = 400 it comes no closer than 3e-6


@dataclasses.dataclass(frozen=True)
class ProblemSet:
    """Distinct problems of one horizon and their optima, in float64 on the host.

    Attributes:
        problem: The problems as one batch of numpy arrays.
        u_opt: Optimal inputs.
        cost_opt: Optimal costs.
        origin: Where the problems and their optima come from, in a sentence.
    """

    problem: pimpc.LTVProblem
    u_opt: Float[np.ndarray, "*batch N nu"]
    cost_opt: Float[np.ndarray, "*batch"]
    origin: str

    @property
    def count(self) -> int:
        """How many problems there are."""
        return len(self.u_opt)

    def instances(self, batch: int) -> np.ndarray:
        """The problems of a batch: the set over and over again, in its own order."""
        return np.arange(batch) % self.count


def select(problem: pimpc.LTVProblem, index: int | slice | np.ndarray) -> pimpc.LTVProblem:
    """Some problems of a batch."""
    return jax.tree.map(lambda leaf: leaf[index], problem)


@functools.lru_cache
def load(N: int, data: Path = DATA, verified: int = 2) -> ProblemSet:
    """The problems of one horizon.

    Args:
        N: Number of stages.
        data: Directory of the recorded files.
        verified: How many optima that are not recorded clarabel must confirm.

    Raises:
        FileNotFoundError: The recorded files are not there.
        ValueError: The horizon is not positive, or clarabel disagrees with an optimum.
    """
    if N < 1:
        raise ValueError(f"A horizon has at least one stage, not {N}.")
    if N in RECORDED:
        problem, arrays = _read(data, RECORDED[N])
        return ProblemSet(problem, arrays["u_opt"], arrays["cost_opt"], f"{RECORDED[N]}.npz with its recorded optima.")
    problem = repeat_in_time(_read(data, RECORDED[REPEATED])[0], N)
    u, cost = _optima(problem)
    confirmed = _verify(problem, u, min(verified, len(u)))
    stages = "its stages repeated in time" if N > REPEATED else f"its first {N} stages"
    optima = f"optima by InteriorPoint in float64 at 1e-11, {confirmed} of them confirmed by clarabel"
    return ProblemSet(problem, u, cost, f"{RECORDED[REPEATED]}.npz, {stages}; {optima}.")


def _read(data: Path, name: str) -> tuple[pimpc.LTVProblem, dict[str, np.ndarray]]:
    """A recorded file as a batch of problems, and its arrays."""
    path = data / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no recorded problems at '{path}': the benchmark needs tests/data of a checkout."
        )
    with np.load(path) as file:
        arrays = {key: np.asarray(file[key], float) for key in file}
    names = {field.name for field in dataclasses.fields(pimpc.LTVProblem)}
    fields: dict[str, Any] = {name: value for name, value in arrays.items() if name in names}
    free = int(np.max(np.sum(arrays["u_min"] != arrays["u_max"], axis=(1, 2))))  # the same foot swings in all of a file
    return pimpc.LTVProblem(**fields, structure=pimpc.Structure(blocks=FEET, most_free=free)), arrays


def repeat_in_time(problem: pimpc.LTVProblem, N: int) -> pimpc.LTVProblem:
    """A batch of problems with N stages, made of the stages of another over and over again."""
    recorded = problem.e.shape[1]
    stage, lap = np.arange(N) % recorded, np.arange(N) // recorded
    once = {"x0", "u_prev"}
    taken = {name: value[:, stage] for name, value in given_fields(problem).items() if name not in once}
    x_ref = np.asarray(problem.x_ref)
    advance = x_ref[:, -1] - x_ref[:, 0] + x_ref[:, 1] - x_ref[:, 0]  # of one lap; zero but for the position
    taken["x_ref"] = taken["x_ref"] + lap[:, None] * advance[:, None]
    return dataclasses.replace(problem, **taken)


def _optima(problem: pimpc.LTVProblem) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and costs of all problems by our own method, far more accurate than what is measured.

    Raises:
        ValueError: Not all were solved.
    """
    method = pimpc.InteriorPoint(tolerance=1e-11, max_iterations=60, kernels="xla")
    with jax.enable_x64(True):
        solution = jax.vmap(lambda p: pimpc.solve(p, method))(jax.tree.map(jnp.asarray, problem))
        status, u, cost = (np.asarray(v) for v in (solution.status, solution.u, solution.cost))
    if (status != pimpc.Status.SOLVED).any():
        raise ValueError(f"{(status != pimpc.Status.SOLVED).sum()} reference optima were not found in float64.")
    return u, cost


def _verify(problem: pimpc.LTVProblem, u: np.ndarray, count: int) -> int:
    """Compares the first optima with clarabel's, if it is installed; how many were compared.

    Raises:
        ValueError: They differ.
    """
    if importlib.util.find_spec("clarabel") is None:
        return 0
    stages = make_stages(select(problem, slice(count)))
    for i, program in enumerate(sparse_programs(stages)):
        solver = Clarabel({"tolerance": 1e-11})
        given = solver.convert(program)
        solver.setup(given)
        found = restore_inputs(stages, i, program.inputs(solver.solve(given).z))
        error = np.abs(found - u[i]).max() / np.abs(u[i]).max()
        if error > AGREEMENT:
            raise ValueError(f"clarabel and InteriorPoint disagree by {error:.1e} on reference optimum {i}.")
    return count
