"""Tagger, its task, character encoders and predictor."""

import functools
import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOBES

from experiments.sequence_tagging import bio_tags, char_encoders
from experiments.sequence_tagging.data import Sentence
from experiments.sequence_tagging.lexicon import Lexicon
from experiments.sequence_tagging.tagger_predictor import TaggerPredictor
from rnnjax import bidirectional, crf, forward, gru, lstm, stack
from rnnjax.models.tagger import Tagger
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError
from tests.random_params import random_params_like

KEY = jax.random.key(0)
T, B, C, V = 6, 4, 5, 9
LENGTHS = np.array([6, 3, 1, 4])
TAGS = ["B-X", "E-X", "I-X", "O", "S-X"]
CHAR_ENCODERS = {
  "convolution": char_encoders.CharCnn(V, 3, 4),
  "recurrent": char_encoders.CharRnn(V, 3, bidirectional(lstm(2), lstm(2))),
}


def random_characters(seed=0):
  """Return characters [T, B, C] of words with 0 to C characters."""
  draw = np.random.default_rng(seed)
  is_padding = np.arange(C) >= draw.integers(0, C + 1, (T, B, 1))
  return np.where(is_padding, 0, draw.integers(1, V, (T, B, C)))


def reference_char_cnn(params, word):
  """Return the maximum over all windows of three characters, computed one by one."""
  kernel, b = (np.asarray(params["filters"][name], np.float64) for name in ("kernel", "bias"))
  xs = np.pad(params["characters"]["embedding"][word], [(1, 1), (0, 0)])
  windows = [sum(xs[c + k] @ kernel[k] for k in range(3)) + b for c in range(len(word))]
  return np.max(windows, 0)


def reference_char_rnn(params, word):
  """Return the last outputs of a forward and a backward LSTM over the characters."""
  cell, xs, outputs = lstm(2), params["characters"]["embedding"][word], []
  for direction, inputs in (("forward", xs), ("backward", xs[::-1])):
    cell_params, carry = params["encoder"][direction], cell.initial_carry(xs[0])
    for x in inputs:
      carry, y = cell.step(cell_params, carry, cell.project(cell_params, x))
    outputs.append(y)
  return np.concatenate(outputs)


@pytest.mark.parametrize(
  "name, reference",
  [
    ("convolution", reference_char_cnn),
    ("recurrent", reference_char_rnn),
  ],
)
def test_char_encoder_equals_reference(name, reference):
  """Each word is encoded independently, and more padding does not change the result."""
  module, characters = CHAR_ENCODERS[name], random_characters()
  params = random_params_like(jax.jit(module.init)(KEY, characters)["params"])
  apply = jax.jit(lambda characters: module.apply({"params": params}, characters))
  encoded = apply(characters)
  for index in np.ndindex(T, B):
    word = characters[index][characters[index] > 0]
    expected = reference(params, word) if len(word) else np.zeros(4)
    np.testing.assert_allclose(encoded[index], expected, atol=1e-5)
  padded = np.pad(characters, [(0, 0), (0, 0), (0, 4)])
  np.testing.assert_allclose(apply(padded), encoded, atol=1e-6)


@functools.cache
def make_tagger(direction="bidirectional", tag_layer=None, **options):
  encoder = {"bidirectional": bidirectional(gru(4), gru(4)), "forward": forward(gru(4))}[direction]
  tag_layer = tag_layer or crf.linear_chain(len(TAGS), *bio_tags.allowed_transitions(TAGS))
  return Tagger(
    nn.Embed(V, 3),
    stack(encoder),
    tag_layer,
    CHAR_ENCODERS["convolution"],
    ((7, 2), (5, 2)),
    **options,
  )


def random_inputs(seed=0):
  """Return {"tokens", "characters", "columns"} for all steps."""
  draw = np.random.default_rng(seed)
  columns = np.stack([draw.integers(0, size, (T, B)) for size in (7, 5)], -1)
  return {
    "tokens": draw.integers(0, V, (T, B)),
    "characters": random_characters(seed),
    "columns": columns,
  }


