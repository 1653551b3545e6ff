"""Checks of a problem: of its structure, known when a program is traced, and of its values, known when it runs."""

from collections.abc import Callable

import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from pimpc.problem import LTVProblem, Structure, given_fields

_SHAPES = {
    "A": ("N nx nx",),
    "B": ("N nx nu",),
    "e": ("N nx",),
    "x0": ("nx",),
    "u_prev": ("nu",),
    "x_ref": ("N nx",),
    "u_ref": ("N nu",),
    "Q": ("N nx", "N nx nx"),
    "R": ("N nu", "N nu nu"),
    "S": ("N nu", "N nu nu"),
    "G": ("N m nu",),
    "h": ("N m",),
    "u_min": ("N nu",),
    "u_max": ("N nu",),
    "x_min": ("N nx",),
    "x_max": ("N nx",),
    "horizon": ("",),
}
_OPTIONAL = ("G", "h", "u_min", "u_max", "x_min", "x_max", "horizon")
_WEIGHTS = ("Q", "R", "S")


def check_structure(problem: LTVProblem) -> None:
    """Checks what is known without the values: presence, types and shapes of one problem.

    Args:
        problem: One problem; under `jax.vmap` the instance that the function sees.

    Raises:
        ValueError: If a field is missing or has a wrong shape.
        TypeError: If a field has a wrong type.
    """
    present = _present(problem)
    if present["B"].ndim > 3 and present["A"].ndim == present["B"].ndim:
        shape = present["B"].shape
        raise ValueError(
            f"B has shape {shape}, a batch; solve takes one problem, so call jax.vmap(pimpc.solve) instead."
        )
    _check_shapes(present, ())
    _check_structure(present, problem.structure)


def validate(problem: LTVProblem) -> None:
    """Checks structure and values of a problem or of a batch of problems, outside of `jax.jit`.

    `solve` does not need this: it flags bad values per instance in `Solution.status`. This function says which field.

    Args:
        problem: One problem, or a batch with equal leading axes on every field. Stages from `horizon` on are not read.

    Raises:
        ValueError: If a field is missing, has a wrong shape, or holds a value that it must not hold.
        TypeError: If a field has a wrong type, or is traced.
    """
    present = _present(problem)
    for name, value in present.items():
        if isinstance(value, jax.core.Tracer):
            raise TypeError(f"{name} is traced; call validate outside of jax.jit and jax.vmap, where values are known.")
    _check_shapes(present, present["B"].shape[:-3])
    _check_structure(present, problem.structure)
    values = {name: np.asarray(value) for name, value in present.items()}
    _check_values(values)
    _check_weights(values)
    _check_bounds(values)
    _check_declared(values, problem.structure)


def finite(problem: LTVProblem) -> Bool[Array, ""]:
    """Whether all numbers that must be finite are, and no bound is NaN or excludes every number."""
    data = problem.A, problem.B, problem.e, problem.x0, problem.u_prev, problem.x_ref, problem.u_ref, problem.G
    checks = [jnp.isfinite(v) for v in (*data, problem.Q, problem.R, problem.S) if v is not None]
    checks += [v > -jnp.inf for v in (problem.h, problem.u_max, problem.x_max) if v is not None]
    checks += [v < jnp.inf for v in (problem.u_min, problem.x_min) if v is not None]
    return jnp.all(jnp.concatenate([check.ravel() for check in checks]))  # which a GPU does in one kernel


def _present(problem: LTVProblem) -> dict[str, Array]:
    """The fields that are given, with their presence and types checked."""
    present = given_fields(problem)
    for name in _SHAPES:
        if name not in present and name not in _OPTIONAL:
            raise ValueError(f"{name} is None; it is required, only {', '.join(_OPTIONAL)} may be left out.")
    for given, missing in (("G", "h"), ("h", "G")):
        if given in present and missing not in present:
            raise ValueError(
                f"{given} is given without {missing}; G u ≤ h needs both, so pass {missing} or drop {given}."
            )
    for name, value in present.items():
        if not hasattr(value, "dtype") or not hasattr(value, "shape"):
            raise TypeError(f"{name} is a {type(value).__name__}; pass an array, for example jnp.asarray({name}).")
    _check_types(present)
    return present


def _check_types(present: dict[str, Array]) -> None:
    dtype = present["B"].dtype
    for name, value in present.items():
        if name == "horizon":
            if not jnp.issubdtype(value.dtype, jnp.integer):
                raise TypeError(f"horizon has type {value.dtype}; it counts stages, so pass an integer.")
        elif value.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(f"{name} has type {value.dtype}; convert it to float32 or float64.")
        elif value.dtype != dtype:
            raise TypeError(f"{name} has type {value.dtype} but B has {dtype}; convert all fields to one type.")


def _check_shapes(present: dict[str, Array], batch: tuple[int, ...]) -> None:
    """Checks every shape against the sizes that B and G imply."""
    shape = present["B"].shape
    if len(shape) < 3:
        raise ValueError(f"B has shape {shape}; it must be (N, nx, nu), one input matrix for each stage.")
    sizes: dict[str, int] = dict(zip(("N", "nx", "nu"), shape[-3:], strict=True))
    if 0 in sizes.values():
        raise ValueError(f"B has shape {shape}; it needs at least one stage, one state and one input.")
    if "G" in present and present["G"].ndim >= 2:
        sizes["m"] = present["G"].shape[-2]
    for name, value in present.items():
        allowed = [batch + tuple(sizes[axis] for axis in axes.split()) for axes in _SHAPES[name]]
        if value.shape not in allowed:
            wanted = " or ".join(
                f"({axes.replace(' ', ', ')}) = {s}" for axes, s in zip(_SHAPES[name], allowed, strict=True)
            )
            raise ValueError(f"{name} has shape {value.shape}; it must be {wanted}, judging by B of shape {shape}.")


