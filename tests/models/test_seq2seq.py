"""Sequence-to-sequence model and its predictor: loss, step-by-step inference, outputs."""

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
from rnnjax.decoding.beam_search import beam_search
from rnnjax.models.seq2seq import EncodedSource, Seq2Seq
from rnnjax.models.seq2seq_predictor import Seq2SeqPredictor, append_end
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError
from tests.random_params import random_params_like

KEY = jax.random.key(0)
S, T, B, V, W = 5, 4, 3, 9, 8
LENGTHS, ENDS = np.array([5, 2, 3]), np.array([5, 3, 4])
WEIGHTS = (np.arange(1, T + 1)[:, None] < ENDS) * np.array([1, 0.5, 2], np.float32)

all_models = pytest.mark.parametrize(
  "options",
  [{}, {"input_feeding": True}, {"copy_attention": True, "target": V}],
  ids=["plain", "fed", "copy"],
)


@functools.cache
def make_model(source=V, target=W, input_feeding=False, **options):
  attention = additive_attention(3, use_coverage=True) if input_feeding else general_attention()
  return Seq2Seq(
    nn.Embed(source, 3),
    nn.Embed(target, 4),
    stack(bidirectional(gru(2), gru(2))),
    decoder(gru(4), attention=attention, input_feeding=input_feeding),
    full_softmax(target),
    **options,
  )


def random_inputs(seed=0):
  """Return tokens [S, B], lengths, targets [T + 1, B] that begin with BOS, and weights."""
  draw = np.random.default_rng(seed)
  targets = draw.integers(0, W, (T + 1, B))
  targets[0] = BOS
  return draw.integers(0, V, (S, B)), LENGTHS, targets, WEIGHTS


@functools.cache
def random_params(**options):
  return random_params_like(jax.jit(make_model(**options).init)(KEY, *random_inputs())["params"])


@functools.partial(jax.jit, static_argnums=(0, 3))
def model_loss(model, params, inputs, smoothing=0.0, key=None):
  return model.apply({"params": params}, *inputs, smoothing, key)


@functools.partial(jax.jit, static_argnums=0)
def reference_logits(model, params, tokens, lengths, decoder_inputs):
  """Return the logits [T, B, W] after each decoder input, and α, without the module."""
  carry, hs = model.encoder.apply(params["encoder"], params["source"]["embedding"][tokens], lengths)
  memory = model.decoder.prepare_memory(params["decoder"], hs, lengths)
  carry = model.decoder.initial_carry(params["decoder"], model.encoder.final_hidden(carry), memory)
  xs = params["target"]["embedding"][decoder_inputs]
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
  """Return −Σ weights · log p(label), computed token by token."""
  p = log_softmax(logits)
  return -sum(weights[index] * p[(*index, labels[index])] for index in np.ndindex(labels.shape))


@all_models
def test_loss_equals_reference(options):
  """The loss is Σ weights · −log softmax of the labels."""
  model, params, (tokens, lengths, targets, weights) = (
    make_model(**options),
    random_params(**options),
    random_inputs(),
  )
  logits, α = reference_logits(model, params, tokens, lengths, targets[:-1])
  total, model_α = model_loss(model, params, random_inputs())
  np.testing.assert_allclose(total, reference_nats(logits, targets[1:], weights), rtol=1e-5)
  np.testing.assert_allclose(model_α, α, atol=1e-6)


@pytest.mark.parametrize(
  "options", [{}, {"copy_attention": True, "target": V}], ids=["plain", "copy"]
)
def test_label_smoothing_equals_optax(options):
  model, params, (tokens, lengths, targets, weights) = (
    make_model(**options),
    random_params(**options),
    random_inputs(),
  )
  logits, _ = reference_logits(model, params, tokens, lengths, targets[:-1])
  labels = optax.smooth_labels(jax.nn.one_hot(targets[1:], logits.shape[-1]), 0.3)
  expected = (weights * optax.softmax_cross_entropy(logits, labels)).sum()
  total, _ = model_loss(model, params, random_inputs(), 0.3)
  np.testing.assert_allclose(total, expected, rtol=1e-5)


