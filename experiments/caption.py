"""What is on the picture? One to many: convolutions see it, a recurrent net says it.

python -m experiments.caption                                          # drawn shapes
python -m experiments.caption --preset=flickr --data_dir=captions --workdir=runs/captions
"""

import dataclasses
from types import SimpleNamespace

import numpy as np

from experiments.captioning import data as captions_data
from experiments.captioning import plots
from experiments.captioning.image_encoder import ImageEncoder, identity_encoder
from experiments.common import cli, runner, train_config
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
from experiments.seq2seq import seq2seq_common
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.files import DATASETS
from rnnjax.data.tokenizer import BOS, EOS, WORD_MARK, Tokenizer
from rnnjax.decoders import decoder
from rnnjax.models import embedding
from rnnjax.models.seq2seq import Seq2Seq
from rnnjax.models.seq2seq_predictor import Seq2SeqPredictor
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

PRESETS = {
  "flickr": dict(
    num_conv_blocks=4,
    image_features=128,
    vocab_size=2000,
    dropout=0.2,
    epochs=8,
    horizontal_flip=True,
  )
}


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "which pictures", DATASETS)
  hidden_size: int = 256
  batch_size: int = 32
  learning_rate: float = 2e-3
  epochs: int = 12
  attention: str = field_spec(
    "additive", "how the writer sees the picture", seq2seq_common.ATTENTIONS
  )
  num_conv_blocks: int = field_spec(3, "how often the picture is halved", min_value=1)
  image_features: int = field_spec(64, "of each place of the grid, eights", min_value=8)
  vocab_size: int = field_spec(100, "words, at most", min_value=5)
  embed_dim: int = field_spec(64, "features of the embeddings", min_value=1)
  horizontal_flip: bool = field_spec(False, "pictures are learnt from left to right, too")
  dropout: float = field_spec(0.1, "rate at which features vanish, locked", **PROBABILITY)
  beam_size: int = field_spec(3, "hypotheses of beam search", min_value=1, affects_training=False)


def build(config: Config, vocab_size: int) -> Seq2Seq:
  """The model alone."""
  if config.image_features % 8:
    raise InvalidInputError(
      f"--image_features must be a multiple of 8; got {config.image_features}"
    )
  widths = [max(config.image_features >> i, 8) // 8 * 8 for i in range(config.num_conv_blocks)][
    ::-1
  ]
  writer = decoder(
    CELLS[config.cell](config.hidden_size),
    attention=seq2seq_common.ATTENTIONS[config.attention](128),
  )
  return Seq2Seq(
    ImageEncoder(tuple(widths)),
    embedding.trainable_embedding(vocab_size, config.embed_dim),
    identity_encoder(config.image_features),
    writer,
    full_softmax(vocab_size),
    config.dropout,
  )


def prepare(config: Config):
  """The pictures, and as batches: of training, each with each of its captions."""
  data = captions_data.load(config.dataset, config.data_dir)
  height, width, _ = data.train[0].image.shape
  if min(height, width) >> config.num_conv_blocks == 0:
    raise InvalidInputError(
      f"pictures of {height} x {width} cannot be halved {config.num_conv_blocks} times; "
      "--num_conv_blocks must be less"
    )
  said = [caption for picture in data.train for caption in picture.captions]
  words = Tokenizer.train(said, config.vocab_size, "word", lowercase=True)

  def batches(examples, seed=None):
    both = [(p.pixel_rows, words.encode(text)) for p in examples for text in p.captions]
    texts = [np.array([BOS, *ids, EOS], np.int32) for _, ids in both]
    return BucketedBatches(
      [rows for rows, _ in both], None, config.batch_size, seed=seed, targets=texts
    )

  seen = data.train + [p.flipped for p in data.train if config.horizontal_flip]
  parts = dict(train=batches(seen, config.seed), valid=batches(data.valid), test=batches(data.test))
  return SimpleNamespace(name=data.name, pictures=data, words=words, **parts)


def bleu_scores(predictions, images) -> dict[str, float]:
  """BLEU of single words and of up to four, beside all captions of a picture, in lower case."""
  true = [picture.captions for picture in images]
  return {f"bleu_{n}": seq2seq_common.corpus_bleu(predictions, true, True, n)[0] for n in (1, 4)}


def baseline_scores(data: captions_data.CaptionDataset) -> dict[str, float]:
  """What needs no net: the one caption that suits the validation part best, of some hundred, and
  the first caption of the training picture whose pixels are nearest."""
  some = [p.captions[0] for p in data.train][:300]
  fixed = max(some, key=lambda text: bleu_scores([text] * len(data.valid), data.valid)["bleu_4"])
  like = [near.captions[0] for near in captions_data.nearest_images(data.train, data.test)]
  written = {"fixed": [fixed] * len(like), "nearest": like}
  found = {name: bleu_scores(texts, data.test) for name, texts in written.items()}
  return {f"{name}/{n}": value for name, own in found.items() for n, value in own.items()}


def save_figures(
  workdir: str,
  predictor: Seq2SeqPredictor,
  examples,
  output_ids,
  num_images: int = 12,
  num_attended: int = 4,
):
  """Two pages: pictures with what was written, as ids, and where each word of the first looked."""
  images = [picture.image for picture in examples[:num_images]]
  texts = map(predictor.target_tokenizer.decode, output_ids[:num_images])
  plots.plot_captions(runner.figure_file(workdir, "captions.png"), images, [*texts])
  words = [
    [predictor.target_tokenizer.tokens[i].strip(WORD_MARK) for i in ids]
    for ids in output_ids[:num_attended]
  ]
  α = [
    predictor.attention_weights(p.pixel_rows, ids)[:-1]
    for p, ids in zip(examples[:num_attended], output_ids)
  ]
  if any(map(np.any, α)):  # not without attention
    plots.plot_word_attention(
      runner.figure_file(workdir, "attention.png"), images[:num_attended], words, α
    )


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  data = prepare(config)
  model = build(config, len(data.words))
  task = tasks.seq2seq_task(model, label_smoothing=0.1)
  params, scores = runner.train_and_test(config, task, data, data.name, "cosine", score="loss")
  pictures = data.pictures.test
  writer = Seq2SeqPredictor(model, params, None, data.words)
  written = writer.generate(
    [p.pixel_rows for p in pictures], beam_size=config.beam_size, max_length=30
  )
  if config.workdir:
    save_figures(config.workdir, writer, pictures, written)
  texts = [*map(writer.target_tokenizer.decode, written)]
  found = {f"test/{name}": value for name, value in bleu_scores(texts, pictures).items()}
  return scores | found | baseline_scores(data.pictures)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
