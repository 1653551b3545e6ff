"""A training run, from start or checkpoint to its last line, with everything that it leaves in its directory."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from learning import checkpoint, record, replay
from learning.config import PPOConfig, RunConfig
from learning.health import NonFiniteError, raise_if_not_finite
from learning.policy import Policy, make_policy, save_policy
from learning.ppo import Learner, TrainState
from learning.progress import Failures, Progress, format_count, format_duration, progress_line
from learning.result import TrainResult
from learning.stop import StopRequest
from learning.types import Env, fetch_scalars

POLICY = "policy.npz"
ENDINGS = {"steps": "Finished", "minutes": "Out of time", "signal": "Stopped"}

Callback = Callable[[Policy, int], Mapping[str, float] | None]


@dataclasses.dataclass
class _Clock:
    """Times and counts of this process."""

    started: float = dataclasses.field(default_factory=time.monotonic)
    loop_started: float = 0.0
    last_saved: float = 0.0
    train_seconds: float = 0.0
    iterations: int = 0
    earlier_minutes: float = 0.0  # of the processes that this one continues

    @property
    def minutes(self) -> float:
        """Wall-clock time of the whole run, less what a process that was killed spent after its last checkpoint."""
        return self.earlier_minutes + (time.monotonic() - self.started) / 60.0


class _Session:
    """The host's side of a run: clock, log, checkpoints. All that the training depends on is in the `TrainState`."""

    def __init__(
        self,
        learner: Learner,
        run_dir: Path,
        run: RunConfig,
        settings: Mapping[str, Any],
        callback: Callback | None,
        metadata: Mapping[str, Any],
    ) -> None:
        self.learner, self.run_dir, self.run = learner, run_dir, run
        self.settings, self.versions = record.plain(settings), record.versions()
        self.callback, self.metadata = callback, metadata
        self.progress = Progress(run.progress_seconds)
        self.clock, self.failures = _Clock(), Failures(getattr(learner.env, "failure_metrics", ()))
        self.samples = learner.config.samples_per_iteration

    def start(self, resume: bool) -> TrainState:
        """The first state: fresh, or from the newest whole checkpoint."""
        self.progress.say(f"Run directory: {self.run_dir}")
        if resume:
            restored = checkpoint.restore(self.run_dir, self.learner.abstract_state)
            for sentence in restored.skipped:
                self.progress.say(sentence)
            self.clock.earlier_minutes = restored.manifest["minutes"]
            self._report_changes(restored.manifest)
            self.progress.say(f"Resuming from '{restored.path}'")
            return self.learner.place(restored.state)
        if checkpoint.list_checkpoints(self.run_dir):
            raise FileExistsError(f"'{self.run_dir}' already holds a run: resume it, or choose another directory.")
        self.run_dir.mkdir(parents=True, exist_ok=True)
        record.write_json(self.run_dir / record.CONFIG, self.settings)
        record.write_json(self.run_dir / record.VERSIONS, self.versions)
        return self.learner.init()

    def _report_changes(self, manifest: Mapping[str, Any]) -> None:
        for kind, now in (("config", self.settings), ("versions", self.versions)):
            for name, (before, after) in record.differences(manifest[kind], now).items():
                self.progress.say(f"Changed since the checkpoint: {kind} {name} from {before} to {after}")

    def policy(self, state: TrainState) -> Policy:
        return make_policy(state.agent, self.learner.config, self.learner.action_size, self.metadata)

    def save(self, state: TrainState, iteration: int) -> None:
        """Checkpoint, policy and curve. A failure is reported, and the training goes on."""
        manifest = {
            "env_steps": iteration * self.samples,
            "minutes": self.clock.minutes,
            "config": self.settings,
            "versions": self.versions,
        }
        self._attempt(lambda: checkpoint.save(self.run_dir, state, iteration, manifest, self.run.keep_checkpoints))
        self._attempt(lambda: save_policy(self.policy(state), self.run_dir / POLICY))
        if self.clock.iterations:
            self._attempt(lambda: record.plot_learning_curve(self.run_dir))
        self.clock.last_saved = time.monotonic()

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
        except (checkpoint.CheckpointError, OSError) as error:
            self.progress.say(f"{error} Training goes on.")

    def evaluate(self, state: TrainState, iteration: int) -> dict[str, float]:
        """The callback's metrics."""
        metrics = self.callback(self.policy(state), iteration * self.samples) if self.callback else None
        return {f"eval/{name}": float(value) for name, value in (metrics or {}).items()}

    def iterate(self, state: TrainState, iteration: int) -> tuple[TrainState, dict[str, float]]:
        """One iteration, timed, with its metrics on the host."""
        start = time.perf_counter()
        state, metrics, health = self.learner.iterate(state)
        # Arrays of these, if kept, can move the next iteration's: then Warp captures its graph of the physics anew.
        metrics, health = fetch_scalars((metrics, health))
        seconds = time.perf_counter() - start
        try:
            raise_if_not_finite(health, iteration, self.learner.config.num_envs)
        except NonFiniteError as error:
            replay.keep(self.run_dir, self.learner.env, health.evidence, error)
            raise
        self.clock.train_seconds += seconds
        self.clock.iterations += 1
        row = {name: float(value) for name, value in metrics.items()}
        self.failures.add(row, self.samples)
        row["perf/env_steps_per_second"] = self.samples / seconds
        return state, {"iteration": iteration + 1, "minutes": self.clock.minutes, **row}

    def stop_reason(self, iteration: int, stop: StopRequest) -> str | None:
        """Why the run should end now, if it should."""
        if stop.received:
            return "signal"
        if iteration * self.samples >= self.run.total_env_steps:
            return "steps"
        limit = self.run.max_minutes
        return "minutes" if limit is not None and time.monotonic() - self.clock.started >= 60.0 * limit else None

    def save_is_due(self, iteration: int) -> bool:
        every = self.run.checkpoint_iterations
        late = time.monotonic() - self.clock.last_saved >= 60.0 * self.run.checkpoint_minutes
        return late or (every is not None and iteration % every == 0)

    def _line(self, iteration: int, row: Mapping[str, float]) -> str:
        """Progress, with the time that remains at this process's mean speed."""
        total, now = self.run.total_env_steps, time.monotonic()
        steps = iteration * self.samples
        left = (total - steps) / (self.clock.iterations * self.samples) * (now - self.clock.loop_started)
        if self.run.max_minutes is not None:
            left = min(left, 60.0 * self.run.max_minutes - (now - self.clock.started))
        return progress_line(row, steps, total, left)

    def log(self, log: record.MetricsLog, row: Mapping[str, float]) -> None:
        """Adds a row; a full disk costs the row, not the run."""
        try:
            log.add(int(row["iteration"]) * self.samples, row)
        except OSError as error:
            self.progress.say(f"Metrics could not be written: {error}. Training goes on.")

    def loop(self, state: TrainState, log: record.MetricsLog, stop: StopRequest) -> TrainResult:
        """Iterates until a reason to stop, then saves."""
        iteration, row = int(state.iteration), {}
        saved = iteration
        self.clock.loop_started = self.clock.last_saved = time.monotonic()
        while (reason := self.stop_reason(iteration, stop)) is None:
            state, row = self.iterate(state, iteration)
            iteration += 1
            if self.save_is_due(iteration):
                self.save(state, iteration)
                row.update(self.evaluate(state, iteration))
                saved = iteration
            if iteration % self.run.log_iterations == 0:
                self.log(log, row)
            self.progress.update(self._line(iteration, row))
        if row:
            self.progress.update(self._line(iteration, row), force=True)
        # A process that only compiled has a new time to save, unless the run had ended before.
        if saved != iteration or (not self.clock.iterations and reason != "steps"):
            self.save(state, iteration)
        return self.result(state, iteration, reason, row)

    def result(self, state: TrainState, iteration: int, reason: str, row: dict[str, float]) -> TrainResult:
        """Sums up, and says what the speed was and how to go on."""
        clock, compile_seconds = self.clock, self.learner.compile_seconds
        speed = clock.iterations * self.samples / clock.train_seconds if clock.iterations else math.nan
        steps = iteration * self.samples
        self.progress.say(
            f"{ENDINGS[reason]} after {iteration} iterations and {format_count(steps)} steps: "
            f"{format_duration(compile_seconds)} compiling, {format_duration(clock.train_seconds)} training"
            + (f" at {format_count(speed)} steps/s." if clock.iterations else ".")
        )
        for sentence in self.failures.sentences(" since the run was resumed" if iteration > clock.iterations else ""):
            self.progress.say(sentence)
        saved = checkpoint.list_checkpoints(self.run_dir)
        resumable = f"Checkpoint: '{saved[-1]}'. To go on, resume '{self.run_dir}'." if saved else "No checkpoint."
        self.progress.say(resumable)
        return TrainResult(
            policy=self.policy(state),
            run_dir=self.run_dir,
            iterations=iteration,
            env_steps=steps,
            stopped_by=reason,
            compile_seconds=compile_seconds,
            train_seconds=clock.train_seconds,
            env_steps_per_second=speed,
            metrics=row,
            failure_rates=self.failures.rates(),
        )