@all_models
def test_step_by_step_equals_teacher_forcing(options):
  """`predict_next` of one token or several at a time gives the logits of teacher forcing."""
  model, params, (tokens, lengths, targets, _) = (
    make_model(**options),
    random_params(**options),
    random_inputs(),
  )
  expected = log_softmax(reference_logits(model, params, tokens, lengths, targets[:-1])[0])
  memory, first = model.apply({"params": params}, tokens, lengths, method="encode")
  encoded = EncodedSource(params, tokens, memory)
  predict = jax.jit(lambda inputs, carry: model.predict_next(encoded, inputs, None, carry))
  for cuts in ((1, 2, 3), (2,)):
    carry = first
    ends = [*cuts, T]
    for end, inputs in zip(ends, np.split(targets[:-1], cuts), strict=True):
      carry, logits = predict(inputs, carry)
      np.testing.assert_allclose(log_softmax(logits), expected[end - 1], atol=1e-5)


@all_models
def test_beam_of_one_equals_greedy(options):
  """A beam of one returns the output of a greedy `generate` up to the first end token."""
  model, params = make_model(**options), jax.tree.map(lambda p: 2 * p, random_params(**options))
  tokens, lengths = np.random.default_rng(3).integers(0, V, (S, 12)), np.tile(LENGTHS, 4)
  memory, carry = jax.jit(functools.partial(model.apply, method="encode"))(
    {"params": params}, tokens, lengths
  )
  encoded, first = EncodedSource(params, tokens, memory), np.full(12, BOS)
  _, generated = generate(
    model.predict_next,
    encoded,
    first[None],
    KEY,
    num_tokens=9,
    carry=carry,
    sampler=make_sampler(0.0),
  )
  generated = np.where(np.cumsum(generated == EOS, 0) > 0, EOS, generated)
  assert len({*map(tuple, generated.T)}) > 1
  results = beam_search(
    model.predict_next, encoded, carry, first, beam_size=1, max_length=9, eos_id=EOS
  )
  np.testing.assert_array_equal(results.tokens[0], generated)


@pytest.mark.parametrize(
  "options", [{}, {"copy_attention": True, "target": V}], ids=["plain", "copy"]
)
def test_scheduled_sampling_mixes_targets_and_predictions(options):
  """Each decoder input is the target or the prediction; with probability ≈ 1 the prediction."""
  tokens, lengths, targets, _ = (x[..., :1] for x in random_inputs())
  inputs = tokens, lengths, targets, np.ones((T, 1), np.float32)
  params = jax.tree.map(lambda p: 2 * p, random_params(**options))
  if options:  # a pointer-generator that almost always copies
    params["gate"]["bias"] -= 6
  model = make_model(**options)
  logits = lambda inputs: reference_logits(model, params, tokens, lengths, inputs)[0]
  decoder_inputs = targets[:-1]
  predictions = np.argmax(logits(decoder_inputs), -1)[:-1]
  # Targets that differ from the predictions.
  targets[1:-1] = decoder_inputs[1:] = (predictions + np.arange(1, T)[:, None]) % W
  predictions = np.argmax(logits(decoder_inputs), -1)[:-1]
  values = []
  for replace in itertools.product([False, True], repeat=T - 1):
    replaced = np.where(np.array(replace)[:, None], predictions, decoder_inputs[1:])
    mixed = np.concatenate([decoder_inputs[:1], replaced])
    values.append(reference_nats(logits(mixed), targets[1:], inputs[3]))
  values = np.array(values)
  assert np.diff(np.sort(values)).min() > 1e-3
  total = lambda prob, key=KEY: model_loss(
    make_model(scheduled_sampling_prob=prob, **options), params, inputs, 0.0, key
  )[0]
  never, always = values[0], values[-1]
  np.testing.assert_allclose([total(0.0), total(0.9, None), total(1e-9)], never, rtol=1e-5)
  np.testing.assert_allclose(total(1 - 1e-9), always, rtol=1e-5)
  sampled = [total(0.5, jax.random.key(seed)) for seed in range(100)]
  nearest = [int(abs(values - value).argmin()) for value in sampled]
  np.testing.assert_allclose(sampled, values[nearest], rtol=1e-5)
  assert {*nearest} == {*range(len(values))}


