"""Datasets of images with captions.

embedded   generated images of two shapes, such as "a red disc above a blue square"
files      a folder with one .npz file of images and one caption file, as in Flickr8k (Hodosh,
           Young & Hockenmaier 2013). The .npz file has the arrays "images" [N, height, width, 3],
           uint8, "names" [N] and "split" [N] ("train", "dev" or "test"). The name of the caption
           file ends in token.txt (also .gz). Each line is "name#0<TAB>a caption", where 0 is the
           index of the caption among the captions of the image.
"""

import pathlib
import re
from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, list_files, read_lines, reraise_decode_errors, use_files
from rnnjax.data.npy import read_npz
from rnnjax.types import InvalidInputError

SPLITS = ("train", "dev", "test")
SPLIT_SIZES = 1200, 150, 150  # numbers of generated images
IMAGE_SIZE = 32  # height and width of a generated image, in pixels
COLORS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220)}
SHAPES = ("disc", "square", "cross")
# {relation: direction (y, x) from the second shape to the first shape}
RELATIONS = {"above": (-1, 0), "below": (1, 0), "left of": (0, -1), "right of": (0, 1)}


class CaptionedImage(NamedTuple):
  """An image with one or more captions.

  Attributes:
    image: the pixels [height, width, 3], uint8.
    captions: one or more captions of the image.
  """

  image: np.ndarray
  captions: list[str]

  @property
  def pixel_rows(self) -> np.ndarray:
    """The image as a sequence of pixel rows, [height, width · 3]."""
    return self.image.reshape(len(self.image), -1)

  @property
  def flipped(self) -> "CaptionedImage":
    """The horizontally mirrored image with the same captions."""
    return self._replace(image=self.image[:, ::-1])


class CaptionDataset(NamedTuple):
  """Captioned images in three splits.

  Attributes:
    name: the name of the dataset.
    train: the training set.
    valid: the validation set.
    test: the test set.
  """

  name: str
  train: list[CaptionedImage]
  valid: list[CaptionedImage]
  test: list[CaptionedImage]


def load(dataset: str, data_dir: str) -> CaptionDataset:
  """Load captioned images.

  Args:
    dataset: one of `files.DATASETS`. "auto" reads files if `data_dir` is non-empty, else it uses
      the embedded data.
    data_dir: the folder that contains the files.

  Raises:
    InvalidInputError: a file is missing or malformed (the message names the line or image).
  """
  if use_files(dataset, data_dir, "small generated images", "FOLDER reads real ones"):
    return load_files(data_dir)
  rng = np.random.default_rng(0)
  splits = ([_generate_image(rng) for _ in range(size)] for size in SPLIT_SIZES)
  return CaptionDataset("embedded", *splits)


def load_files(data_dir: str) -> CaptionDataset:
  """Read a folder with one .npz file of images and one file of captions.

  Raises:
    InvalidInputError: a file is missing or malformed, an image has no caption, or a split is empty.
  """
  files = list_files(data_dir)
  array_files = [file for file in files if file.name.endswith(".npz")]
  caption_files = [file for file in files if re.search(r"token\.txt(\.gz)?$", file.name)]
  if len(array_files) != 1 or len(caption_files) != 1:
    raise InvalidInputError(
      f"{data_dir} must hold one .npz file of images and one ...token.txt file (also .gz) of "
      f"captions; it holds {[file.name for file in files][:12]}"
    )
  images, names, split = _read_arrays(array_files[0])
  captions: dict[str, list[str]] = {}
  for location, line in read_lines(caption_files[0]):
    name, tab, caption = line.partition("\t")
    if not tab or "#" not in name or not caption.strip():
      raise InvalidInputError(
        f'{location} must be like "name.jpg#0<TAB>a caption"; got {line[:60]!r}'
      )
    captions.setdefault(name.split("#")[0], []).append(" ".join(caption.split()))
  missing = [name for name in names if name not in captions]
  if missing:
    raise InvalidInputError(
      f"{caption_files[0]} has no caption of {missing[0]} in {array_files[0]}, nor of "
      f"{len(missing) - 1} more. Are both files of the same dataset?"
    )
  examples = [CaptionedImage(image, captions[name]) for image, name in zip(images, names)]
  splits = [
    [example for example, part in zip(examples, split) if part == wanted] for wanted in SPLITS
  ]
  if not all(splits):
    raise InvalidInputError(
      f'{array_files[0]}: "split" must contain each of {[*SPLITS]}; it has {sorted({*split})}'
    )
  return CaptionDataset(pathlib.Path(data_dir).name, *splits)


def nearest_images(
  candidates: list[CaptionedImage], queries: list[CaptionedImage]
) -> list[CaptionedImage]:
  """Return the candidate that is nearest to each query image.

  The distance is the squared Euclidean distance between the images, subsampled to every fourth row
  and column.
  """
  candidate_pixels, query_pixels = (
    np.array([example.image[::4, ::4].ravel() for example in examples], float)
    for examples in (candidates, queries)
  )
  return [
    candidates[np.square(candidate_pixels - pixels).sum(1).argmin()] for pixels in query_pixels
  ]


def _read_arrays(file: File):
  """Read the images [N, height, width, 3], the N image names and the N split names of a file.

  Raises:
    InvalidInputError: an array is missing or has the wrong dtype or shape.
  """
  arrays = read_npz(file)
  if not arrays.keys() >= {"images", "names", "split"}:
    raise InvalidInputError(
      f'{file} must hold "images", "names" and "split"; it holds {[*arrays][:12]}'
    )
  images, names, split = (arrays[name] for name in ("images", "names", "split"))
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
      f"{len(names)} names and {len(split)} splits"
    )
  with reraise_decode_errors(file, "as text"):
    return images, names.tolist(), split.tolist()


def _generate_image(rng: np.random.Generator) -> CaptionedImage:
  """Generate an image of two shapes with different colors on a noisy background."""

  def choose(names):
    return [*names][rng.integers(len(names))]

  relation = choose(RELATIONS)
  first_color, second_color = rng.permutation([*COLORS])[:2]
  first_shape, second_shape = choose(SHAPES), choose(SHAPES)
  image = rng.integers(190, 250, (IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.uint8)
  center = rng.integers(12, 20, 2)
  offset = 7 * np.array(RELATIONS[relation])
  shapes = ((offset, first_color, first_shape), (-offset, second_color, second_shape))
  for shift, color, shape in shapes:
    y, x = center + shift
    ys, xs = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] - np.array([y, x])[:, None, None]
    masks = {
      "disc": ys**2 + xs**2 <= 22,
      "square": np.maximum(abs(ys), abs(xs)) <= 4,
      "cross": (np.minimum(abs(ys), abs(xs)) <= 1) & (np.maximum(abs(ys), abs(xs)) <= 5),
    }
    image[masks[shape]] = COLORS[color]
  caption = f"a {first_color} {first_shape} {relation} a {second_color} {second_shape}"
  return CaptionedImage(image, [caption])
