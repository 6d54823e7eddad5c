"""Random parameters for tests."""

import jax
import jax.numpy as jnp
import numpy as np


def random_params_like(params, seed=1):
  """Return random parameters away from 0, in the shapes of `params`."""
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(0, 0.5, p.shape), jnp.float32), params)
