"""Compiled sparse solvers for the benchmark, in float64; `solver_pool` runs them on every core."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from experiments.solver_methods import Setting
from experiments.solver_pool import Found
from experiments.solver_programs import SparseProgram


def _stacked(program: SparseProgram) -> tuple[sparse.csc_matrix, np.ndarray]:
    """Which variables have bounds, as rows of the identity and as a mask."""
    bounded = np.isfinite(program.upper)
    columns = np.flatnonzero(bounded)
    rows = np.arange(len(columns))
    return sparse.csc_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(rows), len(bounded))), bounded


def _spread(values: np.ndarray, bounded: np.ndarray) -> np.ndarray:
    """Multipliers of the bounded variables among zeros for the others."""
    full = np.zeros(len(bounded))
    full[bounded] = values
    return full


def _sweep(*tolerances: float, **more: Any) -> tuple[Setting, ...]:
    extra = "".join(f", {name}" for name in more)
    return tuple(Setting(f"{t:.0e}{extra}", {"tolerance": t, **more}) for t in tolerances)


class OSQP:
    """Operator splitting with its own scaling and adaptive step; its polishing step makes accurate points cheap."""

    package: ClassVar[str] = "osqp"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._osqp = importlib.import_module("osqp")
        t = options["tolerance"]
        self._settings = {"eps_abs": t, "eps_rel": t, "polishing": options.get("polishing", False)}
        self._solver = self._osqp.OSQP()

    @staticmethod
    def sweep() -> tuple[Setting, ...]:
        """Tolerances, each with and without polishing where that pays."""
        return (*_sweep(1e-3, 1e-5), *_sweep(1e-3, 1e-5, polishing=True))

    def convert(self, program: SparseProgram) -> dict[str, Any]:
        """All constraints as lower ≤ C z ≤ upper."""
        identity, bounded = _stacked(program)
        free = np.full(len(program.h), -np.inf)
        return {
            "P": sparse.triu(program.P, format="csc"),
            "q": program.q,
            "A": sparse.vstack([program.A, program.G, identity], format="csc"),
            "l": np.concatenate([program.b, free, program.lower[bounded]]),
            "u": np.concatenate([program.b, program.h, program.upper[bounded]]),
            "sizes": (len(program.b), len(program.h)),
            "bounded": bounded,
        }

    def setup(self, given: dict[str, Any]) -> None:
        """Scales, orders and factorizes."""
        # Copies: osqp keeps the matrices that it is set up with and writes the data of later updates into them.
        data = {name: given[name].copy() for name in ("P", "q", "A", "l", "u")}
        self._solver.setup(**data, verbose=False, warm_starting=False, max_iter=20_000, **self._settings)

    def solve(self, given: dict[str, Any]) -> Found:
        """Updates vectors and matrix entries, and solves."""
        vectors = {name: given[name] for name in ("q", "l", "u")}
        self._solver.update(Px=given["P"].data, Ax=given["A"].data, **vectors)
        result = self._solver.solve(raise_error=False)
        (equalities, rows), y = given["sizes"], np.array(result.y)
        bounds = _spread(y[equalities + rows :], given["bounded"])
        return Found(np.array(result.x), y[equalities : equalities + rows], bounds, result.info.status == "solved")


class Clarabel:
    """Interior point with QDLDL, its fastest factorization at these sizes; presolve is off, or it could not update."""

    package: ClassVar[str] = "clarabel"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._clarabel = importlib.import_module("clarabel")
        settings = self._clarabel.DefaultSettings()
        settings.verbose = settings.presolve_enable = False
        settings.max_threads, settings.direct_solve_method = 1, "qdldl"
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = options["tolerance"]
        self._settings, self._solver = settings, None

    @staticmethod
    def sweep() -> tuple[Setting, ...]:
        """Tolerances from loose to its default."""
        return _sweep(1e-3, 1e-5, 1e-8)

    def convert(self, program: SparseProgram) -> dict[str, Any]:
        """All constraints as C z + s = d with s zero or not negative."""
        identity, bounded = _stacked(program)
        return {
            "P": sparse.triu(program.P, format="csc"),
            "q": program.q,
            "A": sparse.vstack([program.A, program.G, identity, -identity], format="csc"),
            "b": np.concatenate([program.b, program.h, program.upper[bounded], -program.lower[bounded]]),
            "sizes": (len(program.b), len(program.h)),
            "bounded": bounded,
        }

    def setup(self, given: dict[str, Any]) -> None:
        """Equilibrates and orders."""
        equalities, c = given["sizes"][0], self._clarabel
        cones = [c.ZeroConeT(equalities), c.NonnegativeConeT(len(given["b"]) - equalities)]
        matrices = (given[name] for name in ("P", "q", "A", "b"))
        self._solver = c.DefaultSolver(*matrices, cones, self._settings)

    def solve(self, given: dict[str, Any]) -> Found:
        """Updates all data, and solves."""
        if self._solver is None:
            raise RuntimeError("setup comes before solve")
        self._solver.update(**{name: given[name] for name in ("P", "q", "A", "b")})
        result = self._solver.solve()
        (equalities, rows), force = given["sizes"], np.array(result.z)
        above, below = np.split(force[equalities + rows :], 2)
        bounds = _spread(above - below, given["bounded"])
        return Found(np.array(result.x), force[equalities : equalities + rows], bounds, str(result.status) == "Solved")


class PIQP:
    """Proximal interior point; its multistage factorization is made for problems like these and its fastest here."""

    package: ClassVar[str] = "piqp"

    def __init__(self, options: Mapping[str, Any]) -> None:
        piqp = importlib.import_module("piqp")
        self._solved = piqp.PIQP_SOLVED
        self._solver = piqp.SparseSolver()
        settings, t = self._solver.settings, options["tolerance"]
        settings.kkt_solver = piqp.KKTSolver.sparse_multistage
        settings.eps_abs = settings.eps_rel = settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = t

    @staticmethod
    def sweep() -> tuple[Setting, ...]:
        """Tolerances from loose to its default."""
        return _sweep(1e-3, 1e-5, 1e-8)

    def convert(self, program: SparseProgram) -> tuple[Any, ...]:
        """The arguments of setup and update, in their order."""
        p = program
        return p.P, p.q, p.A, p.b, p.G, None, p.h, p.lower, p.upper

    def setup(self, given: tuple[Any, ...]) -> None:
        """Scales and finds the stages."""
        self._solver.setup(*given)

    def solve(self, given: tuple[Any, ...]) -> Found:
        """Updates all data, and solves."""
        self._solver.update(*given)
        status, result = self._solver.solve(), self._solver.result
        return Found(
            np.array(result.x), np.array(result.z_u), np.array(result.z_bu) - result.z_bl, status == self._solved
        )
