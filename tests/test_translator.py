"""A translator: its loss written out, inference as training, and what one may ask it."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import bidirectional, generate, gru, sample, stack
from rnnjax.attention import additive, general
from rnnjax.data.tokenizer import BEGIN, END, Subwords
from rnnjax.data.vocabulary import UNKNOWN
from rnnjax.decoders import decoder
from rnnjax.decoding import beam_search
from rnnjax.models.seq2seq import Source, Translator
from rnnjax.models.seq2seq_predictor import Rewriter, ended
from rnnjax.output_layers import full
from rnnjax.training import tasks
from rnnjax.types import BadInput
from tests.test_tagger import drawn

KEY = jax.random.key(0)
S, T, B, V, W = 5, 4, 3, 9, 8
LENGTHS, ENDS = np.array([5, 2, 3]), np.array([5, 3, 4])
WEIGHTS = (np.arange(1, T + 1)[:, None] < ENDS) * np.array([1, 0.5, 2], np.float32)

every = pytest.mark.parametrize(
  "how", [{}, {"feed": True}, {"copy": True, "target": V}], ids=["plain", "fed", "copy"]
)


@functools.cache
def made(source=V, target=W, feed=False, **options):
  how = {"attention": additive(3, coverage=True) if feed else general(), "feed": feed}
  return Translator(
    nn.Embed(source, 3),
    nn.Embed(target, 4),
    stack(bidirectional(gru(2), gru(2))),
    decoder(gru(4), **how),
    full(target),
    **options,
  )


def given(seed=0):
  """tokens [S, B], lengths, targets [T + 1, B] that begin with BEGIN, and weights."""
  draw = np.random.default_rng(seed)
  targets = draw.integers(0, W, (T + 1, B))
  targets[0] = BEGIN
  return draw.integers(0, V, (S, B)), LENGTHS, targets, WEIGHTS


@functools.cache
def parameters(**how):
  return drawn(jax.jit(made(**how).init)(KEY, *given())["params"])


@functools.partial(jax.jit, static_argnums=(0, 3))
def loss_of(model, params, inputs, smoothing=0.0, key=None):
  return model.apply({"params": params}, *inputs, smoothing, key)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, params, tokens, lengths, read):
  """Logits [T, B, W] of what follows each token read, and α, without the module."""
  carry, hs = model.encoder.apply(params["encoder"], params["source"]["embedding"][tokens], lengths)
  memory = model.decoder.remember(params["decoder"], hs, lengths)
  carry = model.decoder.start(params["decoder"], model.encoder.last(carry), memory)
  xs = params["target"]["embedding"][read]
  _, ys, α = model.decoder.apply(params["decoder"], xs, memory, carry=carry)
  ys = ys @ params["narrow"]["kernel"]
  logits = ys @ params["target"]["embedding"].T + params["softmax"]["b"]
  if not model.copy:
    return logits, α
  g = jax.nn.sigmoid(ys @ params["gate"]["kernel"] + params["gate"]["bias"])
  copied = jnp.einsum("tsb,sbw->tbw", α, jax.nn.one_hot(tokens, V))
  return jnp.log(g * jax.nn.softmax(logits) + (1 - g) * copied), α


def log_p(logits):
  logits = np.float64(logits)
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def nats(logits, labels, weights):
  """−Σ weights · log p(label), word by word."""
  p = log_p(logits)
  return -sum(weights[place] * p[(*place, labels[place])] for place in np.ndindex(labels.shape))


@every
def test_the_loss(how):
  """Σ −log softmax of the true words, by their weights."""
  model, params, (tokens, lengths, targets, weights) = made(**how), parameters(**how), given()
  logits, α = logits_of(model, params, tokens, lengths, targets[:-1])
  total, found = loss_of(model, params, given())
  np.testing.assert_allclose(total, nats(logits, targets[1:], weights), rtol=1e-5)
  np.testing.assert_allclose(found, α, atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"copy": True, "target": V}], ids=["plain", "copy"])
def test_label_smoothing(how):
  """It is the cross entropy to the smoothed truth."""
  model, params, (tokens, lengths, targets, weights) = made(**how), parameters(**how), given()
  logits, _ = logits_of(model, params, tokens, lengths, targets[:-1])
  truth = optax.smooth_labels(jax.nn.one_hot(targets[1:], logits.shape[-1]), 0.3)
  expected = (weights * optax.softmax_cross_entropy(logits, truth)).sum()
  total, _ = loss_of(model, params, given(), 0.3)
  np.testing.assert_allclose(total, expected, rtol=1e-5)


@every
def test_in_use_as_in_training(how):
  """Fed the truth, word by word or in pieces, `read` says what teacher forcing did."""
  model, params, (tokens, lengths, targets, _) = made(**how), parameters(**how), given()
  expected = log_p(logits_of(model, params, tokens, lengths, targets[:-1])[0])
  memory, start = model.apply({"params": params}, tokens, lengths, method="remember")
  known = Source(params, tokens, memory)
  read = jax.jit(lambda part, carry: model.read(known, part, None, carry))
  for cuts in ((1, 2, 3), (2,)):
    carry = start
    ends = [*cuts, T]
    for end, part in zip(ends, np.split(targets[:-1], cuts), strict=True):
      carry, logits = read(part, carry)
      np.testing.assert_allclose(log_p(logits), expected[end - 1], atol=1e-5)


@every
def test_a_beam_of_one_is_greedy(how):
  """The same words up to the end as `generate` takes by the likeliest."""
  model, params = made(**how), jax.tree.map(lambda p: 2 * p, parameters(**how))
  tokens, lengths = np.random.default_rng(3).integers(0, V, (S, 12)), np.tile(LENGTHS, 4)
  memory, carry = jax.jit(functools.partial(model.apply, method="remember"))(
    {"params": params}, tokens, lengths
  )
  known, first = Source(params, tokens, memory), np.full(12, BEGIN)
  _, rows = generate(model.read, known, first[None], KEY, steps=9, carry=carry, choose=sample(0.0))
  rows = np.where(np.cumsum(rows == END, 0) > 0, END, rows)
  assert len({*map(tuple, rows.T)}) > 1
  found = beam_search(model.read, known, carry, first, width=1, steps=9, end=END)
  np.testing.assert_array_equal(found.tokens[0], rows)


@pytest.mark.parametrize("how", [{}, {"copy": True, "target": V}], ids=["plain", "copy"])
def test_scheduled_sampling_reads_guesses(how):
  """At a rate of almost 1 all of them; between, each word is the truth or its guess."""
  tokens, lengths, targets, _ = (x[..., :1] for x in given())
  inputs = tokens, lengths, targets, np.ones((T, 1), np.float32)
  params = jax.tree.map(lambda p: 2 * p, parameters(**how))
  if how:  # what it would say by itself is not what it would copy
    params["gate"]["bias"] -= 6
  logits = lambda read: logits_of(made(**how), params, tokens, lengths, read)[0]
  read = targets[:-1]
  guess = np.argmax(logits(read), -1)[:-1]
  targets[1:-1] = read[1:] = (guess + np.arange(1, T)[:, None]) % W
  guess = np.argmax(logits(read), -1)[:-1]
  by_choice = {}
  for own in itertools.product([False, True], repeat=T - 1):
    mixed = np.concatenate([read[:1], np.where(np.array(own)[:, None], guess, read[1:])])
    by_choice[own] = nats(logits(mixed), targets[1:], inputs[3])
  values = np.array([*by_choice.values()])
  assert np.diff(np.sort(values)).min() > 1e-3
  total = lambda rate, key=KEY: loss_of(made(sampled=rate, **how), params, inputs, 0.0, key)[0]
  never, always = values[0], values[-1]
  np.testing.assert_allclose([total(0.0), total(0.9, None), total(1e-9)], never, rtol=1e-5)
  np.testing.assert_allclose(total(1 - 1e-9), always, rtol=1e-5)
  found = [total(0.5, jax.random.key(seed)) for seed in range(100)]
  nearest = [int(abs(values - value).argmin()) for value in found]
  np.testing.assert_allclose(found, values[nearest], rtol=1e-5)
  assert {*nearest} == {*range(len(values))}


@pytest.mark.parametrize("kind", ["dropout", "word_dropout"])
def test_dropout_needs_a_key(kind):
  """Each kind acts where a key is given, the same for the same key, and not without."""
  total = lambda model, key: float(loss_of(model, parameters(), given(), 0.0, key)[0])
  plain, model = made(), made(**{kind: 0.5})
  assert total(plain, None) == pytest.approx(total(plain, KEY)) == total(model, None)
  one, again, other = (total(model, jax.random.key(seed)) for seed in (1, 1, 2))
  assert one == again and len({one, other, total(plain, None)}) == 3


def batch(seed=0):
  tokens, lengths, targets, _ = given(seed)
  return {
    "tokens": tokens,
    "lengths": lengths,
    "targets": targets,
    "target_lengths": ENDS,
    "weights": np.array([1, 1, 0], np.float32),
  }


def test_the_task():
  """Nats per word of the rows that weigh; neither padding nor other rows count, not in gradients.

  Smoothing is of training only.
  """
  task, params = tasks.rewriting(made(), smoothing=0.2), parameters()
  one, other = batch(), batch(1)
  live = lambda ends, n: (np.arange(n)[:, None] < ends) & (one["weights"] > 0)
  for name, ends in ("tokens", LENGTHS), ("targets", ENDS):
    other[name] = np.where(live(ends, len(one[name])), one[name], other[name])
  value = lambda params, batch: task.loss(params, (), batch, None)[1]["loss"]
  both = jax.jit(jax.value_and_grad(lambda *given: value(*given).total))
  found, others = (both(params, rows) for rows in (one, other))
  jax.tree.map(np.testing.assert_array_equal, found, others)
  weights = (WEIGHTS > 0) * one["weights"]
  inputs = one["tokens"], LENGTHS, one["targets"], weights
  smooth, plain = (loss_of(made(), params, inputs, s)[0] for s in (0.2, 0.0))
  trained, (_, scores) = jax.jit(value)(params, one), jax.jit(task.score)(params, (), one)
  scored = scores["loss"]
  read, labels = one["targets"][:-1], one["targets"][1:]
  likeliest = np.argmax(logits_of(made(), params, one["tokens"], LENGTHS, read)[0], -1)
  np.testing.assert_allclose(scores["accuracy"], ((weights * (likeliest == labels)).sum(), 4 + 2))
  np.testing.assert_allclose(trained, (smooth, 4 + 2), rtol=1e-5)
  np.testing.assert_allclose(scored, (plain, 4 + 2), rtol=1e-5)
  init = jax.eval_shape(task.init, KEY, one)
  assert jax.tree.map(jnp.shape, init) == jax.tree.map(jnp.shape, params)


TEXTS = ["low lower", "slow", "we lost a row of low owls", "a", "well , we are slower", "o l w"]


@functools.cache
def asked(seed=6, scale=3, bias=6.0, sizes=(30, 26), **how):
  """A rewriter whose texts end, its parameters drawn; `bias` is its wish to end."""
  source, target = (Subwords.train(TEXTS, size) for size in sizes)
  model = made(len(source), len(target), **how)
  inputs = ended(source.encode("a"))[:, None], np.array([2]), np.full((3, 1), BEGIN)
  init = jax.jit(model.init)(KEY, *inputs, np.ones((2, 1), np.float32))
  params = jax.tree.map(lambda p: scale * p, drawn(init["params"], seed))
  b = params["softmax"]["b"].at[END].add(bias)
  return Rewriter(model, params | {"softmax": {"b": b}}, source, target)


@pytest.fixture(scope="module")
def rewriter():
  return asked()


def test_texts_keep_their_order(rewriter):
  """In company as alone, though batches come by length."""
  together = rewriter(TEXTS)
  assert len({*together}) > 4 and all(together)
  assert rewriter(TEXTS[::-1]) == together[::-1]
  assert rewriter(TEXTS, batch=4) == together
  for text, written in list(zip(TEXTS, together))[1::2]:
    assert rewriter([text]) == [written]


def test_company_does_not_matter_to_what_never_ends():
  """How much is written of a text hangs on itself alone."""
  endless, texts = asked(bias=-1e9), ["a", "low lower owls " * 9]
  assert endless(texts, width=1)[0] == endless(texts[:1], width=1)[0]


def test_a_width_of_one_is_greedy():
  """Where longer texts gain nothing: the likeliest word, and then the likeliest, until the end."""
  rewriter = asked(5, 2, 2.0)
  found = rewriter(TEXTS, width=1, length_penalty=0.0)
  for text, written in list(zip(TEXTS, found))[2:5:2]:
    ids = []
    while (word := int(np.argmax(by_hand(rewriter, text, ids)[-1]))) != END:
      ids.append(word)
    assert written == rewriter.target.decode(ids) and len(ids) > 2


def by_hand(rewriter, text, ids):
  """Logits [len(ids) + 1, V] after BEGIN and each of ids."""
  source = ended(rewriter.source.encode(text))
  tokens, read = np.zeros(40, int), np.zeros(40, int)
  tokens[: len(source)], read[: len(ids) + 1] = source, [BEGIN, *ids]
  given = tokens[:, None], np.array([len(source)]), read[:, None]
  return logits_of(rewriter.model, rewriter.params, *given)[0][: len(ids) + 1, 0]


def test_attention(rewriter):
  """A row for each written piece, which sums to one over the pieces read, as by hand."""
  text, written = TEXTS[2], "slower жу , owl"
  across, down, α = rewriter.attention(text, rewriter.target.encode(written))
  assert across == [*rewriter.source.pieces(text), "⏎"]
  own = rewriter.target.pieces(written)
  assert down == [*(piece if piece in rewriter.target.words else "<unk>" for piece in own), "⏎"]
  assert "<unk>" in down and α.shape == (len(down), len(across))
  np.testing.assert_allclose(α.sum(1), 1, atol=1e-5)
  tokens, read = ended(rewriter.source.encode(text)), [BEGIN, *rewriter.target.encode(written)]
  given = tokens[:, None], np.array([len(tokens)]), np.array(read)[:, None]
  _, expected = logits_of(rewriter.model, rewriter.params, *given)
  np.testing.assert_allclose(α, expected[..., 0], atol=1e-6)


def test_attention_to_nothing_written(rewriter):
  """What is left is the end."""
  across, down, α = rewriter.attention("a", np.array([], int))
  assert down == ["⏎"] and α.shape == (1, len(across))


def test_what_is_copied_of_the_unknown_is_spelt_as_it_stands():
  """From where it attended most among the unknown; what cannot copy says that it does not know."""
  copying, text = asked(sizes=(30, 30), copy=True), "low жlow эa owl"
  written = np.array([UNKNOWN, *copying.target.encode("low"), UNKNOWN])
  source = ended(copying.source.encode(text))
  here, there = np.flatnonzero(source == UNKNOWN)
  α = copying.look(source, written)
  chosen = ["жэ"[int(α[t, there] > α[t, here])] for t in (0, len(written) - 1)]
  assert copying.spell(text, written) == f"{chosen[0]} low{chosen[1]}"
  assert copying.spell("low", written) == "<unk> low<unk>"
  assert asked().spell(text, written[:1]) == "<unk>"


def test_what_attends_to_all_there_is_gains():
  """By a coverage penalty that outweighs all else; never less is covered, here and there more."""
  rewriter = asked(4, 2, 2.0, feed=True)
  sources = [ended(rewriter.source.encode(text)) for text in TEXTS[:6]]

  def covered(**how):
    texts = rewriter.write(sources, width=5, steps=12, **how)
    α = [rewriter.look(source, ids)[: len(ids) + 1] for source, ids in zip(sources, texts)]
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
def test_what_it_refuses(rewriter, texts, options, message):
  with pytest.raises(BadInput, match=message):
    rewriter(texts, **options)


def test_characters_never_seen(rewriter):
  """They are all alike, and no reason to fail."""
  assert rewriter(["日本 low"]) == rewriter(["жу low"])


def test_five_thousand_words():
  """As much is written as may be, though the model cannot end its text."""
  endless = asked(bias=-1e9)
  (written,) = endless(["a low owl well , " * 1000], width=1)
  assert len(endless.target.encode(written)) == 100
