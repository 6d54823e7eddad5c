"""The command line of experiments: flags from a configuration class, scores as one JSON line."""

import argparse
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

from experiments.common.train_config import FLAG_GROUPS, TrainConfig, check_value, flag_group
from rnnjax.backends import malloc
from rnnjax.training import device_mesh, distributed, run_dir
from rnnjax.types import InvalidInputError

COMPILATION_CACHE_DIR = "~/.cache/rnnjax/compiled"
BOOL_VALUES = {"true": True, "1": True, "false": False, "0": False}

# Flags of earlier versions and what they are called now. Where experiments differ, the new name is
# the first one that the experiment has.
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

  Exit codes: 0 for success and for --help, 1 for invalid data, 2 for invalid flags, 130 for Ctrl-C.

  Args:
    config_class: the dataclass of its configuration; every field is a flag.
    run: configuration -> {name: value}.
    presets: {name: {field: value}}, the choices of --preset. Flags that are given override them.
  """
  try:
    config = parse_config(config_class, sys.argv[1:], presets)
  except InvalidInputError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  _setup_process()
  try:
    # If --predict is given, the configuration is that of the saved run, whatever the flags are.
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
  """Return the configuration that the flags of a command line describe.

  Raises:
    InvalidInputError: a flag does not exist, or its value is not allowed.
  """
  parser = make_parser(config_class, presets)
  flags, unknown = parser.parse_known_args(argv)
  fields = {field.name: field for field in dataclasses.fields(config_class)}
  if unknown:
    raise InvalidInputError(_unknown_flag_message(unknown[0], [*fields]))
  texts = vars(flags)
  preset = texts.pop("preset", None)
  values = {name: _parse_value(fields[name], text) for name, text in texts.items()}
  for name, value in values.items():
    check_value(fields[name], value)
  return config_class(**dict(presets[preset] if preset else {}) | values)


class _Parser(argparse.ArgumentParser):
  """An argument parser that raises its errors instead of exiting."""

  def error(self, message: str):
    raise InvalidInputError(message.removeprefix("argument "))


def make_parser(config_class, presets: Mapping[str, Mapping] | None = None):
  """Return the parser of an experiment's flags; --help lists them by group."""
  module = sys.modules[config_class.__module__]
  parser = _Parser(
    prog=f"python -m experiments.{run_dir.experiment_name(config_class)}",
    usage="%(prog)s [--flag=value ...]",
    description=module.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    argument_default=argparse.SUPPRESS,  # so that only flags that are given override a preset
    allow_abbrev=False,
    epilog=_describe_presets(presets or {}),
  )
  fields: dict[str, list[dataclasses.Field]] = {}
  for field in dataclasses.fields(config_class):
    fields.setdefault(flag_group(field), []).append(field)
  for name in reversed(FLAG_GROUPS):
    group = parser.add_argument_group(name) if name in fields else None
    for field in fields.get(name, []):
      _add_flag(group, field)
  if presets:
    parser.add_argument(
      "--preset",
      choices=[*presets],
      help="a set of flag values, listed below; flags that are given override it",
    )
  return parser


def _add_flag(group, field: dataclasses.Field):
  """Add the flag of a field. Its value stays text, which `parse_config` parses and checks."""
  value_type, choices = type(field.default), field.metadata.get("choices")
  options = {"dest": field.name, "help": _flag_help(field)}
  if value_type is bool:
    group.add_argument(f"--{field.name}", nargs="?", const="true", metavar="BOOL", **options)
    options["help"] = argparse.SUPPRESS
    group.add_argument(f"--no{field.name}", action="store_const", const="false", **options)
    return
  type_names = {int: "INT", float: "FLOAT", str: "TEXT"}
  metavar = "{" + ",".join(choices) + "}" if choices else type_names[value_type]
  group.add_argument(f"--{field.name}", metavar=metavar, **options)


