"""Memory capacity of recurrent cells, measured on the adding and copy problems.

  python -m experiments.memory --workdir=runs/memory             # adding, 5 cells, 3 lengths
  python -m experiments.memory --problem=copy --lengths=5,20,50 --workdir=runs/copy
  python -m experiments.memory --preset=adding --cell=gru --workdir=runs/adding

A model without memory has the loss of a constant guess: a squared error of 1/6 in adding, or
ln 8 = 2.08 nats per symbol in copying. The first figure shows the loss of each cell by sequence
length. The second figure shows the gradient norm of the last hidden state with respect to earlier
states.
"""

import dataclasses
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax

from experiments.common import cli, runner, train_config
from experiments.common.cells import make_cell, parse_cell
from experiments.common.train_config import cell_field, field_spec
from experiments.memory_tasks import plots
from experiments.memory_tasks.data import (
  BASELINE_LOSSES,
  COPY_LENGTH,
  NUM_SYMBOLS,
  GeneratedBatches,
)
from rnnjax import forward, stack
from rnnjax.analysis.gradient_flow import jacobian_norms
from rnnjax.models.sequence_labeler import SequenceLabeler
from rnnjax.training import metrics, tasks
from rnnjax.types import InvalidInputError

DEFAULT_CELLS = ("vanilla", "relu", "irnn", "lstm", "gru")
PRESETS = {
  "adding": dict(
    lengths="600",
    hidden_size=128,
    batch_size=32,
    epochs=200,
    learning_rate=2e-3,
    chrono_t_max=600,
    target_loss_ratio=0.0,
  ),
  "copy": dict(
    problem="copy",
    lengths="1000",
    hidden_size=128,
    batch_size=32,
    epochs=30,
    learning_rate=2e-3,
    chrono_t_max=1000,
    target_loss_ratio=0.0,
  ),
}
BATCHES_PER_EPOCH = 100  # training batches between two evaluations on the validation set


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  """Configuration of the memory experiment; each field is a command-line flag."""

  problem: str = field_spec("adding", "memory problem", BASELINE_LOSSES)
  lengths: str = field_spec("10,30,100", "sequence lengths, separated by commas")
  cell: str = cell_field("", "recurrent cell; empty compares vanilla, relu, irnn, lstm and gru")
  hidden_size: int = 64
  learning_rate: float = 5e-3
  epochs: int = 6
  ema_decay: float = 0.9
  max_grad_norm: float = field_spec(
    1.0, "gradient norm above which gradients are clipped; 0 disables clipping", min_value=0
  )
  forget_bias: float = field_spec(1.0, "initial bias of the LSTM's forget gate")
  chrono_t_max: int = field_spec(
    0,
    "T_max of the chrono initialization of LSTM and GRU, in steps; 0 disables it",
    min_value=0,
  )
  recurrent_init_scale: float = field_spec(
    1.0, "factor of the initial recurrent weights U", min_value=0
  )
  target_loss_ratio: float = field_spec(
    0.02,
    "validation loss at which training stops, divided by the loss of a constant guess",
    min_value=0,
  )


def build(config: Config, cell_spec: str) -> SequenceLabeler:
  """Build the model with the given cell; `cell_spec` has the format of --cell."""
  options = {}
  name, _ = parse_cell(cell_spec)
  if name in ("lstm", "gru"):
    options["chrono"] = config.chrono_t_max or None
  if name == "lstm":
    options["forget_bias"] = config.forget_bias
  cell = make_cell(cell_spec, config.hidden_size, **options)

  def scaled_init(key, D):
    params = cell.init(key, D)
    if "U" not in params:  # linear recurrences have no recurrent weight matrix
      return params
    return params | {"U": config.recurrent_init_scale * params["U"]}

  layer = forward(cell._replace(init=scaled_init), backend=config.backend)
  num_outputs = 1 if config.problem == "adding" else NUM_SYMBOLS + 2
  return SequenceLabeler(stack(*[layer] * config.num_layers), num_outputs)


