"""Command line of an experiment: parses flags into a config, and prints scores as JSON."""

import dataclasses
import difflib
import json
import logging
import math
import os
import pathlib
import re
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence

import jax
from absl import flags

from experiments.common.train_config import FLAG_GROUPS, TrainConfig, check_value, flag_group
from rnnjax.backends import malloc
from rnnjax.training import device_mesh, distributed, run_dir
from rnnjax.types import InvalidInputError

COMPILATION_CACHE_DIR = "~/.cache/rnnjax/compiled"
BOOL_VALUES = {"true": True, "1": True, "false": False, "0": False}

# Old flag names and their new names. If an old flag has several new names, the first new name that
# is a flag of the experiment is used.
RENAMED_FLAGS = {
  "accumulate": "grad_accum_steps",
  "activation": "activation_reg",
  "apart": "per_variable",
  "average": "ema_decay",
  "base": "baseline",
  "batch": "batch_size",
  "beam": "beam_size",
  "beat": "steps_per_quarter",
  "block": "no_repeat_ngram_size",
  "both": "bidirectional_lm",
  "bytes": "byte_level",
  "cache": "cache_size",
  "chord": "nade_features",
  "chrono": "chrono_t_max",
  "clip": "max_grad_norm",
  "columns": "use_extra_columns",
  "convolutions": "num_conv_blocks",
  "copy": "copy_attention",
  "coverage": "coverage_weight",
  "cutoffs": "adaptive_cutoffs",
  "decay": "weight_decay",
  "diagnose": "log_gradients",
  "distributed": "coordinator",
  "dynamic": "dynamic_eval_lr",
  "embedding_dropout": "input_dropout",
  "enough": "target_loss_ratio",
  "evidence": "ngram_order",
  "features": "image_features",
  "feed": "input_feeding",
  "fewest": "min_test_words",
  "filters": "char_features",
  "flatness": "cache_theta",
  "folder": "subset",
  "frozen": "freeze_lm",
  "gain": "recurrent_init_scale",
  "hidden": "hidden_size hidden_sizes",
  "hold_out": "test_speaker",
  "hops": "num_hops",
  "joint": "shared_vocab",
  "keep": "truncation",
  "label": "label_column",
  "layers": "num_layers",
  "least": "min_count",
  "length": "sample_length",
  "level": "granularity",
  "limit": "max_eval_length max_sentences max_train_length",
  "load": "predict workdir",
  "log": "log_transform",
  "longest": "max_length",
  "lower": "lowercase",
  "memory": "max_jacobian_gib",
  "mirror": "horizontal_flip",
  "most": "max_words",
  "out": "workdir",
  "peers": "implementations",
  "precision": "dtype",
  "rate": "learning_rate",
  "restart": "state_reset_prob",
  "rows": "batch_sizes",
  "sample": "sample_length sample_file",
  "sampled": "scheduled_sampling_prob",
  "save_every": "checkpoint_every",
  "season": "season_length",
  "share": "cache_lambda",
  "smoothing": "label_smoothing",
  "source": "source_language source_column",
  "spelling": "char_encoder",
  "split": "fold",
  "strings": "num_train_utterances",
  "strip": "strip_lines",
  "subwords": "tokenizer",
  "tag": "predict",
  "target": "target_language target_column",
  "target_subwords": "target_tokenizer",
  "tempo": "speed_perturbation",
  "temporal": "temporal_reg",
  "test": "test_recordings",
  "text": "text_column text_file predict",
  "texts": "num_samples",
  "translate": "predict",
  "transpose": "max_transpose",
  "trials": "num_trials",
  "trigger": "asgd_start",
  "type_dropout": "word_type_dropout",
  "vectors": "pretrained_embeddings",
  "vocabulary": "vocab_size",
  "width": "embed_dim",
  "window": "bptt_length context_length max_train_length",
  "word": "predict",
  "write": "predict",
}


def main(config_class, run, presets: Mapping[str, Mapping] | None = None):
  """Run an experiment from the command line. The last line of stdout is one JSON object.

  Exit codes: 0 for success, --help and SIGTERM; 1 for errors in data, files or training; 2 for
  invalid flags; 130 for Ctrl-C.

  Args:
    config_class: the configuration dataclass; every field is a flag.
    run: a function from the configuration to the scores {name: value}.
    presets: {name: {field: value}}, the choices of --preset. Explicit flags override the preset.
  """
  try:
    config = parse_config(config_class, sys.argv[1:], presets)
  except InvalidInputError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  _setup_process()
  try:
    # With --predict, the configuration of the saved run is used, so the flags are not checked.
    if getattr(config, "workdir", "") and not getattr(config, "predict", ""):
      run_dir.check_run_dir(pathlib.Path(config.workdir).expanduser(), config)
    if isinstance(config, TrainConfig):
      setup_devices(config)
    result = run(config)
  except (InvalidInputError, FloatingPointError, OSError) as error:
    exit_with_error(f"error: {error}")
  except KeyboardInterrupt:
    sys.exit(130)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" in str(error):
      exit_with_error(
        f"error: out of memory: {error}\nReduce --batch_size or increase --grad_accum_steps."
      )
    if not jax.distributed.is_initialized():
      raise
    exit_with_error(f"error: a host was lost: {error}\nThe same command on all hosts resumes.")
  scores = {name: _finite_or_none(value) for name, value in result.items()}
  print(json.dumps({"experiment": run_dir.program_name()} | scores))


