"""One file of a trained model: a zip archive of what is needed to call it, and nothing that runs.

Nothing in it is a pickle. What is compiled is StableHLO, which computes and does no more as long as
it calls no code outside itself; so what `load` reads may call nothing but checks of shapes.
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
_ZIP_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the same model is the same file, whenever it is written
_ALLOWED_CALL = re.compile(r"stablehlo\.custom_call @shape_assertion\(")


def save(path: pathlib.Path, program: Program, metadata: dict[str, Any]) -> dict[str, Any]:
  """Writes a program as one file, whole or not at all; returns its signature.

  Args:
    path: where.
    program: what.
    about: {name: value of JSON}, what else its signature tells, such as whence it comes.
  """
  lowered, forms = export_program(program)
  signature = metadata | {"platforms": PLATFORMS} | forms
  params = {name: np.asarray(leaf) for name, leaf in flatten_with_names(program.params).items()}
  texts = {f"{name}.json": value for name, value in program.extras.items()}
  files = {
    PROGRAM_FILE: bytes(lowered.serialize()),
    PARAMS_FILE: safetensors.numpy.save(params),
    SIGNATURE_FILE: json.dumps(signature, indent=2) + "\n",
  }
  files |= {name: json.dumps(value) + "\n" for name, value in texts.items()}
  part = path.with_suffix(".part")
  with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
    for name, content in files.items():
      archive.writestr(zipfile.ZipInfo(name, _ZIP_TIMESTAMP), content)
  part.replace(path)
  return signature


class LoadedProgram(NamedTuple):
  """A program that was read from a file.

  Attributes:
    program: params, inputs -> outputs, each {name: array}.
    params: its parameters.
    signature: what goes in and comes out, and whence it is.
    beside: {name: value of JSON}.
  """

  program: jax.export.Exported
  params: dict[str, np.ndarray]
  signature: dict[str, Any]
  extras: dict[str, Any]

  def __call__(self, inputs: dict[str, Array]) -> dict[str, Array]:
    """What it says of inputs; what it carries from call to call is 0 where it is left out.

    Raises:
      BadInput: the inputs are not those of the signature; of ids and lengths in NumPy's arrays one
        is out of bounds.
    """
    forms = {name: ArraySpec.parse(text) for name, text in self.signature["inputs"].items()}
    given = {name: np.shape(inputs[name]) for name in forms if name in inputs}
    sizes: dict[str, int] = {}
    for name, shape in given.items():
      sizes |= forms[name].axis_sizes(shape)
    carried = self.signature["outputs"].keys() & forms.keys()
    if set(inputs) - set(forms) or set(forms) - set(inputs) - carried:
      raise InvalidInputError(f"inputs must be {self.signature['inputs']}; got {given}")
    for name, value in inputs.items():
      if isinstance(value, np.ndarray):  # others may be on a device, or traced
        forms[name].check(name, value, sizes)
    try:
      first = {name: np.zeros(forms[name].shape(sizes), forms[name].dtype) for name in carried}
      return self.program.call(self.params, first | dict(inputs))
    except (ValueError, TypeError, KeyError) as error:
      raise InvalidInputError(
        f"inputs must be {self.signature['inputs']}; got {given}: {error}"
      ) from None


def load(path: str | pathlib.Path) -> LoadedProgram:
  """Reads what `write` wrote, or a stranger.

  Nothing that is read is run; and nothing larger than the file itself is made of it.

  Raises:
    BadInput: it is no such file, is damaged, or its program is not what its signature says or
      calls code outside itself.
  """
  path = pathlib.Path(path).expanduser()
  files = _read_members(path)
  try:
    texts = {name: json.loads(files[name]) for name in files if name.endswith(".json")}
    params = safetensors.numpy.load(files[PARAMS_FILE])
    program = jax.export.deserialize(bytearray(files[PROGRAM_FILE]))
    called = program.mlir_module()
    signature = texts.pop(SIGNATURE_FILE)
    wrong = _signature_mismatch(program, params, signature)
  except Exception as error:  # a reader may fail on damaged bytes in any way
    why = f"{type(error).__name__}: {str(error)[:200]}"
    raise InvalidInputError(f"{path} is no export of this library, or is damaged ({why})") from None
  if called.count("custom_call") != len(_ALLOWED_CALL.findall(called)):
    raise InvalidInputError(
      f"the program in {path} calls code outside itself, which no export does"
    )
  if wrong:
    raise InvalidInputError(f"the program in {path} is not what its signature says: {wrong}")
  beside = {name.removesuffix(".json"): value for name, value in texts.items()}
  return LoadedProgram(program, params, signature, beside)


def _read_members(path: pathlib.Path) -> dict[str, bytes]:
  """The files in an archive, not compressed, so that together they are no larger than it is."""
  if not path.is_file():
    raise InvalidInputError(
      f"there is no file {path}; `python -m experiments.export DIR` writes DIR/model.zip"
    )
  try:
    with zipfile.ZipFile(path) as archive:
      infos = archive.infolist()
      names = [info.filename for info in infos]
      sizes = [info.file_size for info in infos]
      stored = all(
        i.compress_type == zipfile.ZIP_STORED and i.file_size == i.compress_size for i in infos
      )
      if not stored or sum(sizes) > path.stat().st_size:
        raise InvalidInputError(
          f"{path} claims to hold more than its own size; an export is not compressed"
        )
      if len({*names}) < len(names) or not {PROGRAM_FILE, PARAMS_FILE, SIGNATURE_FILE} <= {*names}:
        expected = ", ".join((PROGRAM_FILE, PARAMS_FILE, SIGNATURE_FILE))
        raise InvalidInputError(f"{path} must hold {expected}, each once; it holds {names[:20]}")
      return {name: archive.read(name) for name in names}
  except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
    raise InvalidInputError(
      f"{path} is no export of this library, or is damaged ({error})"
    ) from None


def _signature_mismatch(program, params, signature) -> str:
  """How a program differs from its signature and parameters; "" where it does not."""
  form = lambda a: (str(a.dtype), tuple(map(str, a.shape)))
  (weights, given), options = jax.tree.unflatten(program.in_tree, program.in_avals)
  made = jax.tree.unflatten(program.out_tree, program.out_avals)
  said = {
    part: {n: ArraySpec.parse(t)[:2] for n, t in signature[part].items()}
    for part in ("inputs", "outputs")
  }
  have = {"inputs": given, "outputs": made, "parameters": weights}
  said["parameters"] = {name: form(p) for name, p in params.items()}
  for part, own in have.items():
    if options or {name: form(a) for name, a in own.items()} != said[part]:
      return f"of its {part} {str(own)[:300]}, not {str(said[part])[:300]}"
  return ""