def compute_metrics(ys, batch):
  """Return {"loss": mean over the sequences, weighted by batch["weights"]}.

  In adding, the loss is the squared error of the last output. In copying, the loss is the cross
  entropy in nats per copied symbol.
  """
  labels, weights = batch["labels"], batch["weights"]
  if labels.ndim == 1:  # adding
    return {"loss": metrics.weighted_mean((ys[-1, :, 0] - labels) ** 2, weights)}
  nats = optax.softmax_cross_entropy_with_integer_labels(ys[-COPY_LENGTH:], labels)
  return {"loss": metrics.weighted_mean(nats.mean(0), weights)}


def prepare(config: Config, length: int):
  """Generate sequences of `length` steps; return the batches `train`, `valid` and `test`."""

  def batches(split_index, num_batches):
    seed = 3 * config.seed + split_index  # every split has a different seed
    return GeneratedBatches(config.problem, length, config.batch_size, seed, num_batches)

  return SimpleNamespace(
    train=batches(0, BATCHES_PER_EPOCH), valid=batches(1, 5), test=batches(2, 100)
  )


def gradient_norms_by_lag(cell, params, xs):
  """Return the gradient norms of the last hidden state with respect to earlier carries.

      normₖ = median over sequences of ‖∂h_T/∂carry_{T−k}‖ / √H        k = 0 ... T

  Args:
    cell: the cell of the first layer.
    params: the parameters of the model.
    xs: inputs [T, B, D].

  Returns:
    The norms [T + 1] of the first layer, one for each lag k.
  """

  def norms(xs):
    return jacobian_norms(cell, params["encoder"]["layer_0"]["forward"], xs)

  parts = jnp.stack(jax.vmap(norms, 1)(xs))  # norms with respect to h and, for an LSTM, c
  return jnp.median(jnp.linalg.norm(parts, axis=0), 0)[::-1]


def run(config: Config = Config()) -> dict:
  """Train each cell on each sequence length; return the test and validation losses.

  Raises:
    InvalidInputError: --lengths is malformed, or --data_dir is set.
  """
  lengths = config.lengths.split(",")
  if config.data_dir or not all(part.isdecimal() and int(part) > 1 for part in lengths):
    raise InvalidInputError(
      "--lengths must be integers of at least 2 separated by commas, like 10,30,100; got "
      f"{config.lengths!r}. All sequences are generated, so --data_dir must be empty; got "
      f"{config.data_dir!r}"
    )
  guess_loss = BASELINE_LOSSES[config.problem]
  losses, norms_before, norms_after = {}, {}, {}
  scores = {"dataset": config.problem, "seed": config.seed}
  for name in [config.cell] if config.cell else DEFAULT_CELLS:
    model = build(config, name)
    task = tasks.supervised_task(model, compute_metrics)
    losses[name] = []
    for length in map(int, lengths):
      workdir = ""
      if config.workdir:
        workdir = str(pathlib.Path(config.workdir).expanduser() / f"{name}_{length}")
      data = prepare(config, length)
      trainer = runner.train(
        dataclasses.replace(config, cell=name, lengths=str(length), workdir=workdir),
        task,
        data,
        "cosine",
        metric="loss",
        stop_on_divergence=True,
        max_grad_norm=config.max_grad_norm,
        # The trainer's score is the negative loss, so that larger is better.
        target_score=-config.target_loss_ratio * guess_loss,
      )
      result = trainer.test()
      losses[name].append(result["test/loss"])
      scores[f"test/{name}_{length}"] = result["test/loss"]
      scores[f"valid/loss_{name}_{length}"] = result["valid/loss"]
    # Gradient norms before and after training, at the last value of --lengths.
    batch = next(data.test.stream())
    cell = make_cell(name, config.hidden_size)
    init_key, _ = jax.random.split(jax.random.key(config.seed))  # as in training.init_state
    xs = batch["tokens"][:, :8]
    norms_before[name] = gradient_norms_by_lag(cell, task.init(init_key, batch), xs)
    norms_after[name] = gradient_norms_by_lag(cell, trainer.best_params, xs)
  if config.workdir:
    plots.plot_loss_vs_length(
      runner.figure_file(config.workdir, "lengths.png"), lengths, losses, guess_loss
    )
    plots.plot_gradient_norms(
      runner.figure_file(config.workdir, "gradients.png"),
      {"before training": norms_before, "after training": norms_after},
    )
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
