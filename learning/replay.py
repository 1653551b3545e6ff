"""What an environment that went bad leaves behind, and the ways to repeat its last step.

    nan/iteration_000000012/
        about.json     what was not finite, where and when; how long a physics step is and how many make a control step
        state.npz      the environment's whole state before the step (a batch of one), by path, and the action
        model.mjb      its model with its own masses and gains, if the environment simulates one in MuJoCo
        physics.npz    qpos, qvel, qacc_warmstart and ctrl with which that physics step began

`mujoco_step(directory)` repeats the physics in C MuJoCo; `load(directory, env)` gives state and action back to the
environment, whose `step` then repeats all of it, rewards and MPC included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from learning.health import Evidence, NonFiniteError
from learning.types import strip_weak_types

FOLDER = "nan"
ABOUT, STATE, MODEL, PHYSICS = "about.json", "state.npz", "model.mjb", "physics.npz"
ACTION = "action"


def dump(run_dir: Path, env: Any, evidence: Evidence, error: NonFiniteError) -> Path:
    """Writes what repeats the first bad step of an environment.

    Args:
        run_dir: The run's directory.
        env: The environment. If it has a method `replay_inputs(state, action)`, that says what physics was about to
            do: a `mujoco.MjModel`, the number of physics steps, and `qpos`, `qvel`, `qacc_warmstart`, `ctrl`.
        evidence: Of the iteration.
        error: What was found.

    Returns:
        The directory written.

    Raises:
        OSError: If it cannot be written.
    """
    directory = run_dir / FOLDER / f"iteration_{error.iteration:09d}"
    directory.mkdir(parents=True, exist_ok=True)
    evidence = jax.device_get(evidence)
    leaves: dict[str, Any] = {
        jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(evidence.state)
    }
    leaves[ACTION] = evidence.action
    np.savez(directory / STATE, **leaves)
    about = {
        "what": error.what,
        "iteration": error.iteration,
        "env": int(evidence.env[0]),
        "step": int(evidence.step[0]),
    }
    if hasattr(env, "replay_inputs"):
        model, substeps, inputs = env.replay_inputs(evidence.state, evidence.action)
        mujoco.mj_saveModel(model, str(directory / MODEL), None)
        np.savez(directory / PHYSICS, **inputs)
        about |= {"substeps": substeps, "mujoco": mujoco.__version__}
    (directory / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    return directory


def keep(run_dir: Path, env: Any, evidence: Evidence, error: NonFiniteError) -> None:
    """Dumps the first bad environment, if it was not the learning that went bad, and says on the error where."""
    if not error.in_rollout:
        return
    try:
        directory = dump(run_dir, env, evidence, error)
        error.add_note(f"The state before that step is in '{directory}': `learning.replay` repeats the step.")
    except Exception as problem:  # whatever goes wrong with it must not hide what went wrong first
        error.add_note(f"The state before that step could not be written: {type(problem).__name__}: {problem}.")


def load(directory: str | os.PathLike[str], env: Any) -> tuple[Any, Float[Array, "1 nu"]]:
    """The environment's state before the bad step, a batch of one, and the action: `env.step(*load(directory, env))`.

    Args:
        directory: That `dump` wrote.
        env: An environment made from the run's config.

    Raises:
        ValueError: If the state is one of another environment.
    """
    shapes = jax.eval_shape(lambda keys: strip_weak_types(env.reset(keys)), jax.ShapeDtypeStruct((1, 2), jnp.uint32))
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    with np.load(Path(directory) / STATE) as saved:
        for path, like in paths:
            name = jax.tree_util.keystr(path)
            if name not in saved or saved[name].shape != like.shape:
                raise ValueError(f"'{directory}' holds a state of another environment: state{name} does not fit.")
        leaves = [jnp.asarray(saved[jax.tree_util.keystr(path)], like.dtype) for path, like in paths]
        return jax.tree_util.tree_unflatten(structure, leaves), jnp.asarray(saved[ACTION])


def mujoco_step(directory: str | os.PathLike[str]) -> Mapping[str, Float[np.ndarray, "n _"]]:
    """Repeats the physics of the bad control step in C MuJoCo, in double precision.

    `python -c "from learning.replay import mujoco_step; print(mujoco_step('runs/…/nan/iteration_…')['qvel'])"`

    Args:
        directory: That `dump` wrote.

    Returns:
        `qpos` and `qvel`, before and after each physics step (n = substeps + 1).

    Raises:
        FileNotFoundError: If no model was left there.
        ValueError: If MuJoCo cannot read the model, which only the version that wrote it can (see `about.json`).
    """
    directory = Path(directory)
    if not (directory / MODEL).exists():
        raise FileNotFoundError(f"'{directory}' holds no model: its environment does not say what to simulate.")
    about = json.loads((directory / ABOUT).read_text())
    model = mujoco.MjModel.from_binary_path(str(directory / MODEL))
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # a state that blows up is what one wants to see
    data = mujoco.MjData(model)
    with np.load(directory / PHYSICS) as inputs:
        for name, value in inputs.items():
            getattr(data, name)[:] = value
    states = {"qpos": [data.qpos.copy()], "qvel": [data.qvel.copy()]}
    for _ in range(about["substeps"]):
        mujoco.mj_step(model, data)
        for name, rows in states.items():
            rows.append(getattr(data, name).copy())
    return {name: np.array(rows) for name, rows in states.items()}
