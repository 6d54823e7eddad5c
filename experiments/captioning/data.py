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

from rnnjax.data.files import File, contents, decoding, given, lines
from rnnjax.data.npy import arrays
from rnnjax.types import BadInput

PARTS = ("train", "dev", "test")
SIZES = 1200, 150, 150  # of the generated parts
SIDE = 32  # pixels of a generated picture
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220)}
SHAPES = ("disc", "square", "cross")
WHERE = {"above": (-1, 0), "below": (1, 0), "left of": (0, -1), "right of": (0, 1)}


class Picture(NamedTuple):
  """A picture [height, width, 3], uint8, and its captions."""

  image: np.ndarray
  captions: list[str]

  @property
  def rows(self) -> np.ndarray:
    """The picture as a sequence of its rows, [height, width · 3]."""
    return self.image.reshape(len(self.image), -1)

  @property
  def mirrored(self) -> "Picture":
    """The picture from right to left."""
    return self._replace(image=self.image[:, ::-1])


class Pictures(NamedTuple):
  """Pictures in three parts."""

  name: str
  train: list[Picture]
  valid: list[Picture]
  test: list[Picture]


def load(dataset: str, data_dir: str) -> Pictures:
  """Loads pictures; "auto" is files where data_dir is given, else embedded.

  Raises:
    BadInput: files that are missing or malformed, each named with its line or picture.
  """
  if given(dataset, data_dir, "small drawn pictures", "FOLDER reads real ones"):
    return files(data_dir)
  draw = np.random.default_rng(0)
  return Pictures("embedded", *([_drawn(draw) for _ in range(size)] for size in SIZES))


def files(data_dir: str) -> Pictures:
  """Reads a folder of files."""
  present = contents(data_dir)
  arrays = [file for file in present if file.name.endswith(".npz")]
  texts = [file for file in present if re.search(r"token\.txt(\.gz)?$", file.name)]
  if len(arrays) != 1 or len(texts) != 1:
    raise BadInput(
      f"{data_dir} must hold one .npz of pictures and one ...token.txt (also .gz) of captions; it "
      f"holds {[file.name for file in present][:12]}"
    )
  images, names, split = _arrays(arrays[0])
  said: dict[str, list[str]] = {}
  for place, line in lines(texts[0]):
    name, tab, caption = line.partition("\t")
    if not tab or "#" not in name or not caption.strip():
      raise BadInput(f'{place} must be like "name.jpg#0<TAB>a caption"; got {line[:60]!r}')
    said.setdefault(name.split("#")[0], []).append(" ".join(caption.split()))
  silent = [name for name in names if name not in said]
  if silent:
    raise BadInput(
      f"{texts[0]} has no caption of {silent[0]} in {arrays[0]}, nor of "
      f"{len(silent) - 1} more. Are they of one data set?"
    )
  rows = list(zip(split, map(Picture, images, (said[name] for name in names))))
  parts = [[picture for own, picture in rows if own == part] for part in PARTS]
  if not all(parts):
    raise BadInput(f'{arrays[0]}: "split" must name {[*PARTS]}; it has {sorted({*split})}')
  return Pictures(pathlib.Path(data_dir).name, *parts)


def nearest(known: list[Picture], pictures: list[Picture]) -> list[Picture]:
  """Of those known the one whose pixels, a sixteenth of them, are nearest to each picture's."""
  thin = [np.array([p.image[::4, ::4].ravel() for p in part], float) for part in (known, pictures)]
  return [known[np.square(thin[0] - own).sum(1).argmin()] for own in thin[1]]


def _arrays(file: File):
  found = arrays(file)
  if not found.keys() >= {"images", "names", "split"}:
    raise BadInput(f'{file} must hold "images", "names" and "split"; it holds {[*found][:12]}')
  images, names, split = (found[name] for name in ("images", "names", "split"))
  if not names.ndim == split.ndim == 1 or {names.dtype.kind, split.dtype.kind} != {"U"}:
    raise BadInput(
      f"{file}: names and split must be text [N]; got {names.dtype} {names.shape} and "
      f"{split.dtype} {split.shape}"
    )
  if images.dtype != np.uint8 or images.shape[3:] != (3,) or not images.size:
    raise BadInput(
      f"{file}: images must be uint8 [N, height, width, 3]; got {images.dtype} {images.shape}"
    )
  if not len(images) == len(names) == len(split):
    raise BadInput(
      f"{file} must have a name and a split for each image; it has {len(images)} images, "
      f"{len(names)} names and {len(split)} in split"
    )
  with decoding(file, "as text"):
    return images, names.tolist(), split.tolist()


def _drawn(draw: np.random.Generator) -> Picture:
  """Two shapes, of unlike colours, beside or above each other."""
  one = lambda names: [*names][draw.integers(len(names))]
  where, (colour, other) = one(WHERE), draw.permutation([*COLOURS])[:2]
  shape, its = one(SHAPES), one(SHAPES)
  down, right = WHERE[where]
  image = draw.integers(190, 250, (SIDE, SIDE, 3)).astype(np.uint8)
  centre = draw.integers(12, 20, 2)
  for sign, how, what in ((1, colour, shape), (-1, other, its)):
    y, x = centre + sign * 7 * np.array([down, right])
    ys, xs = np.mgrid[:SIDE, :SIDE] - np.array([y, x])[:, None, None]
    drawn = {
      "disc": ys**2 + xs**2 <= 22,
      "square": np.maximum(abs(ys), abs(xs)) <= 4,
      "cross": (np.minimum(abs(ys), abs(xs)) <= 1) & (np.maximum(abs(ys), abs(xs)) <= 5),
    }[what]
    image[drawn] = COLOURS[how]
  return Picture(image, [f"a {colour} {shape} {where} a {other} {its}"])
