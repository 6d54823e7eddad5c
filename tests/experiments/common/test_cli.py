"""The command line that all experiments share, on the example of imdb."""

import dataclasses
import importlib
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import imdb
from experiments.common import cli, commands, runner
from experiments.common.cells import CELLS, cell_options, make_cell
from experiments.common.train_config import FLAG_GROUPS, TrainConfig, field_spec
from rnnjax import gru, lstm, vanilla
from rnnjax.types import InvalidInputError

ROOT = pathlib.Path(__file__).parents[3]
TINY = [
  "--dataset=embedded",
  "--epochs=1",
  "--hidden_size=8",
  "--embed_dim=8",
  "--batch_size=32",
  "--num_layers=2",
]
COMMANDS = commands.command_names()
RUN_ALL_COMMANDS = """
import importlib, sys
from experiments.common import cli

class Reached(Exception): pass

def run(config):
  raise Reached

names = sys.argv[1:]
for name in names:
  module = importlib.import_module("experiments." + name)
  sys.argv[1:] = []
  try:
    cli.main(module.Config, run)
  except Reached:
    print(name)
"""


def imdb_command(*flags):
  return [sys.executable, "-m", "experiments.imdb", *flags]


def run_imdb(*flags):
  return subprocess.run(imdb_command(*flags), capture_output=True, text=True, timeout=300)


def test_every_command_is_listed():
  assert {"imdb", "word_lm", "benchmark", "memory"} <= set(COMMANDS)
  assert {"common", "__init__"}.isdisjoint(COMMANDS)
  assert {"imdb", "bottleneck"} <= set(commands.training_commands()) < set(COMMANDS)
  with pytest.raises(InvalidInputError, match=r"no experiment 'imbd'; choose from .*imdb"):
    commands.load_command("imbd")


def test_every_command_parses_default_flags():
  """Each command with its default flags, from parsing them to setting up the devices."""
  done = subprocess.run(
    [sys.executable, "-c", RUN_ALL_COMMANDS, *COMMANDS], capture_output=True, text=True, timeout=300
  )
  assert done.stdout.split() == COMMANDS, done.stderr


