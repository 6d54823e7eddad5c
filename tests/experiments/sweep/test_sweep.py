"""Sweeps: trials, runs, ranking, SLURM arrays."""

import csv
import importlib.util
import json
import os
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import experiments
from experiments.sweep import ranking
from experiments.sweep.search_space import sample_value
from rnnjax.types import InvalidInputError

ROOT = pathlib.Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("sweep", ROOT / "launch/sweep.py")
sweep = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sweep)
TOY = '''
"""A toy experiment with known scores. 13 units fail; a slow run is interrupted once.

It parses its flags itself instead of calling cli.main(Config, run).
"""
import dataclasses, json, pathlib, sys, time

PRESETS = {"wide": dict(hidden_size=500)}

@dataclasses.dataclass(frozen=True)
class Config:
  cell: str = "gru"
  hidden_size: int = 10
  learning_rate: float = 0.1
  bidirectional: bool = False
  seed: int = 0
  workdir: str = ""

if __name__ == "__main__":
  given = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
  out, hidden, seed = given["workdir"], int(given.get("hidden_size", 10)), int(given.get("seed", 0))
  print("some text")
  try:
    with open("begun", "a") as file:
      file.write(out + chr(10))
    if given.get("cell") == "slow" and not pathlib.Path(out, "saved").exists():
      time.sleep(60)
  except KeyboardInterrupt:
    pathlib.Path(out, "saved").touch()
    sys.exit(130)
  if hidden == 13:
    sys.exit("no luck")
  valid = hidden / 1000 + seed / 100
  scores = {"seed": seed, "test/accuracy": 1 - valid, "valid/accuracy": valid, "valid/loss": valid}
  print(json.dumps({"experiment": "toy", **scores, "parameters": hidden, "units/line": 0.5}))
'''


@pytest.fixture
def toy_experiment(tmp_path, monkeypatch):
  """Install the experiment `toy`; return a function that lists the runs started so far."""
  (tmp_path / "experiments").mkdir()
  (tmp_path / "experiments/__init__.py").touch()
  (tmp_path / "experiments/toy.py").write_text(TOY)
  places = [*experiments.__path__, str(tmp_path / "experiments")]
  monkeypatch.setattr(experiments, "__path__", places)
  monkeypatch.chdir(tmp_path)
  yield lambda: [line.split("/")[-1] for line in pathlib.Path("begun").read_text().splitlines()]
  sys.modules.pop("experiments.toy", None)


def dry_run_commands(capsys, *words):
  """Return the flags of each run that a dry run prints."""
  assert sweep.main([words[0], "--workdir=runs", "--dry_run", *words[1:]]) == 0
  lines = map(shlex.split, capsys.readouterr().out.splitlines())
  return [line[3:] for line in lines if line[:2] == [sys.executable, "-m"]]


def read_results():
  with open("runs/results.csv", newline="") as file:
    return list(csv.DictReader(file))


def test_grid_is_all_combinations(capsys, monkeypatch, tmp_path):
  """All combinations, each in a folder named after its flags."""
  monkeypatch.chdir(tmp_path)
  grid = ["--grid", "cell=lstm,gru", "--grid", "text_column=a b,c/d"]
  assert dry_run_commands(capsys, "imdb", *grid, "--", "--epochs=3", "--preset=notes") == [
    [
      "--epochs=3",
      "--preset=notes",
      f"--cell={cell}",
      f"--text_column={text}",
      f"--workdir=runs/{cell_text}",
    ]
    for cell, text, cell_text in [
      ("lstm", "a b", "cell=lstm,text_column=a%20b"),
      ("lstm", "c/d", "cell=lstm,text_column=c%2Fd"),
      ("gru", "a b", "cell=gru,text_column=a%20b"),
      ("gru", "c/d", "cell=gru,text_column=c%2Fd"),
    ]
  ]
  assert list(tmp_path.iterdir()) == []


def test_random_draws_are_reproducible_and_in_range(capsys):
  """Draws are in their ranges and reproducible; more draws start with those of fewer."""
  ranges = ["learning_rate=log:1e-4:1e-2", "dropout=0:0.5", "hidden_size=8:11", "cell=lstm,gru"]
  words = ["imdb", *(word for text in ranges for word in ("--random", text))]
  three = dry_run_commands(capsys, *words, "--num_trials=3")
  many = dry_run_commands(capsys, *words, "--num_trials=40")
  assert three == many[:3] != dry_run_commands(capsys, *words, "--num_trials=3", "--seed=1")
  assert len(many) == 40
  values = [dict(flag[2:].split("=", 1) for flag in run) for run in many]
  assert all(1e-4 <= float(run["learning_rate"]) <= 1e-2 for run in values)
  assert all(0 <= float(run["dropout"]) <= 0.5 for run in values)
  assert {run["hidden_size"] for run in values} == {"8", "9", "10", "11"}
  assert {run["cell"] for run in values} == {"lstm", "gru"}


