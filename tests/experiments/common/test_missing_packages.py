"""A command whose optional packages are not installed says how to install them."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
CODE = """
import runpy, sys
sys.modules[sys.argv[1]] = None  # as if the package were not installed
runpy.run_module("experiments." + sys.argv[2], run_name="__main__")
"""


@pytest.mark.parametrize(
  "package, experiment, extra", [("mido", "music", "music"), ("sacrebleu", "translate", "text")]
)
def test_missing_package_is_named_with_its_extra(package, experiment, extra):
  command = [sys.executable, "-c", CODE, package, experiment]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr == (
    f'error: {package} is not installed; pip install -e ".[{extra}]" installs it\n'
  )