def _parse_value(field: dataclasses.Field, text: str):
  """Return the value of a flag's text.

  Raises:
    InvalidInputError: the text is not of the type of the field.
  """
  value_type = type(field.default)
  try:
    return BOOL_VALUES[text.lower()] if value_type is bool else value_type(text)
  except (KeyError, ValueError):
    raise InvalidInputError(
      f"--{field.name} must be of type {value_type.__name__}; got {text!r}"
    ) from None


def _flag_help(field: dataclasses.Field) -> str:
  """Return the help text of a flag with its default value and limits."""
  limits = field.metadata
  notes = [f"default: {_flag_text(field.default) or 'empty'}"]
  if limits.get("min_value") is not None:
    notes.append(f"at least {limits['min_value']}")
  if limits.get("less_than") is not None:
    notes.append(f"less than {limits['less_than']}")
  text = f"{limits.get('help', '')} ({', '.join(notes)})"
  return text.replace("%", "%%")  # argparse would format it


def _flag_text(value) -> str:
  """Return a value as one writes it on the command line."""
  return str(value).lower() if isinstance(value, bool) else str(value)


def _describe_presets(presets: Mapping[str, Mapping]) -> str | None:
  """Return the list of presets with the flags that each sets."""
  if not presets:
    return None
  lines = ["presets:"]
  for name, values in presets.items():
    flags = " ".join(f"--{flag}={_flag_text(value)}" for flag, value in values.items())
    lines += textwrap.wrap(f"{name}: {flags}", 80, initial_indent="  ", subsequent_indent="    ")
  return "\n".join(lines)


def _unknown_flag_message(argument: str, names: Sequence[str]) -> str:
  """Return the message for an argument that is not a flag, with the flag that was likely meant."""
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
  """Set up logging, the compilation cache, SIGTERM and malloc."""
  logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
  for name in ("absl", "jax", "orbax"):
    logging.getLogger(name).setLevel(logging.WARNING)
  if not jax.config.jax_compilation_cache_dir:  # $JAX_COMPILATION_CACHE_DIR takes precedence
    cache_dir = pathlib.Path(COMPILATION_CACHE_DIR).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(cache_dir))
  signal.signal(signal.SIGTERM, _exit_on_sigterm)
  malloc.tune_malloc()


def _exit_on_sigterm(*_):
  """Handle SIGTERM outside of training, where `PreemptionHandler` handles it."""
  print(
    "ended by SIGTERM; the same command with --workdir resumes or begins again", file=sys.stderr
  )
  sys.exit(0)


def setup_devices(config: TrainConfig):
  """Initialize multi-host communication and the devices, before jax first queries them.

  Raises:
    InvalidInputError: the hosts cannot connect, or the batch cannot be divided among the devices.
  """
  num_hosts = 1
  if config.coordinator:
    if not config.workdir:
      raise InvalidInputError(
        "--coordinator needs --workdir, on a file system that all hosts share"
      )
    num_hosts = distributed.parse_coordinator(config.coordinator)[1]
    distributed.initialize_distributed(config.coordinator)
  # With --coordinator=auto only jax knows the number of hosts. Passing the batch size as the number
  # of hosts then gives each host one device, as no larger number divides the batch.
  device_mesh.use_cpu_cores_as_devices(
    config.batch_size, config.mesh, num_hosts or config.batch_size
  )
  device_mesh.make_mesh(config.batch_size, config.mesh)
  if not distributed.is_primary_host():
    logging.getLogger().setLevel(logging.WARNING)
    sys.stdout = open(os.devnull, "w")


def exit_with_error(message: str):
  """Exit with code 1 and a message, without waiting for other hosts."""
  if not jax.distributed.is_initialized():
    sys.exit(message)
  # sys.exit would block in the shutdown barrier of jax.distributed.
  print(message, file=sys.stderr, flush=True)
  os._exit(1)


def _finite_or_none(value):
  """Return None for NaN and infinity, which JSON does not have."""
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
