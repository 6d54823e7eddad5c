"""A sweep: what it asks for, what it runs, and the one table."""

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
"""Scores are known beforehand; 13 units fail, and a slow run has to be asked twice."""
import dataclasses, json, pathlib, sys, time

PRESETS = {"wide": dict(hidden=500)}

@dataclasses.dataclass(frozen=True)
class Config:
  cell: str = "gru"
  hidden: int = 10
  rate: float = 0.1
  both: bool = False
  seed: int = 0
  out: str = ""

if __name__ == "__main__":
  given = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
  out, hidden, seed = given["out"], int(given.get("hidden", 10)), int(given.get("seed", 0))
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
  """An experiment, toy, in the folder where all happens; the runs that were begun in it."""
  (tmp_path / "experiments").mkdir()
  (tmp_path / "experiments/__init__.py").touch()
  (tmp_path / "experiments/toy.py").write_text(TOY)
  places = [*experiments.__path__, str(tmp_path / "experiments")]
  monkeypatch.setattr(experiments, "__path__", places)
  monkeypatch.chdir(tmp_path)
  yield lambda: [line.split("/")[-1] for line in pathlib.Path("begun").read_text().splitlines()]
  sys.modules.pop("experiments.toy", None)


def dry_run_commands(capsys, *words):
  """What a dry run shows, as the flags of each run."""
  assert sweep.main([words[0], "--workdir=runs", "--dry_run", *words[1:]]) == 0
  lines = map(shlex.split, capsys.readouterr().out.splitlines())
  return [line[3:] for line in lines if line[:2] == [sys.executable, "-m"]]


def read_results():
  with open("runs/results.csv", newline="") as file:
    return list(csv.DictReader(file))


def test_grid_is_all_combinations(capsys, monkeypatch, tmp_path):
  """All combinations, each in a folder that says what it is."""
  monkeypatch.chdir(tmp_path)
  grid = ["--grid", "cell=lstm,gru", "--grid", "text=a b,c/d"]
  assert dry_run_commands(capsys, "imdb", *grid, "--", "--epochs=3", "--preset=notes") == [
    [
      "--epochs=3",
      "--preset=notes",
      f"--cell={cell}",
      f"--text={text}",
      f"--workdir=runs/{cell_text}",
    ]
    for cell, text, cell_text in [
      ("lstm", "a b", "cell=lstm,text=a%20b"),
      ("lstm", "c/d", "cell=lstm,text=c%2Fd"),
      ("gru", "a b", "cell=gru,text=a%20b"),
      ("gru", "c/d", "cell=gru,text=c%2Fd"),
    ]
  ]
  assert list(tmp_path.iterdir()) == []


def test_random_draws_are_reproducible_and_in_range(capsys):
  """Draws lie in their ranges, are the same again, and more of them begin like fewer."""
  ranges = ["rate=log:1e-4:1e-2", "dropout=0:0.5", "hidden=8:11", "cell=lstm,gru"]
  words = ["imdb", *(word for text in ranges for word in ("--random", text))]
  three = dry_run_commands(capsys, *words, "--num_trials=3")
  many = dry_run_commands(capsys, *words, "--num_trials=40")
  assert three == many[:3] != dry_run_commands(capsys, *words, "--num_trials=3", "--seed=1")
  assert len(many) == 40
  values = [dict(flag[2:].split("=", 1) for flag in run) for run in many]
  assert all(1e-4 <= float(run["rate"]) <= 1e-2 for run in values)
  assert all(0 <= float(run["dropout"]) <= 0.5 for run in values)
  assert {run["hidden"] for run in values} == {"8", "9", "10", "11"}
  assert {run["cell"] for run in values} == {"lstm", "gru"}


def test_log_uniform_draws():
  """As many draws between 1e-4 and 1e-3 as between 1e-3 and 1e-2; of the uniform ones, a tenth."""
  rng = np.random.default_rng(0)
  share = lambda text: np.mean([float(sample_value(rng, text, float)) < 1e-3 for _ in range(2000)])
  assert abs(share("log:1e-4:1e-2") - 1 / 2) < 0.05
  assert abs(share("1e-4:1e-2") - 1 / 11) < 0.03


