"""README is true: its Python runs, its commands exist, its launchers explain themselves."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  exec(compile(block, "README.md", "exec"), {})


def test_commands_in_readme_exist():
  """Every launch/... and experiments... that README names is there."""
  for script in set(re.findall(r"launch/\w+(?:\.\w+)?", README)):
    assert (ROOT / script).exists(), script
  for name in re.findall(r"experiments\.(\w+)|launch/run (\w+)", README):
    assert (ROOT / "experiments" / f"{name[0] or name[1]}.py").exists(), name


def test_launch_run_lists_experiments():
  done = subprocess.run([ROOT / "launch/run"], capture_output=True, text=True)
  assert done.returncode == 2
  assert "imdb" in done.stderr.split()
  assert "options" not in done.stderr.split()
