"""Pictures and sentences that say what is on them.

embedded   drawn shapes: "a red disc above a blue square"
files      a folder with one .npz of "images" [N, height, width, 3], uint8, their "names" and
           "split" (train, dev or test), and one file ...token.txt (also .gz) of lines
           "name#0<TAB>a caption", as Flickr8k has them (Hodosh, Young & Hockenmaier 2013)
"""

import pathlib
import re
from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, list_files, read_lines, reraise_decode_errors, use_files
from rnnjax.data.npy import read_npz
from rnnjax.types import InvalidInputError

SPLITS = ("train", "dev", "test")
SPLIT_SIZES = 1200, 150, 150  # of the generated parts
IMAGE_SIZE = 32  # pixels of a generated picture
COLORS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220)}
SHAPES = ("disc", "square", "cross")
RELATIONS = {"above": (-1, 0), "below": (1, 0), "left of": (0, -1), "right of": (0, 1)}


class CaptionedImage(NamedTuple):
  """A picture [height, width, 3], uint8, and its captions."""

  image: np.ndarray
  captions: list[str]

  @property
  def pixel_rows(self) -> np.ndarray:
    """The picture as a sequence of its rows, [height, width · 3]."""
    return self.image.reshape(len(self.image), -1)

  @property
  def flipped(self) -> "CaptionedImage":
    """The picture from right to left."""
    return self._replace(image=self.image[:, ::-1])


class CaptionDataset(NamedTuple):
  """Pictures in three parts."""

  name: str
  train: list[CaptionedImage]
  valid: list[CaptionedImage]
  test: list[CaptionedImage]


def load(dataset: str, data_dir: str) -> CaptionDataset:
  """Loads pictures; "auto" is files where data_dir is given, else embedded.

  Raises:
    BadInput: files that are missing or malformed, each named with its line or picture.
  """
  if use_files(dataset, data_dir, "small drawn pictures", "FOLDER reads real ones"):
    return load_files(data_dir)
  draw = np.random.default_rng(0)
  return CaptionDataset(
    "embedded", *([_generate_image(draw) for _ in range(size)] for size in SPLIT_SIZES)
  )


def load_files(data_dir: str) -> CaptionDataset:
  """Reads a folder of files."""
  present = list_files(data_dir)
  arrays = [file for file in present if file.name.endswith(".npz")]
  texts = [file for file in present if re.search(r"token\.txt(\.gz)?$", file.name)]
  if len(arrays) != 1 or len(texts) != 1:
    raise InvalidInputError(
      f"{data_dir} must hold one .npz of pictures and one ...token.txt (also .gz) of captions; it "
      f"holds {[file.name for file in present][:12]}"
    )
  images, names, split = _read_arrays(arrays[0])
  said: dict[str, list[str]] = {}
  for place, line in read_lines(texts[0]):
    name, tab, caption = line.partition("\t")
    if not tab or "#" not in name or not caption.strip():
      raise InvalidInputError(f'{place} must be like "name.jpg#0<TAB>a caption"; got {line[:60]!r}')
    said.setdefault(name.split("#")[0], []).append(" ".join(caption.split()))
  silent = [name for name in names if name not in said]
  if silent:
    raise InvalidInputError(
      f"{texts[0]} has no caption of {silent[0]} in {arrays[0]}, nor of "
      f"{len(silent) - 1} more. Are they of one data set?"
    )
  rows = list(zip(split, map(CaptionedImage, images, (said[name] for name in names))))
  parts = [[picture for own, picture in rows if own == part] for part in SPLITS]
  if not all(parts):
    raise InvalidInputError(
      f'{arrays[0]}: "split" must name {[*SPLITS]}; it has {sorted({*split})}'
    )
  return CaptionDataset(pathlib.Path(data_dir).name, *parts)


def nearest_images(
  candidates: list[CaptionedImage], queries: list[CaptionedImage]
) -> list[CaptionedImage]:
  """Of those known the one whose pixels, a sixteenth of them, are nearest to each picture's."""
  thin = [
    np.array([p.image[::4, ::4].ravel() for p in part], float) for part in (candidates, queries)
  ]
  return [candidates[np.square(thin[0] - own).sum(1).argmin()] for own in thin[1]]


def _read_arrays(file: File):
  found = read_npz(file)
  if not found.keys() >= {"images", "names", "split"}:
    raise InvalidInputError(
      f'{file} must hold "images", "names" and "split"; it holds {[*found][:12]}'
    )
  images, names, split = (found[name] for name in ("images", "names", "split"))
  if not names.ndim == split.ndim == 1 or {names.dtype.kind, split.dtype.kind} != {"U"}:
    raise InvalidInputError(
      f"{file}: names and split must be text [N]; got {names.dtype} {names.shape} and "
      f"{split.dtype} {split.shape}"
    )
  if images.dtype != np.uint8 or images.shape[3:] != (3,) or not images.size:
    raise InvalidInputError(
      f"{file}: images must be uint8 [N, height, width, 3]; got {images.dtype} {images.shape}"
    )
  if not len(images) == len(names) == len(split):
    raise InvalidInputError(
      f"{file} must have a name and a split for each image; it has {len(images)} images, "
      f"{len(names)} names and {len(split)} in split"
    )
  with reraise_decode_errors(file, "as text"):
    return images, names.tolist(), split.tolist()


def _generate_image(rng: np.random.Generator) -> CaptionedImage:
  """Two shapes, of unlike colours, beside or above each other."""
  one = lambda names: [*names][rng.integers(len(names))]
  where, (colour, other) = one(RELATIONS), rng.permutation([*COLORS])[:2]
  shape, its = one(SHAPES), one(SHAPES)
  down, right = RELATIONS[where]
  image = rng.integers(190, 250, (IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.uint8)
  centre = rng.integers(12, 20, 2)
  for sign, how, what in ((1, colour, shape), (-1, other, its)):
    y, x = centre + sign * 7 * np.array([down, right])
    ys, xs = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] - np.array([y, x])[:, None, None]
    drawn = {
      "disc": ys**2 + xs**2 <= 22,
      "square": np.maximum(abs(ys), abs(xs)) <= 4,
      "cross": (np.minimum(abs(ys), abs(xs)) <= 1) & (np.maximum(abs(ys), abs(xs)) <= 5),
    }[what]
    image[drawn] = COLORS[how]
  return CaptionedImage(image, [f"a {colour} {shape} {where} a {other} {its}"])
