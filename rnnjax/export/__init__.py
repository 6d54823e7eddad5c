"""Trained models as single files that need only jax to be called, on cpu, cuda and tpu.

`python -m experiments.export DIR` writes DIR/model.zip for the run with --workdir=DIR. It contains
the program as jax.export serializes it (StableHLO, 10 to 100 kB), for any batch size and sequence
length; params.safetensors; the extra files of the run, such as vocabulary.json; and signature.json,
which describes inputs and outputs. Before the command succeeds, the outputs of the file are
compared with the outputs of the model. The file can be called without this library:

    files = zipfile.ZipFile("runs/ptb/model.zip")
    params = safetensors.numpy.load(files.read("params.safetensors"))
    program = jax.export.deserialize(bytearray(files.read("model.bin")))
    vocabulary = json.loads(files.read("vocabulary.json"))
    outputs = program.call(params, inputs)  # inputs such as {"tokens": an array [T, B], ...}

If an output has the same name as an input, such as the carry of a language model, pass it to the
next call; in the first call, pass zeros. The parameters are separate from the program, which
therefore stays small and compiles fast; other tools can read the weights too.

`load` reads such a file and validates it, so it is safe on files from untrusted sources.
"""

from rnnjax.export.archive import LoadedProgram, load, save
from rnnjax.export.program import Program

__all__ = ["LoadedProgram", "Program", "load", "save"]