def parse_config(config_class, argv: Sequence[str], presets: Mapping[str, Mapping] | None = None):
  """Return the configuration that the command line flags specify.

  If `argv` contains --help or -h, the help is printed and the program exits.

  Raises:
    InvalidInputError: a flag does not exist, or its value is not allowed.
  """
  fields = {field.name: field for field in dataclasses.fields(config_class)}
  if {"--help", "-h"} & {*argv}:
    print(format_help(config_class, presets))
    sys.exit(0)
  parsed = define_flags(config_class, presets)
  try:
    positional = parsed(["command", *argv])[1:]
  except flags.UnrecognizedFlagError as error:
    raise InvalidInputError(_unknown_flag_message(f"--{error.flagname}", [*fields])) from None
  except flags.IllegalFlagValueError as error:
    # absl repeats the flag in front of the message of `_FieldParser`.
    reason = error.__context__
    message = reason if isinstance(reason, InvalidInputError) else error
    raise InvalidInputError(str(message)) from None
  except flags.Error as error:
    raise InvalidInputError(str(error)) from None
  if positional:
    raise InvalidInputError(f"flags look like --name=value; got {positional[0]}")
  preset = parsed["preset"].value if presets else None
  explicit = {name: parsed[name].value for name in fields if parsed[name].present}
  return config_class(**dict(presets[preset] if preset else {}) | explicit)


class _FieldParser(flags.ArgumentParser):
  """absl parser that converts and checks the value of a configuration field."""

  def __init__(self, field: dataclasses.Field):
    self.field = field

  def parse(self, argument):
    if not isinstance(argument, str):  # the default
      return argument
    value = _parse_value(self.field, argument)
    check_value(self.field, value)
    return value


def define_flags(config_class, presets: Mapping[str, Mapping] | None = None) -> flags.FlagValues:
  """Define an absl flag for each field of a configuration class, and --preset if there are presets.

  The result is separate from `absl.flags.FLAGS`, so that one process can parse the flags of several
  experiments.
  """
  values = flags.FlagValues()
  for field in dataclasses.fields(config_class):
    help_text = field.metadata.get("help", "")
    if type(field.default) is bool:  # absl defines --name, --noname and --name=BOOL
      flag = flags.BooleanFlag(field.name, field.default, help_text)
      flag.parser = _FieldParser(field)
      flags.DEFINE_flag(flag, flag_values=values)
    else:
      flags.DEFINE(_FieldParser(field), field.name, field.default, help_text, flag_values=values)
  if presets:
    flags.DEFINE_enum("preset", None, [*presets], "a set of flag values", flag_values=values)
  return values


def format_help(config_class, presets: Mapping[str, Mapping] | None = None) -> str:
  """Return the help of an experiment: its docstring, its flags by group, and its presets."""
  name = run_dir.experiment_name(config_class)
  lines = [f"usage: python -m experiments.{name} [--flag=value ...]", ""]
  lines += [(sys.modules[config_class.__module__].__doc__ or "").strip(), ""]
  lines += ["options:", *_help_entry("-h, --help", "show this help message and exit")]
  if presets:
    choices = "--preset {" + ",".join(presets) + "}"
    note = "a set of flag values, listed below; explicit flags override it"
    lines += _help_entry(choices, note)
  fields: dict[str, list[dataclasses.Field]] = {}
  for field in dataclasses.fields(config_class):
    fields.setdefault(flag_group(field), []).append(field)
  for group in reversed(FLAG_GROUPS):
    if group in fields:
      lines += ["", f"{group}:"]
    for field in fields.get(group, []):
      lines += _help_entry(f"--{field.name} {_value_placeholder(field)}", _flag_help(field))
  return "\n".join([*lines, *_describe_presets(presets or {})])


def _help_entry(flag: str, text: str) -> list[str]:
  """Return the help lines of a flag in two columns: the flag and its description."""
  description = textwrap.wrap(text, 56, break_on_hyphens=False)
  if len(flag) > 20:
    return [f"  {flag}", *(" " * 24 + line for line in description)]
  first, *rest = description
  return [f"  {flag:22}{first}", *(" " * 24 + line for line in rest)]