def train(
    env: Env,
    config: PPOConfig,
    run_dir: str | os.PathLike[str],
    *,
    run: RunConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    callback: Callback | None = None,
    metadata: Mapping[str, Any] | None = None,
    devices: Sequence[Any] | None = None,
) -> TrainResult:
    """Trains a policy, in a directory that holds all there is to know about the run.

    The directory gets `config.json`, `versions.json`, `metrics.jsonl`, TensorBoard events, `learning_curve.png`,
    `policy.npz` and `checkpoints/`. Ctrl-C and SIGTERM end the run after the iteration under way, with a checkpoint.

    Args:
        env: The batched environment.
        config: Settings of PPO.
        run_dir: The run's directory; see `learning.record.new_run_directory`.
        run: When to stop and to save.
        settings: The whole resolved config as JSON-serializable data, to be stored; that of PPO and run by default.
        resume: Continue from the newest whole checkpoint of `run_dir`, bitwise as if there had been no stop (on devices
            whose kernels are deterministic).
        callback: Called as `callback(policy, env_steps)` after each checkpoint but the first and last; the metrics that
            it returns are logged under `eval/`.
        metadata: JSON-serializable facts that travel with the exported policy.
        devices: See `Learner`.

    Returns:
        The trained policy and the figures of the run.

    Raises:
        NonFiniteError: If an action, an observation, a reward, the loss or a parameter became NaN or infinite, or the
            policy's standard deviation left its bounds. The checkpoints are from before; what repeats the first bad
            step of an environment is under `nan/`, see `learning.replay`.
        FileExistsError: If the directory holds a run already and `resume` is not set.
        FileNotFoundError: If there is nothing to resume.
        ValueError: If the environment is not of the expected shape, or the checkpoint of another one.
    """
    return run_learner(
        Learner(env, config, devices),
        run_dir,
        run=run,
        settings=settings,
        resume=resume,
        callback=callback,
        metadata=metadata,
    )


