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
from rnnjax.models.embedding import context
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full
from rnnjax.training import tasks
from rnnjax.types import BadInput

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


def model(cell=None, width=D, back=True):
  cell = cell or lstm(H)
  reverse = stack(backward(cell)) if back else None
  return LanguageModel(nn.Embed(5, width), stack(forward(cell)), full(5), back=reverse)


def language(*args, **options):
  """The parameters of a language model, away from 0."""
  params = model(*args, **options).init(KEY, np.zeros((2, 1), int), np.ones((1, 1)))["params"]
  draw = np.random.default_rng(0)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(size=p.shape), jnp.float32), params)


def classification(encoder=None, width=D, context=None):
  encoder = encoder or stack(bidirectional(lstm(H), lstm(H)))
  return tasks.classification(Classifier(nn.Embed(5, width), encoder, 2, context=context))


def begun(theirs, task=None, batch=BATCH, words=WORDS):
  """Its first parameters without the language model, and with it."""
  task = task or classification()
  after = pretrained.begin(task, VOCABULARY, theirs, words)
  return task.init(KEY, batch), after.init(KEY, batch)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("words", [WORDS, ["_", *WORDS[1:]]], ids=["unknown", "all known"])
def test_words_go_by_their_name(words):
  """Those that the language model lacks are its <unk>; without one they keep their own vectors."""
  theirs = language()
  before, after = (params["embedding"]["embedding"] for params in begun(theirs, words=words))
  table = theirs["embedding"]["embedding"]
  for i, word in enumerate(VOCABULARY.words):
    row = words.index(word) if word in words else 0
    same(after[i], table[row] if word in words or "<unk>" in words else before[i])
  assert [word in WORDS for word in VOCABULARY.words] == [False, True, False, True, True]


def test_cells_of_both_directions():
  """Each arrives under its own name; pooling and the last layer stay."""
  theirs = language()
  before, after = begun(theirs)
  layer = after["encoder"]["layer_0"]
  same(layer["forward"], theirs["encoder"]["layer_0"]["forward"])
  same(layer["backward"], theirs["back"]["layer_0"]["backward"])
  same(after["logits"], before["logits"])


def test_what_the_language_model_lacks_stays():
  """A direction, a layer; and what the classifier lacks is left out."""
  theirs = language(back=False)
  one, both = lstm(H), bidirectional(lstm(H), lstm(H))
  before, after = begun(theirs, classification(stack(both, forward(one))))
  same(after["encoder"]["layer_0"]["forward"], theirs["encoder"]["layer_0"]["forward"])
  same(after["encoder"]["layer_0"]["backward"], before["encoder"]["layer_0"]["backward"])
  same(after["encoder"]["layer_1"], before["encoder"]["layer_1"])
  _, after = begun(language(), classification(stack(forward(one))))
  assert after["encoder"]["layer_0"].keys() == {"forward"}


def test_further_inputs_keep_their_rows():
  """Features beside the embedding: W has rows that the language model knows nothing of."""
  theirs = language()
  before, after = begun(theirs, batch=BATCH | FEATURES)
  for name, part in (("forward", "encoder"), ("backward", "back")):
    W, own = (params["encoder"]["layer_0"][name]["W"] for params in (after, before))
    assert W.shape == (D + F, 4 * H)
    same(W[:D], theirs[part]["layer_0"][name]["W"])
    same(W[D:], own[D:])


def test_training_starts_there():
  """The state before the first step holds these parameters, its average too."""
  theirs = language()
  task = pretrained.begin(classification(), VOCABULARY, theirs, WORDS)
  state = training.start(task, training.adam(0.01), BATCH, KEY, average=True)
  for params in (state.params, state.average):
    same(params["encoder"]["layer_0"]["forward"], theirs["encoder"]["layer_0"]["forward"])
    same(params["embedding"]["embedding"][3], theirs["embedding"]["embedding"][3])


@pytest.mark.parametrize("back", [True, False], ids=["both", "ahead"])
def test_a_context_is_what_the_language_model_makes_of_the_words(back):
  """Each direction's states, of its own words, ended by the lengths; 0 behind them; and mapped."""
  how = gru(H + 1), D + 1, back  # neither cell nor width need be the classifier's
  known, theirs = context(model(*how), 5, C), language(*how)
  _, params = begun(theirs, classification(context=known))
  c = known.apply({"params": params["context"]}, BATCH["tokens"], BATCH["lengths"])
  own = np.array([WORDS.index(w) if w in WORDS else 0 for w in VOCABULARY.words])

  def states(params, tokens):
    read = model(*how[:2], back=False)
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


def test_a_context_is_not_learnt():
  """All else is, what reads it among it; the classifier's own embedding and cells begin anew."""
  task, theirs = classification(context=context(model(), 5, C)), language()
  task = pretrained.begin(task, VOCABULARY, theirs, WORDS)
  before, plain = task.init(KEY, BATCH), classification().init(KEY, BATCH)
  same(before["embedding"], plain["embedding"])
  assert before["encoder"]["layer_0"]["forward"]["W"].shape == (D + C, 4 * H)
  adam, batch = training.adam(0.01), jax.tree.map(lambda a: np.concatenate([a, a], -1), BATCH)
  ((state, _),) = training.train(task, adam, training.start(task, adam, batch, KEY), [batch])
  after = state.params
  for name in ("encoder", "back"):
    same(after["context"][name], theirs[name])
  same(after["context"]["embedding"], before["context"]["embedding"])
  learnt = lambda tree: [tree["context"]["map"], *(tree[key] for key in tree if key != "context")]
  for a, b in zip(jax.tree.leaves(learnt(after)), jax.tree.leaves(learnt(before))):
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
  "theirs, words",
  [
    (dict(width=D + 1), r"embedding is 3 wide, that of the language model 4.*--width"),
    (dict(cell=lstm(H + 1)), r"encoder/layer_0/\w+/\w+ has shape .*--cell and --hidden"),
    (dict(cell=lstm(H - 1)), r"encoder/layer_0/\w+/\w+ has shape .*--cell and --hidden"),
    (dict(cell=gru(H)), r"encoder/layer_0/\w+ has .*--cell and --hidden"),
  ],
  ids=["width", "wider", "narrower", "gru"],
)
def test_misfits_are_refused(theirs, words):
  """The flags that must agree are named."""
  with pytest.raises(BadInput, match=words):
    begun(language(**theirs))


def test_another_cell_of_as_many_numbers_is_refused():
  """A GRU of 4 and an LSTM of 3 both have 12 columns."""
  task = classification(stack(bidirectional(gru(4), gru(4))))
  with pytest.raises(BadInput, match="--cell and --hidden"):
    begun(language(lstm(3)), task)


@pytest.mark.parametrize("theirs", [lru(3, states=2), minlstm(4)], ids=str)
def test_another_cell_is_refused(theirs):
  """Also where no array has another shape, or none is in common."""
  with pytest.raises(BadInput, match=r"layer_0/forward has .*--cell and --hidden suit"):
    begun(language(theirs), classification(stack(bidirectional(gru(4), gru(4)))))


def test_strange_words_are_refused():
  with pytest.raises(BadInput, match="none of the 2 words of the language model"):
    begun(language(), words=["x", "y"])
