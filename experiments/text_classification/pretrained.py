"""A classifier that starts from a language model, or reads what one makes of the words.

Semi-supervised learning: Dai & Le 2015 go on to learn what the language model has learnt, Peters et
al. 2018 leave it as it is.
"""

import jax.numpy as jnp
import numpy as np

from rnnjax.data.vocabulary import SPECIALS, Vocabulary
from rnnjax.training.tasks import Task
from rnnjax.types import BadInput, Params


def begin(task: Task, vocabulary: Vocabulary, language: Params, words: list[str]) -> Task:
  """The classification whose first parameters are in part those of a language model.

  A classifier with a `context` reads with them, as `read` says; another one starts from them, as
  `graft` does.

  Args:
    task: of a Classifier.
    vocabulary: its words.
    language: the parameters of a LanguageModel.
    words: its words, by rank.

  Raises (when parameters are made):
    BadInput: as for `read` and `graft`.
  """

  def init(key, batch):
    params = task.init(key, batch)
    if "context" in params:
      return params | {"context": read(params["context"], vocabulary, language, words)}
    return graft(params, vocabulary, language, words)

  return task._replace(init=init)


def read(params: Params, vocabulary: Vocabulary, language: Params, words: list[str]) -> Params:
  """The parameters of a Context, those of the language model it was made of among them.

  Args:
    params: of the Context.
    vocabulary, language, words: as for `begin`.

  Raises:
    BadInput: no word in common.
  """
  theirs = {name: language[name] for name in ("encoder", "back") if name in language}
  return params | theirs | {"embedding": _named(params, vocabulary, language, words)}


def graft(params: Params, vocabulary: Vocabulary, language: Params, words: list[str]) -> Params:
  """The parameters of a Classifier, with the embedding and encoder of a LanguageModel.

  Inputs beside the embedding, such as the evidence of n-grams, keep their rows of W. A direction or
  layer that the language model lacks stays as it was.

  Args:
    params: of the classifier.
    vocabulary, language, words: as for `begin`.

  Raises:
    BadInput: nothing in common, or a width that differs.
  """
  if "embedding" not in params:
    raise BadInput("a language model can only start a classifier whose embedding is trainable")
  embedding, encoder = _named(params, vocabulary, language, words), params["encoder"]
  for direction in ("encoder", "back"):
    encoder = _over(encoder, language.get(direction, {}), "encoder")
  return params | {"embedding": embedding, "encoder": encoder}


def _named(params, vocabulary, language, words):
  """The embedding of the language model, its words found by their name; those that it lacks are its
  "<unk>", or keep their vectors where it has none."""
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
  return {"embedding": jnp.asarray(table).at[mine].set(theirs[other])}


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