def run_learner(
    learner: Learner,
    run_dir: str | os.PathLike[str],
    *,
    run: RunConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    callback: Callback | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> TrainResult:
    """`train` with a learner that exists already, so that several runs share one compilation."""
    run = run or RunConfig()
    settings = settings or {"ppo": dataclasses.asdict(learner.config), "run": dataclasses.asdict(run)}
    session = _Session(learner, Path(run_dir), run, settings, callback, metadata or {})
    stop = StopRequest(session.progress.say)
    with stop.installed():
        state = session.start(resume)
        if not resume:
            session.save(state, 0)  # a disk that cannot be written shows now, not in five minutes
        session.progress.say(
            f"Compiling an iteration of {learner.config.num_envs} environments × {learner.config.unroll_length} steps"
        )
        _ = learner.compiled
        session.progress.say(f"Compiled in {format_duration(learner.compile_seconds)}")
        log = record.MetricsLog(session.run_dir, int(state.iteration) * session.samples if resume else None)
        try:
            return session.loop(state, log, stop)
        except NonFiniteError as error:
            saved = checkpoint.list_checkpoints(session.run_dir)
            error.add_note(f"The last good checkpoint is '{saved[-1]}'." if saved else "There is no checkpoint.")
            raise
        finally:
            log.close()
