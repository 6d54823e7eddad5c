"""Image captioning with a convolutional encoder and a recurrent attention decoder.

python -m experiments.caption                                          # trains on generated shapes
python -m experiments.caption --preset=flickr --data_dir=captions --workdir=runs/captions
"""

import dataclasses
from types import SimpleNamespace

import numpy as np

from experiments.captioning import data as captions_data
from experiments.captioning import plots
from experiments.captioning.image_encoder import ImageEncoder, identity_encoder
from experiments.common import cli, runner, train_config
from experiments.common.cells import make_cell
from experiments.common.train_config import PROBABILITY, field_spec
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
  """Configuration of the captioning experiment; each field is a command-line flag."""

  dataset: str = field_spec("auto", "source of the images", DATASETS)
  hidden_size: int = 256
  batch_size: int = 32
  learning_rate: float = 2e-3
  epochs: int = 12
  attention: str = field_spec(
    "additive", "attention of the decoder to the image", seq2seq_common.ATTENTIONS
  )
  num_conv_blocks: int = field_spec(
    3, "number of convolutional blocks; each block halves height and width", min_value=1
  )
  image_features: int = field_spec(
    64, "output channels of the last block, a multiple of 8", min_value=8
  )
  vocab_size: int = field_spec(100, "maximum size of the vocabulary, in words", min_value=5)
  embed_dim: int = field_spec(64, "embedding size", min_value=1)
  horizontal_flip: bool = field_spec(False, "augment the training set with mirrored images")
  dropout: float = field_spec(0.1, "variational dropout rate of features", **PROBABILITY)
  beam_size: int = field_spec(3, "hypotheses of beam search", min_value=1, affects_training=False)