@functools.cache
def random_params(model):
  return random_params_like(jax.jit(model.init)(KEY, lengths=LENGTHS, **random_inputs())["params"])


@functools.partial(jax.jit, static_argnums=0)
def tag_scores(model, params, lengths, inputs, key=None):
  return model.apply({"params": params}, lengths=lengths, **inputs, key=key)[1]


def test_scores_independent_of_batch_and_padding():
  """Scores of a row do not depend on its padding or on the other rows."""
  model, inputs, other = make_tagger(), random_inputs(), random_inputs(1)
  params = random_params(model)
  mask = np.arange(T)[:, None] < LENGTHS
  mask_like = lambda a: mask.reshape(T, B, *[1] * (a.ndim - 2))
  repadded = {name: np.where(mask_like(a), a, other[name]) for name, a in inputs.items()}
  scores, repadded_scores = (
    np.asarray(tag_scores(model, params, LENGTHS, i)) for i in (inputs, repadded)
  )
  np.testing.assert_array_equal(scores[mask], repadded_scores[mask])
  for b, n in enumerate(LENGTHS):
    row = {name: a[:n, [b]] for name, a in inputs.items()}
    row_scores = tag_scores(model, params, np.array([n]), row)
    np.testing.assert_allclose(row_scores[:, 0], scores[:n, b], atol=1e-6)


