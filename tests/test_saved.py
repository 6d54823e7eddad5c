"""What a run left behind is loaded without it, on any number of devices."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rnnjax import training
from rnnjax.types import BadInput
from tests.test_run import Config, finish, make


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The --out of a run on all devices, and the parameters that did best."""
  out = tmp_path_factory.mktemp("saved") / "run"
  return out, finish(make(Config(out=str(out)))).best


def test_the_best_parameters_and_the_configuration(run):
  out, best = run
  saved = training.load(str(out))
  np.testing.assert_array_equal(saved.params["w"], best["w"])
  assert saved.config == {"seed": 0, "rate": 0.1}
  assert saved.beside == {}


def test_who_reads_disturbs_nobody_who_writes(run):
  """What another process is writing there stays."""
  out, _ = run
  half = out / "checkpoints" / "99.orbax-checkpoint-tmp"
  half.mkdir()
  training.load(str(out))
  assert half.is_dir()
  half.rmdir()


def test_on_another_number_of_devices(run):
  """Saved on four, loaded on one."""
  out, best = run
  code = (
    "import json, jax; jax.config.update('jax_num_cpu_devices', 1); from rnnjax import training; "
    f"print(json.dumps([jax.device_count(), training.load({str(out)!r}).params['w'].tolist()]))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
  )
  assert done.returncode == 0, done.stderr
  devices, w = json.loads(done.stdout.splitlines()[-1])
  assert devices == 1
  np.testing.assert_allclose(w, best["w"], rtol=1e-7)


def test_what_is_no_run_is_refused(tmp_path, run):
  """A folder without a configuration, one without a checkpoint; neither is written to."""
  with pytest.raises(BadInput, match=r"is not the --out of a run: it has no config\.json"):
    training.load(str(tmp_path))
  (tmp_path / "config.json").write_text((run[0] / "config.json").read_text())
  with pytest.raises(BadInput, match="has no checkpoint yet"):
    training.load(str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
