"""Polyphonic music as piano rolls: which of a piano's 88 keys sound at each step.

embedded   generated, as `experiments.polyphonic_music.chord_progressions` makes them
files      .mat              traindata, validdata, testdata, as Boulanger-Lewandowski, Bengio &
                             Vincent 2012 divide four collections
           .json .json.gz    {"train": [[[60, 64], [62]], ...], "valid": ..., "test": ...}, the
                             MIDI pitches of each step of each piece
"""

import logging
import pathlib
from typing import NamedTuple

from experiments.polyphonic_music import chord_progressions
from experiments.polyphonic_music.piano_roll import Rolls, checked, roll
from rnnjax.data.files import decoding, read_text
from rnnjax.data.mat import cells
from rnnjax.data.tables import parsed
from rnnjax.types import BadInput

PARTS = ("train", "valid", "test")


class Music(NamedTuple):
  """Pieces in three parts, each a roll [T, 88] of 0 and 1, float32."""

  name: str
  train: Rolls
  valid: Rolls
  test: Rolls


def load(dataset: str, data_dir: str) -> Music:
  """Loads pieces.

  Args:
    dataset: "auto" is the file where data_dir is given, else "embedded"; where data_dir is a
      folder, the name of a .mat file in it, such as JSB_Chorales.
    data_dir: a file or a folder.

  Raises:
    BadInput: there is no such file; it is damaged, or its rolls are none.
  """
  if dataset == "embedded" or (dataset == "auto" and not data_dir):
    if dataset == "auto":
      logging.warning("training on generated pieces; --data_dir=PATH reads real ones")
    return Music("embedded", *chord_progressions.splits())
  path = pathlib.Path(data_dir).expanduser()
  if data_dir and path.is_dir():
    path /= f"{dataset}.mat"
  if not data_dir or not path.is_file():
    raise BadInput(
      f"--data_dir must be a .mat or .json file, or a folder with {dataset}.mat, the --dataset; "
      f"got {data_dir!r}"
    )
  return Music(path.name.split(".")[0], *(_mat if path.suffix == ".mat" else _json)(path))


def _mat(path: pathlib.Path) -> list[Rolls]:
  found = cells(path, [f"{part}data" for part in PARTS])
  parts = {part: found.get(f"{part}data", []) for part in PARTS}
  return _parts(path, parts, lambda cell, place: cell)


def _json(path: pathlib.Path) -> list[Rolls]:
  parts = parsed(read_text(path), path)
  kind = 'as {"train": [[[60, 64], [62]]], "valid": ..., "test": ...}'
  with decoding(
    path,
    kind,
    "It must be the MIDI pitches of each step of each piece",
    AttributeError,
    KeyError,
    TypeError,
  ):
    return _parts(path, parts, roll)


def _parts(path, parts, read) -> list[Rolls]:
  made = []
  for part in PARTS:
    if not len(parts.get(part, ())):
      raise BadInput(f"{path} must hold pieces in each of {', '.join(PARTS)}; {part} has none")
    places = [f"{path}, {part}, piece {n}" for n in range(1, len(parts[part]) + 1)]
    made.append([checked(read(one, place), place) for one, place in zip(parts[part], places)])
  return made