@pytest.mark.parametrize("field", ["dropout", "word_dropout"])
def test_dropout_only_with_key(field):
  """Dropout depends on the key alone, and there is none without a key."""
  total = lambda model, key: float(model_loss(model, random_params(), random_inputs(), 0.0, key)[0])
  plain, model = make_model(), make_model(**{field: 0.5})
  assert total(plain, None) == pytest.approx(total(plain, KEY)) == total(model, None)
  first, repeated, other = (total(model, jax.random.key(seed)) for seed in (1, 1, 2))
  assert first == repeated and len({first, other, total(plain, None)}) == 3


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
  """Loss, gradients and scores do not depend on them; only training smooths the labels."""
  model, params = make_model(), random_params()
  task = tasks.seq2seq_task(model, label_smoothing=0.2)
  batch, other = make_batch(), make_batch(1)
  mask = lambda ends, n: (np.arange(n)[:, None] < ends) & (batch["weights"] > 0)
  for name, ends in ("tokens", LENGTHS), ("targets", ENDS):
    other[name] = np.where(mask(ends, len(batch[name])), batch[name], other[name])
  loss = lambda params, batch: task.loss(params, (), batch, None)[1]["loss"]
  value_and_grad = jax.jit(jax.value_and_grad(lambda *args: loss(*args).total))
  results = (value_and_grad(params, b) for b in (batch, other))
  jax.tree.map(np.testing.assert_array_equal, *results)
  weights = (WEIGHTS > 0) * batch["weights"]
  inputs = batch["tokens"], LENGTHS, batch["targets"], weights
  smooth, plain = (model_loss(model, params, inputs, s)[0] for s in (0.2, 0.0))
  trained, (_, scores) = jax.jit(loss)(params, batch), jax.jit(task.score)(params, (), batch)
  decoder_inputs, labels = batch["targets"][:-1], batch["targets"][1:]
  logits, _ = reference_logits(model, params, batch["tokens"], LENGTHS, decoder_inputs)
  correct = np.argmax(logits, -1) == labels
  np.testing.assert_allclose(scores["accuracy"], ((weights * correct).sum(), 4 + 2))
  np.testing.assert_allclose(trained, (smooth, 4 + 2), rtol=1e-5)
  np.testing.assert_allclose(scores["loss"], (plain, 4 + 2), rtol=1e-5)
  init = jax.eval_shape(task.init, KEY, batch)
  assert jax.tree.map(jnp.shape, init) == jax.tree.map(jnp.shape, params)


TEXTS = ["low lower", "slow", "we lost a row of low owls", "a", "well , we are slower", "o l w"]


@functools.cache
def make_predictor(seed=6, scale=3, bias=6.0, sizes=(30, 26), **options):
  """Return a predictor with random parameters; `bias` is added to the logit of the end token."""
  source, target = (Tokenizer.train(TEXTS, size) for size in sizes)
  model = make_model(len(source), len(target), **options)
  inputs = append_end(source.encode("a"))[:, None], np.array([2]), np.full((3, 1), BOS)
  init = jax.jit(model.init)(KEY, *inputs, np.ones((2, 1), np.float32))
  params = jax.tree.map(lambda p: scale * p, random_params_like(init["params"], seed))
  b = params["softmax"]["b"].at[EOS].add(bias)
  return Seq2SeqPredictor(model, params | {"softmax": {"b": b}}, source, target)


@pytest.fixture(scope="module")
def predictor():
  return make_predictor()


def test_predictions_keep_text_order(predictor):
  """Outputs are in the order of the inputs, and do not depend on the batches by length."""
  outputs = predictor(TEXTS)
  assert len({*outputs}) > 4 and all(outputs)
  assert predictor(TEXTS[::-1]) == outputs[::-1]
  assert predictor(TEXTS, batch_size=4) == outputs
  for text, output in list(zip(TEXTS, outputs))[1::2]:
    assert predictor([text]) == [output]


def test_unending_output_independent_of_batch():
  """The length of an output does not depend on the other texts of the batch."""
  endless, texts = make_predictor(bias=-1e9), ["a", "low lower owls " * 9]
  assert endless(texts, beam_size=1)[0] == endless(texts[:1], beam_size=1)[0]


def test_predictor_beam_of_one_equals_greedy():
  """Without a length penalty the most likely token is taken at every step."""
  predictor = make_predictor(5, 2, 2.0)
  outputs = predictor(TEXTS, beam_size=1, length_penalty=0.0)
  for text, output in list(zip(TEXTS, outputs))[2:5:2]:
    ids = []
    while (token := int(np.argmax(predictor_logits(predictor, text, ids)[-1]))) != EOS:
      ids.append(token)
    assert output == predictor.target_tokenizer.decode(ids) and len(ids) > 2