@pytest.mark.parametrize("name", ["tokens", "characters", "columns"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_later_words_matter_only_if_bidirectional(direction, name):
  """A change at step 3 changes the scores before it in a bidirectional tagger only."""
  model, step, inputs = make_tagger(direction), 3, random_inputs()
  params = random_params(model)
  changed = inputs | {name: inputs[name].copy()}
  changed[name][step] = (inputs[name][step] + 1) % 5
  lengths = np.full(B, T)
  before, after = (tag_scores(model, params, lengths, i) for i in (inputs, changed))
  differs = abs(np.asarray(before) - after).max((1, 2)) > 1e-6
  assert differs[step:].all() and (differs[:step] == (direction == "bidirectional")).all()


@pytest.mark.parametrize("field", ["word_dropout", "input_dropout", "output_dropout"])
def test_dropout_only_with_key(field):
  """Dropout depends on the key alone, and there is none without a key."""
  plain, model = make_tagger(), make_tagger(**{field: 0.5})
  total = lambda model, key: float(
    tag_scores(model, random_params(plain), LENGTHS, random_inputs(), key).sum()
  )
  np.testing.assert_allclose([total(plain, KEY), total(model, None)], total(plain, None), rtol=1e-6)
  first, repeated, other = (total(model, jax.random.key(seed)) for seed in (1, 1, 2))
  assert first == repeated and len({first, other, total(model, None)}) == 3


def enumerate_sequences(params, scores, allowed):
  """Return {y: s(y)} of all allowed sequences of one row [n, K]."""
  start, inner, end = allowed
  sequence_scores = {}
  for y in itertools.product(range(len(TAGS)), repeat=len(scores)):
    pairs = list(itertools.pairwise(y))
    if start[y[0]] and end[y[-1]] and all(inner[pair] for pair in pairs):
      score = sum(scores[t, tag] for t, tag in enumerate(y)) + params["start"][y[0]]
      score += sum(params["inner"][pair] for pair in pairs) + params["end"][y[-1]]
      sequence_scores[y] = score
  return sequence_scores


def test_loss_accuracy_and_f1_equal_enumeration():
  """Rows of weight 0 do not count."""
  model = make_tagger()
  task, params = tasks.tagging_task(model, bio_tags.span_tables(TAGS)), random_params(model)
  lengths = LENGTHS - 1
  lengths[2] = 3
  weights = np.array([1, 1, 0, 1], np.float32)
  labels = ["S-X B-X E-X O O", "S-X S-X", "O O O", "B-X I-X E-X"]
  tags = np.zeros((T, B), int)
  for b, row in enumerate(labels):
    tags[: lengths[b], b] = [TAGS.index(tag) for tag in row.split()]
  batch = {"lengths": lengths, "weights": weights, "tags": tags} | random_inputs()
  scores = np.float64(tag_scores(model, params, lengths, random_inputs()))
  loss, best = 0.0, []
  tag_params = {name: np.float64(p) for name, p in params["tags"].items()}
  for b in np.flatnonzero(weights):
    n = lengths[b]
    row = enumerate_sequences(tag_params, scores[:n, b], bio_tags.allowed_transitions(TAGS))
    loss += np.logaddexp.reduce(list(row.values())) - row[tuple(tags[:n, b])]
    best.append([TAGS[tag] for tag in max(row, key=row.get)])
  expected_tags = [labels[b].split() for b in np.flatnonzero(weights)]
  num_correct = sum(a == b for pair in zip(best, expected_tags) for a, b in zip(*pair))
  _, trained = jax.jit(task.loss)(params, (), batch, None)
  _, scored = jax.jit(task.score)(params, (), batch)
  for mean in (trained["loss"], scored["loss"]):
    np.testing.assert_allclose(mean, (loss, 10), rtol=1e-5)
  assert scored["accuracy"] == (num_correct, 10)
  expected = f1_score(expected_tags, best, mode="strict", scheme=IOBES)
  assert 0 < expected < 1 and scored["f1"].value == pytest.approx(expected)


def test_pos_task_has_no_f1():
  """With independent tags the loss is the cross entropy of each tag."""
  model = make_tagger(tag_layer=crf.independent(len(TAGS)))
  task, params, tags = tasks.tagging_task(model), random_params(model), np.ones((T, B), int)
  batch = {"lengths": LENGTHS, "weights": np.ones(B, np.float32), "tags": tags} | random_inputs()
  _, scored = jax.jit(task.score)(params, (), batch)
  logits = tag_scores(model, params, LENGTHS, random_inputs())
  mask = np.arange(T)[:, None] < LENGTHS
  expected = -np.float64(jax.nn.log_softmax(logits))[mask][:, 1].sum()
  np.testing.assert_allclose(scored["loss"], (expected, LENGTHS.sum()), rtol=1e-5)
  assert scored.keys() == {"loss", "accuracy"}


SENTENCES = [
  "Anna saw the zoo in Rome",
  "stop",
  "the zoo was closed",
  "Anna left",
  "Rome was closed in May",
  "saw Anna the zoo",
  "in",
  "May was hot in Rome , Anna said",
]


@pytest.fixture(scope="module")
def tagger_predictor():
  """A predictor with random parameters and no additional columns."""
  sentences = [Sentence(text.split(), [], [], 0, "") for text in SENTENCES]
  return make_tagger_predictor(Lexicon.from_sentences(sentences, TAGS))


def make_tagger_predictor(lexicon):
  model = Tagger(
    nn.Embed(len(lexicon.words), 3),
    stack(bidirectional(gru(4), gru(4))),
    crf.linear_chain(len(TAGS), *bio_tags.allowed_transitions(lexicon.tags)),
    char_encoders.CharCnn(len(lexicon.characters), 3, 4),
    tuple((len(column), 2) for column in lexicon.columns),
  )
  example = Sentence(["a"], [], [["a"]] * (len(lexicon.columns) - 1), 0, "")
  (batch,) = lexicon.make_batches([example], 1)
  inputs = [batch[name] for name in ("tokens", "lengths", "characters", "columns")]
  params = random_params_like(jax.jit(model.init)(KEY, *inputs)["params"], seed=4)
  return TaggerPredictor(model, params, lexicon)


def test_predictions_keep_sentence_order(tagger_predictor):
  """Results are in the order of the sentences, and do not depend on the batches by length."""
  rows = [text.split() for text in SENTENCES]
  expected = [tagger_predictor([row])[0] for row in rows]
  assert len({tuple(tagged.tags) for tagged in expected}) > 4
  for batch_size in (3, 64):
    results = tagger_predictor(rows, batch_size=batch_size)
    for row, tagged, single in zip(rows, results, expected, strict=True):
      assert tagged.tags == single.tags and len(tagged.tags) == len(row)
      np.testing.assert_allclose(tagged.probabilities, single.probabilities, atol=1e-5)


def test_tag_probabilities_are_marginals(tagger_predictor):
  """The probability of each best tag is the sum over all sequences with this tag at its step."""
  words = SENTENCES[2].split()
  model, params, lexicon = tagger_predictor
  (batch,) = lexicon.make_batches([Sentence(words, [], [], 0, "")], 1)
  inputs = [batch[name] for name in ("tokens", "lengths", "characters", "columns")]
  tag_params, scores = model.apply({"params": params}, *inputs)
  tag_params = {name: np.float64(p) for name, p in tag_params.items()}
  scores = np.float64(scores)[: len(words), 0]
  row = enumerate_sequences(tag_params, scores, bio_tags.allowed_transitions(TAGS))
  log_Z, best = np.logaddexp.reduce(list(row.values())), max(row, key=row.get)
  expected = [
    sum(np.exp(s - log_Z) for y, s in row.items() if y[t] == tag) for t, tag in enumerate(best)
  ]
  (tagged,) = tagger_predictor([words])
  assert tagged.tags == [TAGS[tag] for tag in best]
  np.testing.assert_allclose(tagged.probabilities, expected, atol=1e-5)


def test_very_long_sentence(tagger_predictor):
  """The tags are valid, and the first ones equal those of a shorter sentence."""
  words = SENTENCES[0].split() * 2000
  (long,) = tagger_predictor([words[:10_000]])
  assert len(long.tags) == 10_000 and bio_tags.to_bio(long.tags, "iobes")
  assert ((long.probabilities > 0) & (long.probabilities < 1 + 1e-3)).all()
  (short,) = tagger_predictor([words[:200]])
  assert short.tags[:100] == long.tags[:100]
  np.testing.assert_allclose(short.probabilities[:100], long.probabilities[:100], atol=1e-4)


def test_unseen_characters_are_treated_alike(tagger_predictor):
  """Words of unseen characters give equal results, which differ from those of known words."""
  unseen_1, unseen_2, known = tagger_predictor(
    [["Anna", word, "Rome"] for word in ("日本語", "жук", "zoo")]
  )
  assert unseen_1.tags == unseen_2.tags
  np.testing.assert_array_equal(unseen_1.probabilities, unseen_2.probabilities)
  assert abs(unseen_1.probabilities - known.probabilities).max() > 1e-3


@pytest.mark.parametrize(
  "sentences, columns, message",
  [
    ("Teddy left".split(), None, "lists of words"),
    ([], None, "at least one sentence, and no empty one"),
    ([["a"], []], None, "no empty one"),
    ([["a"]], [[["X"]]], "this tagger reads 0 columns"),
  ],
)
def test_invalid_sentences_raise(tagger_predictor, sentences, columns, message):
  with pytest.raises(InvalidInputError, match=message):
    tagger_predictor(sentences, columns)


@pytest.fixture(scope="module")
def column_predictor():
  """A predictor with one additional column."""
  rows = [Sentence(["a", "b"], [], [["X", "Y"]], 0, "")]
  return make_tagger_predictor(Lexicon.from_sentences(rows, TAGS))


def test_extra_columns_affect_tags(column_predictor):
  """Column values change the probabilities; all unseen values are treated alike."""
  columns = [[[value, "Y"]] for value in ("X", "Y", "Q", "Z")]
  x, y, q, z = (tagged.probabilities for tagged in column_predictor([["a", "b"]] * 4, columns))
  assert abs(x - y).max() > 1e-3 and abs(x - q).max() > 1e-3
  np.testing.assert_array_equal(q, z)


@pytest.mark.parametrize(
  "columns",
  [
    None,
    [[["X", "Y"], ["X", "Y"]], [["X"]]],
    [[["X", "Y"]]],  # one sentence instead of two
    [[["X", "Y"]], [["X", "Y"]]],  # two words in the second sentence instead of one
  ],
  ids=["none", "two", "sentence", "word"],
)
def test_mismatched_columns_raise(column_predictor, columns):
  with pytest.raises(InvalidInputError, match="column"):
    column_predictor([["a", "b"], ["a"]], columns)
