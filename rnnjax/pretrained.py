"""A classifier that starts from a language model, or reads what one makes of the words.

Semi-supervised learning: Dai & Le 2015 go on to learn what the language model has learnt, Peters et
al. 2018 leave it as it is.
"""

import jax.numpy as jnp
import numpy as np

from rnnjax.data.vocabulary import SPECIALS, Vocabulary
from rnnjax.tasks import Task
from rnnjax.training.saved import Saved
from rnnjax.types import BadInput, Params


def begin(task: Task, vocabulary: Vocabulary, saved: Saved) -> Task:
  """The classification whose first parameters are in part what a run has saved.

  That is its `context`, where the classifier has one, or else its own embedding and encoder.

  Raises:
    BadInput: it is not that of a language model, or `graft` finds that it does not fit; a context
      has a layer or direction that it lacks.
  """
  if "vocabulary" not in saved.beside:
    raise BadInput("what was saved is of another experiment: a language model has a vocabulary")

  def init(key, batch):
    params = task.init(key, batch)
    theirs = saved.params, saved.beside["vocabulary"]
    if "context" not in params:
      return graft(params, vocabulary, *theirs)
    known = [name for part in ("encoder", "back") for name in _names(saved.params.get(part, {}))]
    if lacking := sorted(set(_names(params["context"]["encoder"])) - {*known}):
      raise BadInput(
        f"what is read as it is must be learnt, and the language model lacks {lacking}; "
        "word_lm --both learns both directions"
      )
    return params | {"context": graft(params["context"], vocabulary, *theirs)}

  return task._replace(init=init)


def _names(encoder):
  """The layers and directions of an encoder, as layer_0/forward."""
  return [f"{layer}/{direction}" for layer, own in encoder.items() for direction in own]


def graft(params: Params, vocabulary: Vocabulary, language: Params, words: list[str]) -> Params:
  """The parameters of a Classifier, or of its context, with what a LanguageModel has learnt.

  Words go by their name; those that the language model lacks are its "<unk>", or keep their vectors
  where it has none. Inputs beside the embedding, such as the evidence of n-grams, keep their rows
  of W. A direction or layer that the language model lacks stays as it was.

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
  if not ranks.keys() & set(vocabulary.words) - set(SPECIALS):
    raise BadInput(f"none of the {len(words)} words of the language model is in the vocabulary")
  if table.shape[1] != theirs.shape[1]:
    raise BadInput(
      f"the embedding is {table.shape[1]} wide, that of the language model {theirs.shape[1]}; "
      "the same --width suits both"
    )
  rows = [(i, ranks.get(word, ranks.get("<unk>"))) for i, word in enumerate(vocabulary.words)]
  mine, other = np.array([(i, rank) for i, rank in rows if rank is not None]).T
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
