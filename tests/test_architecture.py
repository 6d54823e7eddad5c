"""The borders of the house, read off its syntax trees."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PARTS = ("rnnjax", "experiments")
FILES = [path.relative_to(ROOT) for part in PARTS for path in ROOT.glob(f"{part}/**/*.py")]
TREES = {path: ast.parse((ROOT / path).read_text()) for path in FILES}
LIBRARY = [path for path in FILES if path.parts[0] == "rnnjax"]
# Later may import earlier; what stands in one set is independent of one another.
ORDER = """
  types,masking cells backends unroll,dropout encoders,attention
  pooling,recurrent_dropout,chunked_cross_entropy output_layers crf,decoders decoding models
  experiments
""".split()
RANKS = {name: rank for rank, names in enumerate(ORDER) for name in names.split(",")}


def imported_names(path):
  """The dotted names of all that a file imports, those inside functions too."""
  for node in ast.walk(TREES[path]):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of_packages(path, *packages):
  return [name for name in imported_names(path) if name.split(".")[0] in packages]


def library_part(name):
  """The part of the library that a dotted name belongs to; None for what is outside."""
  parts = name.split(".")
  return "experiments" if parts[0] == "experiments" else parts[1] if parts[0] == "rnnjax" else None


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_flax_is_imported_only_in_models_and_interop(path):
  """Only models/ and interop/ know flax."""
  assert path.parts[1] in ("models", "interop") or not imports_of_packages(path, "flax")


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_time_loops_only_in_unroll_backends_and_decoding(path):
  """lax loops stand in unroll.py, kernels/ and search/ alone."""
  loops = {"scan", "while_loop", "fori_loop"}
  used = [n.attr for n in ast.walk(TREES[path]) if isinstance(n, ast.Attribute) and n.attr in loops]
  named = [name for name in imported_names(path) if name.split(".")[-1] in loops and "lax" in name]
  parts_of_a_batch = path.parts[1:] == (
    "training",
    "gradients.py",
  )  # a loop, but not over time
  assert parts_of_a_batch or path.parts[1] in ("unroll.py", "kernels", "search") or not used + named


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_no_time_major_and_no_flags(path):
  """No function chooses its axes by a flag, and the library reads no command line."""
  arguments = {n.arg for n in ast.walk(TREES[path]) if isinstance(n, (ast.arg, ast.keyword))}
  assert not arguments & {"time_major", "batch_first"}
  if path.name == "__main__.py":  # a command, which reads its own
    return
  assert not imports_of_packages(path, "absl", "argparse")
  assert not [n for n in ast.walk(TREES[path]) if isinstance(n, ast.Attribute) and n.attr == "argv"]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_tensorflow_is_never_imported(path):
  """Neither tensorflow nor what imports it."""
  assert not imports_of_packages(path, "tensorflow", "clu", "tf_keras")
  assert not [
    n for n in imported_names(path) if n.startswith(("flax.metrics", "jax.experimental.jax2tf"))
  ]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_import_order_is_one_way(path):
  """types ← cells ← kernels ← unroll ← encoders ← pooling ← models ← tasks ← experiments."""
  own = "experiments" if path.parts[0] == "experiments" else path.parts[1].removesuffix(".py")
  reached = {library_part(name) for name in imported_names(path)} - {None, own}
  if own in RANKS:
    assert not [name for name in reached if RANKS.get(name, -1) >= RANKS[own]]
  if own != "experiments":
    assert not reached & {"experiments", "launch"}
  if own in ("data", "training"):
    assert not reached & {"cells", "kernels", "unroll", "encoders", "attention", "models"}


def test_import_rnnjax_loads_no_heavy_packages():
  """A fresh `import rnnjax` loads none of the heavy packages."""
  heavy = "flax optax orbax tensorflow tensorflow_datasets matplotlib torch tensorboardX".split()
  heavy += ["jax.experimental.pallas"]  # of which not every build has all
  code = f"import sys, rnnjax; print([m for m in {heavy} if m in sys.modules])"
  shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert shown.stdout == "[]\n", shown.stdout + shown.stderr
