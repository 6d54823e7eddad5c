"""Shared types, the error for invalid input, and the symbols used in array shapes.

  T  time steps      D  input features     V  vocabulary size    S  source time steps
  B  batch           H  hidden features    K  classes            G  gates

Sequences are time-major: [T, B, D]. `...` stands for any number of batch axes, including none.
"""

from typing import Any

import jax

Array = jax.Array
Key = jax.Array  # typed PRNG key, as returned by jax.random.key
Params = dict[str, Any]  # nested dicts of arrays, with readable names
Carry = Any  # state of a recurrence: a tuple of arrays; the first array is h


def flatten_with_names(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree, keyed by their paths joined with slashes.

  >>> flatten_with_names({"layer_0": {"forward": {"W": 1, "b": 2}}})
  {'layer_0/forward/W': 1, 'layer_0/forward/b': 2}
  """
  leaves, _ = jax.tree.flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


class InvalidInputError(ValueError):
  """Invalid input from the user: data, files, flags or arguments.

  Its message states what was expected, what was given, and the likely cause. The command line
  prints it without a traceback.
  """
