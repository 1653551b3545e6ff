"""Settings for all tests."""

import jax

# Nearly all of the suite's time is compilation, and what is compiled runs once.
jax.config.update("jax_disable_most_optimizations", True)

LONGEST = ("study", "kernels", "solver", "learning", "condensing", "notebooks", "terrain", "derivatives", "physics")


def pytest_collection_modifyitems(items):
    """Files that take long begin first: else one core is left with such a file when the others have nothing to do."""
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))