def _check_structure(present: dict[str, Array], structure: Structure) -> None:
    """Checks that the declared blocks of G fill it, and that a declared number is one."""
    if structure.most_free is not None and structure.most_free < 0:
        raise ValueError(f"structure.most_free is {structure.most_free}: it counts inputs, so at least 0.")
    if structure.blocks is None:
        return
    if "G" not in present:
        raise ValueError("structure.blocks is given without G; they are the blocks of G.")
    filled = tuple(sum(sizes) for sizes in zip(*structure.blocks, strict=True))
    if filled != present["G"].shape[-2:] or min(min(block) for block in structure.blocks) < 1:
        raise ValueError(
            f"structure.blocks = {structure.blocks} add up to {filled} rows and columns, but G has "
            f"{present['G'].shape[-2:]}; each block needs at least one of both."
        )


def _check_declared(values: dict[str, np.ndarray], structure: Structure) -> None:
    """Checks that a problem is what it is declared to be."""
    if structure.blocks is not None:
        inside = np.zeros(values["G"].shape[-2:], bool)
        for place in structure.places():
            inside[place] = True
        _reject(values, "G", lambda v: (v != 0) & ~inside, "outside of structure.blocks G must be zero.")
    if structure.pins_only:
        lower = values.get("u_min", np.float64(-np.inf))
        for name, other in (("u_max", lower), ("u_min", values.get("u_max", np.float64(np.inf)))):
            if name in values:
                sentence = "with structure.pins_only bounds are infinite, or equal to fix an input."
                _reject(values, name, lambda v, other=other: np.isfinite(v) & (v != other), sentence)
    if structure.most_free is not None:
        equal = values["u_min"] == values["u_max"] if {"u_min", "u_max"} <= values.keys() else False
        free = int(np.max(np.sum(_active(values, "u_ref") & ~np.asarray(equal), axis=(-2, -1)), initial=0))
        if free > structure.most_free:
            raise ValueError(f"structure.most_free is {structure.most_free}, but {free} inputs have no equal bounds.")


def _where(name: str, wrong: np.ndarray) -> str:
    """Names the first wrong entry."""
    return f"{name}[{', '.join(str(i) for i in np.argwhere(wrong)[0])}]" if wrong.ndim else name


def _active(values: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The entries of a field that are read: all, or those of stages before `horizon`."""
    value = values[name]
    if "horizon" not in values or "N" not in _SHAPES[name][0]:
        return np.ones(value.shape, bool)
    N, batch = values["B"].shape[-3], values["horizon"].ndim
    active = np.arange(N) < values["horizon"][..., None]
    return np.broadcast_to(active.reshape(active.shape + (1,) * (value.ndim - batch - 1)), value.shape)


def _reject(values: dict[str, np.ndarray], name: str, bad: Callable[[np.ndarray], np.ndarray], sentence: str) -> None:
    wrong = bad(values[name]) & _active(values, name)
    if wrong.any():
        raise ValueError(f"{_where(name, wrong)} is {values[name][wrong][0]}; {sentence}")


def _check_values(values: dict[str, np.ndarray]) -> None:
    """Checks that numbers are finite where they must be."""
    if "horizon" in values:
        N, horizon = values["B"].shape[-3], values["horizon"]
        wrong = (horizon < 1) | (horizon > N)
        if wrong.any():
            raise ValueError(f"{_where('horizon', wrong)} is {horizon[wrong][0]}; it must be from 1 to N = {N}.")
    for name in values:
        if name in ("h", "u_max", "x_max"):
            _reject(values, name, lambda v: ~(v > -np.inf), "use a number, or inf for no upper bound.")
        elif name in ("u_min", "x_min"):
            _reject(values, name, lambda v: ~(v < np.inf), "use a number, or -inf for no lower bound.")
        else:
            _reject(values, name, lambda v: ~np.isfinite(v), "it must be finite.")


def _check_weights(values: dict[str, np.ndarray]) -> None:
    """Checks that weights are positive semidefinite."""
    for name in _WEIGHTS:
        W = values[name]
        if W.ndim == values["e"].ndim:
            _reject(values, name, lambda v: v < 0, "weights must not be negative.")
            continue
        W = np.where(_active(values, name), W, 0)
        size = np.abs(W).max(axis=(-2, -1))
        skew = np.abs(W - np.swapaxes(W, -1, -2)).max(axis=(-2, -1)) > 1e-5 * size
        if skew.any():
            raise ValueError(f"{_where(name, skew)} is not symmetric; pass (W + Wᵀ) / 2 of each weight matrix.")
        lowest = np.linalg.eigvalsh(W)[..., 0]
        if (lowest < -1e-5 * size).any():
            wrong = lowest < -1e-5 * size
            raise ValueError(
                f"{_where(name, wrong)} has the eigenvalue {lowest[wrong][0]}; weights must not be negative."
            )


def _check_bounds(values: dict[str, np.ndarray]) -> None:
    """Checks that bounds do not contradict each other."""
    for lower, upper in (("u_min", "u_max"), ("x_min", "x_max")):
        if lower in values and upper in values:
            wrong = (values[lower] > values[upper]) & _active(values, lower)
            if wrong.any():
                raise ValueError(f"{_where(lower, wrong)} is above {upper} there; swap them or widen the bounds.")
