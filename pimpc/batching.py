"""Batches for what must see a whole batch at once."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

T = TypeVar("T")


def on_shared_batches(f: Callable[[Any], T]) -> Callable[[Any], T]:
    """Makes a function of one problem out of one of a batch.

    Args:
        f: Takes arrays with a batch axis in front, of one entry where the whole batch shares it, and returns arrays
            with a batch axis.

    Returns:
        The same without the batch axis; however often `jax.vmap` surrounds it, it is one call of `f`.
    """

    @jax.custom_batching.custom_vmap
    def batch(argument: PyTree) -> T:
        return f(argument)

    @batch.def_vmap
    def _(size: int, batched: list[PyTree], argument: PyTree) -> tuple[T, PyTree]:
        leaves, tree = jax.tree.flatten(argument)
        pairs = list(zip(leaves, jax.tree.leaves(batched[0]), strict=True))
        inner = max(leaf.shape[1 if has else 0] for leaf, has in pairs)

        def fold(leaf: Array, has: bool) -> Array:
            if not has and leaf.shape[0] == 1:
                return leaf
            rest = leaf.shape[2:] if has else leaf.shape[1:]
            spread = jnp.broadcast_to(leaf, (size, inner, *rest))
            return spread.reshape(size * inner, *rest)

        folded = batch(tree.unflatten([fold(*pair) for pair in pairs]))
        result = jax.tree.map(lambda v: v.reshape(size, inner, *v.shape[1:]), folded)
        return result, jax.tree.map(lambda _: True, result)

    def single(argument: PyTree) -> T:
        return jax.tree.map(lambda v: v[0], batch(jax.tree.map(lambda v: v[None], argument)))

    return single
