"""Transfer of a language model to a classifier: copied, initial and frozen parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.text_classification import pretrained
from rnnjax import backward, bidirectional, forward, gru, lru, lstm, minlstm, stack, training
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.models.classifier import Classifier
from rnnjax.models.embedding import contextual_embedding
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

D, H, F, C = 3, 4, 2, 6
KEY = jax.random.key(0)
WORDS = ["<unk>", "c", "<eos>", "b", "z"]
VOCABULARY = Vocabulary(["a", "b", "c"])  # behind <pad> and <unk>
BATCH = {
  "tokens": np.array([[2, 3], [4, 1]], np.int32),
  "lengths": np.array([2, 1], np.int32),
  "labels": np.array([0, 1]),
  "weights": np.ones(2, np.float32),
}
FEATURES = {"features": np.ones((2, 2, F), np.float32)}


def make_lm(cell=None, width=D, back=True):
  cell = cell or lstm(H)
  reverse = stack(backward(cell)) if back else None
  return LanguageModel(
    nn.Embed(5, width), stack(forward(cell)), full_softmax(5), backward_encoder=reverse
  )


def random_lm_params(*args, **options):
  """Return random parameters of a language model, none of which is 0."""
  params = make_lm(*args, **options).init(KEY, np.zeros((2, 1), int), np.ones((1, 1)))["params"]
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def classification_task(encoder=None, width=D, context=None):
  encoder = encoder or stack(bidirectional(lstm(H), lstm(H)))
  return tasks.classification_task(Classifier(nn.Embed(5, width), encoder, 2, context=context))


def params_before_and_after(lm_params, task=None, batch=BATCH, words=WORDS):
  """Return the initial parameters without and with the language model."""
  task = task or classification_task()
  after = pretrained.with_pretrained_params(task, VOCABULARY, lm_params, words)
  return task.init(KEY, batch), after.init(KEY, batch)


def assert_trees_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("words", [WORDS, ["_", *WORDS[1:]]], ids=["unknown", "all known"])
def test_embeddings_are_matched_by_word(words):
  """A word that the language model does not have gets its <unk>, or else keeps its vector."""
  lm_params = random_lm_params()
  before, after = (
    params["embedding"]["embedding"] for params in params_before_and_after(lm_params, words=words)
  )
  table = lm_params["embedding"]["embedding"]
  for i, word in enumerate(VOCABULARY.words):
    row = words.index(word) if word in words else 0
    assert_trees_equal(after[i], table[row] if word in words or "<unk>" in words else before[i])
  assert [word in WORDS for word in VOCABULARY.words] == [False, True, False, True, True]


def test_cells_of_both_directions_are_copied():
  """Each direction is copied under its name. The last layer keeps its initial values."""
  lm_params = random_lm_params()
  before, after = params_before_and_after(lm_params)
  layer = after["encoder"]["layer_0"]
  assert_trees_equal(layer["forward"], lm_params["encoder"]["layer_0"]["forward"])
  assert_trees_equal(layer["backward"], lm_params["back"]["layer_0"]["backward"])
  assert_trees_equal(after["logits"], before["logits"])


def test_missing_layers_keep_their_init():
  """A direction or layer that only the classifier has is unchanged; one that only the language
  model has is ignored."""
  lm_params = random_lm_params(back=False)
  one, both = lstm(H), bidirectional(lstm(H), lstm(H))
  before, after = params_before_and_after(lm_params, classification_task(stack(both, forward(one))))
  assert_trees_equal(
    after["encoder"]["layer_0"]["forward"], lm_params["encoder"]["layer_0"]["forward"]
  )
  assert_trees_equal(
    after["encoder"]["layer_0"]["backward"], before["encoder"]["layer_0"]["backward"]
  )
  assert_trees_equal(after["encoder"]["layer_1"], before["encoder"]["layer_1"])
  _, after = params_before_and_after(random_lm_params(), classification_task(stack(forward(one))))
  assert after["encoder"]["layer_0"].keys() == {"forward"}


def test_extra_input_rows_keep_their_init():
  """With n-gram features, W has more rows than in the language model."""
  lm_params = random_lm_params()
  before, after = params_before_and_after(lm_params, batch=BATCH | FEATURES)
  for name, direction in (("forward", "encoder"), ("backward", "back")):
    W, lm_ids = (params["encoder"]["layer_0"][name]["W"] for params in (after, before))
    assert W.shape == (D + F, 4 * H)
    assert_trees_equal(W[:D], lm_params[direction]["layer_0"][name]["W"])
    assert_trees_equal(W[D:], lm_ids[D:])


def test_train_state_starts_from_pretrained_params():
  """Both the parameters and their average."""
  lm_params = random_lm_params()
  task = pretrained.with_pretrained_params(classification_task(), VOCABULARY, lm_params, WORDS)
  state = training.init_state(task, training.adam(0.01), BATCH, KEY, keep_average=True)
  for params in (state.params, state.averaged_params):
    assert_trees_equal(
      params["encoder"]["layer_0"]["forward"], lm_params["encoder"]["layer_0"]["forward"]
    )
    assert_trees_equal(params["embedding"]["embedding"][3], lm_params["embedding"]["embedding"][3])


@pytest.mark.parametrize("back", [True, False], ids=["both", "ahead"])
def test_context_equals_language_model_states(back):
  """The projected states of each direction, 0 in the padding."""
  options = gru(H + 1), D + 1, back  # neither cell nor width need be the classifier's
  context, lm_params = contextual_embedding(make_lm(*options), 5, C), random_lm_params(*options)
  _, params = params_before_and_after(lm_params, classification_task(context=context))
  c = context.apply({"params": params["context"]}, BATCH["tokens"], BATCH["lengths"])
  lm_ids = np.array([WORDS.index(w) if w in WORDS else 0 for w in VOCABULARY.words])

  def states(params, tokens):
    read = make_lm(*options[:2], back=False)
    return read.apply({"params": params}, tokens[:, None], method="logits")[1][:, 0]

  for n, length in enumerate(BATCH["lengths"]):
    tokens = lm_ids[BATCH["tokens"][:length, n]]
    expected = [states(lm_params, tokens)]
    if back:
      cell = {"forward": lm_params["back"]["layer_0"]["backward"]}
      expected.append(states(lm_params | {"encoder": {"layer_0": cell}}, tokens[::-1])[::-1])
    expected = np.concatenate(expected, -1) @ params["context"]["map"]["kernel"]
    np.testing.assert_allclose(c[:length, n], expected, atol=1e-6)
    assert not c[length:, n].any()


def test_context_is_frozen_in_training():
  """All other parameters are trained, and start from the classifier's initialization."""
  task, lm_params = (
    classification_task(context=contextual_embedding(make_lm(), 5, C)),
    random_lm_params(),
  )
  task = pretrained.with_pretrained_params(task, VOCABULARY, lm_params, WORDS)
  before, plain = task.init(KEY, BATCH), classification_task().init(KEY, BATCH)
  assert_trees_equal(before["embedding"], plain["embedding"])
  assert before["encoder"]["layer_0"]["forward"]["W"].shape == (D + C, 4 * H)
  adam, batch = training.adam(0.01), jax.tree.map(lambda a: np.concatenate([a, a], -1), BATCH)
  ((state, _),) = training.train_loop(
    task, adam, training.init_state(task, adam, batch, KEY), [batch]
  )
  after = state.params
  for name in ("encoder", "back"):
    assert_trees_equal(after["context"][name], lm_params[name])
  assert_trees_equal(after["context"]["embedding"], before["context"]["embedding"])
  trainable = lambda tree: [
    tree["context"]["map"],
    *(tree[key] for key in tree if key != "context"),
  ]
  for a, b in zip(jax.tree.leaves(trainable(after)), jax.tree.leaves(trainable(before))):
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
  "lm_params, words",
  [
    (dict(width=D + 1), r"embedding has 3 features, that of the language model 4.*--embed_dim"),
    (dict(cell=lstm(H + 1)), r"encoder/layer_0/\w+/\w+ has shape .*--cell and --hidden_size"),
    (dict(cell=lstm(H - 1)), r"encoder/layer_0/\w+/\w+ has shape .*--cell and --hidden_size"),
    (dict(cell=gru(H)), r"encoder/layer_0/\w+ has .*--cell and --hidden_size"),
  ],
  ids=["width", "wider", "narrower", "gru"],
)
def test_mismatched_sizes_raise(lm_params, words):
  """The message names the flags that must agree."""
  with pytest.raises(InvalidInputError, match=words):
    params_before_and_after(random_lm_params(**lm_params))


def test_other_cell_with_same_size_raises():
  """A GRU of 4 and an LSTM of 3 units both have 12 columns."""
  task = classification_task(stack(bidirectional(gru(4), gru(4))))
  with pytest.raises(InvalidInputError, match="--cell and --hidden_size"):
    params_before_and_after(random_lm_params(lstm(3)), task)


@pytest.mark.parametrize("lm_params", [lru(3, num_states=2), minlstm(4)], ids=str)
def test_other_cell_raises(lm_params):
  """Also if all shared arrays have the same shape, or no array is shared."""
  with pytest.raises(
    InvalidInputError, match=r"layer_0/forward has .*the same --cell and --hidden_size"
  ):
    params_before_and_after(
      random_lm_params(lm_params), classification_task(stack(bidirectional(gru(4), gru(4))))
    )


def test_disjoint_vocabulary_raises():
  with pytest.raises(InvalidInputError, match="none of the 2 words of the language model"):
    params_before_and_after(random_lm_params(), words=["x", "y"])
