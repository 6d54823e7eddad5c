"""How far back can a cell remember? The adding and the copy problem, over lengths and cells.

  python -m experiments.memory --workdir=runs/memory                # adding, five cells, three lengths
  python -m experiments.memory --problem=copy --lengths=5,20,50 --workdir=runs/copy
  python -m experiments.memory --preset=adding --cell=gru --workdir=runs/adding

A cell that keeps nothing has the loss of a guess: 1/6 in adding, ln 8 = 2.08 nats in copying. The
figures: which length each cell solves, and how much its last state hears of those before.
"""

import dataclasses
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax

from experiments.common import cli, runner, train_config
from experiments.common.train_config import field_spec
from experiments.memory_tasks import plots
from experiments.memory_tasks.data import (
  BASELINE_LOSSES,
  COPY_LENGTH,
  NUM_SYMBOLS,
  GeneratedBatches,
)
from rnnjax import forward, gru, lstm, stack, vanilla
from rnnjax.analysis.gradient_flow import jacobian_norms
from rnnjax.models.sequence_labeler import SequenceLabeler
from rnnjax.training import metrics, tasks
from rnnjax.types import InvalidInputError

MEMORY_CELLS = {
  "tanh": vanilla,
  "relu": lambda H: vanilla(H, activation="relu")._replace(name=f"relu({H})", init=vanilla(H).init),
  "irnn": lambda H: vanilla(H, activation="relu"),
  "lstm": lstm,
  "gru": gru,
}
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
BATCHES_PER_EPOCH = 100  # batches between two looks at the validation part


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  problem: str = field_spec("adding", "what is to be remembered", BASELINE_LOSSES)
  lengths: str = field_spec("10,30,100", "lengths of the problem, with commas")
  cell: str = field_spec("", "one cell; all where none is named", ["", *MEMORY_CELLS])
  hidden_size: int = 64
  learning_rate: float = 5e-3
  epochs: int = 6
  ema_decay: float = 0.9
  max_grad_norm: float = field_spec(1.0, "largest norm of a gradient; 0 for any", min_value=0)
  forget_bias: float = field_spec(1.0, "where the bias of the LSTM's forget gate starts")
  chrono_t_max: int = field_spec(
    0, "longest time that gates are made for, in steps; 0: for none", min_value=0
  )
  recurrent_init_scale: float = field_spec(1.0, "what U is multiplied by at the start", min_value=0)
  target_loss_ratio: float = field_spec(
    0.02, "share of a guess's loss with which a length is solved", min_value=0
  )


def build(config: Config, cell_name: str) -> SequenceLabeler:
  """The model alone, of cells of that name."""
  gates = {"chrono": config.chrono_t_max or None} if cell_name in ("lstm", "gru") else {}
  bias = {"forget_bias": config.forget_bias} if cell_name == "lstm" else {}
  cell = MEMORY_CELLS[cell_name](config.hidden_size, **gates, **bias)

  def begin(key, D):
    params = cell.init(key, D)
    return params | {"U": config.recurrent_init_scale * params["U"]}

  layers = [forward(cell._replace(init=begin), backend=config.backend)] * config.num_layers
  return SequenceLabeler(stack(*layers), 1 if config.problem == "adding" else NUM_SYMBOLS + 2)


def compute_metrics(ys, batch):
  """The squared error of a sum after the last step, or nats for each symbol said at the end."""
  labels, weights = batch["labels"], batch["weights"]
  if labels.ndim == 1:
    return {"loss": metrics.weighted_mean((ys[-1, :, 0] - labels) ** 2, weights)}
  nats = optax.softmax_cross_entropy_with_integer_labels(ys[-COPY_LENGTH:], labels)
  return {"loss": metrics.weighted_mean(nats.mean(0), weights)}


def prepare(config: Config, T: int):
  """Batches of one length, which never come again; three parts."""
  draw = lambda part, number: GeneratedBatches(
    config.problem, T, config.batch_size, 3 * config.seed + part, number
  )
  return SimpleNamespace(train=draw(0, BATCHES_PER_EPOCH), valid=draw(1, 5), test=draw(2, 100))


def gradient_norms_by_lag(cell, params, xs):
  """What the lowest layer's last h hears of the carry so many steps before, [T + 1]; the median."""
  of = lambda xs: jacobian_norms(cell, params["encoder"]["layer_0"]["forward"], xs)
  parts = jnp.stack(jax.vmap(of, 1)(xs))  # of h, and of an LSTM's c
  return jnp.median(jnp.linalg.norm(parts, axis=0), 0)[::-1]


def run(config: Config = Config()):
  """Trains each cell on each length; returns their losses on sequences that are new."""
  lengths = config.lengths.split(",")
  if config.data_dir or not all(part.isdecimal() and int(part) > 1 for part in lengths):
    raise InvalidInputError(
      f"--lengths must be like 10,30,100, 2 at least; got {config.lengths!r}. As all "
      f"is drawn, --data_dir must be empty; got {config.data_dir!r}"
    )
  guess, out = BASELINE_LOSSES[config.problem], pathlib.Path(config.workdir).expanduser()
  losses, start, end, scores = {}, {}, {}, {"dataset": config.problem, "seed": config.seed}
  for name in [config.cell] if config.cell else MEMORY_CELLS:
    model, losses[name] = build(config, name), []
    task = tasks.supervised_task(model, compute_metrics)
    for T in map(int, lengths):
      place = str(out / f"{name}_{T}") if config.workdir else ""
      own = dataclasses.replace(config, cell=name, lengths=str(T), workdir=place)
      data, how = (
        prepare(config, T),
        dict(clip=config.max_grad_norm, enough=-config.target_loss_ratio * guess),
      )
      run = runner.train(own, task, data, "cosine", score="loss", stop_on_divergence=True, **how)
      test, valid = map(run.test().get, ("test/loss", "valid/loss"))
      losses[name].append(test)
      scores |= {f"test/{name}_{T}": test, f"valid/loss_{name}_{T}": valid}
    batch, cell = next(data.test.stream()), MEMORY_CELLS[name](config.hidden_size)
    begin, _ = jax.random.split(jax.random.key(config.seed))  # as `training.start` does
    both = task.init(begin, batch), run.best_params
    start[name], end[name] = (
      gradient_norms_by_lag(cell, params, batch["tokens"][:, :8]) for params in both
    )
  if config.workdir:
    plots.plot_loss_vs_length(
      runner.figure_file(config.workdir, "lengths.png"), lengths, losses, guess
    )
    path, panels = runner.figure_file(config.workdir, "gradients.png"), {"at the start": start}
    plots.plot_gradient_norms(path, panels | {"after training": end})
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
