"""The three-dimensional part of the viewer: the robot on its floor, arrows, and the MPC's plan.

The camera is the browser's and follows nothing. So that the robot stays in front of it, the world moves under the
robot: everything is drawn under one node, shifted by where the robot is.
"""

from __future__ import annotations

import mujoco
import numpy as np
import viser
from jaxtyping import Float

from bridge.viewer_shapes import body_meshes

COLORS = {
    "command": (0, 135, 50),
    "velocity": (30, 32, 38),
    "contact": (125, 40, 190),
    "com": (235, 160, 0),
    "left": (0, 85, 225),
    "right": (215, 25, 45),
    "failed": (150, 150, 150),
}
METRES_PER_NEWTON = 1e-3  # an arrow for the weight of 35 kg is 0.35 m long
SECONDS = 1.0  # s: a velocity's arrow ends where it would lead in that time
SHORTEST = 0.04  # m, of an arrow that is drawn
FOLLOW = 0.1  # share of the way to the robot that the world is shifted in one view: the robot may sway
Rgb = tuple[int, int, int]


class Arrows:
    """Any number of arrows of one kind."""

    def __init__(self, server: viser.ViserServer, name: str, thickness: float) -> None:
        nothing = np.zeros((1, 2, 3), np.float32)
        self._handle = server.scene.add_arrows(
            name, nothing, np.zeros(3, np.uint8), shaft_radius=thickness, head_radius=2.4 * thickness,
            head_length=5 * thickness, visible=False,
        )  # fmt: skip

    def show(self, start: Float[np.ndarray, "n 3"], end: Float[np.ndarray, "n 3"], color: np.ndarray | Rgb) -> None:
        """Draws arrows, too short ones left out.

        Args:
            start: points [m].
            end: points [m].
            color: one for all, or (n, 3).
        """
        seen = np.linalg.norm(end - start, axis=-1) > SHORTEST  # false for what is not finite
        self._handle.visible = bool(seen.any())
        if seen.any():
            self._handle.points = np.stack([start[seen], end[seen]], axis=1).astype(np.float32)
            colors = np.broadcast_to(np.asarray(color, np.uint8), (len(start), 3))
            self._handle.colors = colors[seen].copy()


