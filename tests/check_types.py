"""Traces the solvers with every annotated shape and type checked. Run by the tests in a process of its own."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
from jaxtyping import install_import_hook

with install_import_hook("pimpc", "beartype.beartype"):
    from mpc_problems import random_problem, recorded

    import pimpc
    import pimpc.interior_point
    import pimpc.pi_admm


def leaves(method, problem):
    solution = pimpc.solve(problem, method)
    bare = pimpc.residuals.Multipliers()
    return jax.tree.leaves((solution, pimpc.kkt_residuals(problem, solution.x, solution.u, bare)))


def slope(method, problem):
    return jax.grad(lambda x0: pimpc.solve(dataclasses.replace(problem, x0=x0), method).cost)(problem.x0)


if __name__ == "__main__":
    batch, _ = recorded("walk_n10", jnp.float32, 2)
    problems = [jax.tree.map(lambda leaf: leaf[0], batch), random_problem(0, jnp.float32, full=True)]
    problems.append(dataclasses.replace(problems[1], G=None, h=None, horizon=jnp.asarray(3)))
    for method in (pimpc.InteriorPoint(), pimpc.InteriorPoint(early_stop=False), pimpc.PiADMM()):
        for problem in problems:
            jax.eval_shape(functools.partial(leaves, method), problem)
            jax.eval_shape(functools.partial(slope, method), problem)
        jax.eval_shape(jax.vmap(functools.partial(leaves, method)), batch)
    for problem in (*problems, batch):
        pimpc.validate(problem)
    sys.stdout.write("checked\n")
