"""A grid or a random search over an experiment's flags: many runs, one table.

  python launch/sweep.py imdb --workdir=runs/a --grid cell=lstm,gru --grid hidden=64,128 -- --epochs=3
  python launch/sweep.py imdb --workdir=runs/b --random rate=log:1e-4:1e-2 --random dropout=0:0.5

What stands after -- goes to every run. Each has a folder in OUT: its --workdir, what it printed, and
result.json once it has finished. Ctrl-C lets the runs save; the same command resumes them, skips
what has finished, and in the end prints the table, best in validation first.
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
  """The command line; `fixed` is what stands after --."""
  end = argv.index("--") if "--" in argv else len(argv)
  form = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
  add = parser.add_argument
  add("experiment")
  add("--workdir", required=True, help="folder of all runs and of results.csv")
  add("--grid", action="append", default=[], help="NAME=A,B,...; of several, all combinations")
  add("--random", action="append", default=[], help="NAME=LOW:HIGH, log:LOW:HIGH or A,B,...")
  add("--num_trials", type=int, default=20, help="how often --random draws")
  add("--seed", type=int, default=0, help="seed of these draws")
  add("--num_seeds", type=int, default=1, help="runs of each, with seeds 0, 1, ...")
  add("--metric", default="", help="the score that chooses, such as valid/accuracy")
  add("--num_jobs", type=int, help="runs at once; one, or of a SLURM array all, where not given")
  add("--sbatch_flags", metavar="FLAGS", help="submit a SLURM array, with these flags for sbatch")
  add("--dry_run", action="store_true", help="print what would be run")
  args = parser.parse_args(argv[:end], argparse.Namespace(fixed=argv[end + 1 :]))
  if args.sort and not args.sort.startswith("valid/"):
    parser.error(f"--metric must be a score of the validation part, valid/...; got {args.sort}")
  return args


def start_run(command: list[str], workdir: pathlib.Path) -> subprocess.Popen:
  """Starts a run that keeps what it prints in `out`."""
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / "stdout.txt", "w") as stdout, open(workdir / "stderr.txt", "a") as stderr:
    own = dict(start_new_session=True)  # Ctrl-C does not reach it but from `work`
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, **own)


def run_trials(
  commands: dict[Trial, list[str]], num_jobs: int, progress_bar: tqdm.tqdm
) -> list[Trial]:
  """Runs all, `jobs` at a time; returns those that failed. Ctrl-C lets those that run save."""
  todo, running, failed = list(commands), {}, []
  try:
    while todo or running:
      while todo and len(running) < num_jobs:
        trial = todo.pop(0)
        running[trial] = start_run(commands[trial], trial.workdir)
      for trial in [trial for trial, process in running.items() if process.poll() is not None]:
        last = "".join((trial.workdir / "stdout.txt").read_text().splitlines()[-1:])
        if running.pop(trial).returncode == 0 and last.startswith("{"):
          (trial.workdir / "result.json").write_text(last + "\n")
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
  """A SLURM array of launch/slurm.sh, each task with the flags of one run."""
  head = [line for line in SLURM_SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
  head += [f"#SBATCH --array=0-{len(trials) - 1}" + (f"%{args.jobs}" if args.jobs else "")]
  flags = [shlex.join([args.experiment, *trial.flags]) for trial in trials]
  cases = [f"  {number}) set -- {line} ;;" for number, line in enumerate(flags)]
  last = [
    "case $SLURM_ARRAY_TASK_ID in",
    *cases,
    "esac",
    f'exec {shlex.quote(str(SLURM_SCRIPT))} "$@"',
  ]
  return "\n".join(["#!/usr/bin/env bash", *head, *last])


def write_results(trials: list[Trial], metric: str, path: pathlib.Path):
  """Prints one table of all results, and writes it."""
  found: dict[tuple, list] = {}
  for trial in trials:
    if kept := trial.result:
      found.setdefault(trial.hyperparams, []).append(kept)
  rows, metric = ranking.rank_trials(found, metric)
  with open(path, "w", newline="") as file:
    writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
    writer.writeheader()
    writer.writerows(rows)
  print(ranking.format_table(rows))
  print(f"\n{metric} has chosen the first row; what else it found is shown of it alone. As {path}")


def main(argv: list[str]) -> int:
  """Runs the sweep of a command line; returns the exit code."""
  args = parse_args(argv)
  out, given = pathlib.Path(args.out).expanduser(), (args.fixed, args.grid, args.random)
  try:
    trials = make_trials(args.experiment, out, *given, args.trials, args.seed, args.seeds)
    todo = [trial for trial in trials if not trial.result]
    command = [sys.executable, "-m", f"experiments.{args.experiment}"]
    commands = {trial: [*command, *trial.flags] for trial in todo}
    if args.dry_run:
      script = args.slurm is not None and todo
      print(
        make_slurm_script(todo, args) if script else "\n".join(map(shlex.join, commands.values()))
      )
      return 0
    if args.slurm is not None and todo:
      if not shutil.which("sbatch"):
        raise InvalidInputError(
          "there is no sbatch here: --sbatch_flags wants a host that submits to SLURM"
        )
      out.mkdir(parents=True, exist_ok=True)
      (out / "array.sh").write_text(make_slurm_script(todo, args) + "\n")
      return subprocess.call(["sbatch", *shlex.split(args.slurm), str(out / "array.sh")])
    begun = dict(total=len(trials), initial=len(trials) - len(todo))
    with tqdm.tqdm(**begun, unit="run", disable=None) as bar:
      failed = run_trials(commands, args.jobs or 1, bar)
    for trial in failed:
      print(f"{trial.workdir.name} failed; see {trial.workdir}/stderr.txt", file=sys.stderr)
    if len(failed) < len(trials):
      write_results(trials, args.sort, out / "results.csv")
    return 1 if failed else 0
  except InvalidInputError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("stopped; the same command goes on from here", file=sys.stderr)
    return 130


if __name__ == "__main__":
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  sys.exit(main(sys.argv[1:]))
