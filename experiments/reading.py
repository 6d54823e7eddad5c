"""A story and a question in, an answer out: the bAbI tasks.

python -m experiments.reading                                          # generated stories
python -m experiments.reading --preset=1k --data_dir=tasks_1-20_v1-2_en.tar.gz --workdir=runs/babi
python -m experiments.reading --preset=10k --data_dir=tasks_1-20_v1-2_en.tar.gz
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np

from experiments.common import cli, runner, train_config
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
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
# Accuracies of an LSTM on the 1k tasks, in their order: Weston et al. 2015.
PUBLISHED_LSTM = 50, 20, 20, 61, 70, 48, 49, 45, 64, 44, 72, 74, 94, 27, 21, 23, 51, 52, 8, 91
INPUT_KEYS = ("tokens", "lengths", "targets", "target_lengths")


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "which stories", DATASETS)
  subset: str = field_spec("en", "which folder of an archive that has several")
  cell: str = "gru"
  hidden_size: int = 64
  batch_size: int = 32
  learning_rate: float = 5e-3
  epochs: int = 8
  embed_dim: int = field_spec(64, "features of a word", min_value=1)
  num_hops: int = field_spec(3, "how often the question looks at the story", min_value=1)
  max_sentences: int = field_spec(
    70, "sentences of a longer story that are read, its last", min_value=1
  )
  dropout: float = field_spec(0.1, "rate at which features vanish", **PROBABILITY)


def build(config: Config, vocab_size: int, num_answers: int) -> MemoryNetwork:
  """The model alone."""
  cell = CELLS[config.cell](config.hidden_size)
  both = bidirectional(cell, cell, "sum")
  return MemoryNetwork(
    embedding.trainable_embedding(vocab_size, config.embed_dim),
    both,
    both,
    attention.general_attention(),
    num_answers,
    config.num_hops,
    config.dropout,
  )


def prepare(config: Config):
  """The stories as batches; those of the test part for each task."""
  told = babi_data.load(config.dataset, config.data_dir, config.subset)
  every = [*told.train, *told.valid, *told.test]
  words = Vocabulary.from_texts(text for q in told.train for text in (*q.story, q.words))
  answers = Vocabulary.from_texts([[q.answer] for q in told.train], specials=("<unk>",))
  widest = max(len(sentence) for q in every for sentence in q.story)

  def batches(questions, seed=None):
    pad = lambda ids: np.pad(ids, (0, widest - len(ids)))
    stories = [np.array([pad(words.encode(s)) for s in q.story]) for q in questions]
    asked = [words.encode(q.words) for q in questions]
    labels = [answers.encode([q.answer])[0] for q in questions]
    how = dict(limit=config.max_sentences, keep="last", buckets=6)
    return BucketedBatches(stories, labels, config.batch_size, **how, seed=seed, targets=asked)

  numbers = sorted({q.task for q in told.test})
  by_task = {n: batches([q for q in told.test if q.task == n]) for n in numbers}
  return SimpleNamespace(
    name=told.name,
    questions=told.test,
    words=words,
    answers=answers,
    by_task=by_task,
    train=batches(told.train, config.seed),
    valid=batches(told.valid),
    test=batches(told.test),
  )


def save_figures(workdir: str, model: MemoryNetwork, params, data):
  """Which sentences of a short story each hop looks at, for a question of the test part."""
  i = min(range(len(data.questions)), key=lambda i: abs(len(data.questions[i].story_encoder) - 8))
  question, story = data.questions[i], data.test.sequences[i]
  asked = data.words.encode(question.words)
  n, ends = (np.array([len(one)]) for one in (story, asked))
  look = jax.jit(functools.partial(model.apply, method="look"))
  _, α = look({"params": params}, story[:, None], n, asked[:, None], ends)
  sentences = [" ".join(words) for words in question.story]
  hops = [f"{' '.join(question.words)}? hop {k}" for k in range(1, len(α) + 1)]
  figures.plot_heatmap(
    runner.figure_file(workdir, "attention.png"), sentences, hops, np.asarray(α[..., 0])
  )


def run(config: Config = Config()):
  """Trains on all tasks at once, chooses on the validation part, tests once; returns the scores."""
  data = prepare(config)
  model = build(config, len(data.words), len(data.num_answers))
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
