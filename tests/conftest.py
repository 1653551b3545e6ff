"""Settings for all tests."""

import jax

# Nearly all of the suite's time is compilation, and what is compiled runs once.
jax.config.update("jax_disable_most_optimizations", True)
