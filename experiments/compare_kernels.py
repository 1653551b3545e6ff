"""The solver's GPU kernels against its plain XLA version, on the same problems, on the GPU of this machine.

    uv run --extra cuda13 experiments/compare_kernels.py

Both run in float32 from cold starts. Where the problems have recorded optima, both are compared with these too. The
exit code is 1 if a status differs, or if the inputs differ by more than the two are allowed to be off. Where float32
gets no closer, rounding decides between SOLVED and SOLVED_INACCURATE: few may end so by the kernels alone.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import pimpc
from experiments import simulated_walk as sim
from experiments.solver_problems import load
from experiments.solver_records import environment
from pimpc.method import Method

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What to compare."""

    batch: int = 4096
    """Problems at N = 10; a quarter of them at N = 50 and a sixteenth at N = 400; and a small batch of 64."""
    tolerances: tuple[float, ...] = (1e-3, 1e-5)
    """Of the solver."""
    agreement: float = 2e-2
    """Largest difference between the inputs of the two, relative to the largest input of an instance."""
    inaccurate: float = 0.02
    """Largest share of a batch that may be SOLVED_INACCURATE by the kernels and SOLVED by plain XLA."""
    out: Path | None = None
    """A JSON file for the figures."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A batch of problems; `u_opt` is None where they have no optimum."""

    name: str
    problem: pimpc.LTVProblem
    u_opt: Float[np.ndarray, "*batch N nu"] | None


def main(arguments: list[str] | None = None) -> int:
    """Compares, prints a table, and says whether all agreed."""
    import tyro

    config = tyro.cli(CompareConfig, args=arguments, prog="compare_kernels.py")
    if jax.default_backend() != "gpu":
        print("compare_kernels.py: there is no NVIDIA GPU here to run the kernels on.", file=sys.stderr)
        return 2
    rows = []
    for case in cases(config.batch):
        for tolerance in config.tolerances:
            methods = {name: pimpc.InteriorPoint(tolerance=tolerance, kernels=name) for name in ("cuda", "xla")}
            row = compare(case, methods["cuda"], methods["xla"], config.agreement, config.inaccurate)
            rows.append({"tolerance": tolerance} | row)
    for row in rows:
        kernels, plain = (", ".join(f"{count} {name}" for name, count in of.items()) for of in row["statuses"])
        print(
            f"{row['case']:24} {row['batch']:5} × {row['N']:<3} tolerance {row['tolerance']:.0e}  "
            f"{'agree' if row['agree'] else 'DISAGREE'} within {row['difference']:.1e}; mean iterations "
            + ", ".join(f"{count:.2f}" for count in row["iterations"])
            + "; "
            + (kernels if kernels == plain else f"{kernels} against {plain}")
            + ("; errors " + ", ".join(f"{error:.1e}" for error in row["errors"]) if "errors" in row else "")
        )
    if config.out is not None:
        config.out.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    return 0 if all(row["agree"] for row in rows) else 1


def cases(batch: int) -> list[Case]:
    """Recorded walks, in small and large batches; problems without an answer among others; and a long horizon.

    The last are of robots that set out to walk for 28 s. Solves start from no inputs, which is to fall four kilometres.
    """
    result = []
    for N, name, size in ((10, "walk", 64), (10, "walk", batch), (50, "walk", batch // 4)):
        problems = load(N)
        index = problems.instances(min(size, batch))
        tiled = jax.tree.map(lambda leaf, index=index: jnp.asarray(leaf[index], jnp.float32), problems.problem)
        result.append(Case(name, tiled, problems.u_opt[index]))
    walk = result[1].problem
    odd = np.arange(walk.x0.shape[0]) % 2 == 1
    h = jnp.where(odd[:, None, None], walk.h - 1e4, walk.h)  # every second problem asks for the impossible
    result.append(Case("half of them infeasible", dataclasses.replace(walk, h=h), None))
    x0 = walk.x0.at[1::3].set(jnp.nan)
    result.append(Case("a third of them NaN", dataclasses.replace(walk, x0=x0), None))
    return [*result, Case("walk for 28 s", _long_walk(max(batch // 16, 1)), None)]


def _long_walk(batch: int) -> pimpc.LTVProblem:
    config, rng = dataclasses.replace(sim.CONFIG, horizon=400), np.random.default_rng(0)
    phase = jnp.asarray(rng.random(batch), jnp.float32)
    command = sim.random_commands(rng, batch)

    @jax.jit
    @jax.vmap
    def pose(phase: Float[Array, ""], command: Float[Array, " 3"]) -> pimpc.LTVProblem:
        return sim.problem(sim.start(phase, config), command, config)

    return pose(phase, command)


def compare(case: Case, kernels: Method, plain: Method, agreement: float, inaccurate: float = 0.0) -> dict[str, Any]:
    """Solves a batch both ways.

    Args:
        case: The batch.
        kernels: One way.
        plain: The other, whose SOLVED instances are those whose inputs are compared.
        agreement: Largest difference of inputs that counts as the same, relative to an instance's largest input.
        inaccurate: Largest share that may be SOLVED_INACCURATE one way and SOLVED the other.
    """
    found = [jax.vmap(lambda p, how=how: pimpc.solve(p, how))(case.problem) for how in (kernels, plain)]
    status, u = ([np.asarray(getattr(of, name)) for of in found] for name in ("status", "u"))
    answered = status[1] == pimpc.Status.SOLVED
    worst = _worst(u[0][answered], u[1][answered])
    row = {
        "case": case.name,
        "batch": len(u[0]),
        "N": u[0].shape[1],
        "difference": worst,
        "iterations": [float(np.mean(of.iterations)) for of in found],
        "statuses": [
            {pimpc.Status(int(code)).name: int(n) for code, n in zip(*np.unique(of, return_counts=True), strict=True)}
            for of in status
        ],
        "agree": same_verdicts(status[0], status[1], inaccurate) and worst <= agreement,
    }
    return row if case.u_opt is None else row | {"errors": [_worst(of, case.u_opt) for of in u]}


def same_verdicts(kernels: Int[np.ndarray, " batch"], plain: Int[np.ndarray, " batch"], inaccurate: float) -> bool:
    """Whether the kernels say of each instance what plain XLA says, or SOLVED where that is SOLVED_INACCURATE.

    Args:
        kernels: Statuses by one way.
        plain: By the other.
        inaccurate: Largest share whose statuses may be the other way round.
    """
    solved, short = pimpc.Status.SOLVED, pimpc.Status.SOLVED_INACCURATE
    better, worse = (kernels == solved) & (plain == short), (kernels == short) & (plain == solved)
    return bool(((kernels == plain) | better | worse).all() and worse.mean() <= inaccurate)


def _worst(u: Float[np.ndarray, "*batch N nu"], reference: Float[np.ndarray, "*batch N nu"]) -> float:
    """The largest difference, relative to each instance's largest input; infinite if there are NaNs."""
    difference = np.abs(u - reference).max(axis=(1, 2)) / np.abs(reference).max(axis=(1, 2))
    return float(np.where(np.isnan(difference), np.inf, difference).max(initial=0))


if __name__ == "__main__":
    sys.exit(main())
