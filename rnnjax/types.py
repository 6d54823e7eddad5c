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


class BadInput(ValueError):
  """What the user gave cannot be used; the message says what was expected, what came, and why."""
