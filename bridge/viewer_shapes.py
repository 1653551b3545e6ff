"""Triangles of MuJoCo's geoms, for drawing."""

from __future__ import annotations

import mujoco
import numpy as np
from jaxtyping import Float, Int

Mesh = tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "f 3"]]
SEGMENTS = 24  # around an axis
DRAWN_GROUPS = 3  # of geoms: 0, 1 and 2 are seen, as in MuJoCo's own viewer


def revolve(profile: Float[np.ndarray, "n 2"]) -> Mesh:
    """A surface of revolution about z.

    Args:
        profile: radius and height [m], from bottom to top; a point given twice makes a sharp edge.
    """
    turn = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    vertices = np.concatenate([np.column_stack([r * ring, np.full(SEGMENTS, z)]) for r, z in profile])
    i = np.arange(SEGMENTS)
    j = (i + 1) % SEGMENTS
    faces = []
    for k in range(len(profile) - 1):
        low, high = k * SEGMENTS, (k + 1) * SEGMENTS
        faces += [np.stack([low + i, low + j, high + j], 1), np.stack([low + i, high + j, high + i], 1)]
    return vertices, np.concatenate(faces)


def capsule(radius: float, half: float) -> Mesh:
    """A cylinder of half length `half` between two half spheres; a sphere if that is 0 [m]."""
    angle = np.linspace(0.0, np.pi / 2, 9)
    top = np.stack([radius * np.cos(angle), half + radius * np.sin(angle)], axis=-1)
    return revolve(np.concatenate([top[::-1] * [1, -1], top]))


def cylinder(radius: float, half: float) -> Mesh:
    """A cylinder with sharp edges [m]."""
    side = [(radius, -half), (radius, half)]
    return revolve(np.array([(0.0, -half), side[0], *side, side[1], (0.0, half)]))


def box(half: Float[np.ndarray, " 3"]) -> Mesh:
    """A box with sharp edges; half lengths [m]."""
    corner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    vertices, faces = [], []
    for axis in range(3):
        for sign in (-1, 1):
            square = np.insert(corner.astype(float), axis, sign, axis=1)
            turn = 1 if (sign > 0) == (axis != 1) else -1
            vertices.append(square[::turn] * half)
            faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + 4 * len(faces))
    return np.concatenate(vertices), np.concatenate(faces)


def heightfield(model: mujoco.MjModel, index: int) -> Mesh:
    """The upper surface of a heightfield."""
    rows, columns = int(model.hfield_nrow[index]), int(model.hfield_ncol[index])
    start = model.hfield_adr[index]
    height = model.hfield_data[start : start + rows * columns] * model.hfield_size[index, 2]
    x, y = np.meshgrid(
        *(h * np.linspace(-1, 1, n) for h, n in zip(model.hfield_size[index], (columns, rows), strict=False))
    )
    vertices = np.stack([x.ravel(), y.ravel(), height], axis=-1)
    at = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]))
    return vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def geom_mesh(model: mujoco.MjModel, geom: int) -> Mesh | None:
    """The triangles of a geom in its body's frame; None for a plane and for what has no surface of its own."""
    kind, size = mujoco.mjtGeom(model.geom_type[geom]), model.geom_size[geom]
    index = model.geom_dataid[geom]
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        first, faces = model.mesh_vertadr[index], model.mesh_faceadr[index]
        vertices = model.mesh_vert[first : first + model.mesh_vertnum[index]]
        triangles = model.mesh_face[faces : faces + model.mesh_facenum[index]]
    elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        vertices, triangles = capsule(size[0], 0.0)
    elif kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        vertices, triangles = capsule(size[0], size[1])
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        vertices, triangles = cylinder(size[0], size[1])
    elif kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        vertices, triangles = capsule(1.0, 0.0)
        vertices = vertices * size
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        vertices, triangles = box(size)
    elif kind == mujoco.mjtGeom.mjGEOM_HFIELD:
        vertices, triangles = heightfield(model, index)
    else:
        return None
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
    return vertices @ rotation.reshape(3, 3).T + model.geom_pos[geom], triangles


def body_meshes(model: mujoco.MjModel, body: int) -> list[tuple[Float[np.ndarray, " 4"], Mesh]]:
    """What is seen of a body: one mesh in its frame for each colour (red, green, blue, opacity; 0 to 1)."""
    parts: dict[tuple, list[Mesh]] = {}
    for geom in np.flatnonzero((model.geom_bodyid == body) & (model.geom_group < DRAWN_GROUPS)):
        mesh = geom_mesh(model, int(geom))
        material = model.geom_matid[geom]
        rgba = model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]
        if mesh is not None and rgba[3] > 0:
            parts.setdefault(tuple(rgba.tolist()), []).append(mesh)
    return [(np.array(rgba), merge(meshes)) for rgba, meshes in parts.items()]


def merge(meshes: list[Mesh]) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes[:-1])])
    faces = [faces + start for (_, faces), start in zip(meshes, starts, strict=True)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces)
