"""Export the model of a run, and check that the exported file computes the same outputs."""

import pathlib
from typing import Any

import jax
import numpy as np

from experiments.export import programs
from rnnjax.export.archive import LoadedProgram, load, save
from rnnjax.export.program import ArraySpec, Program, make_unflatten
from rnnjax.training import run_dir
from rnnjax.types import InvalidInputError, flatten_with_names

MODEL_FILE = "model.zip"
# Sizes of the axes T and B in each of three checks. All other axes have the size of T.
CHECK_SIZES = {"T": (1, 7, 40), "B": (1, 4, 3)}
TOLERANCE = 1e-6


def export_run(workdir: str) -> dict[str, Any]:
  """Export the model of a run to WORKDIR/model.zip, and check the outputs of the exported program.

  If the export fails, an existing file is unchanged.

  Returns:
    {"file": path, "bytes": file size, "inputs": ..., "outputs": ..., "platforms": ...,
    "difference": largest difference from the outputs of the model}.

  Raises:
    InvalidInputError: the run or its checkpoint does not exist, the experiment has no export, or
      the outputs of the exported program differ from the outputs of the model.
  """
  folder = pathlib.Path(workdir).expanduser()
  metadata = run_metadata(folder)
  program = programs.build_program(metadata["experiment"], workdir)
  path, unchecked_path = folder / MODEL_FILE, folder / f"unchecked.{MODEL_FILE}"
  signature = save(unchecked_path, program, metadata)
  try:
    difference = max_difference(program, load(unchecked_path))
    if not difference <= TOLERANCE:  # also true for NaN
      raise InvalidInputError(
        f"the export of {workdir!r} differs from the model by {difference:.2g}; it is deleted"
      )
    unchecked_path.replace(path)
  finally:
    unchecked_path.unlink(missing_ok=True)
  shown = {name: signature[name] for name in ("inputs", "outputs", "platforms")}
  return {"file": str(path), "bytes": path.stat().st_size, **shown, "difference": difference}


def run_metadata(workdir: pathlib.Path) -> dict[str, Any]:
  """Return the entries "experiment", "config" and "versions" of a run's config.json.

  Raises:
    InvalidInputError: config.json does not exist, or lacks one of these entries.
  """
  path = workdir / "config.json"
  if not path.is_file():
    raise InvalidInputError(
      f"{str(workdir)!r} is not the --workdir of a run: it has no config.json"
    )
  content = run_dir.read_json(path)
  names = ("experiment", "config", "versions")
  if not isinstance(content, dict) or not content.keys() >= {*names}:
    raise InvalidInputError(
      f"{path} must have the entries {', '.join(names)}; was it written by an earlier version?"
    )
  return {name: content[name] for name in names} | {"experiment": str(content["experiment"])}


def max_difference(program: Program, loaded: LoadedProgram) -> float:
  """Return the largest difference between the outputs of a program and of its exported version.

  The inputs are random, with axis sizes from CHECK_SIZES and rows of length 0 and 1. A
  difference is divided by the magnitude of the program's output if this magnitude exceeds 1. If any
  output is NaN, the result is NaN.
  """
  random, differences = np.random.default_rng(0), [0.0]
  specs = {name: ArraySpec.parse(text) for name, text in loaded.signature["inputs"].items()}
  letters = {axis for spec in specs.values() for axis in spec.axes if not axis.isdecimal()}
  predict = jax.jit(program.predict)
  for check in range(len(CHECK_SIZES["T"])):
    sizes = {axis: CHECK_SIZES.get(axis, CHECK_SIZES["T"])[check] for axis in letters}
    inputs = {name: spec.sample(sizes, random) for name, spec in specs.items()}
    loaded_outputs = loaded(inputs)
    program_inputs = {name: inputs[name] for name in program.inputs}
    carry = jax.eval_shape(predict, program.params, program_inputs).get("carry")
    if carry is not None:
      program_inputs["carry"] = make_unflatten({"carry": carry})(inputs)["carry"]
    outputs = flatten_with_names(predict(program.params, program_inputs))
    for name, output in outputs.items():
      actual, expected = np.float64(loaded_outputs[name]), np.float64(output)
      with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, but equal values are replaced below
        difference = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
      differences.append(np.max(np.where(actual == expected, 0, difference), initial=0.0))
  return float(np.max(differences))
