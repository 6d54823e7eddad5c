"""The model of a run, exported, read again, and held against itself."""

import pathlib
from typing import Any

import jax
import numpy as np

from experiments.export import programs
from rnnjax.export.archive import LoadedProgram, load, save
from rnnjax.export.program import ArraySpec, Program, make_unflatten
from rnnjax.training import saved_run
from rnnjax.types import InvalidInputError, flatten_with_names

MODEL_FILE = "model.zip"
CHECK_SIZES = {"T": (1, 7, 40), "B": (1, 4, 3)}  # other letters take their turns as T does
TOLERANCE = 1e-6


def export_run(workdir: str) -> dict[str, Any]:
  """Writes OUT/model.zip, the model of a run with --workdir=OUT, and checks it.

  Returns:
    What was written: its file, bytes, inputs, outputs, platforms, and the largest difference.

  Raises:
    BadInput: there is no run or no checkpoint, its experiment exports nothing, or what was written
      is not equal to the model.
  """
  folder = pathlib.Path(workdir).expanduser()
  about = run_metadata(folder)
  program = programs.build_program(about["experiment"], workdir)
  path, new = folder / MODEL_FILE, folder / f"unchecked.{MODEL_FILE}"
  signature = save(new, program, about)
  try:
    gap = max_difference(program, load(new))
    if not gap <= TOLERANCE:
      raise InvalidInputError(
        f"what was exported of {workdir!r} differs from the model by {gap:.2g}; deleted"
      )
    new.replace(path)
  finally:
    new.unlink(missing_ok=True)
  shown = {name: signature[name] for name in ("inputs", "outputs", "platforms")}
  return {"file": str(path), "bytes": path.stat().st_size, **shown, "difference": gap}


def run_metadata(workdir: pathlib.Path) -> dict[str, Any]:
  """A run's experiment, configuration and versions.

  Raises:
    BadInput: there is no run, or it does not say of which experiment.
  """
  path = workdir / "config.json"
  if not path.is_file():
    raise InvalidInputError(
      f"{str(workdir)!r} is not the --workdir of a run: it has no config.json"
    )
  kept = saved_run.read_json(path)
  names = ("experiment", "config", "versions")
  if not isinstance(kept, dict) or not kept.keys() >= {*names}:
    raise InvalidInputError(
      f"{path} does not say which experiment it is of; was it written by an earlier version?"
    )
  return {name: kept[name] for name in names} | {"experiment": str(kept["experiment"])}


def max_difference(program: Program, loaded: LoadedProgram) -> float:
  """The largest difference, relative to what is larger than 1, of what a program and what was read
  of it say of random inputs of several sizes, of rows of no step and of one among them."""
  random, gaps = np.random.default_rng(0), [0.0]
  forms = {name: ArraySpec.parse(text) for name, text in loaded.signature["inputs"].items()}
  letters = {axis for form in forms.values() for axis in form.axes if not axis.isdecimal()}
  predict = jax.jit(program.predict)
  for turn in range(len(CHECK_SIZES["T"])):
    sizes = {axis: CHECK_SIZES.get(axis, CHECK_SIZES["T"])[turn] for axis in letters}
    inputs = {name: form.sample(sizes, random) for name, form in forms.items()}
    read = loaded(inputs)
    begun = {name: inputs[name] for name in program.inputs}
    carry = jax.eval_shape(predict, program.params, begun).get("carry")
    if carry is not None:
      begun["carry"] = make_unflatten({"carry": carry})(inputs)["carry"]
    for name, true in flatten_with_names(predict(program.params, begun)).items():
      ours, true = np.float64(read[name]), np.float64(true)
      with np.errstate(invalid="ignore"):  # ∞ − ∞, which are equal
        gap = np.abs(ours - true) / np.maximum(1, np.abs(true))
      gaps.append(np.max(np.where(ours == true, 0, gap), initial=0.0))
  return float(np.max(gaps))  # NaN, where there is one
