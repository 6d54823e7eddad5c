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
from experiments.polyphonic_music.piano_roll import PianoRolls, pitches_to_roll, validate_roll
from rnnjax.data.files import read_text, reraise_decode_errors
from rnnjax.data.mat import read_cells
from rnnjax.data.tables import parse_json
from rnnjax.types import InvalidInputError

SPLITS = ("train", "valid", "test")


class MusicDataset(NamedTuple):
  """Pieces in three parts, each a roll [T, 88] of 0 and 1, float32."""

  name: str
  train: PianoRolls
  valid: PianoRolls
  test: PianoRolls


def load(dataset: str, data_dir: str) -> MusicDataset:
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
    return MusicDataset("embedded", *chord_progressions.generate_splits())
  path = pathlib.Path(data_dir).expanduser()
  if data_dir and path.is_dir():
    path /= f"{dataset}.mat"
  if not data_dir or not path.is_file():
    raise InvalidInputError(
      f"--data_dir must be a .mat or .json file, or a folder with {dataset}.mat, the --dataset; "
      f"got {data_dir!r}"
    )
  return MusicDataset(
    path.name.split(".")[0], *(_load_mat if path.suffix == ".mat" else _load_json)(path)
  )


def _load_mat(path: pathlib.Path) -> list[PianoRolls]:
  found = read_cells(path, [f"{part}data" for part in SPLITS])
  parts = {part: found.get(f"{part}data", []) for part in SPLITS}
  return _validate_splits(path, parts, lambda cell, place: cell)


def _load_json(path: pathlib.Path) -> list[PianoRolls]:
  parts = parse_json(read_text(path), path)
  kind = 'as {"train": [[[60, 64], [62]]], "valid": ..., "test": ...}'
  with reraise_decode_errors(
    path,
    kind,
    "It must be the MIDI pitches of each step of each piece",
    AttributeError,
    KeyError,
    TypeError,
  ):
    return _validate_splits(path, parts, pitches_to_roll)


def _validate_splits(path, splits, to_roll) -> list[PianoRolls]:
  made = []
  for part in SPLITS:
    if not len(splits.get(part, ())):
      raise InvalidInputError(
        f"{path} must hold pieces in each of {', '.join(SPLITS)}; {part} has none"
      )
    places = [f"{path}, {part}, piece {n}" for n in range(1, len(splits[part]) + 1)]
    made.append(
      [validate_roll(to_roll(one, place), place) for one, place in zip(splits[part], places)]
    )
  return made