@pytest.mark.parametrize(
  "words, said",
  [
    (["imbd", "--grid", "cell=gru"], "no experiment imbd"),
    (["options", "--grid", "cell=gru"], "no experiment options"),
    (["imdb", "--grid", "cel=gru"], "cel=gru names none of its flags, which are cell, hidden"),
    (["imdb", "--grid", "cell=gru,grue"], "--cell must be one of"),
    (["imdb", "--grid", "hidden=8,many"], "--hidden must be of type int; got 'many'"),
    (["imdb", "--grid", "bidirectional=maybe"], "--bidirectional must be of type bool"),
    (["imdb", "--random", "dropout=0:3"], "--dropout must be less than 1"),
    (["imdb", "--random", "rate=log:0:1"], "log:LOW:HIGH from above 0"),
    (["imdb", "--random", "rate=1:2:3"], "a range is LOW:HIGH"),
    (["imdb", "--grid", "cell=gru", "--", "--cell=lstm"], "given twice"),
    (["imdb", "--num_seeds=2", "--grid", "seed=1,2"], "given twice"),
    (["imdb", "--", "--workdir=x"], "given twice"),
    (["imdb", "--", "--preset=none"], "preset=none names none of its flags"),
  ],
)
def test_invalid_arguments_print_error_before_running(words, said, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert sweep.main([*words[:1], "--workdir=runs", *words[1:]]) == 2
  assert said in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("score", ["test/accuracy", "units/line"])
def test_ranking_requires_validation_score(score, capsys):
  with pytest.raises(SystemExit, match="2"):
    sweep.main(["imdb", "--workdir=x", f"--metric={score}"])
  assert "a score of the validation part" in capsys.readouterr().err
  with pytest.raises(InvalidInputError, match="score of validation"):
    ranking.rank_trials({(): [{score: 1.0, "valid/loss": 1.0}]}, score)


@pytest.mark.parametrize("score, best", [("loss", 1), ("perplexity", 1), ("accuracy", 2)])
def test_ranking_direction_of_scores(score, best):
  found = {(("n", n),): [{f"valid/{score}": float(n)}] for n in (2, 1)}
  rows, by = ranking.rank_trials(found)
  assert rows[0]["n"] == best and by == f"valid/{score}"


def test_results_table_over_seeds(toy_experiment, capsys):
  """Mean and deviation over seeds; the best in validation first, and the rest show no test."""
  grid = ["--grid", "hidden=20,40,30", "--num_seeds=3", "--num_jobs=4"]
  assert sweep.main(["toy", "--workdir=runs", *grid]) == 0
  first, *rest = rows = read_results()
  assert [row["hidden"] for row in rows] == ["40", "30", "20"]
  for row, base in zip(rows, (0.04, 0.03, 0.02)):
    values = [base, base + 0.01, base + 0.02]
    assert (row["runs"], float(row["parameters"])) == ("3", base * 1000)
    assert float(row["valid/accuracy"]) == pytest.approx(statistics.fmean(values))
    assert float(row["valid/accuracy ±"]) == pytest.approx(0.01)
  assert float(first["test/accuracy"]) == pytest.approx(0.95)
  hidden = ("test/accuracy", "test/accuracy ±", "units/line")
  assert {row[name] for row in rest for name in hidden} == {""}
  shown = capsys.readouterr().out.splitlines()
  assert shown[0].split()[:3] == ["hidden", "runs", "valid/accuracy"]
  assert "0.0500 ± 0.0100" in shown[1]
  assert "0.9500" in shown[1]
  assert "0.9" not in shown[2] + shown[3]
  assert "valid/accuracy has chosen the first row" in shown[-1]

  assert sweep.main(["toy", "--workdir=runs", "--metric=valid/loss", *grid]) == 0
  assert [row["hidden"] for row in read_results()] == ["20", "30", "40"]
  assert len(toy_experiment()) == 9  # none was run again


def test_failed_run_is_reported_and_retried(toy_experiment, capsys):
  """The others go on; it is named in the end, and tried again by the next call, alone."""
  words = ["toy", "--workdir=runs", "--grid", "hidden=12,13,14", "--", "--bidirectional_lm=true"]
  assert sweep.main(words) == 1
  said = capsys.readouterr()
  assert "hidden=13 failed; see runs/hidden=13/stderr.txt" in said.err
  assert "no luck" in pathlib.Path("runs/hidden=13/stderr.txt").read_text()
  assert [row["hidden"] for row in read_results()] == ["14", "12"]
  assert sweep.main(words) == 1
  assert toy_experiment() == ["hidden=12", "hidden=13", "hidden=14", "hidden=13"]
  words[words.index("hidden=12,13,14")] = "hidden=12,14"
  assert sweep.main(words) == 0


def test_ctrl_c_saves_runs_and_same_command_resumes(toy_experiment, capsys):
  words = ["toy", "--workdir=runs", "--num_jobs=2", "--grid", "cell=slow", "--grid", "hidden=7,8,9"]

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
  assert "the same command goes on" in capsys.readouterr().err
  saved = sorted(str(path.parent) for path in pathlib.Path().glob("runs/*/saved"))
  assert saved == ["runs/cell=slow,hidden=7", "runs/cell=slow,hidden=8"]
  last = pathlib.Path("runs/cell=slow,hidden=9")  # which did not begin
  last.mkdir()
  (last / "saved").touch()
  assert sweep.main(words) == 0
  assert [row["hidden"] for row in read_results()] == ["9", "8", "7"]


def test_slurm_array(toy_experiment, capsys, monkeypatch):
  """An array of what has not finished; each task is launch/slurm.sh with the flags of its run."""
  words = ["toy", "--workdir=runs", "--grid", "cell=gru,a b,it's", "--num_jobs=2"]
  assert sweep.main(["toy", "--workdir=runs", "--grid", "cell=gru"]) == 0
  path = os.environ["PATH"]
  monkeypatch.setenv("PATH", "")
  assert sweep.main([*words, "--sbatch_flags="]) == 2
  assert "no sbatch" in capsys.readouterr().err
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
  for path, text in (("launch/slurm.sh", sweep.SLURM.read_text()), ("experiments/toy.py", TOY)):
    (house / path).parent.mkdir(parents=True, exist_ok=True)
    (house / path).write_text(text)
    (house / path).chmod(0o755)
  script = script.replace(str(ROOT), str(house.resolve()))
  for number, cell in enumerate(["a b", "it's"]):
    own = os.environ | {"SLURM_ARRAY_TASK_ID": str(number), "DRY_RUN": "1"}
    done = subprocess.run(["bash", "-c", script], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    flags = shlex.split(done.stdout.splitlines()[-1])[-2:]
    assert flags[0] == f"--cell={cell}"
    assert flags[1].startswith("--workdir=runs/cell=")


def test_imdb_sweep_is_cached(tmp_path, capsys):
  """Of imdb: its result is kept and not sought again; other flags are refused in its folder."""
  words = ["imdb", f"--workdir={tmp_path}", "--grid", "cell=vanilla", "--"]
  tiny = "--dataset=embedded --ngram_order=0 --hidden=4 --embed_dim=4 --batch_size=100".split()
  assert sweep.main([*words, *tiny, "--epochs=1"]) == 0, capsys.readouterr()
  kept = tmp_path / "cell=vanilla/result.json"
  found, stamp = json.loads(kept.read_text()), kept.stat().st_mtime_ns
  assert (found["experiment"], found["cell"], found["dataset"]) == ("imdb", "vanilla", "embedded")
  assert f"{found['valid/accuracy']:.4f}" in capsys.readouterr().out
  assert sweep.main([*words, *tiny, "--epochs=1"]) == 0
  assert kept.stat().st_mtime_ns == stamp
  assert sweep.main([*words, *tiny, "--epochs=2"]) == 2
  assert "epochs: 1 there, 2 asked for" in capsys.readouterr().err
