"""Trained models as single files that need only jax to be called, on cpu, cuda and tpu.

`python -m experiments.export DIR` exports the run with --workdir=DIR to DIR/model.zip and checks
that the exported program computes the same outputs as the model. The file contains:

  model.bin             the program, serialized by jax.export (StableHLO, 10 to 100 kB)
  params.safetensors    the parameters, also readable by other tools
  signature.json        the specifications of inputs and outputs
  vocabulary.json, ...  the additional files of the run

The program accepts any batch size and sequence length. It can be called without this library:

    files = zipfile.ZipFile("runs/ptb/model.zip")
    params = safetensors.numpy.load(files.read("params.safetensors"))
    program = jax.export.deserialize(bytearray(files.read("model.bin")))
    vocabulary = json.loads(files.read("vocabulary.json"))
    outputs = program.call(params, inputs)  # inputs such as {"tokens": an array [T, B], ...}

If an output has the same name as an input, such as the carry of a language model, pass the output
to the next call; in the first call, pass zeros. The program does not contain the parameters, so it
is small and compiles fast.

`load` validates a file before it is used, so files from untrusted sources are safe.
"""

from rnnjax.export.archive import LoadedProgram, load, save
from rnnjax.export.program import Program

__all__ = ["LoadedProgram", "Program", "load", "save"]
