"""How far back can a cell remember? The adding and the copy problem, over lengths and cells.

  python -m experiments.memory --out=runs/memory                # adding, five cells, three lengths
  python -m experiments.memory --problem=copy --lengths=5,20,50 --out=runs/copy
  python -m experiments.memory --preset=adding --cell=gru --out=runs/adding

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
from experiments.common.train_config import option
from experiments.memory_tasks import plots
from experiments.memory_tasks.data import GUESS, SAID, SYMBOLS, Drawn
from rnnjax import forward, gru, lstm, stack, vanilla
from rnnjax.analysis.gradient_flow import influence
from rnnjax.models.sequence_labeler import Frames
from rnnjax.training import metrics, tasks
from rnnjax.types import BadInput

CELLS = {
  "tanh": vanilla,
  "relu": lambda H: vanilla(H, activation="relu")._replace(name=f"relu({H})", init=vanilla(H).init),
  "irnn": lambda H: vanilla(H, activation="relu"),
  "lstm": lstm,
  "gru": gru,
}
PRESETS = {
  "adding": dict(
    lengths="600",
    hidden=128,
    batch=32,
    epochs=200,
    rate=2e-3,
    chrono=600,
    enough=0.0,
  ),
  "copy": dict(
    problem="copy",
    lengths="1000",
    hidden=128,
    batch=32,
    epochs=30,
    rate=2e-3,
    chrono=1000,
    enough=0.0,
  ),
}
EPOCH = 100  # batches between two looks at the validation part


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  problem: str = option("adding", "what is to be remembered", GUESS)
  lengths: str = option("10,30,100", "lengths of the problem, with commas")
  cell: str = option("", "one cell; all where none is named", ["", *CELLS])
  hidden: int = 64
  rate: float = 5e-3
  epochs: int = 6
  average: float = 0.9
  clip: float = option(1.0, "largest norm of a gradient; 0 for any", low=0)
  forget_bias: float = option(1.0, "where the bias of the LSTM's forget gate starts")
  chrono: int = option(0, "longest time that gates are made for, in steps; 0: for none", low=0)
  gain: float = option(1.0, "what U is multiplied by at the start", low=0)
  enough: float = option(0.02, "share of a guess's loss with which a length is solved", low=0)


def build(config: Config, name: str) -> Frames:
  """The model alone, of cells of that name."""
  gates = {"chrono": config.chrono or None} if name in ("lstm", "gru") else {}
  bias = {"forget_bias": config.forget_bias} if name == "lstm" else {}
  cell = CELLS[name](config.hidden, **gates, **bias)

  def begin(key, D):
    params = cell.init(key, D)
    return params | {"U": config.gain * params["U"]}

  layers = [forward(cell._replace(init=begin), backend=config.backend)] * config.layers
  return Frames(stack(*layers), 1 if config.problem == "adding" else SYMBOLS + 2)


def measure(ys, batch):
  """The squared error of a sum after the last step, or nats for each symbol said at the end."""
  labels, weights = batch["labels"], batch["weights"]
  if labels.ndim == 1:
    return {"loss": metrics.mean((ys[-1, :, 0] - labels) ** 2, weights)}
  nats = optax.softmax_cross_entropy_with_integer_labels(ys[-SAID:], labels)
  return {"loss": metrics.mean(nats.mean(0), weights)}


def prepare(config: Config, T: int):
  """Batches of one length, which never come again; three parts."""
  draw = lambda part, number: Drawn(config.problem, T, config.batch, 3 * config.seed + part, number)
  return SimpleNamespace(train=draw(0, EPOCH), valid=draw(1, 5), test=draw(2, 100))


def heard(cell, params, xs):
  """What the lowest layer's last h hears of the carry so many steps before, [T + 1]; the median."""
  of = lambda xs: influence(cell, params["encoder"]["layer_0"]["forward"], xs)
  parts = jnp.stack(jax.vmap(of, 1)(xs))  # of h, and of an LSTM's c
  return jnp.median(jnp.linalg.norm(parts, axis=0), 0)[::-1]


def run(config: Config = Config()):
  """Trains each cell on each length; returns their losses on sequences that are new."""
  lengths = config.lengths.split(",")
  if config.data_dir or not all(part.isdecimal() and int(part) > 1 for part in lengths):
    raise BadInput(
      f"--lengths must be like 10,30,100, 2 at least; got {config.lengths!r}. As all "
      f"is drawn, --data_dir must be empty; got {config.data_dir!r}"
    )
  guess, out = GUESS[config.problem], pathlib.Path(config.out).expanduser()
  losses, start, end, scores = {}, {}, {}, {"dataset": config.problem, "seed": config.seed}
  for name in [config.cell] if config.cell else CELLS:
    model, losses[name] = build(config, name), []
    task = tasks.supervised(model, measure)
    for T in map(int, lengths):
      place = str(out / f"{name}_{T}") if config.out else ""
      own = dataclasses.replace(config, cell=name, lengths=str(T), out=place)
      data, how = prepare(config, T), dict(clip=config.clip, enough=-config.enough * guess)
      run = runner.fit(own, task, data, "cosine", score="loss", lenient=True, **how)
      test, valid = map(run.test().get, ("test/loss", "valid/loss"))
      losses[name].append(test)
      scores |= {f"test/{name}_{T}": test, f"valid/loss_{name}_{T}": valid}
    batch, cell = next(data.test.stream()), CELLS[name](config.hidden)
    begin, _ = jax.random.split(jax.random.key(config.seed))  # as `training.start` does
    both = task.init(begin, batch), run.best
    start[name], end[name] = (heard(cell, params, batch["tokens"][:, :8]) for params in both)
  if config.out:
    plots.lengths(runner.figure(config.out, "lengths.png"), lengths, losses, guess)
    path, panels = runner.figure(config.out, "gradients.png"), {"at the start": start}
    plots.fading(path, panels | {"after training": end})
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)
