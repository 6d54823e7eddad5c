"""A classifier that starts from a language model: what it takes over, and what it keeps."""

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
  """The parameters of a language model, away from 0."""
  params = make_lm(*args, **options).init(KEY, np.zeros((2, 1), int), np.ones((1, 1)))["params"]
  draw = np.random.default_rng(0)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(size=p.shape), jnp.float32), params)


def classification_task(encoder=None, width=D, context=None):
  encoder = encoder or stack(bidirectional(lstm(H), lstm(H)))
  return tasks.classification_task(Classifier(nn.Embed(5, width), encoder, 2, context=context))


def params_before_and_after(theirs, task=None, batch=BATCH, words=WORDS):
  """Its first parameters without the language model, and with it."""
  task = task or classification_task()
  after = pretrained.with_pretrained_params(task, VOCABULARY, theirs, words)
  return task.init(KEY, batch), after.init(KEY, batch)


def assert_trees_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("words", [WORDS, ["_", *WORDS[1:]]], ids=["unknown", "all known"])
def test_embeddings_are_matched_by_word(words):
  """Those that the language model lacks are its <unk>; without one they keep their own vectors."""
  theirs = random_lm_params()
  before, after = (
    params["embedding"]["embedding"] for params in params_before_and_after(theirs, words=words)
  )
  table = theirs["embedding"]["embedding"]
  for i, word in enumerate(VOCABULARY.words):
    row = words.index(word) if word in words else 0
    assert_trees_equal(after[i], table[row] if word in words or "<unk>" in words else before[i])
  assert [word in WORDS for word in VOCABULARY.words] == [False, True, False, True, True]


def test_cells_of_both_directions_are_copied():
  """Each arrives under its own name; pooling and the last layer stay."""
  theirs = random_lm_params()
  before, after = params_before_and_after(theirs)
  layer = after["encoder"]["layer_0"]
  assert_trees_equal(layer["forward"], theirs["encoder"]["layer_0"]["forward"])
  assert_trees_equal(layer["backward"], theirs["back"]["layer_0"]["backward"])
  assert_trees_equal(after["logits"], before["logits"])


def test_missing_layers_keep_their_init():
  """A direction, a layer; and what the classifier lacks is left out."""
  theirs = random_lm_params(back=False)
  one, both = lstm(H), bidirectional(lstm(H), lstm(H))
  before, after = params_before_and_after(theirs, classification_task(stack(both, forward(one))))
  assert_trees_equal(
    after["encoder"]["layer_0"]["forward"], theirs["encoder"]["layer_0"]["forward"]
  )
  assert_trees_equal(
    after["encoder"]["layer_0"]["backward"], before["encoder"]["layer_0"]["backward"]
  )
  assert_trees_equal(after["encoder"]["layer_1"], before["encoder"]["layer_1"])
  _, after = params_before_and_after(random_lm_params(), classification_task(stack(forward(one))))
  assert after["encoder"]["layer_0"].keys() == {"forward"}


def test_extra_input_rows_keep_their_init():
  """Features beside the embedding: W has rows that the language model knows nothing of."""
  theirs = random_lm_params()
  before, after = params_before_and_after(theirs, batch=BATCH | FEATURES)
  for name, part in (("forward", "encoder"), ("backward", "back")):
    W, own = (params["encoder"]["layer_0"][name]["W"] for params in (after, before))
    assert W.shape == (D + F, 4 * H)
    assert_trees_equal(W[:D], theirs[part]["layer_0"][name]["W"])
    assert_trees_equal(W[D:], own[D:])


def test_train_state_starts_from_pretrained_params():
  """The state before the first step holds these parameters, its average too."""
  theirs = random_lm_params()
  task = pretrained.with_pretrained_params(classification_task(), VOCABULARY, theirs, WORDS)
  state = training.init_state(task, training.adam(0.01), BATCH, KEY, keep_average=True)
  for params in (state.params, state.averaged_params):
    assert_trees_equal(
      params["encoder"]["layer_0"]["forward"], theirs["encoder"]["layer_0"]["forward"]
    )
    assert_trees_equal(params["embedding"]["embedding"][3], theirs["embedding"]["embedding"][3])


