"""What the JAX solvers of the benchmark share: compilation apart from running, inputs on the device, memory."""

from __future__ import annotations

import abc
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from experiments.solver_accuracy import Answer
from experiments.solver_methods import Prepared, Run, Setting, TooLargeError
from experiments.solver_problems import ProblemSet

MEMORY_SHARE = 0.8  # of what is free, that one batch may take


class JaxMethod(abc.ABC):
    """A solver that is a JAX function of one problem, and a batch by `jax.vmap`.

    On the CPU solvers that are not made for batches run by `jax.lax.map` instead, one problem after the other: under
    `vmap` every branch is taken by every problem, and they were up to hundreds of times slower.
    """

    name: str
    package: str
    interruptible = False
    made_for_batches = False

    @abc.abstractmethod
    def settings(self, batch: int, backend: str) -> tuple[Setting, ...]:
        """The settings worth measuring; `precision` among the options is the type, float32 by default."""

    @abc.abstractmethod
    def data(self, problems: ProblemSet) -> PyTree:
        """What the solver is given, for each distinct problem, as numpy arrays; making it is not timed.

        Raises:
            TooLargeError: It does not fit into memory.
        """

    @abc.abstractmethod
    def solve(self, one: PyTree, setting: Setting) -> PyTree:
        """Solves one problem; traced, compiled and timed."""

    @abc.abstractmethod
    def read(self, problems: ProblemSet, given: PyTree, found: PyTree, setting: Setting) -> Answer:
        """The answers to the first problems of the set, from what `solve` returned for them."""

    def prepare(self, problems: ProblemSet, batch: int, setting: Setting) -> Prepared:
        """Compiles for a batch, checks that it fits, and puts the inputs on the device."""
        precision = setting.options.get("precision", "float32")
        wide = precision == "float64"
        given = self.data(problems)
        with jax.enable_x64(wide):
            shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct((batch, *v.shape[1:]), precision), given)
            start = time.perf_counter()
            program = jax.jit(lambda data: self._map(data, setting)).lower(shapes).compile()
            facts: dict[str, Any] = {"compile_seconds": time.perf_counter() - start, "precision": precision}
            facts["memory"] = _memory(program)
            instances = jnp.asarray(problems.instances(batch))
            data = jax.tree.map(lambda v: jnp.asarray(v, precision)[instances], given)
            jax.block_until_ready(data)
        last: list[PyTree] = []

        def run(seconds: float) -> Run:
            del seconds  # a compiled program cannot be stopped
            with jax.enable_x64(wide):
                start = time.perf_counter()
                found = jax.block_until_ready(program(data))
                last[:] = [found]
                return Run(time.perf_counter() - start, batch)

        def answer() -> Answer:
            if jax.default_backend() != "cpu":
                with jax.enable_x64(wide):
                    facts["seconds_in_a_row"] = in_a_row(lambda: program(data))
            found = jax.tree.map(np.asarray, last[0])
            distinct = min(batch, problems.count)
            firsts = jax.tree.map(lambda v: v[:distinct], found)
            read = self.read(problems, given, firsts, setting)
            return _with_deviation(read, jax.tree.leaves(found)[0], problems.instances(batch))

        return Prepared(run, answer, facts, last.clear)

    def _map(self, data: PyTree, setting: Setting) -> PyTree:
        def one(problem: PyTree) -> PyTree:
            return self.solve(problem, setting)

        if self.made_for_batches or jax.default_backend() != "cpu":
            return jax.vmap(one)(data)
        return jax.lax.map(one, data)


def in_a_row(call: Callable[[], PyTree], calls: int = 20) -> float:
    """Seconds a call when each is made before the last has ended, as in a loop on a GPU: without the host's part."""
    last = jax.block_until_ready(call())
    start = time.perf_counter()
    for _ in range(calls):
        last = call()  # not all of them: their memory adds up
    jax.block_until_ready(last)
    return (time.perf_counter() - start) / calls


def _with_deviation(answer: Answer, first: np.ndarray, instances: np.ndarray) -> Answer:
    """Adds how far the first output of each problem is from that of the same problem earlier in the batch."""
    earlier = first[instances]
    same = (first == earlier) | (np.isnan(first) & np.isnan(earlier))
    difference = np.where(same, 0, np.abs(first - earlier))
    scale = np.max(np.abs(first), where=np.isfinite(first), initial=0)
    difference = np.where(np.isnan(difference), np.inf, difference)  # a NaN on one side alone
    worst = float(difference.max(initial=0) / max(scale, np.finfo(first.dtype).tiny))
    return dataclasses.replace(answer, repeat_deviation=worst)


def free_memory() -> int:
    """Bytes that a batch may still take on the device (of the host, if that is the device)."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int | None:
    """The most bytes that were ever in use on the device in this process; None where nobody counts."""
    stats = jax.devices()[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None


def demand_memory(needed: int, what: str) -> None:
    """Raises TooLargeError if there is not that much to be had."""
    available = int(MEMORY_SHARE * free_memory())
    if needed > available:
        raise TooLargeError(f"{what} needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB may be used")


def _memory(program: Any) -> dict[str, int]:
    """What a compiled program needs.

    Raises:
        TooLargeError: There is not that much.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        return {}
    parts = {"argument": "argument_size_in_bytes", "output": "output_size_in_bytes", "temporary": "temp_size_in_bytes"}
    memory = {f"{part}_bytes": int(getattr(analysis, name)) for part, name in parts.items()}
    demand_memory(sum(memory.values()), "the batch")
    return memory
