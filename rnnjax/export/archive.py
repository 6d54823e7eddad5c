"""Model archives: zip files that contain a trained model as a program and parameters.

An archive contains no pickle and no Python code. Its program is StableHLO. StableHLO without custom
calls has no side effects, so `load` rejects all custom calls except shape checks.
"""

import json
import pathlib
import re
import zipfile
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
import safetensors
import safetensors.numpy

from rnnjax.export.program import PLATFORMS, ArraySpec, Program, export_program
from rnnjax.types import Array, InvalidInputError, flatten_with_names

PROGRAM_FILE, PARAMS_FILE, SIGNATURE_FILE = "model.bin", "params.safetensors", "signature.json"
_ZIP_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # constant, so that the same model gives the same bytes
_ALLOWED_CALL = re.compile(r"stablehlo\.custom_call @shape_assertion\(")


def save(path: pathlib.Path, program: Program, metadata: dict[str, Any]) -> dict[str, Any]:
  """Export a program to a model archive. The file is written atomically.

  Args:
    path: the file to write.
    program: the program.
    metadata: {name: JSON value}, additional entries of the signature, such as the configuration.

  Returns:
    The signature, as written to signature.json.
  """
  exported, specs = export_program(program)
  signature = metadata | {"platforms": PLATFORMS} | specs
  params = {name: np.asarray(leaf) for name, leaf in flatten_with_names(program.params).items()}
  members = {
    PROGRAM_FILE: bytes(exported.serialize()),
    PARAMS_FILE: safetensors.numpy.save(params),
    SIGNATURE_FILE: json.dumps(signature, indent=2) + "\n",
  }
  members |= {f"{name}.json": json.dumps(value) + "\n" for name, value in program.extras.items()}
  partial = path.with_suffix(".part")
  with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
    for name, content in members.items():
      archive.writestr(zipfile.ZipInfo(name, _ZIP_TIMESTAMP), content)
  partial.replace(path)
  return signature


class LoadedProgram(NamedTuple):
  """A program that was loaded from a file.

  Attributes:
    program: the exported function (params, inputs) -> outputs; all three are {name: array}.
    params: the parameters of the program.
    signature: the specifications of inputs and outputs, the platforms, and the metadata.
    extras: {name: JSON value}, the other JSON files of the archive.
  """

  program: jax.export.Exported
  params: dict[str, np.ndarray]
  signature: dict[str, Any]
  extras: dict[str, Any]

  def __call__(self, inputs: dict[str, Array]) -> dict[str, Array]:
    """Run the program on `inputs`. An omitted carry is initialized to 0.

    Raises:
      InvalidInputError: the inputs do not match the signature, or NumPy arrays of ids or lengths
        contain a value that is out of bounds.
    """
    specs = {name: ArraySpec.parse(text) for name, text in self.signature["inputs"].items()}
    shapes = {name: np.shape(inputs[name]) for name in specs if name in inputs}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
      sizes |= specs[name].axis_sizes(shape)
    carry_names = self.signature["outputs"].keys() & specs.keys()
    if set(inputs) - set(specs) or set(specs) - set(inputs) - carry_names:
      raise InvalidInputError(f"inputs must be {self.signature['inputs']}; got {shapes}")
    for name, value in inputs.items():
      if isinstance(value, np.ndarray):  # device arrays and tracers are not checked
        specs[name].check_bounds(name, value, sizes)
    try:
      zeros = {n: np.zeros(specs[n].shape(sizes), specs[n].dtype) for n in carry_names}
      return self.program.call(self.params, zeros | dict(inputs))
    except (ValueError, TypeError, KeyError) as error:
      raise InvalidInputError(
        f"inputs must be {self.signature['inputs']}; got {shapes}: {error}"
      ) from None


def load(path: str | pathlib.Path) -> LoadedProgram:
  """Load a model archive, which may be from an untrusted source.

  Loading executes no code from the file and allocates at most the size of the file.

  Raises:
    InvalidInputError: the file is not a model archive or is damaged, its program differs from its
      signature, or its program makes custom calls.
  """
  path = pathlib.Path(path).expanduser()
  members = _read_members(path)
  try:
    values = {name: json.loads(members[name]) for name in members if name.endswith(".json")}
    params = safetensors.numpy.load(members[PARAMS_FILE])
    program = jax.export.deserialize(bytearray(members[PROGRAM_FILE]))
    stablehlo = program.mlir_module()
    signature = values.pop(SIGNATURE_FILE)
    mismatch = _signature_mismatch(program, params, signature)
  except Exception as error:  # damaged bytes can raise any exception
    reason = f"{type(error).__name__}: {str(error)[:200]}"
    raise InvalidInputError(
      f"{path} is not an export of this library, or is damaged ({reason})"
    ) from None
  if stablehlo.count("custom_call") != len(_ALLOWED_CALL.findall(stablehlo)):
    raise InvalidInputError(f"the program in {path} makes custom calls, which no export contains")
  if mismatch:
    raise InvalidInputError(f"the program in {path} does not match its signature: {mismatch}")
  extras = {name.removesuffix(".json"): value for name, value in values.items()}
  return LoadedProgram(program, params, signature, extras)


def _read_members(path: pathlib.Path) -> dict[str, bytes]:
  """Return {name: content} of an archive. Compressed archives are rejected to limit memory use."""
  if not path.is_file():
    raise InvalidInputError(
      f"there is no file {path}; `python -m experiments.export DIR` writes DIR/model.zip"
    )
  try:
    with zipfile.ZipFile(path) as archive:
      infos = archive.infolist()
      names = [info.filename for info in infos]
      sizes = [info.file_size for info in infos]
      is_stored = all(
        i.compress_type == zipfile.ZIP_STORED and i.file_size == i.compress_size for i in infos
      )
      # Check the sum, because overlapping members could share the same bytes.
      if not is_stored or sum(sizes) > path.stat().st_size:
        raise InvalidInputError(
          f"{path} claims to hold more than its own size; exports are not compressed"
        )
      required = (PROGRAM_FILE, PARAMS_FILE, SIGNATURE_FILE)
      if len({*names}) < len(names) or not {*required} <= {*names}:
        raise InvalidInputError(
          f"{path} must hold {', '.join(required)}, each once; it holds {names[:20]}"
        )
      return {name: archive.read(name) for name in names}
  except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
    raise InvalidInputError(
      f"{path} is not an export of this library, or is damaged ({error})"
    ) from None


def _signature_mismatch(program, params, signature) -> str:
  """Describe a mismatch between a program and its signature or parameters; "" if there is none."""
  (param_avals, input_avals), kwargs = jax.tree.unflatten(program.in_tree, program.in_avals)
  output_avals = jax.tree.unflatten(program.out_tree, program.out_avals)
  actual = {"inputs": input_avals, "outputs": output_avals, "parameters": param_avals}
  declared = {
    part: {n: ArraySpec.parse(t)[:2] for n, t in signature[part].items()}
    for part in ("inputs", "outputs")
  }
  declared["parameters"] = {name: _dtype_and_axes(p) for name, p in params.items()}
  for part, avals in actual.items():
    if kwargs or {name: _dtype_and_axes(a) for name, a in avals.items()} != declared[part]:
      return f"its {part} are {str(avals)[:300]}, not {str(declared[part])[:300]}"
  return ""


def _dtype_and_axes(a) -> tuple[str, tuple[str, ...]]:
  return str(a.dtype), tuple(map(str, a.shape))
