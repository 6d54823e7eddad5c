"""Pictures and captions: drawn, read, seen, told and judged."""

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
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
NAMES = [f"{n}.jpg" for n in range(6)]


def test_synthetic_captions_match_images():
  """Each colour is where the caption says; two parts are not the same pictures."""
  drawn = captions_data.load("embedded", "")
  for picture in drawn.test:
    (text,) = picture.captions
    words = text.split()
    centre = {}
    for colour in (words[1], words[-2]):
      at = np.argwhere((picture.image == COLORS[colour]).all(-1))
      centre[colour] = at.mean(0)
    (y, x), (other_y, other_x) = centre[words[1]], centre[words[-2]]
    told = {"above": y < other_y, "below": y > other_y, "left": x < other_x, "right": x > other_x}
    assert told[words[3]], text
  assert len({p.image.tobytes() for part in drawn[1:] for p in part}) == sum(
    captions_data.SPLIT_SIZES
  )


def write_dataset(
  path, images=IMAGES, split=("train",) * 4 + ("dev", "test"), lines=None, **arrays
):
  path.mkdir(exist_ok=True)
  np.savez(path / "some.npz", images=images, names=NAMES, split=split, **arrays)
  told = [f"{name}#{i}\tcaption {i}  of {name}" for name in NAMES for i in range(2)]
  (path / "x.token.txt").write_text("\n".join(told if lines is None else lines) + "\n")
  return str(path)


def test_images_and_captions_from_files(tmp_path):
  """Each picture with all its captions, in the part that it is of."""
  read = captions_data.load("auto", write_dataset(tmp_path / "some"))
  assert [len(part) for part in read[1:]] == [4, 1, 1]
  np.testing.assert_array_equal(read.test[0].image, IMAGES[5])
  assert read.test[0].captions == ["caption 0 of 5.jpg", "caption 1 of 5.jpg"]


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda p: str(p), r"must hold one \.npz of pictures and one \.\.\.token\.txt"),
    (
      lambda p: write_dataset(p, lines=["0.jpg a dog"]),
      r"x\.token\.txt:1 must be like \"name\.jpg#0",
    ),
    (lambda p: write_dataset(p, lines=["0.jpg#0\ta"]), r"has no caption of 1\.jpg .*nor of 4 more"),
    (lambda p: write_dataset(p, IMAGES[..., 0]), r"images must be uint8 .*got uint8 \(6, 8, 8\)"),
    (lambda p: write_dataset(p, IMAGES / 255.0), r"images must be uint8 .*got float64"),
    (lambda p: write_dataset(p, split=["train"] * 6), r"\"split\" must name .* it has \['train'\]"),
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
  """Rows from top to bottom, in them left to right: only what is near changes a place."""
  model = ImageEncoder((8, 8))
  rows = IMAGES.repeat(2, 1).repeat(2, 2).reshape(6, 16, -1).swapaxes(0, 1)  # [16, 6, 16 * 3]
  params = model.init(jax.random.key(0), rows)
  read = lambda rows: model.apply(params, jnp.asarray(rows, jnp.float32))
  changed = rows.copy()
  changed[13:, 2, -9:] = 0  # the lower right corner of the third picture
  difference = np.abs(read(changed) - read(rows)).max(-1)
  assert difference.shape == (16, 6)
  assert difference[:, 2].argmax() == 15
  assert not np.delete(difference, 2, 1).any()


def test_every_grid_position_gets_attention():
  """Though a grid may have more places than the picture has rows."""
  model = caption.build(Config(**TINY | {"convolutions": 1}), 9)
  rows, lengths = IMAGES.reshape(6, 8, -1).swapaxes(0, 1), np.full(6, 8)
  given = rows, lengths, np.full((4, 6), 2), np.ones((3, 6), np.float32)
  _, α = jax.jit(model.init_with_output)(jax.random.key(0), *given)[0]
  assert α.shape == (3, 16, 6) and (α > 0).all()
  np.testing.assert_allclose(α.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(image_features=12), "--image_features must be a multiple of 8; got 12"),
    (dict(num_conv_blocks=6), "32 x 32 cannot be halved 6 times"),
  ],
)
def test_invalid_grid_flags_raise(flags, message):
  with pytest.raises(InvalidInputError, match=message):
    caption.run(Config(**TINY | flags))


def test_attention_overlay_brightness():
  """Places line by line; as bright as α says, and never black."""
  white = np.full((8, 12, 3), 255, np.uint8)
  shown = dim_unattended(white, np.array([0.0, 0.1, 0.2, 0.1, 0.0, 0.4])) / 255
  assert shown[0, 0, 0] == shown[4, 4, 0] == pytest.approx(0.15, abs=0.01)
  assert shown[4, 8].min() == shown[-1, -1].min() == 1
  assert shown[3, 8, 0] == pytest.approx((1 + 0.15) / 2, abs=0.01)
  with pytest.raises(ValueError, match="4 places are no grid over a picture of 8 x 12"):
    dim_unattended(white, np.ones(4))


def test_bleu_with_several_references():
  """Any caption of a picture counts; of single words the share that is there, with the penalty."""
  pictures = [
    CaptionedImage(None, ["a red disc", "one disc"]),
    CaptionedImage(None, ["a blue cross"]),
  ]
  found = caption.bleu_scores(["one disc", "a Blue disc"], pictures)
  assert found["bleu_1"] == pytest.approx(100 * 4 / 5)
  assert caption.bleu_scores(["one disc", "a"], pictures)["bleu_1"] == pytest.approx(
    100 * np.exp(1 - 5 / 3)
  )


def test_nearest_image():
  known = [CaptionedImage(np.full((8, 8, 3), value, np.uint8), []) for value in (0, 100, 250)]
  asked = [CaptionedImage(np.full((8, 8, 3), value, np.uint8), []) for value in (240, 60)]
  assert captions_data.nearest_images(known, asked) == [known[2], known[1]]


def test_run_writes_scores_and_figures(tmp_path):
  """All that is promised is there, and a page of pictures."""
  scores = caption.run(Config(**TINY, workdir=str(tmp_path / "run")))
  names = {f"{part}/bleu_{n}" for part in ("test", "fixed", "nearest") for n in (1, 4)}
  assert names <= scores.keys()
  for name in ("captions.png", "attention.png"):
    assert (tmp_path / "run" / "figures" / name).stat().st_size > 10_000
  json.dumps(scores)