def predictor_logits(predictor, text, ids):
  """Return the logits [len(ids) + 1, V] after BOS and each of ids."""
  source = append_end(predictor.source_tokenizer.encode(text))
  tokens, decoder_inputs = np.zeros(40, int), np.zeros(40, int)
  tokens[: len(source)], decoder_inputs[: len(ids) + 1] = source, [BOS, *ids]
  inputs = tokens[:, None], np.array([len(source)]), decoder_inputs[:, None]
  return reference_logits(predictor.model, predictor.params, *inputs)[0][: len(ids) + 1, 0]


def test_attention_matrix_and_labels(predictor):
  """There is a row of α for each output piece; it sums to one over the source pieces."""
  text, output = TEXTS[2], "slower жу , owl"
  output_ids = predictor.target_tokenizer.encode(output)
  source_pieces, output_pieces, α = predictor.tokens_and_attention(text, output_ids)
  assert source_pieces == [*predictor.source_tokenizer.tokenize(text), "⏎"]
  pieces = predictor.target_tokenizer.tokenize(output)
  vocabulary = predictor.target_tokenizer.tokens
  assert output_pieces == [*(p if p in vocabulary else "<unk>" for p in pieces), "⏎"]
  assert "<unk>" in output_pieces and α.shape == (len(output_pieces), len(source_pieces))
  np.testing.assert_allclose(α.sum(1), 1, atol=1e-5)
  tokens = append_end(predictor.source_tokenizer.encode(text))
  decoder_inputs = np.array([BOS, *output_ids])
  inputs = tokens[:, None], np.array([len(tokens)]), decoder_inputs[:, None]
  _, expected = reference_logits(predictor.model, predictor.params, *inputs)
  np.testing.assert_allclose(α, expected[..., 0], atol=1e-6)


def test_attention_of_empty_output(predictor):
  """Only the end token has a row."""
  source_pieces, output_pieces, α = predictor.tokens_and_attention("a", np.array([], int))
  assert output_pieces == ["⏎"] and α.shape == (1, len(source_pieces))


def test_unknown_words_are_copied_from_source():
  """<unk> becomes the unknown source piece with the most attention, in pointer-generators only."""
  predictor, text = make_predictor(sizes=(30, 30), copy_attention=True), "low жlow эa owl"
  output_ids = np.array([UNKNOWN, *predictor.target_tokenizer.encode("low"), UNKNOWN])
  source = append_end(predictor.source_tokenizer.encode(text))
  first, second = np.flatnonzero(source == UNKNOWN)
  α = predictor.attention_weights(source, output_ids)
  copied = ["жэ"[int(α[t, second] > α[t, first])] for t in (0, len(output_ids) - 1)]
  assert predictor.decode(text, output_ids) == f"{copied[0]} low{copied[1]}"
  assert predictor.decode("low", output_ids) == "<unk> low<unk>"
  assert make_predictor().decode(text, output_ids[:1]) == "<unk>"


def test_coverage_penalty_increases_coverage():
  """With a large penalty the coverage of no output decreases, and that of some increases."""
  predictor = make_predictor(4, 2, 2.0, input_feeding=True)
  sources = [append_end(predictor.source_tokenizer.encode(text)) for text in TEXTS[:6]]

  def coverage(**options):
    outputs = predictor.generate(sources, beam_size=5, max_length=12, **options)
    scores = []
    for source, ids in zip(sources, outputs):
      α = predictor.attention_weights(source, ids)[: len(ids) + 1]
      scores.append(np.log(np.clip(α.sum(0), 1e-9, 1)).sum())
    return np.array(scores)

  gain = coverage(coverage_penalty=100.0) - coverage()
  assert (gain > -1e-4).all() and (gain > 0.1).any(), gain


@pytest.mark.parametrize(
  "texts, options, message",
  [
    ([], {}, "must be one or more texts"),
    (["a", " \n"], {}, "that are not empty"),
    (["a"], {"beam_size": 27}, "beam_size must be at most the vocabulary size 2.; got 27"),
  ],
)
def test_invalid_texts_raise(predictor, texts, options, message):
  with pytest.raises(InvalidInputError, match=message):
    predictor(texts, **options)


def test_unseen_characters_are_treated_alike(predictor):
  """All characters outside the vocabulary give the same output, and no error."""
  assert predictor(["日本 low"]) == predictor(["жу low"])


def test_very_long_text():
  """If the model never predicts the end token, the output has the maximum length."""
  endless = make_predictor(bias=-1e9)
  (output,) = endless(["a low owl well , " * 1000], beam_size=1)
  assert len(endless.target_tokenizer.encode(output)) == 100