class Scene:
    """What is drawn, brought up to date by views."""

    def __init__(self, server: viser.ViserServer, model: mujoco.MjModel) -> None:
        """Draws a robot where the model's standard configuration has it.

        Args:
            server: to draw in.
            model: the robot on its floor.
        """
        self.model, self.data = model, mujoco.MjData(model)
        self.options: dict[str, bool] = {"contacts": True, "velocities": True, "plan": True, "follow": True}
        self._origin: np.ndarray | None = None  # (2,) m, what the world is shifted by
        server.scene.set_up_direction("+z")
        server.scene.configure_environment_map(None)  # reflections take a browser without a GPU seconds to prepare
        server.scene.add_light_hemisphere(
            "/sky", sky_color=(255, 255, 255), ground_color=(190, 195, 205), intensity=1.6
        )
        server.scene.configure_default_lights(cast_shadow=True)
        server.scene.configure_fog(near=9.0, far=26.0, color=(255, 255, 255))
        server.initial_camera.position, server.initial_camera.look_at = (1.75, -2.05, 1.2), (0.15, 0.0, 0.6)
        server.initial_camera.fov = np.deg2rad(40.0)
        self._grid = server.scene.add_grid(
            "/grid", 60.0, 60.0, cell_size=0.25, section_size=1.0, cell_color=(222, 226, 232), fade_distance=40.0,
            section_color=(172, 180, 192), plane_color=(244, 246, 249), plane_opacity=1.0, shadow_opacity=0.35,
        )  # fmt: skip
        self._world = server.scene.add_frame("/world", show_axes=False)
        self._bodies = {}
        for body in range(model.nbody):
            for i, (rgba, (vertices, faces)) in enumerate(body_meshes(model, body)):
                parent = f"/world/body_{body}"
                if body not in self._bodies:
                    self._bodies[body] = server.scene.add_frame(parent, show_axes=False)
                color = (255 * rgba[:3]).astype(np.uint8)
                opacity = None if rgba[3] == 1 else float(rgba[3])
                server.scene.add_mesh_simple(f"{parent}/{i}", vertices, faces, color=color, opacity=opacity)
        self._add_marks(server)

    def _add_marks(self, server: viser.ViserServer) -> None:
        scene = server.scene
        self._contacts = Arrows(server, "/world/contacts", 0.010)
        self._command = Arrows(server, "/world/command", 0.016)
        self._velocity = Arrows(server, "/world/velocity", 0.010)
        self._forces = Arrows(server, "/world/planned_forces", 0.010)
        none = np.zeros((1, 2, 3), np.float32)
        self._com = scene.add_line_segments("/world/com_path", none, COLORS["com"], thickness=0.018, visible=False)
        self._landings = [
            scene.add_cylinder(f"/world/landing_{foot}", 0.055, 0.008, COLORS[foot], visible=False, opacity=0.85)
            for foot in ("left", "right")
        ]

    def update(self, view: np.void) -> None:
        """Draws a view; see `bridge.viewer.view_type`."""
        data = self.data
        if not np.isfinite(view["qpos"][3:]).all():
            return  # the robot stays where it was last seen; the panel says what is wrong
        data.qpos[:] = view["qpos"]
        unknown = not np.isfinite(view["qpos"][:3]).all()
        if unknown:
            data.qpos[:3] = 0.0
            data.qpos[2] = standing(self.model, data)
        mujoco.mj_kinematics(self.model, data)
        for body, frame in self._bodies.items():
            if body:
                frame.position, frame.wxyz = data.xpos[body], data.xquat[body]
        self._shift(data.qpos[:2])
        self._draw_velocities(view)
        self._draw_contacts(view)
        self._draw_plan(view)

    def _shift(self, position: Float[np.ndarray, " 2"]) -> None:
        """Brings the robot before the camera; a jump of it (a reset) is followed at once."""
        if self._origin is None or np.linalg.norm(position - self._origin) > 1.0:
            self._origin = position.copy()
        if self.options["follow"]:
            self._origin += FOLLOW * (position - self._origin)
        self._world.position = (-self._origin[0], -self._origin[1], 0.0)
        self._grid.position = (-self._origin[0] % 1.0, -self._origin[1] % 1.0, 0.0)

    def _draw_velocities(self, view: np.void) -> None:
        """Commanded and actual velocity on the floor, from under the base, in the yaw frame."""
        w, x, y, z = self.data.qpos[3:7]
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        R_world_yaw = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        for arrows, name, height in ((self._command, "command", 0.02), (self._velocity, "velocity", 0.05)):
            start = np.array([[*self.data.qpos[:2], height]])
            step = np.append(R_world_yaw @ view[name][:2], 0.0) * SECONDS * self.options["velocities"]
            arrows.show(start, start + step, COLORS[name])

    def _draw_contacts(self, view: np.void) -> None:
        count = max(int(view["contacts"]), 0) * self.options["contacts"]
        points = view["contact_points"][:count]
        self._contacts.show(points, points + METRES_PER_NEWTON * view["contact_forces"][:count], COLORS["contact"])

    def _draw_plan(self, view: np.void) -> None:
        """CoM path, landings and forces; grey if the last solve failed and an earlier plan is shown."""
        shown = self.options["plan"]
        path = view["com_path"][: max(int(view["knots"]), 0)]
        self._com.visible = bool(shown and len(path) > 1)
        solved = bool(view["solved"])
        colors = [COLORS[name] if solved else COLORS["failed"] for name in ("com", "left", "right")]
        if self._com.visible:
            self._com.points = np.stack([path[:-1], path[1:]], axis=1).astype(np.float32)
            self._com.colors = np.array(colors[0], np.uint8)
        for foot, (disc, color) in enumerate(zip(self._landings, colors[1:], strict=True)):
            disc.visible = bool(self._com.visible and view["landing_valid"][foot])
            disc.position, disc.color = view["landing"][foot], color
        force = METRES_PER_NEWTON * view["force"] * self._com.visible
        self._forces.show(view["foot"], view["foot"] + force, np.array(colors[1:], np.uint8))


def standing(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """The height of the base [m] at which the lowest foot touches the floor, level at 0.

    Args:
        model: a robot whose feet touch the floor with spheres.
        data: with its configuration; its positions are computed anew.
    """
    mujoco.mj_kinematics(model, data)
    touching = (model.geom_conaffinity > 0) | (model.geom_contype > 0)
    feet = np.flatnonzero(touching & (model.geom_bodyid > 0))
    bottom = data.geom_xpos[feet, 2] - model.geom_size[feet, 0]
    return float(data.qpos[2] - bottom.min()) if len(feet) else float(data.qpos[2])
