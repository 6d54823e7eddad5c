"""A translator: its loss written out, inference as training, and what one may ask it."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import bidirectional, generate, gru, make_sampler, stack
from rnnjax.attention import additive_attention, general_attention
from rnnjax.data.tokenizer import BOS, EOS, Tokenizer
from rnnjax.data.vocabulary import UNKNOWN
from rnnjax.decoders import decoder
from rnnjax.decoding import beam_search
from rnnjax.models.seq2seq import EncodedSource, Seq2Seq
from rnnjax.models.seq2seq_predictor import Seq2SeqPredictor, append_end
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError
from tests.models.test_tagger import random_params_like

KEY = jax.random.key(0)
S, T, B, V, W = 5, 4, 3, 9, 8
LENGTHS, ENDS = np.array([5, 2, 3]), np.array([5, 3, 4])
WEIGHTS = (np.arange(1, T + 1)[:, None] < ENDS) * np.array([1, 0.5, 2], np.float32)

all_models = pytest.mark.parametrize(
  "how", [{}, {"feed": True}, {"copy": True, "target": V}], ids=["plain", "fed", "copy"]
)


@functools.cache
def make_model(source=V, target=W, feed=False, **options):
  how = {
    "attention": additive_attention(3, use_coverage=True) if feed else general_attention(),
    "feed": feed,
  }
  return Seq2Seq(
    nn.Embed(source, 3),
    nn.Embed(target, 4),
    stack(bidirectional(gru(2), gru(2))),
    decoder(gru(4), **how),
    full_softmax(target),
    **options,
  )


def random_inputs(seed=0):
  """tokens [S, B], lengths, targets [T + 1, B] that begin with BEGIN, and weights."""
  draw = np.random.default_rng(seed)
  targets = draw.integers(0, W, (T + 1, B))
  targets[0] = BOS
  return draw.integers(0, V, (S, B)), LENGTHS, targets, WEIGHTS


@functools.cache
def random_params(**how):
  return random_params_like(jax.jit(make_model(**how).init)(KEY, *random_inputs())["params"])


@functools.partial(jax.jit, static_argnums=(0, 3))
def model_loss(model, params, inputs, smoothing=0.0, key=None):
  return model.apply({"params": params}, *inputs, smoothing, key)


@functools.partial(jax.jit, static_argnums=0)
def reference_logits(model, params, tokens, lengths, read):
  """Logits [T, B, W] of what follows each token read, and α, without the module."""
  carry, hs = model.encoder.apply(params["encoder"], params["source"]["embedding"][tokens], lengths)
  memory = model.decoder.prepare_memory(params["decoder"], hs, lengths)
  carry = model.decoder.initial_carry(params["decoder"], model.encoder.final_hidden(carry), memory)
  xs = params["target"]["embedding"][read]
  _, ys, α = model.decoder.apply(params["decoder"], xs, memory, carry=carry)
  ys = ys @ params["narrow"]["kernel"]
  logits = ys @ params["target"]["embedding"].T + params["softmax"]["b"]
  if not model.copy_attention:
    return logits, α
  g = jax.nn.sigmoid(ys @ params["gate"]["kernel"] + params["gate"]["bias"])
  copied = jnp.einsum("tsb,sbw->tbw", α, jax.nn.one_hot(tokens, V))
  return jnp.log(g * jax.nn.softmax(logits) + (1 - g) * copied), α


def log_softmax(logits):
  logits = np.float64(logits)
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def reference_nats(logits, labels, weights):
  """−Σ weights · log p(label), word by word."""
  p = log_softmax(logits)
  return -sum(weights[place] * p[(*place, labels[place])] for place in np.ndindex(labels.shape))


@all_models
def test_loss_equals_reference(how):
  """Σ −log softmax of the true words, by their weights."""
  model, params, (tokens, lengths, targets, weights) = (
    make_model(**how),
    random_params(**how),
    random_inputs(),
  )
  logits, α = reference_logits(model, params, tokens, lengths, targets[:-1])
  total, found = model_loss(model, params, random_inputs())
  np.testing.assert_allclose(total, reference_nats(logits, targets[1:], weights), rtol=1e-5)
  np.testing.assert_allclose(found, α, atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"copy": True, "target": V}], ids=["plain", "copy"])
def test_label_smoothing_equals_optax(how):
  """It is the cross entropy to the smoothed truth."""
  model, params, (tokens, lengths, targets, weights) = (
    make_model(**how),
    random_params(**how),
    random_inputs(),
  )
  logits, _ = reference_logits(model, params, tokens, lengths, targets[:-1])
  truth = optax.smooth_labels(jax.nn.one_hot(targets[1:], logits.shape[-1]), 0.3)
  expected = (weights * optax.softmax_cross_entropy(logits, truth)).sum()
  total, _ = model_loss(model, params, random_inputs(), 0.3)
  np.testing.assert_allclose(total, expected, rtol=1e-5)


@all_models
def test_step_by_step_equals_teacher_forcing(how):
  """Fed the truth, word by word or in pieces, `read` says what teacher forcing did."""
  model, params, (tokens, lengths, targets, _) = (
    make_model(**how),
    random_params(**how),
    random_inputs(),
  )
  expected = log_softmax(reference_logits(model, params, tokens, lengths, targets[:-1])[0])
  memory, start = model.apply({"params": params}, tokens, lengths, method="remember")
  known = EncodedSource(params, tokens, memory)
  read = jax.jit(lambda part, carry: model.predict_next(known, part, None, carry))
  for cuts in ((1, 2, 3), (2,)):
    carry = start
    ends = [*cuts, T]
    for end, part in zip(ends, np.split(targets[:-1], cuts), strict=True):
      carry, logits = read(part, carry)
      np.testing.assert_allclose(log_softmax(logits), expected[end - 1], atol=1e-5)


@all_models
def test_beam_of_one_equals_greedy(how):
  """The same words up to the end as `generate` takes by the likeliest."""
  model, params = make_model(**how), jax.tree.map(lambda p: 2 * p, random_params(**how))
  tokens, lengths = np.random.default_rng(3).integers(0, V, (S, 12)), np.tile(LENGTHS, 4)
  memory, carry = jax.jit(functools.partial(model.apply, method="remember"))(
    {"params": params}, tokens, lengths
  )
  known, first = EncodedSource(params, tokens, memory), np.full(12, BOS)
  _, rows = generate(
    model.predict_next,
    known,
    first[None],
    KEY,
    num_tokens=9,
    carry=carry,
    sampler=make_sampler(0.0),
  )
  rows = np.where(np.cumsum(rows == EOS, 0) > 0, EOS, rows)
  assert len({*map(tuple, rows.T)}) > 1
  found = beam_search(model.predict_next, known, carry, first, width=1, steps=9, end=EOS)
  np.testing.assert_array_equal(found.tokens[0], rows)


@pytest.mark.parametrize("how", [{}, {"copy": True, "target": V}], ids=["plain", "copy"])
def test_scheduled_sampling_mixes_targets_and_predictions(how):
  """At a rate of almost 1 all of them; between, each word is the truth or its guess."""
  tokens, lengths, targets, _ = (x[..., :1] for x in random_inputs())
  inputs = tokens, lengths, targets, np.ones((T, 1), np.float32)
  params = jax.tree.map(lambda p: 2 * p, random_params(**how))
  if how:  # what it would say by itself is not what it would copy
    params["gate"]["bias"] -= 6
  logits = lambda read: reference_logits(make_model(**how), params, tokens, lengths, read)[0]
  read = targets[:-1]
  guess = np.argmax(logits(read), -1)[:-1]
  targets[1:-1] = read[1:] = (guess + np.arange(1, T)[:, None]) % W
  guess = np.argmax(logits(read), -1)[:-1]
  by_choice = {}
  for own in itertools.product([False, True], repeat=T - 1):
    mixed = np.concatenate([read[:1], np.where(np.array(own)[:, None], guess, read[1:])])
    by_choice[own] = reference_nats(logits(mixed), targets[1:], inputs[3])
  values = np.array([*by_choice.values()])
  assert np.diff(np.sort(values)).min() > 1e-3
  total = lambda rate, key=KEY: model_loss(
    make_model(sampled=rate, **how), params, inputs, 0.0, key
  )[0]
  never, always = values[0], values[-1]
  np.testing.assert_allclose([total(0.0), total(0.9, None), total(1e-9)], never, rtol=1e-5)
  np.testing.assert_allclose(total(1 - 1e-9), always, rtol=1e-5)
  found = [total(0.5, jax.random.key(seed)) for seed in range(100)]
  nearest = [int(abs(values - value).argmin()) for value in found]
  np.testing.assert_allclose(found, values[nearest], rtol=1e-5)
  assert {*nearest} == {*range(len(values))}


@pytest.mark.parametrize("kind", ["dropout", "word_dropout"])
def test_dropout_only_with_key(kind):
  """Each kind acts where a key is given, the same for the same key, and not without."""
  total = lambda model, key: float(model_loss(model, random_params(), random_inputs(), 0.0, key)[0])
  plain, model = make_model(), make_model(**{kind: 0.5})
  assert total(plain, None) == pytest.approx(total(plain, KEY)) == total(model, None)
  one, again, other = (total(model, jax.random.key(seed)) for seed in (1, 1, 2))
  assert one == again and len({one, other, total(plain, None)}) == 3


def make_batch(seed=0):
  tokens, lengths, targets, _ = random_inputs(seed)
  return {
    "tokens": tokens,
    "lengths": lengths,
    "targets": targets,
    "target_lengths": ENDS,
    "weights": np.array([1, 1, 0], np.float32),
  }


def test_task_loss_ignores_padding_and_zero_weight_rows():
  """Nats per word of the rows that weigh; neither padding nor other rows count, not in gradients.

  Smoothing is of training only.
  """
  task, params = tasks.seq2seq_task(make_model(), label_smoothing=0.2), random_params()
  one, other = make_batch(), make_batch(1)
  live = lambda ends, n: (np.arange(n)[:, None] < ends) & (one["weights"] > 0)
  for name, ends in ("tokens", LENGTHS), ("targets", ENDS):
    other[name] = np.where(live(ends, len(one[name])), one[name], other[name])
  value = lambda params, batch: task.loss(params, (), batch, None)[1]["loss"]
  both = jax.jit(jax.value_and_grad(lambda *given: value(*given).total))
  found, others = (both(params, rows) for rows in (one, other))
  jax.tree.map(np.testing.assert_array_equal, found, others)
  weights = (WEIGHTS > 0) * one["weights"]
  inputs = one["tokens"], LENGTHS, one["targets"], weights
  smooth, plain = (model_loss(make_model(), params, inputs, s)[0] for s in (0.2, 0.0))
  trained, (_, scores) = jax.jit(value)(params, one), jax.jit(task.score)(params, (), one)
  scored = scores["loss"]
  read, labels = one["targets"][:-1], one["targets"][1:]
  likeliest = np.argmax(reference_logits(make_model(), params, one["tokens"], LENGTHS, read)[0], -1)
  np.testing.assert_allclose(scores["accuracy"], ((weights * (likeliest == labels)).sum(), 4 + 2))
  np.testing.assert_allclose(trained, (smooth, 4 + 2), rtol=1e-5)
  np.testing.assert_allclose(scored, (plain, 4 + 2), rtol=1e-5)
  init = jax.eval_shape(task.init, KEY, one)
  assert jax.tree.map(jnp.shape, init) == jax.tree.map(jnp.shape, params)


TEXTS = ["low lower", "slow", "we lost a row of low owls", "a", "well , we are slower", "o l w"]


@functools.cache
def make_predictor(seed=6, scale=3, bias=6.0, sizes=(30, 26), **how):
  """A rewriter whose texts end, its parameters drawn; `bias` is its wish to end."""
  source, target = (Tokenizer.train(TEXTS, size) for size in sizes)
  model = make_model(len(source), len(target), **how)
  inputs = append_end(source.encode("a"))[:, None], np.array([2]), np.full((3, 1), BOS)
  init = jax.jit(model.init)(KEY, *inputs, np.ones((2, 1), np.float32))
  params = jax.tree.map(lambda p: scale * p, random_params_like(init["params"], seed))
  b = params["softmax"]["b"].at[EOS].add(bias)
  return Seq2SeqPredictor(model, params | {"softmax": {"b": b}}, source, target)


@pytest.fixture(scope="module")
def predictor():
  return make_predictor()


def test_predictions_keep_text_order(predictor):
  """In company as alone, though batches come by length."""
  together = predictor(TEXTS)
  assert len({*together}) > 4 and all(together)
  assert predictor(TEXTS[::-1]) == together[::-1]
  assert predictor(TEXTS, batch=4) == together
  for text, written in list(zip(TEXTS, together))[1::2]:
    assert predictor([text]) == [written]


def test_unending_output_independent_of_batch():
  """How much is written of a text hangs on itself alone."""
  endless, texts = make_predictor(bias=-1e9), ["a", "low lower owls " * 9]
  assert endless(texts, width=1)[0] == endless(texts[:1], width=1)[0]


def test_predictor_width_one_equals_greedy():
  """Where longer texts gain nothing: the likeliest word, and then the likeliest, until the end."""
  rewriter = make_predictor(5, 2, 2.0)
  found = rewriter(TEXTS, width=1, length_penalty=0.0)
  for text, written in list(zip(TEXTS, found))[2:5:2]:
    ids = []
    while (word := int(np.argmax(predictor_logits(rewriter, text, ids)[-1]))) != EOS:
      ids.append(word)
    assert written == rewriter.target_tokenizer.decode(ids) and len(ids) > 2


def predictor_logits(rewriter, text, ids):
  """Logits [len(ids) + 1, V] after BEGIN and each of ids."""
  source = append_end(rewriter.source_tokenizer.encode(text))
  tokens, read = np.zeros(40, int), np.zeros(40, int)
  tokens[: len(source)], read[: len(ids) + 1] = source, [BOS, *ids]
  given = tokens[:, None], np.array([len(source)]), read[:, None]
  return reference_logits(rewriter.model, rewriter.params, *given)[0][: len(ids) + 1, 0]


def test_attention_matrix_and_labels(predictor):
  """A row for each written piece, which sums to one over the pieces read, as by hand."""
  text, written = TEXTS[2], "slower жу , owl"
  across, down, α = predictor.tokens_and_attention(text, predictor.target_tokenizer.encode(written))
  assert across == [*predictor.source_tokenizer.tokenize(text), "⏎"]
  own = predictor.target_tokenizer.tokenize(written)
  assert down == [
    *(piece if piece in predictor.target_tokenizer.tokens else "<unk>" for piece in own),
    "⏎",
  ]
  assert "<unk>" in down and α.shape == (len(down), len(across))
  np.testing.assert_allclose(α.sum(1), 1, atol=1e-5)
  tokens, read = (
    append_end(predictor.source_tokenizer.encode(text)),
    [BOS, *predictor.target_tokenizer.encode(written)],
  )
  given = tokens[:, None], np.array([len(tokens)]), np.array(read)[:, None]
  _, expected = reference_logits(predictor.model, predictor.params, *given)
  np.testing.assert_allclose(α, expected[..., 0], atol=1e-6)


def test_attention_of_empty_output(predictor):
  """What is left is the end."""
  across, down, α = predictor.tokens_and_attention("a", np.array([], int))
  assert down == ["⏎"] and α.shape == (1, len(across))


def test_unknown_words_are_copied_from_source():
  """From where it attended most among the unknown; what cannot copy says that it does not know."""
  copying, text = make_predictor(sizes=(30, 30), copy=True), "low жlow эa owl"
  written = np.array([UNKNOWN, *copying.target_tokenizer.encode("low"), UNKNOWN])
  source = append_end(copying.source_tokenizer.encode(text))
  here, there = np.flatnonzero(source == UNKNOWN)
  α = copying.attention_weights(source, written)
  chosen = ["жэ"[int(α[t, there] > α[t, here])] for t in (0, len(written) - 1)]
  assert copying.decode(text, written) == f"{chosen[0]} low{chosen[1]}"
  assert copying.decode("low", written) == "<unk> low<unk>"
  assert make_predictor().decode(text, written[:1]) == "<unk>"


def test_coverage_penalty_increases_coverage():
  """By a coverage penalty that outweighs all else; never less is covered, here and there more."""
  rewriter = make_predictor(4, 2, 2.0, feed=True)
  sources = [append_end(rewriter.source_tokenizer.encode(text)) for text in TEXTS[:6]]

  def covered(**how):
    texts = rewriter.generate(sources, beam_size=5, max_length=12, **how)
    α = [
      rewriter.attention_weights(source, ids)[: len(ids) + 1] for source, ids in zip(sources, texts)
    ]
    return np.array([np.log(np.clip(one.sum(0), 1e-9, 1)).sum() for one in α])

  gain = covered(coverage_penalty=100.0) - covered()
  assert (gain > -1e-4).all() and (gain > 0.1).any(), gain


@pytest.mark.parametrize(
  "texts, options, message",
  [
    ([], {}, "there must be a text"),
    (["a", " \n"], {}, "none may be empty"),
    (["a"], {"width": 27}, "beam must be at most 2., the vocabulary; got 27"),
  ],
)
def test_invalid_texts_raise(predictor, texts, options, message):
  with pytest.raises(InvalidInputError, match=message):
    predictor(texts, **options)


def test_unseen_characters_are_treated_alike(predictor):
  """They are all alike, and no reason to fail."""
  assert predictor(["日本 low"]) == predictor(["жу low"])


def test_very_long_text():
  """As much is written as may be, though the model cannot end its text."""
  endless = make_predictor(bias=-1e9)
  (written,) = endless(["a low owl well , " * 1000], width=1)
  assert len(endless.target_tokenizer.encode(written)) == 100
