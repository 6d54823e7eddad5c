"""Grid or random search over the flags of an experiment: many runs, one table.

  python launch/sweep.py imdb --workdir=runs/a --grid cell=lstm,gru --grid hidden_size=64,128 -- \\
    --epochs=3
  python launch/sweep.py imdb --workdir=runs/b --random learning_rate=log:1e-4:1e-2 \\
    --random dropout=0:0.5

Flags after -- are passed to every run. Each run has a run directory in WORKDIR, with its output
and, once it has finished, result.json. Ctrl-C stops the runs after saving. The same command resumes
them, skips finished runs, and prints a table, ranked by validation score.
"""

import argparse
import csv
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import tqdm

from experiments.sweep import ranking
from experiments.sweep.search_space import Trial, make_trials
from rnnjax.types import InvalidInputError

SLURM_SCRIPT = pathlib.Path(__file__).resolve().with_name("slurm.sh")


def parse_args(argv: list[str]) -> argparse.Namespace:
  """Parse the command line; `fixed_flags` are those after --."""
  end = argv.index("--") if "--" in argv else len(argv)
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("experiment", help="name of the experiment")
  add("--workdir", required=True, help="folder of all run directories and of results.csv")
  add("--grid", action="append", default=[], help="NAME=A,B,...; several make all combinations")
  add("--random", action="append", default=[], help="NAME=LOW:HIGH, log:LOW:HIGH or A,B,...")
  add("--num_trials", type=int, default=20, help="draws of --random")
  add("--seed", type=int, default=0, help="seed of the draws")
  add("--num_seeds", type=int, default=1, help="runs of each trial, with seeds 0, 1, ...")
  add("--metric", default="", help="validation score that ranks, such as valid/accuracy")
  add("--num_jobs", type=int, help="parallel runs (default: 1; in a SLURM array all)")
  add("--sbatch_flags", metavar="FLAGS", help="submit a SLURM array, with these flags of sbatch")
  add("--dry_run", action="store_true", help="print the commands without running them")
  args = parser.parse_args(argv[:end], argparse.Namespace(fixed_flags=argv[end + 1 :]))
  if args.metric and not args.metric.startswith("valid/"):
    parser.error(f"--metric must be a validation score, valid/...; got {args.metric}")
  return args


def start_run(command: list[str], workdir: pathlib.Path) -> subprocess.Popen:
  """Start a run whose output is written to its run directory."""
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / "stdout.txt", "w") as stdout, open(workdir / "stderr.txt", "a") as stderr:
    # In a new session Ctrl-C reaches the run only through `run_trials`, and once.
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True)


def run_trials(
  commands: dict[Trial, list[str]], num_jobs: int, progress_bar: tqdm.tqdm
) -> list[Trial]:
  """Run all commands, `num_jobs` at a time; Ctrl-C stops the current ones after saving.

  Returns:
    The trials that failed.
  """
  queue, running, failed = list(commands), {}, []
  try:
    while queue or running:
      while queue and len(running) < num_jobs:
        trial = queue.pop(0)
        running[trial] = start_run(commands[trial], trial.workdir)
      for trial in [trial for trial, process in running.items() if process.poll() is not None]:
        last_line = "".join((trial.workdir / "stdout.txt").read_text().splitlines()[-1:])
        if running.pop(trial).returncode == 0 and last_line.startswith("{"):
          (trial.workdir / "result.json").write_text(last_line + "\n")
        else:
          failed.append(trial)
        progress_bar.update()
      time.sleep(0.05)
  finally:
    for process in running.values():
      process.send_signal(signal.SIGINT)
    for process in running.values():
      process.wait()
  return failed


def make_slurm_script(trials: list[Trial], args) -> str:
  """Return the script of a SLURM array, in which each task runs launch/slurm.sh for one trial."""
  directives = [
    line for line in SLURM_SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")
  ]
  limit = f"%{args.num_jobs}" if args.num_jobs else ""
  directives.append(f"#SBATCH --array=0-{len(trials) - 1}{limit}")
  commands = [shlex.join([args.experiment, *trial.flags]) for trial in trials]
  cases = [f"  {index}) set -- {command} ;;" for index, command in enumerate(commands)]
  return "\n".join(
    [
      "#!/usr/bin/env bash",
      *directives,
      "case $SLURM_ARRAY_TASK_ID in",
      *cases,
      "esac",
      f'exec {shlex.quote(str(SLURM_SCRIPT))} "$@"',
    ]
  )


def submit_slurm_array(trials: list[Trial], args, workdir: pathlib.Path) -> int:
  """Submit a SLURM array of the trials; return the exit code of sbatch.

  Raises:
    InvalidInputError: there is no sbatch.
  """
  if not shutil.which("sbatch"):
    raise InvalidInputError("--sbatch_flags needs the command sbatch; run it on a submit host")
  workdir.mkdir(parents=True, exist_ok=True)
  script = workdir / "array.sh"
  script.write_text(make_slurm_script(trials, args) + "\n")
  return subprocess.call(["sbatch", *shlex.split(args.sbatch_flags), str(script)])


def write_results(trials: list[Trial], metric: str, path: pathlib.Path):
  """Print the table of all results and write it as CSV."""
  results: dict[tuple, list] = {}
  for trial in trials:
    if trial.result:
      results.setdefault(trial.hyperparams, []).append(trial.result)
  rows, metric = ranking.rank_trials(results, metric)
  with open(path, "w", newline="") as file:
    writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
    writer.writeheader()
    writer.writerows(rows)
  print(ranking.format_table(rows))
  print(f"\nRanked by {metric}; test scores are shown for the best trial only. Written to {path}")


def run_sweep(args: argparse.Namespace) -> int:
  """Run or submit a sweep; return the exit code.

  Raises:
    InvalidInputError: the flags are invalid.
  """
  workdir = pathlib.Path(args.workdir).expanduser()
  trials = make_trials(
    args.experiment,
    workdir,
    args.fixed_flags,
    args.grid,
    args.random,
    args.num_trials,
    args.seed,
    args.num_seeds,
  )
  unfinished = [trial for trial in trials if not trial.result]
  command = [sys.executable, "-m", f"experiments.{args.experiment}"]
  commands = {trial: [*command, *trial.flags] for trial in unfinished}
  use_slurm = args.sbatch_flags is not None and unfinished
  if args.dry_run:
    lines = [shlex.join(words) for words in commands.values()]
    print(make_slurm_script(unfinished, args) if use_slurm else "\n".join(lines))
    return 0
  if use_slurm:
    return submit_slurm_array(unfinished, args, workdir)
  with tqdm.tqdm(
    total=len(trials), initial=len(trials) - len(unfinished), unit="run", disable=None
  ) as progress_bar:
    failed = run_trials(commands, args.num_jobs or 1, progress_bar)
  for trial in failed:
    print(f"{trial.workdir.name} failed; see {trial.workdir}/stderr.txt", file=sys.stderr)
  if len(failed) < len(trials):
    write_results(trials, args.metric, workdir / "results.csv")
  return 1 if failed else 0


def main(argv: list[str]) -> int:
  """Run the sweep of a command line; return the exit code."""
  args = parse_args(argv)
  try:
    return run_sweep(args)
  except InvalidInputError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("stopped; the same command resumes", file=sys.stderr)
    return 130


if __name__ == "__main__":
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  sys.exit(main(sys.argv[1:]))
