"""What the solver benchmark asks of a method, and the list of all methods.

Another package is one more adapter: for JAX a `JaxMethod` (solver_methods_jax.py) that says what is given to the solver
and how to read what it returns; for compiled packages a `CpuSolver` (solver_methods_cpu.py) that converts, sets up and
solves one program. Add it to `methods` below; the driver does the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from experiments.solver_accuracy import Answer
    from experiments.solver_problems import ProblemSet


@dataclasses.dataclass(frozen=True)
class Setting:
    """One choice of a method's options: one point in time against accuracy."""

    label: str
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One timed pass over a batch."""

    seconds: float  # wall clock
    problems: int  # how many were solved: fewer than the batch if the time was up


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A method made ready for one batch: everything that is not timed as a solve has been done.

    Attributes:
        run: Solves the batch once; the argument is after how many seconds to stop, where a method can.
        answer: The answers of the last run, one for each distinct problem, and their agreement.
        facts: What the preparation cost: seconds and bytes, by name.
        close: Gives back what is held.
    """

    run: Callable[[float], Run]
    answer: Callable[[], Answer]
    facts: dict[str, Any]
    close: Callable[[], None]


class TooLargeError(Exception):
    """The batch does not fit into memory."""


class Method(Protocol):
    """A solver as the benchmark sees it."""

    @property
    def name(self) -> str:
        """How tables and figures call it."""
        ...

    @property
    def package(self) -> str:
        """What must be installed, as it is imported."""
        ...

    @property
    def interruptible(self) -> bool:
        """Whether a run can stop after some seconds; it must be kept small beforehand if not."""
        ...

    def settings(self, batch: int, backend: str) -> tuple[Setting, ...]:
        """The settings to measure at this batch size on this backend of JAX."""
        ...

    def prepare(self, problems: ProblemSet, batch: int, setting: Setting) -> Prepared:
        """Compiles, allocates, converts and sets up.

        Raises:
            TooLargeError: It does not fit into memory.
        """
        ...


def methods() -> dict[str, Method]:
    """All methods by name, in the order in which they run; none of their packages is imported."""
    from experiments.solver_methods_cpu import OSQP, PIQP, Clarabel
    from experiments.solver_methods_jax import Jaxopt, Mpax, OurInteriorPoint, OurPiADMM, Qpax
    from experiments.solver_pool import CpuMethod

    everything: tuple[Method, ...] = (
        OurInteriorPoint("InteriorPoint", "auto"),
        OurInteriorPoint("InteriorPoint (xla)", "xla"),
        OurInteriorPoint("InteriorPoint (parallel)", "parallel"),
        OurPiADMM(),
        CpuMethod("PIQP", PIQP),
        CpuMethod("OSQP", OSQP),
        CpuMethod("Clarabel", Clarabel),
        Qpax(),
        Jaxopt(),
        Mpax(),
    )
    return {method.name: method for method in everything}
