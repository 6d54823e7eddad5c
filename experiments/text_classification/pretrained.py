"""Transfer of a language model's parameters to a text classifier.

Dai & Le (2015) fine-tune the language model's parameters. Peters et al. (2018, ELMo) freeze the
parameters and use the language model's hidden states as additional inputs.
"""

import jax.numpy as jnp
import numpy as np

from rnnjax.data.vocabulary import SPECIALS, Vocabulary
from rnnjax.training.tasks import Task
from rnnjax.types import InvalidInputError, Params


def with_pretrained_params(
  task: Task, vocabulary: Vocabulary, lm_params: Params, lm_words: list[str]
) -> Task:
  """Return a classification task whose initial parameters come from a language model.

  If the classifier has a `context`, `load_context_params` loads the parameters into the context.
  Otherwise `transfer_params` loads the parameters into the embedding and the encoder.

  Args:
    task: a task whose model is a `Classifier`.
    vocabulary: the vocabulary of the classifier.
    lm_params: the parameters of a `LanguageModel`.
    lm_words: the vocabulary of the language model, sorted by token id.

  Returns:
    The task with a new `init`. `init` raises InvalidInputError if the parameters do not fit.
  """

  def init(key, batch):
    params = task.init(key, batch)
    if "context" in params:
      context = load_context_params(params["context"], vocabulary, lm_params, lm_words)
      return params | {"context": context}
    return transfer_params(params, vocabulary, lm_params, lm_words)

  return task._replace(init=init)


def load_context_params(
  params: Params, vocabulary: Vocabulary, lm_params: Params, lm_words: list[str]
) -> Params:
  """Return `ContextualEmbedding` parameters copied from a language model.

  Args:
    params: the initial parameters of the `ContextualEmbedding`.
    vocabulary, lm_params, lm_words: see `with_pretrained_params`.

  Raises:
    InvalidInputError: the vocabularies have no word in common, or the embeddings differ in size.
  """
  encoders = {name: lm_params[name] for name in ("encoder", "back") if name in lm_params}
  embedding = _transfer_embedding(params, vocabulary, lm_params, lm_words)
  return params | encoders | {"embedding": embedding}


def transfer_params(
  params: Params, vocabulary: Vocabulary, lm_params: Params, lm_words: list[str]
) -> Params:
  """Return `Classifier` parameters; copy the embedding and encoder from a language model.

  Rows of W for inputs other than the embedding, such as n-gram features, keep their initial values.
  Directions and layers that the language model lacks also keep their initial values.

  Args:
    params: the initial parameters of the classifier.
    vocabulary, lm_params, lm_words: see `with_pretrained_params`.

  Raises:
    InvalidInputError: the vocabularies have no word in common, the embeddings differ in size, the
      cells differ in type or size, or the classifier has no trainable embedding.
  """
  if "embedding" not in params:
    raise InvalidInputError(
      "a language model can only initialize a classifier whose embedding is trainable "
      "(--embedding=trainable)"
    )
  embedding = _transfer_embedding(params, vocabulary, lm_params, lm_words)
  encoder = params["encoder"]
  for direction in ("encoder", "back"):
    encoder = _merge_params(encoder, lm_params.get(direction, {}), "encoder")
  return params | {"embedding": embedding, "encoder": encoder}


def _transfer_embedding(params, vocabulary, lm_params, lm_words):
  """Return the classifier's embedding table, with each word's row copied from the language model.

  A word that the language model lacks gets the language model's row of "<unk>". If the language
  model has no "<unk>", the word keeps its initial row.
  """
  table, lm_table = params["embedding"]["embedding"], lm_params["embedding"]["embedding"]
  lm_ids = {word: i for i, word in enumerate(lm_words)}
  if not lm_ids.keys() & set(vocabulary.words) - set(SPECIALS):
    raise InvalidInputError(
      f"none of the {len(lm_words)} words of the language model is in the vocabulary. Was it "
      "trained on texts of another kind?"
    )
  if table.shape[1] != lm_table.shape[1]:
    raise InvalidInputError(
      f"the embedding has {table.shape[1]} features, that of the language model "
      f"{lm_table.shape[1]}; both need the same --embed_dim"
    )
  rows = [(i, lm_ids.get(word, lm_ids.get("<unk>"))) for i, word in enumerate(vocabulary.words)]
  ids, lm_rows = np.array([(i, lm_row) for i, lm_row in rows if lm_row is not None]).T
  return {"embedding": jnp.asarray(table).at[ids].set(lm_table[lm_rows])}


def _merge_params(params, lm_params, name):
  """Return `params` with each array replaced by the array of the same name in `lm_params`.

  If W has more rows than in `lm_params`, the additional rows keep their values.

  Raises:
    InvalidInputError: the cells differ in type or size.
  """
  if isinstance(params, dict):
    is_cell = not any(isinstance(value, dict) for value in (*params.values(), *lm_params.values()))
    if is_cell and params.keys() != lm_params.keys():
      raise InvalidInputError(
        f"{name} has the parameters {sorted(params)}, that of the language model "
        f"{sorted(lm_params)}; both need the same --cell and --hidden_size"
      )
    shared = [key for key in params if key in lm_params]
    return params | {
      key: _merge_params(params[key], lm_params[key], f"{name}/{key}") for key in shared
    }
  num_rows = lm_params.shape[0] if name.endswith("/W") else params.shape[0]
  if (num_rows, *params.shape[1:]) != lm_params.shape or params.shape[0] < num_rows:
    raise InvalidInputError(
      f"{name} has shape {params.shape}, that of the language model {lm_params.shape}; "
      "both need the same --cell and --hidden_size"
    )
  return jnp.asarray(params).at[: lm_params.shape[0]].set(lm_params)