def build(config: Config, vocab_size: int) -> Seq2Seq:
  """Build the captioning model for a vocabulary of `vocab_size` tokens.

  Raises:
    InvalidInputError: --image_features is not a multiple of 8.
  """
  if config.image_features % 8:
    raise InvalidInputError(
      f"--image_features must be a multiple of 8, the groups of the normalization; got "
      f"{config.image_features}"
    )
  # Each block doubles the channels, rounded down to a multiple of 8.
  channels = [max(config.image_features >> i, 8) // 8 * 8 for i in range(config.num_conv_blocks)]
  caption_decoder = decoder(
    make_cell(config.cell, config.hidden_size),
    attention=seq2seq_common.ATTENTIONS[config.attention](128),
  )
  return Seq2Seq(
    ImageEncoder(tuple(reversed(channels))),
    embedding.trainable_embedding(vocab_size, config.embed_dim),
    identity_encoder(config.image_features),
    caption_decoder,
    full_softmax(vocab_size),
    config.dropout,
  )


def prepare(config: Config):
  """Load the dataset, train the tokenizer, and batch the (image, caption) pairs.

  Returns:
    A namespace with
      name: the name of the dataset.
      examples: the `CaptionDataset`.
      words: the tokenizer.
      train, valid, test: the batches of each split.

  Raises:
    InvalidInputError: the images are too small for --num_conv_blocks.
  """
  dataset = captions_data.load(config.dataset, config.data_dir)
  height, width, _ = dataset.train[0].image.shape
  if min(height, width) >> config.num_conv_blocks == 0:
    raise InvalidInputError(
      f"images of {height} x {width} pixels cannot be halved {config.num_conv_blocks} times; "
      "--num_conv_blocks must be smaller"
    )
  captions = [caption for example in dataset.train for caption in example.captions]
  words = Tokenizer.train(captions, config.vocab_size, "word", lowercase=True)

  def batches(examples, seed=None):
    pairs = [(e.pixel_rows, words.encode(caption)) for e in examples for caption in e.captions]
    targets = [np.array([BOS, *ids, EOS], np.int32) for _, ids in pairs]
    return BucketedBatches(
      [pixel_rows for pixel_rows, _ in pairs], None, config.batch_size, seed=seed, targets=targets
    )

  train = dataset.train
  if config.horizontal_flip:
    train = train + [example.flipped for example in train]
  return SimpleNamespace(
    name=dataset.name,
    examples=dataset,
    words=words,
    train=batches(train, config.seed),
    valid=batches(dataset.valid),
    test=batches(dataset.test),
  )


def bleu_scores(
  predictions: list[str], examples: list[captions_data.CaptionedImage]
) -> dict[str, float]:
  """Return BLEU-1 and BLEU-4 in lower case, with all captions of an image as references."""
  references = [example.captions for example in examples]
  return {
    f"bleu_{n}": seq2seq_common.corpus_bleu(predictions, references, True, n)[0] for n in (1, 4)
  }


def baseline_scores(dataset: captions_data.CaptionDataset) -> dict[str, float]:
  """Return the test BLEU scores of two baselines that need no neural network.

  "fixed" predicts the same caption for every image. It is the one of 300 training captions that has
  the best BLEU-4 on the validation set. "nearest" predicts the first caption of the training image
  with the nearest pixels.
  """

  def validation_score(caption):
    return bleu_scores([caption] * len(dataset.valid), dataset.valid)["bleu_4"]

  fixed = max([e.captions[0] for e in dataset.train][:300], key=validation_score)
  nearest = captions_data.nearest_images(dataset.train, dataset.test)
  predictions = {
    "fixed": [fixed] * len(dataset.test),
    "nearest": [example.captions[0] for example in nearest],
  }
  return {
    f"{baseline}/{name}": score
    for baseline, captions in predictions.items()
    for name, score in bleu_scores(captions, dataset.test).items()
  }


def save_figures(
  workdir: str,
  predictor: Seq2SeqPredictor,
  examples: list[captions_data.CaptionedImage],
  output_ids: list[np.ndarray],
  num_images: int = 12,
  num_attended: int = 4,
):
  """Plot images with their generated captions, and the attention weights of each word.

  Args:
    workdir: the run directory.
    predictor: the trained model.
    examples: images of the test set.
    output_ids: the token ids of each generated caption.
    num_images: number of images in the caption figure.
    num_attended: number of images in the attention figure.
  """
  tokenizer = predictor.target_tokenizer
  images = [example.image for example in examples[:num_images]]
  captions = [tokenizer.decode(ids) for ids in output_ids[:num_images]]
  plots.plot_captions(runner.figure_file(workdir, "captions.png"), images, captions)
  words = [[tokenizer.tokens[i].strip(WORD_MARK) for i in ids] for ids in output_ids[:num_attended]]
  # [:-1] drops the attention of the end-of-sentence token.
  weights = [
    predictor.attention_weights(example.pixel_rows, ids)[:-1]
    for example, ids in zip(examples[:num_attended], output_ids)
  ]
  if any(map(np.any, weights)):  # all weights are 0 for a model without attention
    path = runner.figure_file(workdir, "attention.png")
    plots.plot_word_attention(path, images[:num_attended], words, weights)


def run(config: Config = Config()) -> dict:
  """Train a captioning model; return the model and baseline scores.

  The parameters with the best validation loss are evaluated on the test set.
  """
  data = prepare(config)
  model = build(config, len(data.words))
  task = tasks.seq2seq_task(model, label_smoothing=0.1)
  params, scores = runner.train_and_test(config, task, data, data.name, "cosine", metric="loss")
  examples = data.examples.test
  predictor = Seq2SeqPredictor(model, params, None, data.words)
  output_ids = predictor.generate(
    [example.pixel_rows for example in examples], beam_size=config.beam_size, max_length=30
  )
  if config.workdir:
    save_figures(config.workdir, predictor, examples, output_ids)
  captions = [*map(predictor.target_tokenizer.decode, output_ids)]
  bleu = bleu_scores(captions, examples)
  scores |= {f"test/{name}": value for name, value in bleu.items()}
  return scores | baseline_scores(data.examples)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
