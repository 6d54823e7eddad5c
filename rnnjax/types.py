"""The types of rnnjax, and the letters of its axes.

  T  time            D  input features     V  vocabulary     S  source time
  B  batch           H  hidden features    K  classes        G  gates

Sequences are time-major: [T, B, D]. `...` stands for any number of batch axes, none included.
"""

from typing import Any

import jax

Array = jax.Array
Key = jax.Array  # a typed key, as jax.random.key makes it
Params = dict[str, Any]  # nested dicts of arrays, with names a person reads
Carry = Any  # what a recurrence remembers; a tuple of arrays whose first is h


def flatten_with_names(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by their paths, whose parts stand between slashes.

  >>> named({"layer_0": {"forward": {"W": 1, "b": 2}}})
  {'layer_0/forward/W': 1, 'layer_0/forward/b': 2}
  """
  leaves, _ = jax.tree.flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


class InvalidInputError(ValueError):
  """What the user gave cannot be used; the message says what was expected, what came, and why."""
