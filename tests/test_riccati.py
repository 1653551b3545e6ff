"""The Riccati recursions against dense linear algebra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpc_problems import random_problem

from pimpc import riccati


def stages(seed, dtype, full=True, N=5, nx=4, nu=3):
    """A random problem's matrices, with one input fixed in every stage and all of them in one."""
    problem = random_problem(seed, dtype, N=N, nx=nx, nu=nu, full=full)
    free = np.ones((N, nu), bool)
    free[np.arange(N), np.arange(N) % nu] = False
    free[N // 2] = False
    Q, R = (w if w.ndim == 3 else jax.vmap(jnp.diag)(w) for w in (problem.Q, problem.R))
    return problem.A, problem.B, Q, R, problem.S, free


def slopes(A, B, free):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.standard_normal(A.shape[:2]), A.dtype),
        jnp.asarray(rng.standard_normal(free.shape) * free, A.dtype),
    )


@pytest.mark.parametrize("kernels", ["xla", "parallel"])
@pytest.mark.parametrize("full", [True, False])
def test_minimizer_is_that_of_the_dense_problem(full, kernels):
    with jax.enable_x64(True):
        A, B, Q, R, S, free = stages(0, np.float64, full)
        l_x, l_u = slopes(A, B, free)
        answer = riccati.minimize(riccati.factorize(A, B, Q, R, S, free, kernels), l_x, l_u)
    A, B, Q, R, S, l_x, l_u, dx, du, saved = jax.device_get((A, B, Q, R, S, l_x, l_u, *answer))
    N, nx, nu = B.shape
    to_state = np.zeros((N, nx, N, nu))  # dx_{k+1} by du_j
    for j in range(N):
        to_state[j, :, j] = B[j]
        for k in range(j + 1, N):
            to_state[k, :, j] = A[k] @ to_state[k - 1, :, j]
    rate = np.eye(N * nu) - np.eye(N * nu, k=-nu)
    S = S if full else np.stack([np.diag(s) for s in S])
    hessian, gradient = np.zeros((N * nu, N * nu)), l_u.ravel().copy()
    for k in range(N):
        M = to_state[k].reshape(nx, N * nu)
        hessian += M.T @ Q[k] @ M
        gradient += M.T @ l_x[k]
        here = slice(k * nu, (k + 1) * nu)
        hessian[here, here] += R[k]
        hessian += rate[here].T @ S[k] @ rate[here]
    keep = free.ravel()
    expected = np.zeros(N * nu)
    expected[keep] = -np.linalg.solve(hessian[np.ix_(keep, keep)], gradient[keep])
    np.testing.assert_allclose(du.ravel(), expected, atol=1e-10)
    np.testing.assert_allclose(dx, np.einsum("kijl,jl->ki", to_state, du), atol=1e-10)
    np.testing.assert_allclose(saved, -0.5 * gradient @ expected, rtol=1e-10)


def test_long_horizons_keep_float32_accurate():
    """Rounding must not grow from stage to stage."""
    A, B, Q, R, S, free = stages(0, np.float32, N=60)
    A = 0.9 * jnp.asarray(A) / np.linalg.norm(A, ord=2, axis=(1, 2))[:, None, None] + 0.1 * np.eye(4, dtype=np.float32)
    with jax.enable_x64(True):
        exact = riccati.factorize(*(np.asarray(v, np.float64) for v in (A, B, Q, R, S)), free).inverse
    ours = riccati.factorize(A, B, Q, R, S, free).inverse
    np.testing.assert_allclose(ours, exact, atol=2e-5 * np.abs(exact).max())


def test_an_indefinite_hessian_gives_nan():
    A, B, Q, R, S, free = stages(0, np.float32)
    R = R - 1e3 * np.eye(3, dtype=np.float32)
    assert np.any(np.isnan(riccati.factorize(A, B, Q, R, S, free).inverse))


@pytest.mark.parametrize("N", [1, 7, 64])
def test_parallel_recursions_are_the_sequential_ones(N):
    with jax.enable_x64(True):
        A, B, Q, R, S, free = stages(3, np.float64, N=N)
        l_x, l_u = slopes(A, B, free)

        @functools.partial(jax.jit, static_argnums=0)
        def solve(kernels):
            factors = riccati.factorize(A, B, Q, R, S, free, kernels)
            return factors, riccati.minimize(factors, l_x, l_u)

        factors, steps = zip(solve("xla"), solve("parallel"), strict=True)
    for field in ("inverse", "gain"):
        one, other = (np.asarray(getattr(of, field)) for of in factors)
        np.testing.assert_allclose(other, one, atol=1e-9 * np.abs(one).max(initial=1))
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-9 * np.abs(one).max(initial=1))


def test_an_indefinite_hessian_gives_nan_in_parallel_too():
    A, B, Q, R, S, free = stages(2, np.float32)
    factors = riccati.factorize(A, B, Q, R.at[2].add(-1e3 * jnp.eye(R.shape[1])), S, jnp.ones_like(free), "parallel")
    assert np.any(np.isnan(factors.inverse))
