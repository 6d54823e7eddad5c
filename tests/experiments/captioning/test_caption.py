"""Image captioning: generated images, files, the encoder, figures, scores and a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import caption
from experiments.caption import Config
from experiments.captioning import data as captions_data
from experiments.captioning.data import COLORS, CaptionedImage
from experiments.captioning.image_encoder import ImageEncoder
from experiments.captioning.plots import dim_unattended
from rnnjax.types import InvalidInputError

TINY = dict(
  dataset="embedded",
  hidden_size=8,
  embed_dim=8,
  image_features=8,
  batch_size=64,
  epochs=1,
  beam_size=2,
)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
NAMES = [f"{n}.jpg" for n in range(6)]


def test_synthetic_captions_match_images():
  """Each color is where the caption says, and no image occurs twice."""
  dataset = captions_data.load("embedded", "")
  for example in dataset.test:
    (caption,) = example.captions
    words = caption.split()
    centers = []
    for color in (words[1], words[-2]):
      pixels = np.argwhere((example.image == COLORS[color]).all(-1))
      centers.append(pixels.mean(0))
    (y, x), (other_y, other_x) = centers
    holds = {"above": y < other_y, "below": y > other_y, "left": x < other_x, "right": x > other_x}
    assert holds[words[3]], caption
  distinct_images = {example.image.tobytes() for split in dataset[1:] for example in split}
  assert len(distinct_images) == sum(captions_data.SPLIT_SIZES)


def write_dataset(
  path, images=IMAGES, split=("train",) * 4 + ("dev", "test"), lines=None, **arrays
):
  path.mkdir(exist_ok=True)
  np.savez(path / "some.npz", images=images, names=NAMES, split=split, **arrays)
  if lines is None:
    lines = [f"{name}#{i}\tcaption {i}  of {name}" for name in NAMES for i in range(2)]
  (path / "x.token.txt").write_text("\n".join(lines) + "\n")
  return str(path)


def test_images_and_captions_from_files(tmp_path):
  """Each image is in its split, with all its captions."""
  dataset = captions_data.load("auto", write_dataset(tmp_path / "some"))
  assert [len(split) for split in dataset[1:]] == [4, 1, 1]
  np.testing.assert_array_equal(dataset.test[0].image, IMAGES[5])
  assert dataset.test[0].captions == ["caption 0 of 5.jpg", "caption 1 of 5.jpg"]


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda p: str(p), r"must hold one \.npz file of images and one \.\.\.token\.txt"),
    (
      lambda p: write_dataset(p, lines=["0.jpg a dog"]),
      r"x\.token\.txt:1 must be like \"name\.jpg#0",
    ),
    (lambda p: write_dataset(p, lines=["0.jpg#0\ta"]), r"has no caption of 1\.jpg .*nor of 4 more"),
    (lambda p: write_dataset(p, IMAGES[..., 0]), r"images must be uint8 .*got uint8 \(6, 8, 8\)"),
    (lambda p: write_dataset(p, IMAGES / 255.0), r"images must be uint8 .*got float64"),
    (
      lambda p: write_dataset(p, split=["train"] * 6),
      r"\"split\" must contain each of .* it has \['train'\]",
    ),
  ],
)
def test_invalid_files_raise(tmp_path, make, message):
  with pytest.raises(InvalidInputError, match=message):
    captions_data.load("files", make(tmp_path))


def test_truncated_npz_raises(tmp_path):
  path = tmp_path / "some"
  write_dataset(path)
  (path / "some.npz").write_bytes((path / "some.npz").read_bytes()[:200])
  with pytest.raises(
    InvalidInputError, match=r"some\.npz cannot be read as an archive: .*cut off\?"
  ):
    captions_data.load("files", str(path))


def test_grid_positions_are_row_major():
  """Positions go row by row, and a change of pixels changes only positions near it."""
  model = ImageEncoder((8, 8))
  rows = IMAGES.repeat(2, 1).repeat(2, 2).reshape(6, 16, -1).swapaxes(0, 1)  # [16, 6, 16 * 3]
  params = model.init(jax.random.key(0), rows)

  def encode(rows):
    return model.apply(params, jnp.asarray(rows, jnp.float32))

  changed = rows.copy()
  changed[13:, 2, -9:] = 0  # the lower right corner of the third image
  difference = np.abs(encode(changed) - encode(rows)).max(-1)
  assert difference.shape == (16, 6)
  assert difference[:, 2].argmax() == 15
  assert not np.delete(difference, 2, 1).any()


def test_every_grid_position_gets_attention():
  """Even if the grid has more positions than the image has rows, which is `lengths`."""
  model = caption.build(Config(**TINY | {"num_conv_blocks": 1}), 9)
  rows, lengths = IMAGES.reshape(6, 8, -1).swapaxes(0, 1), np.full(6, 8)
  inputs = rows, lengths, np.full((4, 6), 2), np.ones((3, 6), np.float32)
  _, α = jax.jit(model.init_with_output)(jax.random.key(0), *inputs)[0]
  assert α.shape == (3, 16, 6) and (α > 0).all()
  np.testing.assert_allclose(α.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(image_features=12), "--image_features must be a multiple of 8.*; got 12"),
    (dict(num_conv_blocks=6), "32 x 32 pixels cannot be halved 6 times"),
  ],
)
def test_invalid_grid_flags_raise(flags, message):
  with pytest.raises(InvalidInputError, match=message):
    caption.run(Config(**TINY | flags))


def test_attention_overlay_brightness():
  """Positions go row by row; brightness follows α and is never 0."""
  white = np.full((8, 12, 3), 255, np.uint8)
  dimmed = dim_unattended(white, np.array([0.0, 0.1, 0.2, 0.1, 0.0, 0.4])) / 255
  assert dimmed[0, 0, 0] == dimmed[4, 4, 0] == pytest.approx(0.15, abs=0.01)
  assert dimmed[4, 8].min() == dimmed[-1, -1].min() == 1
  assert dimmed[3, 8, 0] == pytest.approx((1 + 0.15) / 2, abs=0.01)
  with pytest.raises(ValueError, match="4 positions do not form a grid over an image of 8 x 12"):
    dim_unattended(white, np.ones(4))


def test_bleu_with_several_references():
  """Every reference of an image counts; BLEU-1 is unigram precision times the brevity penalty."""
  examples = [
    CaptionedImage(None, ["a red disc", "one disc"]),
    CaptionedImage(None, ["a blue cross"]),
  ]
  scores = caption.bleu_scores(["one disc", "a Blue disc"], examples)
  assert scores["bleu_1"] == pytest.approx(100 * 4 / 5)
  assert caption.bleu_scores(["one disc", "a"], examples)["bleu_1"] == pytest.approx(
    100 * np.exp(1 - 5 / 3)
  )


def test_nearest_image():
  candidates = [CaptionedImage(np.full((8, 8, 3), n, np.uint8), []) for n in (0, 100, 250)]
  queries = [CaptionedImage(np.full((8, 8, 3), n, np.uint8), []) for n in (240, 60)]
  assert captions_data.nearest_images(candidates, queries) == [candidates[2], candidates[1]]


def test_run_writes_scores_and_figures(tmp_path):
  """A run returns all scores as JSON and writes both figures."""
  scores = caption.run(Config(**TINY, workdir=str(tmp_path / "run")))
  names = {f"{name}/bleu_{n}" for name in ("test", "fixed", "nearest") for n in (1, 4)}
  assert names <= scores.keys()
  for name in ("captions.png", "attention.png"):
    assert (tmp_path / "run" / "figures" / name).stat().st_size > 10_000
  json.dumps(scores)