def test_last_stdout_line_is_json_result(tmp_path):
  """One JSON object; --workdir holds the configuration, metrics and checkpoints."""
  done = run_imdb(*TINY, "--cell=gru", f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result["experiment"] == "imdb"
  assert result["dataset"] == "embedded"
  assert result["cell"] == "gru"
  assert 0 <= result["test/accuracy"] <= 1
  assert {"config.json", "metrics.jsonl", "checkpoints"} <= {
    path.name for path in (tmp_path / "run").iterdir()
  }


@pytest.mark.parametrize(
  "flag, code, words",
  [
    ("--data_dir=/nowhere", 1, ["must be a folder", "/nowhere"]),
    ("--hiden_size=3", 2, ["unknown flag --hiden_size; did you mean --hidden_size?"]),
  ],
)
def test_invalid_flag_prints_error_without_traceback(flag, code, words):
  """The exit code, what was expected and what was given, and no traceback."""
  done = run_imdb(flag)
  assert done.returncode == code
  assert "Traceback" not in done.stderr
  for word in words:
    assert word in done.stderr


@pytest.mark.parametrize(
  "flag, message",
  [
    ("--cell=grue", "--cell must be one of vanilla, lstm, gru, .*; got 'grue'"),
    ("--hidden_size=-3", "--hidden_size must be at least 1; got -3"),
    ("--hidden_size=many", "--hidden_size must be of type int; got 'many'"),
    ("--hidden_size", "Missing value for flag --hidden_size"),
    ("--bidirectional=maybe", "--bidirectional must be of type bool; got 'maybe'"),
    ("--dropout=1.5", "--dropout must be less than 1; got 1.5"),
    ("--pooling=sum", "--pooling must be one of last, mean, .*; got 'sum'"),
    ("--pretrained_embeddings=/nowhere", "--pretrained_embeddings must be a file; '/nowhere'"),
    ("--preset=none", "flag --preset=none: value should be one of"),
    ("gru", "flags look like --name=value; got gru"),
    ("--drop_out=0.1", r"unknown flag --drop_out; did you mean --dropout\?"),
    ("--zzz=1", "unknown flag --zzz; --help lists all flags"),
    ("--rate=0.1", "--rate is now --learning_rate"),
    ("--out=runs/x", "--out is now --workdir"),
    ("--width=8", "--width is now --embed_dim"),
    ("--limit=100", "--limit is now --max_eval_length"),
    ("--window=100", "--window is now --max_train_length"),
    ("--load=runs/x", "--load is now --workdir, together with --predict"),
  ],
)
def test_invalid_flag_message(flag, message):
  with pytest.raises(InvalidInputError, match=message):
    cli.parse_config(imdb.Config, [flag], imdb.PRESETS)


def test_renamed_flags_have_successors():
  """The new name of each old flag is a flag of some experiment, and the old one is not."""
  configs = [importlib.import_module(f"experiments.{name}").Config for name in COMMANDS]
  flags = {field.name for config in configs for field in dataclasses.fields(config)}
  for old, new in cli.RENAMED_FLAGS.items():
    assert set(new.split()) <= flags, old
  for config in configs:
    names = {field.name for field in dataclasses.fields(config)}
    old = "trials" if "num_trials" in names else "batch"
    with pytest.raises(InvalidInputError, match=f"--{old} is now --(num_trials|batch_size)"):
      cli.parse_config(config, [f"--{old}=1"])


def test_flags_override_preset():
  config = cli.parse_config(
    imdb.Config, ["--preset=notes", "--epochs", "2", "--nobidirectional"], imdb.PRESETS
  )
  assert (config.epochs, config.hidden_size, config.bidirectional) == (2, 100, False)
  assert cli.parse_config(imdb.Config, ["--bidirectional"]).bidirectional is True
  assert cli.parse_config(imdb.Config, ["--bidirectional=false"]).bidirectional is False


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_flags_by_group(name, capsys):
  """Each flag once, with its default, under its heading; the presets; no flags of absl."""
  module = importlib.import_module(f"experiments.{name}")
  presets = getattr(module, "PRESETS", {})
  with pytest.raises(SystemExit) as exit_:
    cli.parse_config(module.Config, ["--help"], presets)
  assert exit_.value.code == 0
  text = capsys.readouterr().out
  for field in dataclasses.fields(module.Config):
    assert field.metadata["help"]
    assert text.count(f"\n  --{field.name} ") == 1, field.name
  assert "verbosity" not in text
  if issubclass(module.Config, TrainConfig):
    places = [text.index(f"\n{group}:\n") for group in reversed(FLAG_GROUPS)]
    assert places == sorted(places)
  for preset in presets:
    assert f"\n  {preset}: --" in text


def test_help_describes_limits_and_choices(capsys):
  with pytest.raises(SystemExit):
    cli.parse_config(imdb.Config, ["--help"], imdb.PRESETS)
  text = " ".join(capsys.readouterr().out.split())
  assert "(default: 128, at least 1)" in text
  assert "(default: true)" in text
  assert "--dtype {float32,bfloat16}" in text
  assert "pretrained: --cell=gru --freeze_lm=true" in text


def test_group_of_field_spec_takes_precedence(capsys):
  @dataclasses.dataclass(frozen=True)
  class Config:
    seed: int = field_spec(0, "seed", group="data")
    depth: int = field_spec(1, "depth in 100 % of the cases")

  with pytest.raises(SystemExit):
    cli.parse_config(Config, ["--help"])
  text = capsys.readouterr().out
  assert text.index("\nmodel:") < text.index("--depth") < text.index("\ndata:")
  assert text.index("\ndata:") < text.index("--seed")


def test_cell_spec_selects_cell_and_options():
  assert make_cell("gru", 8) is gru(8)
  assert make_cell("lstm(peepholes=True, forget_bias=2.0)", 8) is lstm(
    8, peepholes=True, forget_bias=2.0
  )
  assert make_cell("lstm(forget_bias=2.0)", 8, forget_bias=1.0, chrono=9.0) is lstm(
    8, forget_bias=2.0, chrono=9.0
  )
  assert make_cell("irnn", 8) is vanilla(8, activation="relu")
  assert cell_options("gru") == {"reset": "after", "chrono": None}
  for name in CELLS:
    assert make_cell(name, 3).features == 3


@pytest.mark.parametrize(
  "spec, message",
  [
    ("grue", "--cell must be one of vanilla, lstm, gru, .*; got 'grue'"),
    ("grue(reset=1)", "--cell must be one of vanilla, lstm, gru, .*; got 'grue'"),
    ("lstm(peephole=True)", "--cell=lstm has no option peephole; its options are peepholes, .*"),
    ("mingru(reset=1)", "--cell=mingru has no option reset; it has no options"),
    ("lstm(True)", "must be literals by name"),
    ("lstm(**{})", "--cell=lstm has no option None"),
    ("lstm(peepholes=True", "must be literals by name"),
    ("lstm(peepholes=__import__('os'))", "must be literals by name"),
    ("lstm(peepholes=True).init", "must be literals by name"),
    ("lstm(peepholes=1)", r"--cell=lstm\(peepholes=...\) must be of type bool; got 1"),
    ("lstm(chrono='x')", r"--cell=lstm\(chrono=...\) must be a number; got 'x'"),
    ("lstm(cell_size=-1)", "needs a positive number of memory cells|cell_size"),
    ("gru(reset='never')", r"--cell=gru\(reset='never'\): reset must be 'before' or 'after'"),
  ],
)
def test_invalid_cell_spec_raises(spec, message):
  with pytest.raises(InvalidInputError, match=message):
    imdb.Config(cell=spec)


def test_training_with_cell_options(tmp_path):
  """The options are saved with the configuration and are in the result."""
  flags = ["--cell=lstm(peepholes=True)", f"--workdir={tmp_path}"]
  config = cli.parse_config(imdb.Config, [*TINY, *flags])
  assert imdb.run(config)["cell"] == "lstm(peepholes=True)"
  saved, loaded = runner.load_run(imdb.Config, str(tmp_path), "words")
  assert loaded.cell == config.cell
  assert saved.params["encoder"]["layer_0"]["forward"]["p"].shape == (3, 8)


def test_ctrl_c_saves_checkpoint_and_resumes(tmp_path):
  """SIGINT during training: exit code 130, and the same command resumes."""
  workdir = tmp_path / "run"
  flags = [*TINY, "--epochs=1000", f"--workdir={workdir}"]
  run = subprocess.Popen(imdb_command(*flags), stderr=subprocess.PIPE, text=True)
  for _ in range(600):
    if (workdir / "metrics.jsonl").exists() and (workdir / "metrics.jsonl").read_text():
      break
    time.sleep(0.1)
  run.send_signal(signal.SIGINT)
  _, stderr = run.communicate(timeout=60)
  assert run.returncode == 130, stderr
  assert "Traceback" not in stderr
  assert f"saved in {workdir}. The same command resumes" in stderr
  again = subprocess.Popen(imdb_command(*flags), stderr=subprocess.PIPE, text=True)
  assert any("resuming at step" in line for line in again.stderr)
  again.kill()
  again.communicate()


@pytest.mark.parametrize("predict", ["", "a text"])
def test_predict_skips_check_of_run_directory(predict, tmp_path, monkeypatch):
  """Prediction uses the saved configuration, so that the flags need not be repeated."""
  config = {"config": {"hidden_size": 3}}
  (tmp_path / "config.json").write_text(json.dumps(config))
  flags = [f"--workdir={tmp_path}", f"--predict={predict}"]
  monkeypatch.setattr(sys, "argv", ["imdb", *flags])
  monkeypatch.setattr(cli, "_setup_process", lambda: None)
  monkeypatch.setattr(cli, "setup_devices", lambda config: None)
  if predict:
    cli.main(imdb.Config, lambda config: {"predicted": config.predict})
  else:
    with pytest.raises(SystemExit, match="holds a run of another configuration"):
      cli.main(imdb.Config, lambda config: {})


def test_config_validates_values():
  with pytest.raises(InvalidInputError, match="--batch_size must be at least 1; got 0"):
    imdb.Config(batch_size=0)
  for name, value in dict(
    hidden_size="8", epochs=1.5, learning_rate=None, log_gradients=1, seed=True
  ).items():
    with pytest.raises(InvalidInputError, match=f"--{name} must be of type .*; got"):
      imdb.Config(**{name: value})


def test_secondary_host_writes_figures_elsewhere(tmp_path, monkeypatch):
  """They go to a temporary folder, with the file name from which the format is derived."""
  monkeypatch.setattr(runner.distributed, "is_primary_host", lambda: False)
  path = runner.figure_file(str(tmp_path / "run"), "face.gif")
  path.write_bytes(b"a picture")
  assert path.name == "face.gif" and not (tmp_path / "run").exists()
