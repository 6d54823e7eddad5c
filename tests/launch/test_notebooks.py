"""The notebooks run from the first cell to the last, and are kept as they are before a run."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "launch").glob("*.ipynb"))
RUN = """
import json, re, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
  if cell["cell_type"] == "code":
    source = "".join(cell["source"])
    source = re.sub("(epochs ?=|SEEDS =) ?[0-9]+", r"\\1 1", source)  # as good a run, in less time
    shell.run_cell(source).raise_error()
"""


def read_notebook(book):
  return json.loads(book.read_text(encoding="utf-8"))


@pytest.mark.parametrize("book", NOTEBOOKS, ids=lambda book: book.stem)
def test_notebook_runs_without_warnings(book, tmp_path):
  """In a process of its own, in an empty folder, without a warning; on one device, or as a TPU."""
  own = dict.fromkeys(("TMPDIR", "IPYTHONDIR"), str(tmp_path)) | {"MPLBACKEND": "agg"}
  own |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  own["XLA_FLAGS"] = xla_flags.FLAGS
  if "tpu" in book.stem:
    own["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"
  command = [sys.executable, "-c", RUN, str(book)]
  done = subprocess.run(
    command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, timeout=1800
  )
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
  assert "Warning" not in done.stderr, done.stderr[-3000:]
  assert list(tmp_path.glob("*/*.png"))


@pytest.mark.parametrize("book", NOTEBOOKS, ids=lambda book: book.stem)
def test_notebook_has_no_outputs_or_magics(book):
  """No output, no magic, ids that stay; every text stands before the code it speaks of."""
  made = read_notebook(book)
  cells = made["cells"]
  kinds = [cell["cell_type"] for cell in cells]
  assert (made["nbformat"], set(kinds)) == (4, {"markdown", "code"})
  assert kinds[-1] == "code"
  for cell, after in zip(cells, kinds[1:]):
    assert cell["cell_type"] == "code" or after == "code", cell["id"]
  assert len({cell["id"] for cell in cells}) == len(cells)
  for cell in cells:
    if cell["cell_type"] == "code":
      assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]
      assert not any(line.startswith(("%", "!")) for line in cell["source"]), cell["id"]


def test_expected_notebooks_exist():
  assert {book.stem for book in NOTEBOOKS} >= {"tour", "research", "colab_tpu"}