@pytest.mark.parametrize("back", [True, False], ids=["both", "ahead"])
def test_context_equals_language_model_states(back):
  """Each direction's states, of its own words, ended by the lengths; 0 behind them; and mapped."""
  how = gru(H + 1), D + 1, back  # neither cell nor width need be the classifier's
  known, theirs = contextual_embedding(make_lm(*how), 5, C), random_lm_params(*how)
  _, params = params_before_and_after(theirs, classification_task(context=known))
  c = known.apply({"params": params["context"]}, BATCH["tokens"], BATCH["lengths"])
  own = np.array([WORDS.index(w) if w in WORDS else 0 for w in VOCABULARY.words])

  def states(params, tokens):
    read = make_lm(*how[:2], back=False)
    return read.apply({"params": params}, tokens[:, None], method="logits")[1][:, 0]

  for n, length in enumerate(BATCH["lengths"]):
    tokens = own[BATCH["tokens"][:length, n]]
    expected = [states(theirs, tokens)]
    if back:
      cell = {"forward": theirs["back"]["layer_0"]["backward"]}
      expected.append(states(theirs | {"encoder": {"layer_0": cell}}, tokens[::-1])[::-1])
    expected = np.concatenate(expected, -1) @ params["context"]["map"]["kernel"]
    np.testing.assert_allclose(c[:length, n], expected, atol=1e-6)
    assert not c[length:, n].any()


def test_context_is_frozen_in_training():
  """All else is, what reads it among it; the classifier's own embedding and cells begin anew."""
  task, theirs = (
    classification_task(context=contextual_embedding(make_lm(), 5, C)),
    random_lm_params(),
  )
  task = pretrained.with_pretrained_params(task, VOCABULARY, theirs, WORDS)
  before, plain = task.init(KEY, BATCH), classification_task().init(KEY, BATCH)
  assert_trees_equal(before["embedding"], plain["embedding"])
  assert before["encoder"]["layer_0"]["forward"]["W"].shape == (D + C, 4 * H)
  adam, batch = training.adam(0.01), jax.tree.map(lambda a: np.concatenate([a, a], -1), BATCH)
  ((state, _),) = training.train_loop(
    task, adam, training.init_state(task, adam, batch, KEY), [batch]
  )
  after = state.params
  for name in ("encoder", "back"):
    assert_trees_equal(after["context"][name], theirs[name])
  assert_trees_equal(after["context"]["embedding"], before["context"]["embedding"])
  learnt = lambda tree: [tree["context"]["map"], *(tree[key] for key in tree if key != "context")]
  for a, b in zip(jax.tree.leaves(learnt(after)), jax.tree.leaves(learnt(before))):
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
  "theirs, words",
  [
    (dict(width=D + 1), r"embedding is 3 wide, that of the language model 4.*--embed_dim"),
    (dict(cell=lstm(H + 1)), r"encoder/layer_0/\w+/\w+ has shape .*--cell and --hidden"),
    (dict(cell=lstm(H - 1)), r"encoder/layer_0/\w+/\w+ has shape .*--cell and --hidden"),
    (dict(cell=gru(H)), r"encoder/layer_0/\w+ has .*--cell and --hidden"),
  ],
  ids=["width", "wider", "narrower", "gru"],
)
def test_mismatched_sizes_raise(theirs, words):
  """The flags that must agree are named."""
  with pytest.raises(InvalidInputError, match=words):
    params_before_and_after(random_lm_params(**theirs))


def test_other_cell_with_same_size_raises():
  """A GRU of 4 and an LSTM of 3 both have 12 columns."""
  task = classification_task(stack(bidirectional(gru(4), gru(4))))
  with pytest.raises(InvalidInputError, match="--cell and --hidden"):
    params_before_and_after(random_lm_params(lstm(3)), task)


@pytest.mark.parametrize("theirs", [lru(3, num_states=2), minlstm(4)], ids=str)
def test_other_cell_raises(theirs):
  """Also where no array has another shape, or none is in common."""
  with pytest.raises(InvalidInputError, match=r"layer_0/forward has .*--cell and --hidden suit"):
    params_before_and_after(
      random_lm_params(theirs), classification_task(stack(bidirectional(gru(4), gru(4))))
    )


def test_disjoint_vocabulary_raises():
  with pytest.raises(InvalidInputError, match="none of the 2 words of the language model"):
    params_before_and_after(random_lm_params(), words=["x", "y"])
