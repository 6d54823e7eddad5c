"""A classifier that starts from a language model: semi-supervised learning, Dai & Le 2015."""

import jax.numpy as jnp
import numpy as np

from rnnjax.data.vocabulary import Vocabulary
from rnnjax.tasks import Task
from rnnjax.training.saved import Saved
from rnnjax.types import BadInput, Params


def begin(task: Task, vocabulary: Vocabulary, saved: Saved) -> Task:
  """The classification whose first parameters `graft` makes of what a run has saved.

  Raises:
    BadInput: it is not that of a language model.
  """
  if "vocabulary" not in saved.beside:
    raise BadInput("what was saved is of another experiment: a language model has a vocabulary")
  graft_on = lambda params: graft(params, vocabulary, saved.params, saved.beside["vocabulary"])
  return task._replace(init=lambda key, batch: graft_on(task.init(key, batch)))


def graft(params: Params, vocabulary: Vocabulary, language: Params, words: list[str]) -> Params:
  """The parameters of a Classifier, with the embedding and encoder of a LanguageModel.

  Words go by their name; those that the language model lacks keep their vectors. Inputs beside the
  embedding, such as the evidence of n-grams, keep their rows of W. A direction or layer that the
  language model lacks stays as it was.

  Args:
    params: of the classifier.
    vocabulary: its words.
    language: the parameters of the language model.
    words: its words, by rank.

  Raises:
    BadInput: nothing in common, or a width that differs.
  """
  if "embedding" not in params:
    raise BadInput("a language model can only start a classifier whose embedding is trainable")
  table, theirs = params["embedding"]["embedding"], language["embedding"]["embedding"]
  ranks = {word: i for i, word in enumerate(words)}
  known = [(i, ranks[word]) for i, word in enumerate(vocabulary.words) if word in ranks]
  if not known:
    raise BadInput(f"none of the {len(words)} words of the language model is in the vocabulary")
  if table.shape[1] != theirs.shape[1]:
    raise BadInput(
      f"the embedding is {table.shape[1]} wide, that of the language model {theirs.shape[1]}; "
      "the same --width suits both"
    )
  mine, other = np.array(known).T
  table = jnp.asarray(table).at[mine].set(theirs[other])
  encoder = params["encoder"]
  for direction in ("encoder", "back"):
    encoder = _over(encoder, language.get(direction, {}), "encoder")
  return params | {"embedding": {"embedding": table}, "encoder": encoder}


def _over(params, theirs, name):
  """The leaves of theirs laid over those of the same name; what W has more of rows is kept."""
  if isinstance(params, dict):
    leaves = not any(isinstance(value, dict) for value in (*params.values(), *theirs.values()))
    if leaves and params.keys() != theirs.keys():
      raise BadInput(
        f"{name} has {sorted(params)}, that of the language model {sorted(theirs)}; the same "
        "--cell and --hidden suit both"
      )
    both = [key for key in params if key in theirs]
    return params | {key: _over(params[key], theirs[key], f"{name}/{key}") for key in both}
  rows = theirs.shape[0] if name.endswith("/W") else params.shape[0]
  if (rows, *params.shape[1:]) != theirs.shape or params.shape[0] < rows:
    raise BadInput(
      f"{name} has shape {params.shape}, that of the language model {theirs.shape}; "
      "the same --cell and --hidden suit both"
    )
  return jnp.asarray(params).at[: theirs.shape[0]].set(theirs)
