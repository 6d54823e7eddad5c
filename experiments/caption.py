"""What is on the picture? One to many: convolutions see it, a recurrent net says it.

python -m experiments.caption                                          # drawn shapes
python -m experiments.caption --preset=flickr --data_dir=captions --out=runs/captions
"""

import dataclasses
from types import SimpleNamespace

import numpy as np

from experiments.captioning import data as captions_data
from experiments.captioning import plots
from experiments.captioning.image_encoder import Sight, seen
from experiments.common import cli, runner, train_config
from experiments.common.train_config import CELLS, RATE, option
from experiments.seq2seq import seq2seq_common
from rnnjax.data.bucketed_batches import Batches
from rnnjax.data.files import DATASETS
from rnnjax.data.tokenizer import BEGIN, END, MARK, Subwords
from rnnjax.decoders import decoder
from rnnjax.models import embedding
from rnnjax.models.seq2seq import Translator
from rnnjax.models.seq2seq_predictor import Rewriter
from rnnjax.output_layers import full
from rnnjax.training import tasks
from rnnjax.types import BadInput

PRESETS = {
  "flickr": dict(convolutions=4, features=128, vocabulary=2000, dropout=0.2, epochs=8, mirror=True)
}


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  dataset: str = option("auto", "which pictures", DATASETS)
  hidden: int = 256
  batch: int = 32
  rate: float = 2e-3
  epochs: int = 12
  attention: str = option("additive", "how the writer sees the picture", seq2seq_common.ATTENTIONS)
  convolutions: int = option(3, "how often the picture is halved", low=1)
  features: int = option(64, "of each place of the grid, eights", low=8)
  vocabulary: int = option(100, "words, at most", low=5)
  width: int = option(64, "features of the embeddings", low=1)
  mirror: bool = option(False, "pictures are learnt from left to right, too")
  dropout: float = option(0.1, "rate at which features vanish, locked", **RATE)
  beam: int = option(3, "hypotheses of beam search", low=1, aside=True)


def build(config: Config, words: int) -> Translator:
  """The model alone."""
  if config.features % 8:
    raise BadInput(f"--features must be a multiple of 8; got {config.features}")
  widths = [max(config.features >> i, 8) // 8 * 8 for i in range(config.convolutions)][::-1]
  writer = decoder(
    CELLS[config.cell](config.hidden), attention=seq2seq_common.ATTENTIONS[config.attention](128)
  )
  return Translator(
    Sight(tuple(widths)),
    embedding.trainable(words, config.width),
    seen(config.features),
    writer,
    full(words),
    config.dropout,
  )


def prepare(config: Config):
  """The pictures, and as batches: of training, each with each of its captions."""
  data = captions_data.load(config.dataset, config.data_dir)
  height, width, _ = data.train[0].image.shape
  if min(height, width) >> config.convolutions == 0:
    raise BadInput(
      f"pictures of {height} x {width} cannot be halved {config.convolutions} times; "
      "--convolutions must be less"
    )
  said = [caption for picture in data.train for caption in picture.captions]
  words = Subwords.train(said, config.vocabulary, "word", lower=True)

  def batches(pictures, seed=None):
    both = [(p.rows, words.encode(text)) for p in pictures for text in p.captions]
    texts = [np.array([BEGIN, *ids, END], np.int32) for _, ids in both]
    return Batches([rows for rows, _ in both], None, config.batch, seed=seed, targets=texts)

  seen = data.train + [p.mirrored for p in data.train if config.mirror]
  parts = dict(train=batches(seen, config.seed), valid=batches(data.valid), test=batches(data.test))
  return SimpleNamespace(name=data.name, pictures=data, words=words, **parts)


def bleu(written, pictures) -> dict[str, float]:
  """BLEU of single words and of up to four, beside all captions of a picture, in lower case."""
  true = [picture.captions for picture in pictures]
  return {f"bleu_{n}": seq2seq_common.bleu(written, true, True, n)[0] for n in (1, 4)}


def baselines(data: captions_data.Pictures) -> dict[str, float]:
  """What needs no net: the one caption that suits the validation part best, of some hundred, and
  the first caption of the training picture whose pixels are nearest."""
  some = [p.captions[0] for p in data.train][:300]
  fixed = max(some, key=lambda text: bleu([text] * len(data.valid), data.valid)["bleu_4"])
  like = [near.captions[0] for near in captions_data.nearest(data.train, data.test)]
  written = {"fixed": [fixed] * len(like), "nearest": like}
  found = {name: bleu(texts, data.test) for name, texts in written.items()}
  return {f"{name}/{n}": value for name, own in found.items() for n, value in own.items()}


def draw(out: str, writer: Rewriter, pictures, written, shown: int = 12, looks: int = 4):
  """Two pages: pictures with what was written, as ids, and where each word of the first looked."""
  images = [picture.image for picture in pictures[:shown]]
  texts = map(writer.target.decode, written[:shown])
  plots.captioned(runner.figure(out, "captions.png"), images, [*texts])
  words = [[writer.target.words[i].strip(MARK) for i in ids] for ids in written[:looks]]
  α = [writer.look(p.rows, ids)[:-1] for p, ids in zip(pictures[:looks], written)]
  if any(map(np.any, α)):  # not without attention
    plots.attended(runner.figure(out, "attention.png"), images[:looks], words, α)


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  data = prepare(config)
  model = build(config, len(data.words))
  task = tasks.rewriting(model, smoothing=0.1)
  params, scores = runner.learn(config, task, data, data.name, "cosine", score="loss")
  pictures = data.pictures.test
  writer = Rewriter(model, params, None, data.words)
  written = writer.write([p.rows for p in pictures], width=config.beam, steps=30)
  if config.out:
    draw(config.out, writer, pictures, written)
  texts = [*map(writer.target.decode, written)]
  found = {f"test/{name}": value for name, value in bleu(texts, pictures).items()}
  return scores | found | baselines(data.pictures)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
