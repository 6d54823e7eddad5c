"""Trained models as one file each, which needs jax alone to be called, on cpu, cuda and tpu.

`python -m experiments.export DIR` writes DIR/model.zip of the run with --workdir=DIR. It holds
the program as jax.export writes it, of any batch and any time, params.safetensors, what lay beside
the parameters such as vocabulary.json, and signature.json, which says what goes in and comes out:

    files = zipfile.ZipFile("runs/ptb/model.zip")
    params = safetensors.numpy.load(files.read("params.safetensors"))
    program = jax.export.deserialize(bytearray(files.read("model.bin")))
    vocabulary = json.loads(files.read("vocabulary.json"))
    outputs = program.call(params, inputs)  # such as {"tokens": an array [T, B], ...

An output that has the name of an input goes into the next call, as what a language model carries;
before the first it is zeros. The parameters lie beside the program and not in it: so the program
stays small and is compiled fast, and other tools read the weights, too.

Of a file from a stranger `load` makes the same, having checked all of it.
"""

from rnnjax.export.archive import LoadedProgram, load, save
from rnnjax.export.program import Program

__all__ = ["LoadedProgram", "Program", "load", "save"]
