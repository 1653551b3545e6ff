"""Problems for the solver's tests: recorded ones with certified optima, random ones, and an independent solver."""

import dataclasses
from pathlib import Path

import clarabel
import jax.numpy as jnp
import numpy as np
from scipy import linalg, sparse

import pimpc
from pimpc.problem import given_fields

DATA = Path(__file__).parent / "data"
FILES = ("walk_n10", "walk_wide_n10", "stand_n10", "double_support_n10", "flight_n10", "walk_n50")


def recorded(name, dtype, count=None):
    """The recorded problems of a file as a batch, and the file's arrays."""
    data = {key: value[:count] for key, value in np.load(DATA / f"{name}.npz").items()}
    fields = [f.name for f in dataclasses.fields(pimpc.LTVProblem) if f.name in data]
    return pimpc.LTVProblem(**{key: jnp.asarray(data[key], dtype) for key in fields}), data


def random_problem(seed, dtype, N=6, nx=4, nu=3, m=5, state_bounds=True, full=False, stable=False):
    """A feasible time-varying problem whose constraints matter."""
    rng = np.random.default_rng(seed)
    A = np.eye(nx) + 0.3 * rng.standard_normal((N, nx, nx))
    if stable:  # so that the states of a long horizon stay small
        A /= np.maximum(1, np.linalg.norm(A, ord=2, axis=(1, 2)))[:, None, None]
    B, e = rng.standard_normal((N, nx, nu)), 0.2 * rng.standard_normal((N, nx))
    x0, u_prev = rng.standard_normal(nx), rng.standard_normal(nu)
    inside = 0.3 * rng.standard_normal((N, nu))
    x = [x0]
    for k in range(N):
        x.append(A[k] @ x[-1] + B[k] @ inside[k] + e[k])
    G = rng.standard_normal((N, m, nu))
    problem = {
        "A": A, "B": B, "e": e, "x0": x0, "u_prev": u_prev,
        "x_ref": 2 * rng.standard_normal((N, nx)), "u_ref": rng.standard_normal((N, nu)),
        "Q": rng.uniform(0, 3, (N, nx)), "R": rng.uniform(0.01, 1, (N, nu)), "S": rng.uniform(0, 1, (N, nu)),
        "G": G, "h": np.einsum("kij,kj->ki", G, inside) + rng.uniform(0, 0.5, (N, m)),
        "u_min": inside - rng.uniform(0, 1, (N, nu)), "u_max": inside + rng.uniform(0, 1, (N, nu)),
    }  # fmt: skip
    if N > 1:  # a single stage keeps something to decide
        problem["u_min"][N // 2] = problem["u_max"][N // 2] = inside[N // 2]  # fixed inputs
    x = np.array(x[1:])
    bounded = state_bounds & (rng.random((2, N, nx)) < 0.5)
    problem["x_max"] = np.where(bounded[0], x + rng.uniform(0.1, 3.0, (N, nx)), np.inf)
    problem["x_min"] = np.where(bounded[1], x - rng.uniform(0.1, 3.0, (N, nx)), -np.inf)
    if full:
        for name in ("Q", "R", "S"):
            n = problem[name].shape[1]
            half = rng.standard_normal((N, n, n))
            problem[name] = half @ half.transpose(0, 2, 1) + 0.1 * np.eye(n)
    return pimpc.LTVProblem(**{key: jnp.asarray(value, dtype) for key, value in problem.items()})


def clarabel_inputs(problem):
    """The optimal inputs of one problem by clarabel, with states and inputs as variables of one sparse program."""
    p = {key: np.asarray(value, float) for key, value in given_fields(problem).items()}
    N, nx, nu = p["B"].shape
    n = N * (nx + nu)  # x_1 … x_N, u_0 … u_{N−1}
    full = {k: p[k] if p[k].ndim == 3 else np.stack([np.diag(row) for row in p[k]]) for k in ("Q", "R", "S")}
    rate = np.eye(N * nu) - np.eye(N * nu, k=-nu)
    before = np.concatenate([p["u_prev"], np.zeros((N - 1) * nu)])
    S = linalg.block_diag(*full["S"])
    P = linalg.block_diag(*full["Q"], *full["R"])
    P[N * nx :, N * nx :] += rate.T @ S @ rate
    q = np.concatenate([
        -np.einsum("kij,kj->ki", full["Q"], p["x_ref"]).ravel(),
        -np.einsum("kij,kj->ki", full["R"], p["u_ref"]).ravel() - rate.T @ S @ before,
    ])  # fmt: skip
    dynamics = np.eye(N * nx, n)
    offset = p["e"].copy()
    offset[0] += p["A"][0] @ p["x0"]
    for k in range(N):
        rows = slice(k * nx, (k + 1) * nx)
        dynamics[rows, N * nx + k * nu : N * nx + (k + 1) * nu] = -p["B"][k]
        if k:
            dynamics[rows, (k - 1) * nx : k * nx] = -p["A"][k]
    rows, sides = [], []
    if "G" in p:
        block = np.zeros((p["h"].size, n))
        block[:, N * nx :] = linalg.block_diag(*p["G"])
        rows, sides = [block], [p["h"].ravel()]
    eye = np.eye(n)
    for part, lower, upper in ((slice(0, N * nx), "x_min", "x_max"), (slice(N * nx, n), "u_min", "u_max")):
        for sign, key in ((-1, lower), (1, upper)):
            if key in p:
                rows.append(sign * eye[part])
                sides.append(sign * p[key].ravel())
    C = np.concatenate([np.zeros((0, n)), *rows])
    d = np.concatenate([np.zeros(0), *sides])
    keep = np.isfinite(d)
    matrix = sparse.csc_matrix(np.concatenate([dynamics, C[keep]]))
    cones = [clarabel.ZeroConeT(N * nx), clarabel.NonnegativeConeT(int(keep.sum()))]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    right = np.concatenate([offset.ravel(), d[keep]])
    answer = clarabel.DefaultSolver(sparse.csc_matrix(P), q, matrix, right, cones, settings).solve()
    assert str(answer.status) == "Solved"
    return np.array(answer.x)[N * nx :].reshape(N, nu)


def edited(array, *changes):
    """A copy of an array with (index, value) assignments made."""
    array = np.array(array)
    for index, value in changes:
        array[index] = value
    return array


def input_errors(u, optimum):
    """‖u − optimum‖ / ‖optimum‖ of each problem of a batch."""
    difference = (np.asarray(u, float) - optimum).reshape(len(optimum), -1)
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(optimum.reshape(len(optimum), -1), axis=1)


def float64_costs(data, u):
    """The costs of inputs, rolled out in float64 from x0."""
    x, before, total = data["x0"], data["u_prev"], 0.0
    u = np.asarray(u, float)
    for k in range(u.shape[1]):
        step = np.einsum("bij,bj->bi", data["B"][:, k], u[:, k]) + data["e"][:, k]
        x = np.einsum("bij,bj->bi", data["A"][:, k], x) + step
        for W, v in (("Q", x - data["x_ref"][:, k]), ("R", u[:, k] - data["u_ref"][:, k]), ("S", u[:, k] - before)):
            total = total + 0.5 * np.sum(data[W][:, k] * v**2, axis=1)
        before = u[:, k]
    return total
