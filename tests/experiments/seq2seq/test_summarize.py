"""Summarization: the pointer-generator, ROUGE, baselines and a run."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rouge_score import rouge_scorer

from experiments import summarize
from experiments.common import runner
from experiments.seq2seq import data as pairs_data
from experiments.summarize import Config
from rnnjax import attention, bidirectional, gru, stack
from rnnjax.decoders import decoder
from rnnjax.models.seq2seq import Seq2Seq
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

S, T, B, V = 5, 4, 3, 9
TINY = dict(
  dataset="embedded",
  hidden_size=8,
  embed_dim=8,
  vocab_size=300,
  batch_size=64,
  epochs=1,
  beam_size=2,
)


def test_rouge_on_small_example():
  """Six of seven predicted words are right, none is missing: recall 1, precision 6/7, F1 12/13."""
  scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
  true, written = "we like walking in the rain", "we always like walking in the rain"
  for score in scorer.score(true, written).values():
    assert (score.recall, score.precision) == (1, 6 / 7)
    assert score.fmeasure == pytest.approx(12 / 13)
  scores = summarize.rouge_scores([written], [("", true)])
  assert scores["rouge1"] == scores["rougeL"] == pytest.approx(12 / 13)
  assert scores["rouge2"] == pytest.approx(2 * 4 / 11)  # 4 of 5 bigrams, 4 of 6


@pytest.fixture(scope="module")
def pointer_generator():
  """A pointer-generator with large random weights: (model, params, batch)."""
  table, rng = nn.Embed(V, 6), np.random.default_rng(0)
  coverage_decoder = decoder(
    gru(8), attention=attention.additive_attention(5, use_coverage=True), input_feeding=True
  )
  encoder = stack(bidirectional(gru(4), gru(4)))
  model = Seq2Seq(table, table, encoder, coverage_decoder, full_softmax(V), copy_attention=True)
  batch = {
    "tokens": rng.integers(2, V, (S, B)).astype(np.int32),
    "lengths": np.array([5, 3, 4], np.int32),
    "targets": rng.integers(2, V, (T + 1, B)).astype(np.int32),
    "target_lengths": np.array([5, 2, 4], np.int32),
    "weights": np.array([1, 1, 0], np.float32),
  }
  params = jax.jit(tasks.seq2seq_task(model).init)(jax.random.key(0), batch)
  params = jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 1.0, p.shape), jnp.float32), params)
  return model, params, batch


def next_token_log_probs(model, params, batch):
  """Return log p [T, B, V] of each next token, computed step by step as in decoding."""
  variables = {"params": params}
  memory, carry = model.apply(variables, batch["tokens"], batch["lengths"], method="encode")
  log_probs = []
  for t in range(T):
    tokens = batch["targets"][t : t + 1]
    carry, log_p = model.apply(
      variables, batch["tokens"], memory, tokens, carry, method="next_logits"
    )
    log_probs.append(np.asarray(log_p))
  return np.array(log_probs)


def test_copy_and_generate_probabilities_sum_to_one(pointer_generator):
  """The mixture of generating and copying is a distribution, padded sources included."""
  p = np.exp(next_token_log_probs(*pointer_generator))
  np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)


def test_training_loss_equals_stepwise_log_probs(pointer_generator):
  """The loss is −log p of the target tokens; padding and rows of weight 0 are excluded."""
  model, params, batch = pointer_generator
  log_probs = next_token_log_probs(*pointer_generator)
  positions = [(t, b) for b in range(2) for t in range(batch["target_lengths"][b] - 1)]
  expected = -sum(log_probs[t, b, batch["targets"][t + 1, b]] for t, b in positions)
  _, scores = tasks.seq2seq_task(model).score(params, (), batch)
  np.testing.assert_allclose(scores["loss"].total, expected, rtol=1e-5)
  assert scores["loss"].weight == len(positions)


def test_copy_probability_equals_attention(pointer_generator):
  """With a closed gate, p(word) is the sum of α over the word's positions in the source."""
  model, params, batch = pointer_generator
  params = params | {"gate": {"kernel": jnp.zeros((6, 1)), "bias": jnp.array([-50.0])}}
  ones = np.ones((T, B), np.float32)
  inputs = batch["tokens"], batch["lengths"], batch["targets"], ones
  _, α = model.apply({"params": params}, *inputs)
  expected = np.zeros((T, B, V))
  for t, s, b in np.ndindex(T, S, B):
    expected[t, b, batch["tokens"][s, b]] += α[t, s, b]
  np.testing.assert_allclose(
    np.exp(next_token_log_probs(model, params, batch)), expected, atol=1e-5
  )


def test_coverage_loss_penalizes_repeated_attention(pointer_generator):
  """With λ = 2 the loss grows by 2 Σ min(α, c) over the target tokens."""
  model, params, batch = pointer_generator
  inputs = batch["tokens"], batch["lengths"], batch["targets"], np.ones((T, B), np.float32)
  α = np.asarray(model.apply({"params": params}, *inputs)[1])
  before = np.cumsum(α, 0) - α
  penalty = sum(
    np.minimum(α, before)[t, :, b].sum()
    for b in range(2)
    for t in range(batch["target_lengths"][b] - 1)
  )

  def loss(λ):
    task = tasks.seq2seq_task(model, coverage_weight=λ)
    return task.loss(params, (), batch, None)[1]["loss"].total

  np.testing.assert_allclose(loss(2.0) - loss(0.0), 2 * penalty, rtol=1e-4)


def test_baselines_on_small_example():
  """The first k words with the best k, the most common title, and that of the nearest text."""
  train = [("red shoes pinch", "too small"), ("blue dress fits", "love it"), ("a hat", "love it")]
  valid = [("nice warm coat it is", "nice warm coat")]
  test = [("red shoes again", "red shoes"), ("some hat", "love it")]
  scores = summarize.baseline_scores(pairs_data.PairDataset("", train, valid, test))
  first_3_words = (2 * (2 / 3) / (1 + 2 / 3) + 0) / 2  # "red shoes again", "some hat"
  assert scores["first_3_words/rougeL"] == pytest.approx(first_3_words)
  assert scores["commonest/rougeL"] == pytest.approx(0.5)
  assert scores["nearest/rougeL"] == pytest.approx(0.5)


def test_run_scores_and_loaded_predictions(tmp_path):
  """Scores are those of the written predictions; --predict gives the same; other runs raise."""
  workdir = tmp_path / "run"
  scores = summarize.run(Config(**TINY, workdir=str(workdir)))
  text = pairs_data.load("embedded", "", "", "", "summaries")
  lines = [json.loads(line) for line in (workdir / "written.jsonl").read_text().splitlines()]
  written = [line["written"] for line in lines]
  assert [(line["source"], line["target"]) for line in lines] == text.test
  rouge = summarize.rouge_scores(written, text.test)
  assert scores["test/rougeL"] == pytest.approx(rouge["rougeL"])
  json.dumps(scores)
  prediction = summarize.run(Config(workdir=str(workdir), predict=text.test[0][0], beam_size=2))
  assert prediction["written"] == written[0]
  with pytest.raises(InvalidInputError, match="--predict must be a text"):
    summarize.run(Config(workdir=str(workdir), predict=" "))
  with pytest.raises(InvalidInputError, match="another experiment"):
    runner.load_run(Config, str(workdir), "lexicon")


@pytest.mark.parametrize("flags", [{"shared_vocab": False}, {"attention": "none"}], ids=str)
def test_copy_requires_shared_vocab_and_attention(flags):
  with pytest.raises(InvalidInputError, match="--copy_attention needs --shared_vocab"):
    summarize.run(Config(**TINY | flags))