def test_log_uniform_draws():
  """Half of the log-uniform draws are below 1e-3, and a tenth of the uniform ones."""
  rng = np.random.default_rng(0)
  share = lambda text: np.mean([float(sample_value(rng, text, float)) < 1e-3 for _ in range(2000)])
  assert abs(share("log:1e-4:1e-2") - 1 / 2) < 0.05
  assert abs(share("1e-4:1e-2") - 1 / 11) < 0.03


@pytest.mark.parametrize(
  "words, message",
  [
    (["imbd", "--grid", "cell=gru"], "no experiment 'imbd'"),
    (["common", "--grid", "cell=gru"], "no experiment 'common'"),
    (["imdb", "--grid", "cel=gru"], "unknown flag --cel; did you mean --cell?"),
    (["imdb", "--grid", "cell=gru,grue"], "--cell must be one of"),
    (["imdb", "--grid", "hidden_size=8,many"], "--hidden_size must be of type int; got 'many'"),
    (["imdb", "--grid", "bidirectional=maybe"], "--bidirectional must be of type bool"),
    (["imdb", "--random", "dropout=0:3"], "--dropout must be less than 1"),
    (["imdb", "--random", "learning_rate=log:0:1"], "log:LOW:HIGH with LOW above 0"),
    (["imdb", "--random", "learning_rate=1:2:3"], "a range must be LOW:HIGH"),
    (["imdb", "--grid", "cell=gru", "--", "--cell=lstm"], "each flag must be given once"),
    (["imdb", "--num_seeds=2", "--grid", "seed=1,2"], "each flag must be given once"),
    (["imdb", "--", "--workdir=x"], "each flag must be given once"),
    (["imdb", "--", "--preset=none"], "flag --preset=none: value should be one of"),
  ],
)
def test_invalid_arguments_print_error_before_running(
  words, message, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert sweep.main([*words[:1], "--workdir=runs", *words[1:]]) == 2
  assert message in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("score", ["test/accuracy", "units/line"])
def test_ranking_requires_validation_score(score, capsys):
  with pytest.raises(SystemExit, match="2"):
    sweep.main(["imdb", "--workdir=x", f"--metric={score}"])
  assert "must be a validation score" in capsys.readouterr().err
  with pytest.raises(InvalidInputError, match="must be a validation score"):
    ranking.rank_trials({(): [{score: 1.0, "valid/loss": 1.0}]}, score)


@pytest.mark.parametrize("score, best", [("loss", 1), ("perplexity", 1), ("accuracy", 2)])
def test_ranking_direction_of_scores(score, best):
  found = {(("n", n),): [{f"valid/{score}": float(n)}] for n in (2, 1)}
  rows, by = ranking.rank_trials(found)
  assert rows[0]["n"] == best and by == f"valid/{score}"


def test_results_table_over_seeds(toy_experiment, capsys):
  """Mean and deviation over seeds, ranked by validation; only the best row has test scores."""
  grid = ["--grid", "hidden_size=20,40,30", "--num_seeds=3", "--num_jobs=4"]
  assert sweep.main(["toy", "--workdir=runs", *grid]) == 0
  first, *rest = rows = read_results()
  assert [row["hidden_size"] for row in rows] == ["40", "30", "20"]
  for row, base in zip(rows, (0.04, 0.03, 0.02)):
    values = [base, base + 0.01, base + 0.02]
    assert (row["runs"], float(row["parameters"])) == ("3", base * 1000)
    assert float(row["valid/accuracy"]) == pytest.approx(statistics.fmean(values))
    assert float(row["valid/accuracy ±"]) == pytest.approx(0.01)
  assert float(first["test/accuracy"]) == pytest.approx(0.95)
  hidden = ("test/accuracy", "test/accuracy ±", "units/line")
  assert {row[name] for row in rest for name in hidden} == {""}
  shown = capsys.readouterr().out.splitlines()
  assert shown[0].split()[:3] == ["hidden_size", "runs", "valid/accuracy"]
  assert "0.0500 ± 0.0100" in shown[1]
  assert "0.9500" in shown[1]
  assert "0.9" not in shown[2] + shown[3]
  assert "Ranked by valid/accuracy" in shown[-1]

  assert sweep.main(["toy", "--workdir=runs", "--metric=valid/loss", *grid]) == 0
  assert [row["hidden_size"] for row in read_results()] == ["20", "30", "40"]
  assert len(toy_experiment()) == 9  # no run is repeated


def test_failed_run_is_reported_and_retried(toy_experiment, capsys):
  """The other runs finish; the failed one is reported and retried by the next call."""
  words = ["toy", "--workdir=runs", "--grid", "hidden_size=12,13,14", "--", "--bidirectional=true"]
  assert sweep.main(words) == 1
  said = capsys.readouterr()
  assert "hidden_size=13 failed; see runs/hidden_size=13/stderr.txt" in said.err
  assert "no luck" in pathlib.Path("runs/hidden_size=13/stderr.txt").read_text()
  assert [row["hidden_size"] for row in read_results()] == ["14", "12"]
  assert sweep.main(words) == 1
  assert toy_experiment() == [
    "hidden_size=12",
    "hidden_size=13",
    "hidden_size=14",
    "hidden_size=13",
  ]
  words[words.index("hidden_size=12,13,14")] = "hidden_size=12,14"
  assert sweep.main(words) == 0


def test_ctrl_c_saves_runs_and_same_command_resumes(toy_experiment, capsys):
  words = [
    "toy",
    "--workdir=runs",
    "--num_jobs=2",
    "--grid",
    "cell=slow",
    "--grid",
    "hidden_size=7,8,9",
  ]

  def interrupt():
    for _ in range(600):
      if pathlib.Path("begun").exists() and len(toy_experiment()) == 2:
        break
      time.sleep(0.1)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    threading.Thread(target=interrupt).start()
    assert sweep.main(words) == 130
  finally:
    signal.signal(signal.SIGINT, before)
  assert "the same command resumes" in capsys.readouterr().err
  saved = sorted(str(path.parent) for path in pathlib.Path().glob("runs/*/saved"))
  assert saved == ["runs/cell=slow,hidden_size=7", "runs/cell=slow,hidden_size=8"]
  last = pathlib.Path("runs/cell=slow,hidden_size=9")  # which was not started
  last.mkdir()
  (last / "saved").touch()
  assert sweep.main(words) == 0
  assert [row["hidden_size"] for row in read_results()] == ["9", "8", "7"]


def test_slurm_array(toy_experiment, capsys, monkeypatch):
  """The array contains unfinished runs; each task calls launch/slurm.sh with the flags of a run."""
  words = ["toy", "--workdir=runs", "--grid", "cell=gru,a b,it's", "--num_jobs=2"]
  assert sweep.main(["toy", "--workdir=runs", "--grid", "cell=gru"]) == 0
  path = os.environ["PATH"]
  monkeypatch.setenv("PATH", "")
  assert sweep.main([*words, "--sbatch_flags="]) == 2
  assert "needs the command sbatch" in capsys.readouterr().err
  keep = 'import sys\nopen("asked", "w").write(repr(sys.argv[1:]))'
  pathlib.Path("sbatch").write_text(f"#!{sys.executable}\n{keep}")
  pathlib.Path("sbatch").chmod(0o755)
  monkeypatch.setenv("PATH", f"{pathlib.Path.cwd()}:{path}")
  assert sweep.main([*words, "--sbatch_flags=--time=1:00 --comment='x y'"]) == 0
  assert pathlib.Path("asked").read_text() == "['--time=1:00', '--comment=x y', 'runs/array.sh']"
  script = pathlib.Path("runs/array.sh").read_text()
  assert {"#SBATCH --array=0-1%2", "#SBATCH --requeue"} <= set(script.splitlines())
  tool = pathlib.Path(sys.executable).with_name("shellcheck")
  assert subprocess.run([tool, "runs/array.sh"]).returncode == 0
  capsys.readouterr()
  assert sweep.main([*words, "--sbatch_flags=", "--dry_run"]) == 0
  assert capsys.readouterr().out == script

  house = pathlib.Path("house")
  for path, text in (
    ("launch/slurm.sh", sweep.SLURM_SCRIPT.read_text()),
    ("experiments/toy.py", TOY),
  ):
    (house / path).parent.mkdir(parents=True, exist_ok=True)
    (house / path).write_text(text)
    (house / path).chmod(0o755)
  script = script.replace(str(ROOT), str(house.resolve()))
  for number, cell in enumerate(["a b", "it's"]):
    env = os.environ | {"SLURM_ARRAY_TASK_ID": str(number), "DRY_RUN": "1"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    flags = shlex.split(done.stdout.splitlines()[-1])[-2:]
    assert flags[0] == f"--cell={cell}"
    assert flags[1].startswith("--workdir=runs/cell=")


def test_imdb_sweep_is_cached(tmp_path, capsys):
  """A finished run of imdb is not repeated; its folder rejects other flags."""
  words = ["imdb", f"--workdir={tmp_path}", "--grid", "cell=vanilla", "--"]
  tiny = "--dataset=embedded --ngram_order=0 --hidden_size=4 --embed_dim=4 --batch_size=100".split()
  assert sweep.main([*words, *tiny, "--epochs=1"]) == 0, capsys.readouterr()
  path = tmp_path / "cell=vanilla/result.json"
  result, modified = json.loads(path.read_text()), path.stat().st_mtime_ns
  assert (result["experiment"], result["cell"], result["dataset"]) == (
    "imdb",
    "vanilla",
    "embedded",
  )
  assert f"{result['valid/accuracy']:.4f}" in capsys.readouterr().out
  assert sweep.main([*words, *tiny, "--epochs=1"]) == 0
  assert path.stat().st_mtime_ns == modified
  assert sweep.main([*words, *tiny, "--epochs=2"]) == 2
  assert "epochs: saved 1, requested 2" in capsys.readouterr().err
