"""Question answering on short stories: the bAbI tasks.

python -m experiments.reading                                          # trains on generated stories
python -m experiments.reading --preset=1k --data_dir=tasks_1-20_v1-2_en.tar.gz --workdir=runs/babi
python -m experiments.reading --preset=10k --data_dir=tasks_1-20_v1-2_en.tar.gz
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np

from experiments.common import cli, runner, train_config
from experiments.common.cells import make_cell
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.question_answering import data as babi_data
from experiments.question_answering.model import MemoryNetwork
from rnnjax import attention, bidirectional, training
from rnnjax.analysis import figures
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.files import DATASETS
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.models import embedding
from rnnjax.training import tasks

PRESETS = {
  "1k": dict(subset="en", epochs=8, learning_rate=2e-3),
  "10k": dict(subset="en-10k", epochs=3, learning_rate=2e-3),
}
# Accuracy of an LSTM on tasks 1 to 20 with 1,000 questions each, in percent (Weston et al. 2015).
PUBLISHED_LSTM = 50, 20, 20, 61, 70, 48, 49, 45, 64, 44, 72, 74, 94, 27, 21, 23, 51, 52, 8, 91
INPUT_KEYS = ("tokens", "lengths", "targets", "target_lengths")


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  """Configuration of the reading experiment; each field is a command-line flag."""

  dataset: str = field_spec("auto", "source of the stories", DATASETS)
  subset: str = field_spec("en", "subfolder to read if --data_dir has several")
  cell: str = "gru"
  hidden_size: int = 64
  batch_size: int = 32
  learning_rate: float = 5e-3
  epochs: int = 8
  embed_dim: int = field_spec(64, "embedding size", min_value=1)
  num_hops: int = field_spec(3, "attention hops over the story", min_value=1)
  max_sentences: int = field_spec(
    70, "maximum sentences of a story; longer stories keep the last sentences", min_value=1
  )
  dropout: float = field_spec(0.1, "dropout rate of features", **PROBABILITY)


def build(config: Config, vocab_size: int, num_answers: int) -> MemoryNetwork:
  """Build the memory network for the given numbers of words and answers."""
  cell = make_cell(config.cell, config.hidden_size)
  encoder = bidirectional(cell, cell, "sum")
  return MemoryNetwork(
    embedding.trainable_embedding(vocab_size, config.embed_dim),
    encoder,
    encoder,
    attention.general_attention(),
    num_answers,
    config.num_hops,
    config.dropout,
  )


def prepare(config: Config):
  """Load the questions, build the vocabularies, and batch the questions.

  Returns:
    A namespace with
      name: the name of the dataset.
      questions: the test questions.
      words, answers: the vocabulary of words and the vocabulary of answers.
      by_task: {task number: batches of its test questions}.
      train, valid, test: the batches of each split.
  """
  dataset = babi_data.load(config.dataset, config.data_dir, config.subset)
  questions = [*dataset.train, *dataset.valid, *dataset.test]
  words = Vocabulary.from_texts(text for q in dataset.train for text in (*q.story, q.words))
  answers = Vocabulary.from_texts([[q.answer] for q in dataset.train], specials=("<unk>",))
  max_words = max(len(sentence) for q in questions for sentence in q.story)

  def encode_story(story):
    """Return the word ids [S, W] of a story; W is the maximum sentence length."""
    rows = [words.encode(sentence) for sentence in story]
    return np.array([np.pad(ids, (0, max_words - len(ids))) for ids in rows])

  def batches(questions, seed=None):
    return BucketedBatches(
      [encode_story(q.story) for q in questions],
      [answers.encode([q.answer])[0] for q in questions],
      config.batch_size,
      config.max_sentences,
      truncation="last",
      max_buckets=6,
      seed=seed,
      targets=[words.encode(q.words) for q in questions],
    )

  task_numbers = sorted({q.task for q in dataset.test})
  return SimpleNamespace(
    name=dataset.name,
    questions=dataset.test,
    words=words,
    answers=answers,
    by_task={n: batches([q for q in dataset.test if q.task == n]) for n in task_numbers},
    train=batches(dataset.train, config.seed),
    valid=batches(dataset.valid),
    test=batches(dataset.test),
  )


def save_figures(workdir: str, model: MemoryNetwork, params, data):
  """Plot the attention weights of each hop over the sentences of one test story.

  The story is the test story whose number of sentences is closest to 8.
  """
  lengths = [len(question.story) for question in data.questions]
  i = min(range(len(lengths)), key=lambda i: abs(lengths[i] - 8))
  question, story = data.questions[i], data.test.sequences[i]
  question_ids = data.words.encode(question.words)
  forward = jax.jit(functools.partial(model.apply, method="logits_and_attention"))
  _, α = forward(
    {"params": params},
    story[:, None],
    np.array([len(story)]),
    question_ids[:, None],
    np.array([len(question_ids)]),
  )
  sentences = [" ".join(words) for words in question.story]
  hops = [f"{' '.join(question.words)}? hop {k}" for k in range(1, len(α) + 1)]
  path = runner.figure_file(workdir, "attention.png")
  figures.plot_heatmap(path, sentences, hops, np.asarray(α[..., 0]))


def run(config: Config = Config()) -> dict:
  """Train one model on all tasks; return the validation scores and the test score of each task.

  The parameters with the best validation score are evaluated on the test set.
  """
  data = prepare(config)
  model = build(config, len(data.words), len(data.answers))
  task = tasks.classification_task(model, input_names=INPUT_KEYS)
  params, scores = runner.train_and_test(config, task, data, data.name, "cosine")
  mesh = training.make_mesh(config.batch_size, config.mesh)
  for number, batches in data.by_task.items():
    scores[f"test/task_{number}"] = training.evaluate(task, params, batches, mesh)["accuracy"]
  if len(data.by_task) == len(PUBLISHED_LSTM):
    print("task  accuracy  LSTM")
    for n, published in enumerate(PUBLISHED_LSTM, 1):
      print(f"{n:4}  {scores[f'test/task_{n}']:8.3f}  {published / 100:.2f}")
  if config.workdir:
    save_figures(config.workdir, model, params, data)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
