"""`python -m experiments.export DIR` exports the run with --workdir=DIR to DIR/model.zip."""

import argparse
import json
import sys

import jax

from experiments.export.export_run import export_run
from rnnjax.types import InvalidInputError


def main():
  """Export a run. The last line of stdout is the result of `export_run` as JSON."""
  parser = argparse.ArgumentParser(
    "python -m experiments.export",
    description="Write DIR/model.zip, the model of a run as one file that needs only jax: a "
    "program for cpu, cuda and tpu, its parameters, its vocabulary, and a signature.",
  )
  parser.add_argument("DIR", help="run directory: the --workdir of the run")
  workdir = parser.parse_args().DIR
  # The check compares float32 results; GPUs and TPUs may multiply float32 with lower precision.
  jax.config.update("jax_platforms", "cpu")
  try:
    print(json.dumps(export_run(workdir)))
  except InvalidInputError as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  main()
