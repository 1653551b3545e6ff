"""A film of the policy with the MPC's plan drawn in: CoM path, footholds, contact forces.

Frames come from MuJoCo's offscreen renderer. Where no OpenGL library is to be found (a bare server), a side view of the
robot's links is drawn instead, so that a run always ends with a film.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import mujoco
import numpy as np
from jaxtyping import Array, Float, UInt8

Frame = UInt8[np.ndarray, "height width 3"]
Snapshot = dict[str, np.ndarray]
Policy = Callable[[dict[str, Array], Array], Array]

COM_RGBA = (1.0, 0.75, 0.1, 0.9)
FOOT_RGBA = ((0.15, 0.45, 1.0, 0.8), (0.95, 0.25, 0.3, 0.8))  # left, right
METRES_PER_NEWTON = 1e-3


def record(env: Any, policy: Policy, key: Array, steps: int) -> list[Snapshot]:
    """Rolls a policy out and keeps what one film needs of the first robot.

    Args:
        env: a batched environment with `snapshot(state)`; it is run with one robot.
        policy: (observations, key) -> actions, both with the batch axis.
        key: random key.
        steps: control steps.

    Returns:
        One snapshot a step: `qpos`, `com_path`, `landing`, `landing_valid`, `foot`, `force`.
    """

    @jax.jit
    def advance(state: Any, key: Array) -> tuple[Any, dict[str, Array]]:
        state = env.step(state, policy(state.obs, key))
        return state, env.snapshot(state)

    reset_key, key = jax.random.split(key)
    state = jax.jit(env.reset)(jax.random.split(reset_key, 1))
    snapshots = []
    for step_key in jax.random.split(key, steps):
        state, snapshot = advance(state, step_key)
        snapshots.append(jax.tree.map(np.asarray, snapshot))
    return snapshots


def film(model: mujoco.MjModel, snapshots: list[Snapshot], path: Path, fps: int, size: tuple[int, int]) -> str:
    """Renders snapshots and writes an mp4 (H.264).

    Args:
        model: the robot on its floor; its first camera, if any, is used.
        snapshots: from `record`.
        path: of the mp4.
        fps: frames a second; for real time, the rate of the snapshots.
        size: width and height [pixels], even.

    Returns:
        How the frames were made: "opengl" or "lines".
    """
    try:
        renderer = _open_renderer(model, size)
    except Exception as error:  # every OpenGL back end fails in a way of its own
        warnings.warn(f"No OpenGL for rendering ({type(error).__name__}); drawing a side view instead.", stacklevel=2)
        write_mp4(path, draw_lines(model, snapshots, size), fps)
        return "lines"
    with renderer:
        write_mp4(path, render(model, renderer, snapshots), fps)
    return "opengl"


def _open_renderer(model: mujoco.MjModel, size: tuple[int, int]) -> mujoco.Renderer:
    width, height = size
    model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
    model.vis.global_.offheight = max(height, model.vis.global_.offheight)
    return mujoco.Renderer(model, height, width, max_geom=2000)


def render(model: mujoco.MjModel, renderer: mujoco.Renderer, snapshots: list[Snapshot]) -> Iterator[Frame]:
    """Frames with MuJoCo's renderer, the camera following the robot from the side."""
    data = mujoco.MjData(model)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = 2.6, 120.0, -14.0
    for snapshot in snapshots:
        data.qpos[:] = snapshot["qpos"]
        mujoco.mj_forward(model, data)
        camera.lookat[:] = (*data.qpos[:2], 0.62)
        renderer.update_scene(data, camera)
        draw_plan(renderer.scene, snapshot)
        yield renderer.render()


def draw_plan(scene: mujoco.MjvScene, snapshot: Snapshot) -> None:
    """Adds the MPC's plan to a scene: CoM path as a tube, landing targets as discs, planned forces as arrows."""
    path = snapshot["com_path"]
    for start, end in itertools.pairwise(path):
        _connect(scene, mujoco.mjtGeom.mjGEOM_CAPSULE, 0.012, start, end, COM_RGBA)
    for i, rgba in enumerate(FOOT_RGBA):
        if snapshot["landing_valid"][i]:
            _add(scene, mujoco.mjtGeom.mjGEOM_CYLINDER, (0.05, 0.05, 0.004), snapshot["landing"][i], rgba)
        force = snapshot["force"][i]
        if np.linalg.norm(force) > 1.0:
            foot = snapshot["foot"][i]
            tip = foot + METRES_PER_NEWTON * force
            _connect(scene, mujoco.mjtGeom.mjGEOM_ARROW, 0.015, foot, tip, rgba)


def _add(scene: mujoco.MjvScene, kind: int, size: tuple, position: np.ndarray, rgba: tuple) -> None:
    if scene.ngeom >= scene.maxgeom:
        return
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(geom, kind, np.array(size), position.astype(float), np.eye(3).ravel(), np.array(rgba, "f4"))
    scene.ngeom += 1


def _connect(scene: mujoco.MjvScene, kind: int, width: float, a: np.ndarray, b: np.ndarray, rgba: tuple) -> None:
    if scene.ngeom >= scene.maxgeom:
        return
    _add(scene, kind, (width, width, width), a, rgba)
    mujoco.mjv_connector(scene.geoms[scene.ngeom - 1], kind, width, a.astype(float), b.astype(float))


def draw_lines(model: mujoco.MjModel, snapshots: list[Snapshot], size: tuple[int, int]) -> Iterator[Frame]:
    """A side view of the robot's links and the plan, without OpenGL."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    data = mujoco.MjData(model)
    for snapshot in snapshots:
        data.qpos[:] = snapshot["qpos"]
        mujoco.mj_forward(model, data)
        _draw_side_view(axes, model, data, snapshot)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _draw_side_view(axes: Any, model: mujoco.MjModel, data: mujoco.MjData, snapshot: Snapshot) -> None:
    """One frame, seen from the robot's right: x along its heading."""
    quaternion = snapshot["qpos"][3:7]
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, quaternion.astype(float))
    heading = np.array([rotation[0], rotation[3]])
    heading /= max(np.linalg.norm(heading), 1e-9)
    origin = snapshot["qpos"][:2]

    def project(p: Float[np.ndarray, "*n 3"]) -> tuple[np.ndarray, np.ndarray]:
        return (p[..., :2] - origin) @ heading, p[..., 2]

    axes.clear()
    axes.set(xlim=(-1.2, 1.2), ylim=(-0.15, 1.65), aspect="equal")
    axes.axhline(0.0, color="0.6", linewidth=2)
    for body in range(2, model.nbody):
        ends = data.xpos[[model.body_parentid[body], body]]
        axes.plot(*project(ends), color="0.25", linewidth=5, solid_capstyle="round")
    axes.plot(*project(snapshot["com_path"]), color=COM_RGBA[:3], linewidth=3)
    for i, rgba in enumerate(FOOT_RGBA):
        if snapshot["landing_valid"][i]:
            axes.plot(*project(snapshot["landing"][i]), "o", color=rgba[:3])
        arrow = np.stack([snapshot["foot"][i], snapshot["foot"][i] + METRES_PER_NEWTON * snapshot["force"][i]])
        axes.plot(*project(arrow), color=rgba[:3], linewidth=2)


def write_mp4(path: Path, frames: Iterator[Frame], fps: int) -> None:
    """Encodes frames as H.264 in an mp4 that browsers play."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w") as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps))
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        if stream is not None:
            for packet in stream.encode():
                container.mux(packet)
