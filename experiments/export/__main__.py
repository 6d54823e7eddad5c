"""python -m experiments.export DIR: the model of a run with --workdir=DIR as DIR/model.zip."""

import argparse
import json
import sys

import jax

from experiments.export.export_run import export_run
from rnnjax.types import InvalidInputError


def main():
  """Exports; the last line of stdout is one JSON object."""
  parser = argparse.ArgumentParser(
    "python -m experiments.export",
    description="Writes DIR/model.zip, the model of a run as one file that needs jax alone: a "
    "program for cpu, cuda and tpu, its parameters, its vocabulary, and a signature.",
  )
  parser.add_argument("DIR", help="where the run lies: its --workdir")
  out = parser.parse_args().DIR
  jax.config.update("jax_platforms", "cpu")  # where float32 is multiplied as float32
  try:
    print(json.dumps(export_run(out)))
  except InvalidInputError as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  main()
