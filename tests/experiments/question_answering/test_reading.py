"""Question answering: generated stories, bAbI files, the memory network and a run."""

import json
import re
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import reading
from experiments.question_answering import data as babi_data
from experiments.question_answering.data import Question
from experiments.question_answering.model import MemoryNetwork
from experiments.reading import Config
from rnnjax import attention, forward, gru
from rnnjax.models import embedding
from rnnjax.types import InvalidInputError

TINY = dict(dataset="embedded", hidden_size=8, embed_dim=8, num_hops=2, epochs=1, batch_size=64)
STORY = "1 Ann went home.\n2 Where is Ann? \thome\t1\n3 Ben left.\n4 Who left?\tBen, Ann\t3 1\n"


def replay_story(question):
  """Return the answer by simulating the story."""
  person_place, holder, thing_places = {}, None, []
  for words in question.story:
    sentence = " ".join(words)
    if match := re.fullmatch(r"(\w+) (?:is in|goes to) the (\w+)", sentence):
      person_place[match[1]] = match[2]
    elif match := re.fullmatch(r"(\w+) has the \w+|\w+ throws the \w+ to (\w+)", sentence):
      holder = match[1] or match[2]
    else:
      raise AssertionError(sentence)
    if holder and thing_places[-1:] != [person_place[holder]]:
      thing_places.append(person_place[holder])
  if question.task == 1:
    return person_place[question.words[-1]]
  return thing_places[-1] if question.task == 2 else thing_places[-2]


def test_synthetic_answers_follow_from_stories():
  dataset = babi_data.load("embedded", "")
  for split in dataset[1:]:
    assert {question.task for question in split} == {1, 2, 3}
    assert all(replay_story(question) == question.answer for question in split)
  assert dataset == babi_data.load("embedded", "")


def write_stories(path, test=STORY, **more):
  path.mkdir(exist_ok=True, parents=True)
  (path / "qa1_one_train.txt").write_text(STORY * 20)
  (path / "qa1_one_test.txt").write_text(test * 2)
  for name, text in more.items():
    (path / f"{name}.txt").write_text(text)
  return path


def test_questions_from_files(tmp_path, caplog):
  """A question has the sentences before it; the last tenth of the stories is the validation set."""
  path = write_stories(tmp_path / "en", qa7_more_train=STORY)
  dataset = babi_data.load("auto", str(path))
  first = Question(1, [["ann", "went", "home"]], ["where", "is", "ann"], "home")
  sentences = [["ann", "went", "home"], ["ben", "left"]]
  second = Question(1, sentences, ["who", "left"], "Ben, Ann")
  assert dataset.test[:2] == [first, second]
  assert [len(split) for split in dataset[1:]] == [36, 4, 4]
  assert "task 7 is skipped: it has only a train file" in caplog.text


def test_language_folder_in_archive(tmp_path):
  """--subset selects a folder; the error for an unknown one lists the folders."""
  write_stories(tmp_path / "pack" / "en")
  write_stories(tmp_path / "pack" / "de", STORY * 2)
  with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
    archive.add(tmp_path / "pack", "pack")
  assert len(babi_data.load("files", str(tmp_path / "a.tar.gz"), "de").test) == 8
  with pytest.raises(InvalidInputError, match=r"named 'fr'; such files are in \['de', 'en'\]"):
    babi_data.load("files", str(tmp_path / "a.tar.gz"), "fr")


@pytest.mark.parametrize(
  "test, message",
  [
    ("Ann went home.\n", r"qa1_one_test\.txt:1 must be like .* got 'Ann went home\.'"),
    ("2 Ann went home.\n", r"qa1_one_test\.txt:1 must be like .* with numbers from 1"),
    ("01 Ann went home.\n", r"qa1_one_test\.txt:1 must be like"),
    ("1 Where?\thome\tx\n", r"qa1_one_test\.txt:1 must be like"),
    ("1 Where?\thome\t\n", r"qa1_one_test\.txt:1 is a question before any sentence"),
    ("1 Ann went home.\n", r"qa1_one_test\.txt must hold at least two stories with questions"),
  ],
)
def test_invalid_files_raise(tmp_path, test, message):
  with pytest.raises(InvalidInputError, match=message):
    babi_data.load("files", str(write_stories(tmp_path / "en", test)))


def test_two_files_for_one_split_raise(tmp_path):
  with pytest.raises(InvalidInputError, match=r"qa01_x_train.* and .*qa1_one_train.* are both"):
    babi_data.load("files", str(write_stories(tmp_path / "en", qa01_x_train=STORY)))


def test_model_equals_reference():
  """Logits and α equal a row by row computation without padding, from the parameters' names."""
  S, W, U, hops = 4, 3, 5, 2
  rng = np.random.default_rng(0)
  model = MemoryNetwork(
    embedding.trainable_embedding(9, 6),
    forward(gru(5)),
    forward(gru(7)),
    attention.general_attention(),
    3,
    hops,
  )
  story, question = rng.integers(1, 9, (S, 2, W)), rng.integers(1, 9, (U, 2))
  story[1, 0, 2:] = story[2, 1, 1:] = 0
  lengths, ends = np.array([4, 3]), np.array([5, 2])
  shapes = jax.eval_shape(model.init, jax.random.key(0), story, lengths, question, ends)
  params = jax.tree.map(
    lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape), jnp.float32), shapes["params"]
  )
  logits, α = model.apply(
    {"params": params}, story, lengths, question, ends, method="logits_and_attention"
  )

  def dense(name, x):
    return x @ params[name]["kernel"] + params[name]["bias"]

  def encode(encoder, name, xs):
    return encoder.apply(params[name], jnp.stack(xs)[:, None])[1][:, 0]

  def sentence(ids):
    return encode(model.sentence_encoder, "sentence", params["embedding"]["embedding"][ids]).mean(0)

  for b in range(2):
    f = [sentence(row[row > 0]) for row in story[: lengths[b], b]]
    q = question_vector = sentence(question[: ends[b], b])
    for k in range(hops):
      hs = encode(
        model.story_encoder, "story", [jnp.concatenate([s, s * q, abs(s - q)]) for s in f]
      )
      weights = jax.nn.softmax(hs @ params[f"attention_{k}"]["W"].T @ q)
      np.testing.assert_allclose(α[k, : lengths[b], b], weights, rtol=1e-4, atol=1e-6)
      q = jax.nn.relu(
        dense(f"hop_{k}", jnp.concatenate([q, weights @ hs, hs[-1], question_vector]))
      )
    expected = dense("answers", jnp.concatenate([question_vector, q]))
    np.testing.assert_allclose(logits[b], expected, rtol=1e-4, atol=1e-5)


def test_run_accuracy_is_mean_over_tasks(tmp_path):
  """The test accuracy is the mean of the tasks' accuracies, weighted by their questions."""
  scores = reading.run(Config(**TINY, workdir=str(tmp_path)))
  questions = babi_data.load("embedded", "").test
  counts = {n: sum(question.task == n for question in questions) for n in (1, 2, 3)}
  mean = sum(scores[f"test/task_{n}"] * count for n, count in counts.items()) / len(questions)
  assert scores["test/accuracy"] == pytest.approx(mean)
  json.dumps(scores)
