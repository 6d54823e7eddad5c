"""Loading of saved runs."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rnnjax import training
from rnnjax.types import InvalidInputError
from tests.training.test_trainer import Config, finish_training, make_trainer


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
  """The --workdir of a run on all devices, and its best parameters."""
  workdir = tmp_path_factory.mktemp("saved") / "run"
  return workdir, finish_training(make_trainer(Config(workdir=str(workdir)))).best_params


def test_load_returns_best_params_and_config(finished_run):
  workdir, best = finished_run
  saved = training.load_saved_run(str(workdir))
  np.testing.assert_array_equal(saved.params["w"], best["w"])
  assert saved.config == {"seed": 0, "learning_rate": 0.1}
  assert saved.extras == {}


def test_load_keeps_unfinished_checkpoint(finished_run):
  """A checkpoint that another process is writing is not deleted."""
  workdir, _ = finished_run
  partial = workdir / "checkpoints" / "99.orbax-checkpoint-tmp"
  partial.mkdir()
  training.load_saved_run(str(workdir))
  assert partial.is_dir()
  partial.rmdir()


def test_load_on_other_number_of_devices(finished_run):
  """A run that was saved on four devices is loaded on one."""
  workdir, best = finished_run
  code = (
    "import json, jax; jax.config.update('jax_num_cpu_devices', 1); from rnnjax import training; "
    f"w = training.load_saved_run({str(workdir)!r}).params['w']; "
    "print(json.dumps([jax.device_count(), w.tolist()]))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
  )
  assert done.returncode == 0, done.stderr
  devices, w = json.loads(done.stdout.splitlines()[-1])
  assert devices == 1
  np.testing.assert_allclose(w, best["w"], rtol=1e-7)


def test_load_rejects_invalid_run_folder(tmp_path, finished_run):
  """A folder without config.json and one without a checkpoint; neither is written to."""
  with pytest.raises(
    InvalidInputError, match=r"is not the --workdir of a run: it has no config\.json"
  ):
    training.load_saved_run(str(tmp_path))
  (tmp_path / "config.json").write_text((finished_run[0] / "config.json").read_text())
  with pytest.raises(InvalidInputError, match="has no checkpoint yet"):
    training.load_saved_run(str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
