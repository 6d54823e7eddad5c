"""A classifier that starts from a language model, or reads what one makes of the words.

Semi-supervised learning: Dai & Le 2015 go on to learn what the language model has learnt, Peters et
al. 2018 leave it as it is.
"""

import jax.numpy as jnp
import numpy as np

from rnnjax.data.vocabulary import SPECIALS, Vocabulary
from rnnjax.training.tasks import Task
from rnnjax.types import InvalidInputError, Params


def with_pretrained_params(
  task: Task, vocabulary: Vocabulary, lm_params: Params, lm_words: list[str]
) -> Task:
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
      return params | {
        "context": load_context_params(params["context"], vocabulary, lm_params, lm_words)
      }
    return transfer_params(params, vocabulary, lm_params, lm_words)

  return task._replace(init=init)


def load_context_params(
  params: Params, vocabulary: Vocabulary, lm_params: Params, lm_words: list[str]
) -> Params:
  """The parameters of a Context, those of the language model it was made of among them.

  Args:
    params: of the Context.
    vocabulary, language, words: as for `begin`.

  Raises:
    BadInput: no word in common.
  """
  theirs = {name: lm_params[name] for name in ("encoder", "back") if name in lm_params}
  return (
    params | theirs | {"embedding": _transfer_embedding(params, vocabulary, lm_params, lm_words)}
  )


def transfer_params(
  params: Params, vocabulary: Vocabulary, lm_params: Params, lm_words: list[str]
) -> Params:
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
    raise InvalidInputError(
      "a language model can only start a classifier whose embedding is trainable"
    )
  embedding, encoder = (
    _transfer_embedding(params, vocabulary, lm_params, lm_words),
    params["encoder"],
  )
  for direction in ("encoder", "back"):
    encoder = _merge_params(encoder, lm_params.get(direction, {}), "encoder")
  return params | {"embedding": embedding, "encoder": encoder}


def _transfer_embedding(params, vocabulary, lm_params, lm_words):
  """The embedding of the language model, its words found by their name; those that it lacks are its
  "<unk>", or keep their vectors where it has none."""
  table, theirs = params["embedding"]["embedding"], lm_params["embedding"]["embedding"]
  ranks = {word: i for i, word in enumerate(lm_words)}
  if not ranks.keys() & set(vocabulary.words) - set(SPECIALS):
    raise InvalidInputError(
      f"none of the {len(lm_words)} words of the language model is in the vocabulary"
    )
  if table.shape[1] != theirs.shape[1]:
    raise InvalidInputError(
      f"the embedding is {table.shape[1]} wide, that of the language model {theirs.shape[1]}; "
      "the same --embed_dim suits both"
    )
  rows = [(i, ranks.get(word, ranks.get("<unk>"))) for i, word in enumerate(vocabulary.words)]
  mine, other = np.array([(i, rank) for i, rank in rows if rank is not None]).T
  return {"embedding": jnp.asarray(table).at[mine].set(theirs[other])}


def _merge_params(params, lm_params, name):
  """The leaves of theirs laid over those of the same name; what W has more of rows is kept."""
  if isinstance(params, dict):
    leaves = not any(isinstance(value, dict) for value in (*params.values(), *lm_params.values()))
    if leaves and params.keys() != lm_params.keys():
      raise InvalidInputError(
        f"{name} has {sorted(params)}, that of the language model {sorted(lm_params)}; the same "
        "--cell and --hidden_size suit both"
      )
    both = [key for key in params if key in lm_params]
    return params | {
      key: _merge_params(params[key], lm_params[key], f"{name}/{key}") for key in both
    }
  rows = lm_params.shape[0] if name.endswith("/W") else params.shape[0]
  if (rows, *params.shape[1:]) != lm_params.shape or params.shape[0] < rows:
    raise InvalidInputError(
      f"{name} has shape {params.shape}, that of the language model {lm_params.shape}; "
      "the same --cell and --hidden_size suit both"
    )
  return jnp.asarray(params).at[: lm_params.shape[0]].set(lm_params)
