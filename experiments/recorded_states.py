"""What the MPC was asked while a trained policy walked: centroidal states, gait phases and commands, kept in a file.

    python -m experiments.recorded_states        walks the shipped policy in MJX and writes the file anew

Eight robots walk to eight commands. Each is kicked once, and asked at four moments before the kick and four after.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from envs.guidance import PlanInputs
from pimpc import CentroidalModel, CentroidalState
from pimpc.centroidal import input_at

STATES = Path(__file__).parent / "notebooks" / "data" / "g1_states.npz"
POLICY = Path(__file__).parent / "results" / "g1_walk" / "policy.npz"

# v_x, v_y [m/s], ω_z [rad/s], and the kick [m/s, world] that the robot gets, which faces along x at the start.
COMMANDS = (
    ((0.0, 0.0, 0.0), (0.0, 0.3)),
    ((0.3, 0.0, 0.0), (0.4, 0.0)),
    ((0.6, 0.0, 0.0), (0.0, -0.4)),
    ((1.0, 0.0, 0.0), (-0.4, 0.0)),
    ((-0.4, 0.0, 0.0), (0.3, 0.3)),
    ((0.0, 0.3, 0.0), (0.0, 0.4)),
    ((0.0, 0.0, 0.8), (-0.3, 0.3)),
    ((0.5, 0.0, 0.5), (0.3, -0.3)),
)
KICK = 3.0  # s, when the kick comes
# s, when the robots are asked: never twice in one gait phase, and not in a step that has just planned.
MOMENTS = (2.0, 2.24, 2.46, 2.7, 3.04, 3.2, 3.44, 3.66)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RecordedStates:
    """B moments of robots that walk."""

    inputs: PlanInputs  # what `pimpc.build_problem` takes, with a leading axis B
    u_prev: Float[Array, "B 12"]  # N and N m, what the plan before had for this moment
    since_kick: Float[Array, " B"]  # s; negative before the kick


def load(path: Path = STATES, count: int | None = None) -> RecordedStates:
    """Reads recorded states.

    Args:
        path: of the file.
        count: keep only so many, evenly spread; all by default.
    """
    with np.load(path) as file:
        pick = slice(None) if count is None else np.linspace(0, len(file["phase"]) - 1, count).round().astype(int)
        data = {name: jnp.asarray(file[name][pick]) for name in file.files}
    model, state = (
        {name.split(".")[1]: value for name, value in data.items() if name.startswith(part)}
        for part in ("model.", "state.")
    )
    inputs = PlanInputs(
        CentroidalModel(**model), CentroidalState(**state), data["phase"], data["command"], data["moving"]
    )
    return RecordedStates(inputs, data["u_prev"], data["since_kick"])


def save(states: RecordedStates, path: Path = STATES) -> None:
    """Writes recorded states; `load` reads them."""
    parts = {"model": states.inputs.model, "state": states.inputs.state}
    arrays: dict[str, Any] = {
        f"{part}.{name}": value for part, tree in parts.items() for name, value in vars(tree).items()
    }
    arrays |= {name: getattr(states.inputs, name) for name in ("phase", "command", "moving")}
    arrays |= {"u_prev": states.u_prev, "since_kick": states.since_kick}
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez_compressed(path, **arrays)


def record(env: Any, policy: Any) -> RecordedStates:
    """Walks a policy to `COMMANDS` and asks at `MOMENTS`.

    Args:
        env: an `envs.velocity.VelocityEnv` without random bodies, commands or kicks.
        policy: a `learning.Policy`.

    Returns:
        The states of all robots at all moments.

    Raises:
        RuntimeError: a robot fell.
    """
    commands, kicks = (jnp.array(column) for column in zip(*COMMANDS, strict=True))
    state = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), len(COMMANDS)))
    task = state.info["task"].replace(command=commands, command_wait=jnp.full(len(COMMANDS), jnp.inf))
    state = state.replace(info=state.info | {"task": task})
    step = jax.jit(lambda state: env.step(state, policy(state.obs)))

    @jax.jit
    @jax.vmap
    def ask(task: Any, physics: Any) -> tuple[PlanInputs, Array]:
        kin = env.one.kinematics(task.params, physics)
        guidance = task.guidance
        u_prev = input_at(guidance.plan, guidance.age * env.dt, env.config.guidance.centroidal.dt)
        return env.one.plan_inputs(task.params, kin, task.phase, task.command), u_prev

    found, ticks = [], [round(moment / env.dt) for moment in MOMENTS]
    for tick in range(1, max(ticks) + 1):
        if tick == round(KICK / env.dt):
            physics = state.pipeline_state
            physics = physics.replace(qvel=physics.qvel.at[:, :2].add(kicks))
            state = state.replace(pipeline_state=physics)
        state = step(state)
        if bool(state.done.any()):
            raise RuntimeError(f"Robots {np.flatnonzero(state.done).tolist()} fell at {tick * env.dt:.2f} s.")
        if tick in ticks:
            since_kick = jnp.full(len(COMMANDS), tick * env.dt - KICK)
            if not bool(state.info["task"].guidance.age.all()):
                raise RuntimeError(
                    f"At {tick * env.dt:.2f} s the plan is that of this very moment, not an earlier one."
                )
            inputs, u_prev = ask(state.info["task"], state.pipeline_state)
            found.append(RecordedStates(inputs, u_prev, since_kick))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)


def main() -> None:
    """Records the states of the shipped policy."""
    from envs import velocity
    from envs.config import NO_PUSHES, NO_RANDOMIZATION, VelocityConfig
    from learning import load_policy
    from learning.serialize import from_json

    policy = load_policy(POLICY)
    config = from_json(VelocityConfig, json.dumps(policy.metadata["env"]))
    start = dataclasses.replace(config.start, yaw=0.0, random_phase=False)
    calm = dataclasses.replace(
        config, backend="jax", push=NO_PUSHES, randomization=NO_RANDOMIZATION, start=start, episode_seconds=20.0
    )
    states = record(velocity.make(calm), policy)
    save(states)
    print(f"{len(states.since_kick)} states: {STATES}")


if __name__ == "__main__":
    main()
