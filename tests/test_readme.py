"""The READMEs are true: their Python runs, and their commands, flags and links exist."""

import dataclasses
import importlib
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("rnnjax", "experiments", "launch")
READMES = [ROOT / "README.md", *(p for f in FOLDERS for p in sorted((ROOT / f).rglob("README.md")))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in READMES}
BLOCKS = [
  pytest.param(name, block, id=f"{name}-{n}")
  for name, text in TEXTS.items()
  for n, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
]
# A command up to the end of its line, table cell or code span.
COMMAND = re.compile(r"(?:launch/run|-m experiments\.|multiprocess \d+|slurm\.sh) ?(\w+)([^`|\n]*)")
COMMON_FLAGS = {"preset", "help"}


@pytest.mark.parametrize("name, block", BLOCKS)
def test_python_blocks_run(name, block, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  exec(compile(block, name, "exec"), {})


@pytest.mark.parametrize("name", TEXTS)
def test_commands_and_flags_exist(name):
  for script in set(re.findall(r"launch/\w+(?:\.\w+)?", TEXTS[name])):
    assert (ROOT / script).exists(), script
  for experiment, arguments in COMMAND.findall(TEXTS[name]):
    if experiment.isupper():  # a placeholder
      continue
    if not (ROOT / "experiments" / f"{experiment}.py").exists():
      assert (ROOT / "experiments" / experiment / "__main__.py").exists(), experiment
      continue
    config = importlib.import_module(f"experiments.{experiment}").Config
    flags = {field.name for field in dataclasses.fields(config)} | COMMON_FLAGS
    used = set(re.findall(r"--(?:no)?(\w+)", arguments))
    assert used <= flags, f"{experiment} has no flags {sorted(used - flags)}"


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files(name):
  for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", TEXTS[name]):
    assert (ROOT / pathlib.Path(name).parent / target).exists(), target


def test_front_page_is_short():
  assert len(TEXTS["README.md"].splitlines()) <= 150


def test_launch_run_lists_experiments():
  done = subprocess.run([ROOT / "launch/run"], capture_output=True, text=True)
  assert done.returncode == 2
  names = done.stderr.split()
  assert "imdb" in names
  assert not {"common", "cli", "train_config"} & {*names}


def test_launch_docs_builds_the_api_reference_without_warnings(tmp_path):
  """Every public function of the core has a page with its docstring."""
  done = subprocess.run(
    [ROOT / "launch/docs", str(tmp_path)],
    capture_output=True,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )
  assert done.returncode == 0, done.stderr[-3000:]
  page = (tmp_path / "rnnjax" / "cells" / "lstm.html").read_text(encoding="utf-8")
  assert "cₜ = σ(f) ⊙ cₜ₋₁ + σ(i) ⊙ tanh(g)" in page
  assert (tmp_path / "rnnjax" / "unroll.html").exists()
