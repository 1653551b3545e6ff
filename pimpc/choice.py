"""Which of two implementations runs: kernels for NVIDIA GPUs, or plain XLA."""

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import jax

Kernels = Literal["auto", "xla", "condensed", "parallel", "cuda"]  # see `InteriorPoint.kernels`
T = TypeVar("T")


def choose(kernels: Kernels, fits: bool, cuda: Callable[[], T], xla: Callable[[], T]) -> T:
    """Runs one of two implementations: by default the kernels, where they fit and where there is a GPU.

    Raises:
        ValueError: If the kernels are asked for and do not fit, or something is asked for that does not exist.
    """
    if kernels not in get_args(Kernels):
        raise ValueError(f"There is no kernels={kernels!r}; there are {', '.join(map(repr, get_args(Kernels)))}.")
    if kernels == "cuda":
        if not fits:
            raise ValueError(
                'kernels="cuda" needs float32, diagonal weights, at most 32 inputs and states together and 256 bounds '
                'a stage, states that are bounded on one side at most, and early_stop; kernels="auto" takes every '
                "problem."
            )
        return cuda()
    if kernels in ("xla", "condensed", "parallel") or not fits or jax.default_backend() != "gpu":
        return xla()
    # A program traced on a machine with a GPU may still be compiled for its CPU.
    return jax.lax.platform_dependent(cuda=cuda, default=xla)
