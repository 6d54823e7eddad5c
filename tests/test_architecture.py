"""The rules of the architecture, checked on the syntax trees of all source files."""

import ast
import collections
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PARTS = ("rnnjax", "experiments")
FILES = [path.relative_to(ROOT) for part in PARTS for path in ROOT.glob(f"{part}/**/*.py")]
TREES = {path: ast.parse((ROOT / path).read_text()) for path in FILES}
LIBRARY = [path for path in FILES if path.parts[0] == "rnnjax"]
# A part may import the parts on earlier lines. Parts on one line do not import each other.
LAYERS = """
  types malloc
  masking
  cells
  backends
  unroll
  dropout
  encoders attention chunked_cross_entropy
  pooling recurrent_dropout output_layers
  crf decoders
  decoding
  models
  training
  experiments
""".strip().splitlines()
RANKS = {part: rank for rank, layer in enumerate(LAYERS) for part in layer.split()}
# Modules of training/ that know models through `Task` alone; tasks.py is the bridge.
CELL_FREE = {"cells", "backends", "unroll", "encoders", "attention", "models"}
# File names that several folders have, by convention.
SHARED_STEMS = {"__init__", "__main__", "data", "model", "plots"}


def imported_names(path):
  """Yield the dotted names that a file imports, local imports included."""
  for node in ast.walk(TREES[path]):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of_packages(path, *packages):
  return [name for name in imported_names(path) if name.split(".")[0] in packages]


def attributes(path):
  """The names of all attributes that a file reads."""
  return {node.attr for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)}


def part_of(path):
  """The part of the project that a file belongs to: a key of RANKS, or a folder of rnnjax/."""
  return "experiments" if path.parts[0] == "experiments" else path.parts[1].removesuffix(".py")


def imported_part(name):
  """The part of the project that a dotted name belongs to; None for other packages."""
  package, *rest = name.split(".")
  if package == "experiments":
    return "experiments"
  return rest[0] if package == "rnnjax" and rest else None


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_flax_is_imported_only_in_models_and_interop(path):
  assert path.parts[1] in ("models", "interop") or not imports_of_packages(path, "flax")


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_time_loops_only_in_unroll_backends_and_decoding(path):
  """`jax.lax` loops are in unroll.py, backends/ and decoding/.

  Two files loop over parts of a batch or of the words instead of time.
  """
  loops = {"scan", "while_loop", "fori_loop"}
  named = [name for name in imported_names(path) if name.split(".")[-1] in loops and "lax" in name]
  not_over_time = path.parts[1:] in (
    ("training", "grad_accumulation.py"),
    ("chunked_cross_entropy.py",),
  )
  allowed = not_over_time or path.parts[1] in ("unroll.py", "backends", "decoding")
  assert allowed or not (attributes(path) & loops or named)


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_library_reads_no_command_line_and_has_no_time_major_option(path):
  arguments = {n.arg for n in ast.walk(TREES[path]) if isinstance(n, (ast.arg, ast.keyword))}
  assert not arguments & {"time_major", "batch_first"}
  assert not imports_of_packages(path, "absl", "argparse")
  assert "argv" not in attributes(path)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_tensorflow_is_never_imported(path):
  """Neither tensorflow nor a module that imports it."""
  assert not imports_of_packages(path, "tensorflow", "clu", "tf_keras")
  with_tensorflow = ("flax.metrics", "jax.experimental.jax2tf")
  assert not [name for name in imported_names(path) if name.startswith(with_tensorflow)]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_layers(path):
  """A part imports only earlier layers, and nothing in rnnjax/ imports experiments or launch."""
  part = part_of(path)
  imported = {imported_part(name) for name in imported_names(path)} - {None, part}
  if part in RANKS:
    assert not [name for name in imported if RANKS.get(name, -1) >= RANKS[part]]
  if part != "experiments":
    assert not imported & {"experiments"}
    assert not imports_of_packages(path, "launch")
  if part == "data" or (part == "training" and path.name != "tasks.py"):
    assert not imported & CELL_FREE - {"backends"}


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_library_has_no_dynamic_imports(path):
  """`importlib.import_module` would evade the order of the layers."""
  assert "import_module" not in attributes(path)
  assert not [name for name in imported_names(path) if name.endswith(".import_module")]


def test_families_of_experiments_do_not_import_each_other():
  """Shared code of two families belongs into rnnjax/ or experiments/common/."""
  families = {p.name for p in (ROOT / "experiments").iterdir() if (p / "__init__.py").exists()}
  wrong = []
  for path in FILES:
    family = path.parts[1] if path.parts[0] == "experiments" and len(path.parts) > 2 else None
    if family is None or family == "export":  # which exports every experiment's models
      continue
    for name in imports_of_packages(path, "experiments"):
      if {*name.split(".")[1:2]} & (families - {family, "common"}):
        wrong.append(f"{path} imports {name}")
  assert not wrong


def test_file_names_are_unique():
  """One stem is one file, except for names that many folders have by convention."""
  stems = collections.Counter(path.stem for path in FILES)
  assert not [stem for stem, n in stems.items() if n > 1 and stem not in SHARED_STEMS]


def test_import_rnnjax_loads_no_heavy_packages():
  """A fresh `import rnnjax` loads jax and numpy alone."""
  heavy = "flax optax orbax tensorflow tensorflow_datasets matplotlib torch tensorboardX".split()
  heavy += ["jax.experimental.pallas"]  # some builds of jax lack parts of it
  code = f"import sys, rnnjax; print([m for m in {heavy} if m in sys.modules])"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout == "[]\n", done.stdout + done.stderr
