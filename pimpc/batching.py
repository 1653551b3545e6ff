"""Batches for what must see a whole batch at once."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

T = TypeVar("T")


def on_batches(f: Callable[[Any], T]) -> Callable[[Any], T]:
    """Makes a function of one problem out of one of a batch.

    Args:
        f: Takes and returns arrays with a batch axis in front.

    Returns:
        The same without the batch axis; however often `jax.vmap` surrounds it, it is one call of `f`.
    """

    def repeated(argument: PyTree) -> T:
        size = max(leaf.shape[0] for leaf in jax.tree.leaves(argument))
        return f(jax.tree.map(lambda v: jnp.broadcast_to(v, (size, *v.shape[1:])), argument))

    return on_shared_batches(repeated)


def on_shared_batches(f: Callable[[Any], T]) -> Callable[[Any], T]:
    """As `on_batches`, but what is the same for the whole batch is not repeated: its first axis has one entry.

    Args:
        f: Takes arrays with a batch axis in front, of one entry where the whole batch shares it, and returns arrays
            with a batch axis.
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


def where_any(condition: Bool[Array, ""], f: Callable[[Any], Bool[Array, ""]], argument: PyTree) -> Bool[Array, ""]:
    """`condition & f(argument)`; nothing is computed for a batch in which the condition holds nowhere."""

    def batch(given: tuple[Array, PyTree]) -> Array:
        conditions, arguments = given
        found = jax.lax.cond(jnp.any(conditions), jax.vmap(f), lambda _: jnp.zeros(conditions.shape, bool), arguments)
        return conditions & found

    return on_batches(batch)((condition, argument))
