"""Experiments on real data: one command a file, one folder for each family of tasks."""

import sys

# {optional package: the extra in setup.cfg that installs the package}
EXTRAS = {
  "jiwer": "text",
  "kaldi_native_fbank": "speech",
  "matplotlib": "plots",
  "mido": "music",
  "rouge_score": "text",
  "sacrebleu": "text",
  "safetensors": "export",
  "scipy": "forecasting",
  "seqeval": "text",
  "sklearn": "text",
  "tensorflow_datasets": "text",
  "tokenizers": "text",
}


def _explain_missing_package(error_type, error, traceback):
  """Print how to install a missing optional package; print other uncaught errors as usual."""
  package = (getattr(error, "name", None) or "").partition(".")[0]
  if isinstance(error, ModuleNotFoundError) and package in EXTRAS:
    extra = EXTRAS[package]
    command = f'pip install -e ".[{extra}]"'
    print(f"error: {package} is not installed; {command} installs it", file=sys.stderr)
  else:
    sys.__excepthook__(error_type, error, traceback)


# An import error occurs before the `main` of the experiment runs, so `main` cannot catch it.
sys.excepthook = _explain_missing_package
