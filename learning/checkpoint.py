"""Checkpoints from which a run continues as if it had never stopped.

A checkpoint is a directory named by its iteration: `arrays/` (orbax) with every leaf of the training state (parameters,
optimizer, statistics, learning rate, random key, and the environments with their curriculum), and `manifest.json` with
names, shapes, types and checksums of the leaves, the resolved config and the versions. It is written beside its place
and moved there when complete, so that what carries the name is whole unless the disk damages it later, which the
checksums tell.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
ARRAYS = "arrays"
MARGIN = 2**20  # bytes beside the arrays


class LayoutError(ValueError):
    """A checkpoint holds a state of another structure than the one asked for."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `restore` found.

    Attributes:
        state: The training state, on the host.
        manifest: Iteration, environment steps, config, versions, and what else was saved with it.
        path: The checkpoint's directory.
        skipped: One sentence for each newer checkpoint that was damaged.
    """

    state: PyTree
    manifest: dict[str, Any]
    path: Path
    skipped: tuple[str, ...]


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def list_checkpoints(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = Path(run_dir) / FOLDER
    return sorted(p for p in folder.glob("[0-9]*") if (p / MANIFEST).exists()) if folder.is_dir() else []


def _write(directory: Path, state: PyTree, manifest: Mapping[str, Any]) -> None:
    leaves = {name: np.asarray(leaf) for name, leaf in _named_leaves(jax.device_get(state)).items()}
    entries = [
        {"name": name, "shape": list(x.shape), "dtype": str(x.dtype), "crc32": _checksum(x)}
        for name, x in leaves.items()
    ]
    needed, free = sum(x.nbytes for x in leaves.values()), shutil.disk_usage(directory).free
    if free < needed + MARGIN:  # found out here, as orbax's threads survive a full disk badly
        raise OSError(
            errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: it takes {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        )
    arrays = {f"{i:04d}": x for i, x in enumerate(leaves.values()) if x.size}  # orbax refuses those without elements
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save((directory / ARRAYS).absolute(), arrays)
    (directory / MANIFEST).write_text(json.dumps({**manifest, "leaves": entries}, indent=1))


def save(
    run_dir: str | os.PathLike[str], state: PyTree, iteration: int, manifest: Mapping[str, Any], keep: int = 3
) -> Path:
    """Writes a checkpoint and then removes all but the newest `keep`.

    Args:
        run_dir: The run's directory.
        state: Any pytree of arrays.
        iteration: Names the checkpoint.
        manifest: JSON-serializable facts to be stored with it.
        keep: Checkpoints that stay.

    Returns:
        The directory of the new checkpoint.

    Raises:
        CheckpointError: If it could not be written, for example because the disk is full. Older ones are untouched.
    """
    folder = Path(run_dir) / FOLDER
    final, temporary, replaced = (folder / f"{prefix}{iteration:09d}" for prefix in ("", ".writing-", ".replaced-"))
    try:
        for leftover in folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(temporary, state, {"iteration": iteration, **manifest})
        if final.exists():
            os.replace(final, replaced)
        os.replace(temporary, final)
    except Exception as error:  # tensorstore reports a full disk as ValueError or RuntimeError, not as OSError
        shutil.rmtree(temporary, ignore_errors=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        kept = list_checkpoints(run_dir)
        intact = f"The last one, '{kept[-1]}', is intact" if kept else "There is no earlier one"
        raise CheckpointError(f"Checkpoint '{final}' could not be written: {reason}. {intact}.") from error
    shutil.rmtree(replaced, ignore_errors=True)
    for old in list_checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _check_layout(path: Path, entries: list[dict[str, Any]], like: dict[str, Any]) -> None:
    saved = {e["name"]: (tuple(e["shape"]), e["dtype"]) for e in entries}
    wanted = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in like.items()}
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise LayoutError(
                f"Checkpoint '{path}' was written with other networks, another environment or another number of "
                f"environments: state{name} is {saved.get(name, 'absent')} there and {wanted.get(name, 'absent')} here."
            )


def _read(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    manifest = json.loads((path / MANIFEST).read_text())
    entries = manifest.pop("leaves")
    _check_layout(path, entries, _named_leaves(like))
    with ocp.PyTreeCheckpointer() as checkpointer:
        arrays = checkpointer.restore((path / ARRAYS).absolute())
    by_name = {}
    for i, entry in enumerate(entries):
        array = np.asarray(arrays.get(f"{i:04d}", ()), dtype=entry["dtype"]).reshape(entry["shape"])
        if _checksum(array) != entry["crc32"]:
            raise CheckpointError(f"the checksum of state{entry['name']} does not match")
        by_name[entry["name"]] = array
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    leaves = [by_name[jax.tree_util.keystr(path)] for path, _ in paths]
    return jax.tree_util.tree_unflatten(treedef, leaves), manifest


def restore(run_dir: str | os.PathLike[str], like: PyTree) -> Restored:
    """Reads the newest checkpoint that is whole.

    Args:
        run_dir: The run's directory.
        like: A pytree of the saved structure, of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The state and what was saved with it; damaged newer checkpoints are named in `skipped`.

    Raises:
        FileNotFoundError: If the directory is no run, or has no checkpoint.
        LayoutError: If the checkpoint belongs to another environment or other networks.
        CheckpointError: If every checkpoint is damaged.
    """
    run_dir = Path(run_dir)
    if not (run_dir / FOLDER).is_dir():
        raise FileNotFoundError(f"'{run_dir}' is not a run: it has no '{FOLDER}' directory.")
    checkpoints = list_checkpoints(run_dir)
    if not checkpoints:
        raise FileNotFoundError(f"The run '{run_dir}' has no checkpoint yet.")
    skipped: list[str] = []
    for path in reversed(checkpoints):
        try:
            state, manifest = _read(path, like)
        except LayoutError:
            raise
        except Exception as error:  # whatever a damaged file makes the reader do
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            skipped.append(f"Checkpoint '{path}' is damaged and was skipped: {reason}.")
            continue
        return Restored(state, manifest, path, tuple(skipped))
    raise CheckpointError(f"Every checkpoint of '{run_dir}' is damaged. " + " ".join(skipped))
