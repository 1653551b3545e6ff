"""Compiled solvers on the host: one problem after the other on each core.

Every core has a process with one solver object, set up once: the sparsity pattern is the same for all problems, so that
ordering and symbolic factorization are reused and only numbers are updated, where the package can. A timed pass is
update and solve of every problem. Neither the conversion into the package's form nor the setup is timed, and nothing is
warm started: neighbours in a batch have nothing to do with each other. This module does not import JAX, which the
processes so need not load.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from experiments.solver_methods import Prepared, Run, Setting
from experiments.solver_programs import SparseProgram, Stages, make_stages, restore_inputs, sparse_programs

if TYPE_CHECKING:
    from experiments.solver_accuracy import Answer
    from experiments.solver_problems import ProblemSet


class Found(NamedTuple):
    """What a solver returned for one program."""

    z: np.ndarray
    rows: np.ndarray  # multipliers of G z ≤ h
    bounds: np.ndarray  # of the bounds on every variable, positive at the upper one
    solved: bool


class CpuSolver(Protocol):
    """One solver object of a package."""

    package: ClassVar[str]

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Takes the options of a `Setting`."""

    @staticmethod
    def sweep() -> tuple[Setting, ...]:
        """The settings worth measuring."""
        ...

    def convert(self, program: SparseProgram) -> Any:
        """A program in the package's own form; not timed."""

    def setup(self, given: Any) -> None:
        """Sets up for the sparsity of a converted program; timed apart."""

    def solve(self, given: Any) -> Found:
        """Updates the numbers and solves; timed."""
        ...


def _work(
    kind: type[CpuSolver], options: Mapping[str, Any], programs: Sequence[SparseProgram], pipe: Connection
) -> None:
    """A process: sets up, then solves its own list of programs whenever it is told to, until it hears None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    share = pipe.recv()
    solver = kind(options)
    given = {i: solver.convert(programs[i]) for i in sorted(set(share))}
    start = time.perf_counter()
    solver.setup(given[share[0]])
    pipe.send(time.perf_counter() - start)
    found: dict[int, Found] = {}
    while (order := pipe.recv()) is not None:
        if order == "answers":
            pipe.send(found)
            continue
        deadline, count = time.perf_counter() + order, 0
        for i in share:
            found[i] = solver.solve(given[i])
            count += 1
            if time.perf_counter() > deadline:
                break
        pipe.send(count)


@dataclasses.dataclass(frozen=True)
class CpuMethod:
    """A compiled package on one core, and on all cores for batches."""

    name: str
    kind: type[CpuSolver]
    interruptible: bool = True

    @property
    def package(self) -> str:
        """The package's import name."""
        return self.kind.package

    def settings(self, batch: int, backend: str) -> tuple[Setting, ...]:
        """Every tolerance, by one core and by all."""
        cores = sorted({1, min(batch, len(os.sched_getaffinity(0)))})
        return tuple(
            Setting(f"{s.label}, {count} core{'s' * (count > 1)}", {**s.options, "cores": count})
            for count in cores
            for s in self.kind.sweep()
        )

    def prepare(self, problems: ProblemSet, batch: int, setting: Setting) -> Prepared:
        """Starts the processes, which convert and set up."""
        stages = make_stages(problems.problem)
        programs = list(sparse_programs(stages))
        instances, cores = problems.instances(batch), setting.options["cores"]
        pool = _Pool(self.kind, setting.options, programs, [instances[i::cores].tolist() for i in range(cores)])

        def run(seconds: float) -> Run:
            start = time.perf_counter()
            count = pool.solve(seconds)
            return Run(time.perf_counter() - start, count)

        facts = {"setup_seconds": pool.setup_seconds, "cores": cores, "precision": "float64"}
        return Prepared(run, lambda: _answer(stages, programs[0], pool.found()), facts, pool.close)


class _Pool:
    """The processes and the pipes to them."""

    def __init__(
        self, kind: type[CpuSolver], options: Mapping[str, Any], programs: list[SparseProgram], shares: list[list[int]]
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with JAX in it may deadlock
        self._pipes, self._processes = [], []
        for share in shares:
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(kind, options, programs, there), daemon=True)
            process.start()
            there.close()  # so that the end of the process is the end of the pipe
            here.send(share)
            self._pipes.append(here)
            self._processes.append(process)
        self.setup_seconds = max(pipe.recv() for pipe in self._pipes)

    def solve(self, seconds: float) -> int:
        """One pass over the batch; how many problems were solved before the time was up."""
        for pipe in self._pipes:
            pipe.send(seconds)
        return sum(pipe.recv() for pipe in self._pipes)

    def found(self) -> dict[int, Found]:
        """The last answers by problem."""
        for pipe in self._pipes:
            pipe.send("answers")
        return {i: found for pipe in self._pipes for i, found in pipe.recv().items()}

    def close(self) -> None:
        """Ends the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()
            pipe.close()


def _answer(stages: Stages, shape: SparseProgram, found: dict[int, Found]) -> Answer:
    """Answers in the problems' own units."""
    from experiments.solver_accuracy import Answer

    N, _, _, m = shape.shape
    which = np.array(sorted(found))
    u = restore_inputs(stages, which, np.stack([shape.inputs(found[i].z) for i in which]))
    rows = np.stack([found[i].rows.reshape(N, m) for i in which])
    return Answer(
        instances=which,
        u=u,
        solved=np.array([found[i].solved for i in which]),
        rows=np.where(stages.dead[which], 0, rows),
        inputs=np.stack([shape.inputs(found[i].bounds) for i in which]),
    )
