"""Reference implementations of the cells in NumPy float64, written from the papers.

Each step takes params, one row's x [D] and its state, a list [h] or [h, c], and returns the new
state and y. `unroll` loops over rows and steps. Gates are columns of W, U and b, by their index in
the papers' order.
"""

import functools

import numpy as np


def σ(z):
  return 1 / (1 + np.exp(-z))


def gate_preactivation(params, x, h, index, width):
  """Return z_j = Σ_d x_d W_dj + Σ_k h_k U_kj + b_j for the columns j of one gate."""
  columns = range(index * width, (index + 1) * width)
  W, U, b = (np.asarray(params[name], np.float64) for name in ("W", "U", "b"))
  return np.array([x @ W[:, j] + h @ U[:, j] + b[j] for j in columns])


def vanilla(params, x, state, activation=np.tanh):
  """Elman 1990: h' = tanh(W x + U h + b)."""
  h = activation(gate_preactivation(params, x, state[0], 0, len(state[0])))
  return [h], h


relu_rnn = functools.partial(vanilla, activation=lambda z: np.maximum(z, 0))


def lstm(params, x, state, coupled=False, output_tanh=True):
  """Gers & Schmidhuber 2000, equations 1 to 8, with peepholes if there is a "p"."""
  h, c = state
  C = len(c)
  peepholes = np.asarray(params.get("p", np.zeros((3 - coupled, C))), np.float64)
  names = "fgo" if coupled else "ifgo"
  z = {name: gate_preactivation(params, x, h, index, C) for index, name in enumerate(names)}
  f = σ(z["f"] + peepholes[-2] * c)
  i = 1 - f if coupled else σ(z["i"] + peepholes[0] * c)
  c = f * c + i * np.tanh(z["g"])
  h = σ(z["o"] + peepholes[-1] * c) * (np.tanh(c) if output_tanh else c)
  if "P" in params:
    h = np.asarray(params["P"], np.float64).T @ h
  return [h, c], h


def gru_reset_before(params, x, state):
  """Cho et al. 2014: the reset gate is applied before the product."""
  (h,) = state
  H = len(h)
  r, z = σ(gate_preactivation(params, x, h, 0, H)), σ(gate_preactivation(params, x, h, 1, H))
  n = np.tanh(gate_preactivation(params, x, r * h, 2, H))
  h = np.array([z[k] * h[k] + (1 - z[k]) * n[k] for k in range(H)])
  return [h], h


def gru_reset_after(params, x, state):
  """The GRU of cuDNN: the reset gate is applied to the product and its inner bias."""
  (h,) = state
  H = len(h)
  r, z = σ(gate_preactivation(params, x, h, 0, H)), σ(gate_preactivation(params, x, h, 1, H))
  outer = gate_preactivation(params, x, np.zeros(H), 2, H)
  inner = (
    gate_preactivation(params, np.zeros_like(x), h, 2, H) - params["b"][2 * H :] + params["b_hn"]
  )
  n = np.tanh(outer + r * inner)
  h = np.array([z[k] * h[k] + (1 - z[k]) * n[k] for k in range(H)])
  return [h], h


def mingru(params, x, state):
  """Feng et al. 2024, appendix B: a gate of the input alone and a positive candidate."""
  _, h = state
  H = len(h)
  z, n = (x @ params["W"][:, j : j + H] + params["b"][j : j + H] for j in (0, H))
  h = (1 - σ(z)) * h + σ(z) * positive_candidate(n)
  return [h, h], h


def minlstm(params, x, state):
  """Feng et al. 2024, appendix B: gates divided by their sum."""
  _, h = state
  H = len(h)
  f, i, n = (x @ params["W"][:, j : j + H] + params["b"][j : j + H] for j in (0, H, 2 * H))
  f, i = σ(f), σ(i)
  h = f / (f + i) * h + i / (f + i) * positive_candidate(n)
  return [h, h], h


def positive_candidate(n):
  return np.array([v + 0.5 if v >= 0 else σ(v) for v in n])


def lru(params, x, state):
  """Orvieto et al. 2023, equations 1 and 7, with complex numbers."""
  _, re, im = state
  p = {name: np.asarray(value, np.float64) for name, value in params.items()}
  Λ = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
  B, C = p["B_re"].T + 1j * p["B_im"].T, p["C_re"].T + 1j * p["C_im"].T
  s = Λ * (re + 1j * im) + np.exp(p["gamma_log"]) * (B @ x)
  y = (C @ s).real + p["D"].T @ x
  return [y, s.real, s.imag], y


def unroll(step, params, xs, carry_sizes, lengths=None, reverse=False):
  """Return final states and outputs of a loop over rows and valid steps, from zero states."""
  T, B, _ = xs.shape
  ends = [np.zeros((B, width)) for width in carry_sizes]
  ys = np.zeros((T, B, carry_sizes[0]))
  for b in range(B):
    state = [np.zeros(width) for width in carry_sizes]
    steps = list(range(T if lengths is None else lengths[b]))
    for t in steps[::-1] if reverse else steps:
      state, ys[t, b] = step(params, np.asarray(xs[t, b], np.float64), state)
    for end, s in zip(ends, state):
      end[b] = s
  return ends, ys


def word_attention(params, hs, lengths):
  """Return s [B, H] and α [T, B] of Yang et al. 2016, equations 5 to 7."""
  T, B, H = hs.shape
  s, α = np.zeros((B, H)), np.zeros((T, B))
  for b in range(B):
    words = [np.tanh(h @ params["W"] + params["b"]) for h in hs[: lengths[b], b]]
    scores = [u @ params["u_w"] for u in words]
    for t, score in enumerate(scores):
      α[t, b] = np.exp(score) / sum(np.exp(scores))
      s[b] += α[t, b] * hs[t, b]
  return s, α
