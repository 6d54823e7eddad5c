"""Outputs and gradients of PyTorch's recurrent layers, written to golden/torch.json.

Run it in a separate environment with torch (2.13.0 wrote the file) and numpy:

  python tests/torch_reference.py

All numbers are float64. The loss is Σ sin(ys) + Σ cos(final h) (+ Σ cos(final c)), so that each
output at each step has a different gradient. Weights have PyTorch's names.
"""

import json
import pathlib

D, H, LENGTHS = 3, 4, [5, 2, 4]
PATH = pathlib.Path(__file__).parent / "golden" / "torch.json"


def build_layers(nn):
  """Return the layers to compare, and whether each gets sequence lengths."""
  return {
    "rnn_tanh": (nn.RNN(D, H), False),
    "rnn_relu": (nn.RNN(D, H, nonlinearity="relu"), False),
    "lstm": (nn.LSTM(D, H), True),
    "lstm_projected": (nn.LSTM(D, H, proj_size=2), True),
    "gru": (nn.GRU(D, H), True),
    "lstm_bidirectional": (nn.LSTM(D, H, num_layers=2, bidirectional=True), True),
  }


def reference_values(torch, layer, packed):
  """Return a layer's inputs, weights, outputs and gradients, as nested lists."""
  xs = torch.randn(max(LENGTHS), len(LENGTHS), D, requires_grad=True)
  rnn = torch.nn.utils.rnn
  inputs = rnn.pack_padded_sequence(xs, LENGTHS, enforce_sorted=False) if packed else xs
  ys, ends = layer(inputs)
  if packed:
    ys, _ = rnn.pad_packed_sequence(ys)
  ends = ends if isinstance(ends, tuple) else (ends,)
  loss = ys.sin().sum() + sum(end.cos().sum() for end in ends)
  loss.backward()
  return {
    "lengths": LENGTHS if packed else None,
    "xs": xs.tolist(),
    "weights": {name: p.tolist() for name, p in layer.named_parameters()},
    "ys": ys.tolist(),
    "ends": [end.tolist() for end in ends],
    "loss": loss.item(),
    "xs_gradient": xs.grad.tolist(),
    "gradients": {name: p.grad.tolist() for name, p in layer.named_parameters()},
  }


def main():
  import torch

  torch.manual_seed(0)
  torch.set_default_dtype(torch.float64)
  values = {name: reference_values(torch, *args) for name, args in build_layers(torch.nn).items()}
  PATH.write_text(json.dumps(values) + "\n")


if __name__ == "__main__":
  main()