def _value_placeholder(field: dataclasses.Field) -> str:
  """Return the placeholder of a flag's value in the help, e.g. INT or {mean,max}."""
  choices = field.metadata.get("choices")
  if choices:
    return "{" + ",".join(choices) + "}"
  return {bool: "[BOOL]", int: "INT", float: "FLOAT", str: "TEXT"}[type(field.default)]


def _parse_value(field: dataclasses.Field, text: str):
  """Convert the text of a flag to the type of its field.

  Raises:
    InvalidInputError: the text cannot be converted to the type of the field.
  """
  value_type = type(field.default)
  try:
    return BOOL_VALUES[text.lower()] if value_type is bool else value_type(text)
  except (KeyError, ValueError):
    raise InvalidInputError(
      f"--{field.name} must be of type {value_type.__name__}; got {text!r}"
    ) from None


def _flag_help(field: dataclasses.Field) -> str:
  """Return the help text of a flag, followed by its default value and limits."""
  limits = field.metadata
  notes = [f"default: {_flag_text(field.default) or 'empty'}"]
  if limits.get("min_value") is not None:
    notes.append(f"at least {limits['min_value']}")
  if limits.get("less_than") is not None:
    notes.append(f"less than {limits['less_than']}")
  return f"{limits.get('help', '')} ({', '.join(notes)})"


def _flag_text(value) -> str:
  """Format a value in command line syntax."""
  return str(value).lower() if isinstance(value, bool) else str(value)


def _describe_presets(presets: Mapping[str, Mapping]) -> list[str]:
  """Return the lines of the help that list each preset and its flags; [] without presets."""
  lines = ["", "presets:"] if presets else []
  for name, values in presets.items():
    settings = " ".join(f"--{flag}={_flag_text(value)}" for flag, value in values.items())
    lines += textwrap.wrap(f"{name}: {settings}", 80, initial_indent="  ", subsequent_indent="    ")
  return lines


def _unknown_flag_message(argument: str, names: Sequence[str]) -> str:
  """Return the error message for an unknown argument, with the most similar flag."""
  match = re.match(r"--?(\w+)", argument)
  if not match:
    return f"flags look like --name=value; got {argument}"
  name = match[1]
  renamed = [new for new in RENAMED_FLAGS.get(name, "").split() if new in names]
  if name == "load" and len(renamed) == 2:
    return "--load is now --workdir, together with --predict"
  if renamed:
    return f"--{name} is now --{renamed[0]}"
  similar = difflib.get_close_matches(name, [*names, "preset"], 1)
  suggestion = f"; did you mean --{similar[0]}?" if similar else "; --help lists all flags"
  return f"unknown flag --{name}{suggestion}"


def _setup_process():
  """Set up logging, the compilation cache, the SIGTERM handler, and malloc options."""
  logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
  for name in ("absl", "jax", "orbax"):
    logging.getLogger(name).setLevel(logging.WARNING)
  if not jax.config.jax_compilation_cache_dir:  # $JAX_COMPILATION_CACHE_DIR takes precedence
    cache_dir = pathlib.Path(COMPILATION_CACHE_DIR).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(cache_dir))
  signal.signal(signal.SIGTERM, _exit_on_sigterm)
  malloc.tune_malloc()


def _exit_on_sigterm(*_):
  """Handle SIGTERM before and after training. `PreemptionHandler` handles it during training."""
  print(
    "ended by SIGTERM; the same command with --workdir resumes or begins again", file=sys.stderr
  )
  sys.exit(0)


def setup_devices(config: TrainConfig):
  """Initialize multi-host communication and devices. Call this function before jax queries devices.

  Raises:
    InvalidInputError: --coordinator is set but --workdir is not, the hosts cannot connect, or the
      batch cannot be divided among the devices.
  """
  num_hosts = 1
  if config.coordinator:
    if not config.workdir:
      raise InvalidInputError(
        "--coordinator needs --workdir, on a file system that all hosts share"
      )
    num_hosts = distributed.parse_coordinator(config.coordinator)[1]
    distributed.initialize_distributed(config.coordinator)
  # With --coordinator=auto, only jax knows the number of hosts. The batch size is then passed as
  # the number of hosts. Each host gets one device, because no larger number divides the batch.
  device_mesh.use_cpu_cores_as_devices(
    config.batch_size, config.mesh, num_hosts or config.batch_size
  )
  device_mesh.make_mesh(config.batch_size, config.mesh)
  if not distributed.is_primary_host():
    logging.getLogger().setLevel(logging.WARNING)
    sys.stdout = open(os.devnull, "w")


def exit_with_error(message: str):
  """Print an error message and exit with code 1, without waiting for other hosts."""
  if not jax.distributed.is_initialized():
    sys.exit(message)
  # sys.exit would block in the shutdown barrier of jax.distributed.
  print(message, file=sys.stderr, flush=True)
  os._exit(1)


def _finite_or_none(value):
  """Return None if the value is NaN or infinite (invalid in JSON), else the value."""
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
