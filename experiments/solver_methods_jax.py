"""The JAX solvers of the benchmark: ours, and those that are given a condensed and scaled program."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import warnings

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import pimpc
from experiments.solver_accuracy import Answer
from experiments.solver_jax import JaxMethod, demand_memory
from experiments.solver_methods import Setting
from experiments.solver_problems import ProblemSet, select
from experiments.solver_programs import (
    CondensedPrograms,
    condensed_bytes,
    condensed_programs,
    make_stages,
    restore_inputs,
)
from pimpc.problem import roll_out
from pimpc.riccati import Kernels


@dataclasses.dataclass(frozen=True)
class OurInteriorPoint(JaxMethod):
    """The default method of `pimpc.solve`."""

    name: str
    kernels: Kernels
    package = "pimpc"
    made_for_batches = True

    def settings(self, batch: int, backend: str) -> tuple[Setting, ...]:
        """Three tolerances in float32 and one in float64; plain XLA is a method of its own where there are kernels."""
        single = tuple(Setting(f"{t:.0e}", {"tolerance": t}) for t in (1e-3, 1e-4, 1e-5))
        if self.kernels != "auto":
            return single if backend == "gpu" else ()
        return (*single, Setting("1e-09, float64", {"tolerance": 1e-9, "precision": "float64"}))

    def data(self, problems: ProblemSet) -> PyTree:
        """The problems as they are."""
        return problems.problem

    def solve(self, one: PyTree, setting: Setting) -> PyTree:
        """Solves one problem."""
        method = pimpc.InteriorPoint(tolerance=setting.options["tolerance"], kernels=self.kernels)
        solution = pimpc.solve(one, method)
        return solution.u, solution.status, solution.warm_start.multipliers

    def read(self, problems: ProblemSet, given: PyTree, found: PyTree, setting: Setting) -> Answer:
        """The multipliers are part of the warm start."""
        u, status, force = found
        solved = status == pimpc.Status.SOLVED
        return Answer(np.arange(len(u)), np.asarray(u, float), solved, force.rows, force.inputs)


class OurPiADMM(JaxMethod):
    """The published πⁿMPC with its faults mended, for as many iterations as its authors allow."""

    name = "PiADMM"
    package = "pimpc"
    made_for_batches = True
    method = pimpc.PiADMM(max_iterations=200, early_stop=False)

    def settings(self, batch: int, backend: str) -> tuple[Setting, ...]:
        """A fixed number of iterations."""
        return (Setting("200 iterations", {}),)

    def data(self, problems: ProblemSet) -> PyTree:
        """The problems as they are."""
        return problems.problem

    def solve(self, one: PyTree, setting: Setting) -> PyTree:
        """As `pimpc.solve` does, which would not return the multipliers."""
        start = self.method.cold_start(one)
        outcome = self.method.run(one, start, jnp.asarray(True))
        residuals = pimpc.kkt_residuals(one, roll_out(one, outcome.u), outcome.u, outcome.multipliers)
        solved = jnp.maximum(residuals.primal, residuals.dual) <= self.method.tolerance
        return outcome.u, solved, outcome.multipliers

    def read(self, problems: ProblemSet, given: PyTree, found: PyTree, setting: Setting) -> Answer:
        """Nothing is scaled."""
        u, solved, force = found
        return Answer(np.arange(len(u)), np.asarray(u, float), solved, force.rows, force.inputs)


class CondensedMethod(JaxMethod):
    """A dense solver that is given one entry of `CondensedPrograms`, as a dictionary."""

    def data(self, problems: ProblemSet) -> PyTree:
        """The programs."""
        stages = make_stages(problems.problem)
        (_, N, nx, nu), m = stages.B.shape, stages.h.shape[2]
        demand_memory(problems.count * condensed_bytes(N, nx, nu, m), "condensing the problems")
        programs = condensed_programs(stages)
        return {field.name: getattr(programs, field.name) for field in dataclasses.fields(CondensedPrograms)}

    @abc.abstractmethod
    def solve(self, one: PyTree, setting: Setting) -> tuple[Array, Array, Array, Array]:
        """Solves one program.

        Returns:
            z, the multipliers of G z ≤ h, those of the bounds (positive at the upper one), and whether it is solved.
        """

    def read(self, problems: ProblemSet, given: PyTree, found: PyTree, setting: Setting) -> Answer:
        """Undoes the scaling."""
        z, rows, bounds, solved = (np.asarray(v) for v in found)
        stages = make_stages(select(problems.problem, slice(len(z))))
        u_shape, h_shape = stages.lower.shape, stages.h.shape
        unit, length, energy = (given[name][: len(z)] for name in ("unit", "length", "energy"))
        return Answer(
            instances=np.arange(len(z)),
            u=restore_inputs(stages, slice(None), (z * unit).reshape(u_shape)),
            solved=solved.astype(bool),
            rows=np.where(stages.dead, 0, (rows * energy[:, None] / length).reshape(h_shape)),
            inputs=(bounds * energy[:, None] / unit).reshape(u_shape),
        )


class Qpax(CondensedMethod):
    """Primal-dual interior point with dense Cholesky factors; its explicit backend, much the faster one."""

    name = "qpax"
    package = "qpax"

    def settings(self, batch: int, backend: str) -> tuple[Setting, ...]:
        """Float32 gets no more accurate than its safeguards allow; float64 does."""
        single = tuple(Setting(f"{t:.0e}", {"tolerance": t}) for t in (1e-3, 1e-4))
        double = (1e-6, 1e-7, 1e-8)
        return single + tuple(Setting(f"{t:.0e}, float64", {"tolerance": t, "precision": "float64"}) for t in double)

    def solve(self, one: PyTree, setting: Setting) -> tuple[Array, Array, Array, Array]:
        """Bounds are rows like the others; there are no equalities."""
        P, q, rows = one["P"], one["q"], len(one["h"])
        n, eye = len(q), jnp.eye(len(q), dtype=q.dtype)
        G = jnp.concatenate([one["G"], eye, -eye])
        h = jnp.concatenate([one["h"], one["upper"], -one["lower"]])
        none = jnp.zeros((0, n), q.dtype)
        tolerance = setting.options["tolerance"]
        z, _, force, _, converged, _ = importlib.import_module("qpax").solve_qp(
            P, q, none, none[:, 0], G, h, solver_tol=tolerance
        )
        return z, force[:rows], force[rows : rows + n] - force[rows + n :], converged == 1


class Jaxopt(CondensedMethod):
    """Operator splitting; LU factors of the condensed matrix are as fast as conjugate gradients, or faster."""

    name = "jaxopt BoxOSQP"
    package = "jaxopt"

    def settings(self, batch: int, backend: str) -> tuple[Setting, ...]:
        """Tolerances with LU factors; on a GPU, where factors cannot be kept under `vmap`, conjugate gradients too."""
        direct = tuple(Setting(f"{t:.0e}", {"tolerance": t, "linear": "lu"}) for t in (1e-3, 1e-4))
        tight = Setting("1e-06, float64", {"tolerance": 1e-6, "linear": "lu", "precision": "float64"})
        indirect = tuple(Setting(f"{t:.0e}, cg", {"tolerance": t, "linear": "cg"}) for t in (1e-3, 1e-4))
        return (*direct, tight, *(indirect if backend == "gpu" else ()))

    def solve(self, one: PyTree, setting: Setting) -> tuple[Array, Array, Array, Array]:
        """All constraints are rows with two sides."""
        q, rows = one["q"], len(one["h"])
        with warnings.catch_warnings():  # it is no longer maintained, and says so when it is imported
            warnings.simplefilter("ignore", DeprecationWarning)
            jaxopt = importlib.import_module("jaxopt")
        solver = jaxopt.BoxOSQP(
            tol=setting.options["tolerance"],
            eq_qp_solve=setting.options["linear"],
            check_primal_dual_infeasability=False,
            implicit_diff=False,
        )
        C = jnp.concatenate([one["G"], jnp.eye(len(q), dtype=q.dtype)])
        lower = jnp.concatenate([jnp.full_like(one["h"], -jnp.inf), one["lower"]])
        upper = jnp.concatenate([one["h"], one["upper"]])
        found = solver.run(None, (one["P"], q), C, (lower, upper))
        force = found.params.dual_eq
        return found.params.primal[0], force[:rows], force[rows:], found.state.status == solver.SOLVED


class Mpax(CondensedMethod):
    """Primal-dual hybrid gradient with restarts: raPDHG, as r2HPDHG does not converge on quadratic costs."""

    name = "MPAX raPDHG"
    package = "mpax"

    def settings(self, batch: int, backend: str) -> tuple[Setting, ...]:
        """Tolerances up to its default."""
        return tuple(Setting(f"{t:.0e}", {"tolerance": t}) for t in (1e-3, 1e-4))

    def solve(self, one: PyTree, setting: Setting) -> tuple[Array, Array, Array, Array]:
        """Its rows say G z ≥ h."""
        mpax, utils = importlib.import_module("mpax"), importlib.import_module("mpax.utils")
        q, tolerance = one["q"], setting.options["tolerance"]
        none = jnp.zeros((0, len(q)), q.dtype)
        rows, bounds = (-one["G"], -one["h"]), (one["lower"], one["upper"])
        program = mpax.create_qp(one["P"], q, none, none[:, 0], *rows, *bounds, use_sparse_matrix=False)
        program = dataclasses.replace(program, is_lp=False)  # it would depend on traced values
        found = mpax.raPDHG(eps_abs=tolerance, eps_rel=tolerance, iteration_limit=20_000).optimize(program)
        z, force = found.primal_solution, found.dual_solution
        slope = one["P"] @ z + q + one["G"].T @ force
        above, below = jnp.maximum(-slope, 0), jnp.maximum(slope, 0)
        held = jnp.where(z >= one["upper"], above, jnp.where(z <= one["lower"], -below, 0))
        return z, force, held, found.termination_status == utils.TerminationStatus.OPTIMAL
