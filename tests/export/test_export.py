"""Exported models: equality with the original, calls without this library, untrusted files."""

import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import rnnjax.export
from experiments import char_lm, digits, forecast, imdb, speech, tagging, translate, word_lm
from experiments.export import export_run, programs
from experiments.sequence_tagging.data import Sentence
from experiments.text_classification.ngram_features import NgramFeatures
from experiments.text_classification.ngram_lookup import NgramTrie
from rnnjax import export, training
from rnnjax.data.vocabulary import UNKNOWN, tokenize_lower
from rnnjax.export import archive
from rnnjax.export.program import Program
from rnnjax.types import InvalidInputError

SMALL = dict(hidden_size=8, epochs=1)
TINY = {
  "char_lm": (char_lm, dict(num_layers=2, cell="gru", sample_length=0)),
  "word_lm": (word_lm, dict(embed_dim=8, adaptive_cutoffs="20,60", sample_length=0)),
  "tagging": (tagging, dict(char_encoder="recurrent", embed_dim=8, char_features=4)),
  "translate": (
    translate,
    dict(
      embed_dim=8, attention="coverage", input_feeding=True, copy_attention=True, shared_vocab=True
    ),
  ),
  "forecast": (forecast, dict(backend="deferred")),
  "digits": (digits, dict(pooling="attention", bidirectional=True, cell="lru")),
  "speech": (speech, dict(num_train_utterances=10, cell="minlstm")),
}


class CheckpointSaved(Exception):
  """Raised instead of training, once the initial state is saved."""


@pytest.fixture(scope="module")
def untrained_run(tmp_path_factory):
  """Return a function that makes the --workdir of an experiment with its initial parameters."""
  workdirs = {}

  def save_initial_state(self):
    self.checkpoints.save(0, self.state)
    raise CheckpointSaved

  def make_run(name):
    if name not in workdirs:
      workdirs[name] = workdir = str(tmp_path_factory.mktemp("runs") / name)
      module, options = TINY[name]
      dataset = {"dataset": "embedded"} if hasattr(module.Config, "dataset") else {}
      with pytest.MonkeyPatch.context() as patch, pytest.raises(CheckpointSaved):
        patch.setattr(training.Trainer, "train", save_initial_state)
        module.run(module.Config(**dataset | SMALL | options, workdir=workdir))
    return workdirs[name]

  return make_run


@pytest.fixture(scope="module")
def imdb_run(tmp_path_factory):
  """Return the --workdir of a short run of imdb."""
  out = str(tmp_path_factory.mktemp("imdb") / "run")
  imdb.run(imdb.Config(dataset="embedded", embed_dim=8, vocab_size=20, workdir=out, **SMALL))
  return out


@pytest.fixture(scope="module")
def exported_model(untrained_run):
  """Return a cached function that exports an experiment, with checks of fewer sizes."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export_run, "CHECK_SIZES", {"T": (1, 7), "B": (1, 4)})
    yield functools.cache(lambda name: export_run.export_run(untrained_run(name)))


@pytest.fixture(scope="module")
def exported_lm(exported_model):
  """Return the path of an exported language model."""
  return exported_model("char_lm")["file"]


@pytest.mark.parametrize("name", TINY)
def test_exported_model_equals_original(name, exported_model):
  """For several sizes, with rows of length 0 and 1."""
  done = exported_model(name)
  assert done["difference"] <= 1e-6
  assert done["platforms"] == ("cpu", "cuda", "tpu")
  assert {"T", "S"} & {*re.findall("[A-Z]", str(done["inputs"]))}


def test_difference_detects_changed_parameter(untrained_run, exported_lm):
  """A changed parameter or NaN gives a difference."""
  program, loaded = (
    programs.build_program("char_lm", untrained_run("char_lm")),
    export.load(exported_lm),
  )
  for value, least in ((1e-3, 1e-5), (np.nan, np.nan)):
    other = loaded.params | {"softmax/b": loaded.params["softmax/b"] + value * np.arange(1, 61)}
    gap = export_run.max_difference(program, loaded._replace(params=other))
    assert np.isnan(gap) if np.isnan(value) else gap > least
  assert export_run.max_difference(program, loaded) <= 1e-6


def test_docstring_example_runs_without_rnnjax(imdb_run, untrained_run, exported_lm, tmp_path):
  """The lines of the docstring, in a process that cannot import this library, on other shapes."""
  lines = re.findall(r"^    (.*)", rnnjax.export.__doc__, re.M)
  assert len(lines) == 5
  model, params = char_lm.load(untrained_run("char_lm"))[:2]
  tokens = np.random.default_rng(0).integers(60, size=(13, 5)).astype(np.int32)
  shapes = {name: (5, 8) for name in export.load(exported_lm).signature["inputs"] if "/" in name}
  inputs = {"tokens": tokens} | {name: np.zeros(s, np.float32) for name, s in shapes.items()}
  safetensors.numpy.save_file(inputs, tmp_path / "inputs")
  code = (
    f"""
import importlib.abc, json, sys, zipfile

class ImportBlocker(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    if name.split(".")[0] in ("rnnjax", "experiments", "flax", "orbax", "optax"):
      raise ImportError(name)

sys.meta_path.insert(0, ImportBlocker())
import jax, jax.export, numpy, safetensors.numpy
inputs = safetensors.numpy.load_file({str(tmp_path / "inputs")!r})
"""
    + "\n".join(lines).replace("runs/ptb/model.zip", exported_lm)
    + f"""
arrays = {{name: numpy.asarray(a) for name, a in outputs.items()}}
safetensors.numpy.save_file(arrays, {str(tmp_path / "outputs")!r})
print(len(vocabulary))
"""
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) == 60
  outputs = safetensors.numpy.load_file(tmp_path / "outputs")
  _, _, logits = model.apply({"params": params}, tokens, method="logits")
  np.testing.assert_allclose(outputs["log_p"], jax.nn.log_softmax(logits), atol=1e-5)


def test_streaming_equals_whole_sequence(exported_lm):
  """Two halves with the carry passed on give the outputs of the whole sequence."""
  loaded = export.load(exported_lm)
  tokens = np.random.default_rng(1).integers(60, size=(9, 2)).astype(np.int32)
  whole, one = loaded({"tokens": tokens}), loaded({"tokens": tokens[:4]})
  carried = {name: one[name] for name in one if name in loaded.signature["inputs"]}
  two = loaded({"tokens": tokens[4:]} | carried)
  both = np.concatenate([one["log_p"], two["log_p"]])
  np.testing.assert_allclose(both, whole["log_p"], atol=1e-6)
  np.testing.assert_allclose(np.exp(both).sum(-1), 1, atol=1e-5)


def test_imdb_export_computes_ngram_features(imdb_run):
  """For new texts, the probabilities are those of the model with features of NgramFeatures."""
  done = export_run.export_run(imdb_run)
  assert done["difference"] <= 1e-6
  assert done["inputs"].keys() == {"tokens", "lengths"}
  loaded = export.load(done["file"])
  saved = training.load_saved_run(imdb_run)
  config = imdb.Config(**saved.config)
  data = imdb.prepare(config)
  assert loaded.extras == {"words": data.words, "classes": list(data.classes)}
  texts = ["a good film", "not a bad film, but the good singer left", "unheard-of", "bad"]
  ids = [
    np.array([data.words.index(w) if w in data.words else 1 for w in tokenize_lower(t)])
    for t in texts
  ]
  T, lengths = max(map(len, ids)), np.array([len(i) for i in ids], np.int32)
  column = lambda rows: np.stack(
    [np.pad(r, [(0, T - len(r))] + [(0, 0)] * (r.ndim - 1)) for r in rows], 1
  )
  tokens = column(ids).astype(np.int32)
  found = loaded({"tokens": tokens, "lengths": lengths})["probabilities"]
  model = imdb.build(config, data.vocabulary, 2)
  known = np.where(tokens < 20, tokens, UNKNOWN)
  z = model.apply({"params": saved.params}, known, lengths, column(data.ngram_features(ids)))[:, 0]
  np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-z)), atol=1e-6)
  np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_ngram_lookup_equals_counts(classes):
  """For random texts, with unknown words too."""
  draw = np.random.default_rng(0)
  texts = [draw.integers(2, 9, n) for n in draw.integers(0, 12, 60)]
  evidence = NgramFeatures(texts, np.arange(60) % classes, classes, max_order=4)
  new = draw.integers(0, 9, (15, 30)).astype(np.int32)
  lengths = draw.integers(0, 16, 30)
  found = jax.jit(lambda tree, *args: tree(*args))(NgramTrie.from_features(evidence), new, lengths)
  for b, n in enumerate(lengths):
    expected = evidence([new[:n, b]])[0] if n else np.zeros((0, found.shape[-1]))
    np.testing.assert_allclose(found[:n, b], expected, rtol=1e-6)
    assert not found[n:, b].any()


def test_exported_tags_equal_predictor(untrained_run, exported_model):
  """The tags and probabilities of a sentence equal those of the predictor."""
  labeller = tagging.load(untrained_run("tagging"))
  sentence = "The Teddy of Paris left".split()
  bare = {
    name: a[:, None]
    for name, a in labeller.lexicon.encode(Sentence(sentence, [], [], 0, "")).items()
  }
  tagger = export.load(exported_model("tagging")["file"])
  found = tagger(bare | {"lengths": np.array([len(sentence)], np.int32)})
  (expected,) = labeller([sentence])
  assert [labeller.lexicon.tags[tag] for tag in found["tags"][:, 0]] == expected.tags
  p, tags = np.asarray(found["probabilities"]), np.asarray(found["tags"])
  p = np.take_along_axis(p, tags[..., None], 2)
  np.testing.assert_allclose(p[:, 0, 0], expected.probabilities, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_cuda_and_tpu(platform, exported_lm):
  loaded = export.load(exported_lm)
  inputs = {
    name: jnp.zeros((3, 2) if name == "tokens" else (2, 8), form.split("[")[0])
    for name, form in loaded.signature["inputs"].items()
  }
  traced = jax.jit(loaded.program.call).trace(loaded.params, inputs)
  assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()
  with pytest.raises(ValueError, match="rocm"):
    traced.lower(lowering_platforms=("rocm",))


def test_invalid_inputs_raise(exported_lm):
  loaded, tokens = export.load(exported_lm), np.zeros((3, 2), np.int32)
  with pytest.raises(InvalidInputError, match=r"inputs must be .*int32\[T, B\] < 60.*; got \{\}"):
    loaded({})
  with pytest.raises(InvalidInputError, match=r"inputs must be .*; got \{'tokens': \(3, 2\)\}"):
    loaded({"tokens": tokens, "lengths": np.ones(2, np.int32)})
  for wrong in (tokens[0], tokens.astype(np.float32), tokens[:0]):
    with pytest.raises(InvalidInputError, match="inputs must be"):
      loaded({"tokens": wrong})
  for wrong, found in ((60, "0 to 60"), (-1, "-1 to 0")):
    with pytest.raises(InvalidInputError, match=f"tokens must be ids from 0 to 59; got {found}"):
      loaded({"tokens": tokens + np.array([0, wrong], np.int32)})


def test_failed_export_keeps_previous_file(untrained_run, monkeypatch, tmp_path):
  out = shutil.copytree(untrained_run("digits"), tmp_path / "run")
  export_run.export_run(str(out))
  before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
  monkeypatch.setattr(export_run, "max_difference", lambda *_: 0.5)
  with pytest.raises(InvalidInputError, match=r"differs from the model by 0\.5; it is deleted"):
    export_run.export_run(str(out))
  assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_equal_infinities_have_zero_difference(tmp_path):
  predict = lambda params, inputs: {"y": params["a"] + inputs["xs"]}
  program = Program(predict, {"a": jnp.float32(-jnp.inf)}, {"xs": "float32[T, B]"})
  archive.save(tmp_path / "model.zip", program, {})
  loaded = archive.load(tmp_path / "model.zip")
  assert export_run.max_difference(program, loaded) == 0
  assert np.isnan(
    export_run.max_difference(program, loaded._replace(params={"a": np.float32(np.inf)}))
  )


def test_unexportable_run_raises(tmp_path, untrained_run):
  """There is no run or no checkpoint, or the experiment does not exist or has no export."""
  with pytest.raises(
    InvalidInputError, match=r"is not the --workdir of a run: it has no config\.json"
  ):
    export_run.export_run(str(tmp_path))
  config = json.loads((pathlib.Path(untrained_run("digits")) / "config.json").read_text())
  say = lambda **changes: (tmp_path / "config.json").write_text(json.dumps(config | changes))
  say()
  with pytest.raises(InvalidInputError, match="has no checkpoint yet"):
    export_run.export_run(str(tmp_path))
  for name in ("memory", "os", "../digits", "digits.Config", ["digits"], None):
    say(experiment=name)
    with pytest.raises(
      InvalidInputError, match=r"is a run of .*, which has no export; these have one: char_lm"
    ):
      export_run.export_run(str(tmp_path))
  for text in ("[]", "{", "{}", '"experiment"'):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
      InvalidInputError, match="is not JSON" if text == "{" else "must have the entries"
    ):
      export_run.export_run(str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_command_line(untrained_run, tmp_path):
  """--help, the JSON result, and the error without a run."""
  launch = lambda *args: subprocess.run(
    [sys.executable, "-m", "experiments.export", *args], capture_output=True, text=True
  )
  shown = launch("--help")
  assert shown.returncode == 0 and "DIR/model.zip" in shown.stdout
  done = launch(untrained_run("digits"))
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result["outputs"] == {"probabilities": "float32[B, 10]"}
  assert result["bytes"] == pathlib.Path(result["file"]).stat().st_size
  refused = launch(str(tmp_path))
  assert refused.returncode == 1 and refused.stdout == ""
  assert refused.stderr.startswith("error: ") and "Traceback" not in refused.stderr


def test_export_is_byte_reproducible(exported_lm, untrained_run):
  """Exports to different paths are equal, and contain no path of the machine."""
  again = pathlib.Path(exported_lm).with_name("again.zip")
  archive.save(
    again,
    programs.build_program("char_lm", untrained_run("char_lm")),
    export_run.run_metadata(again.parent),
  )
  assert again.read_bytes() == pathlib.Path(exported_lm).read_bytes()
  assert str(pathlib.Path(__file__).parents[2]).encode() not in again.read_bytes()


def archive_members(path):
  """Return {name: content} of an archive."""
  with zipfile.ZipFile(path) as files:
    return {name: files.read(name) for name in files.namelist()}


def write_archive(path, files, compression=zipfile.ZIP_STORED):
  """Write an archive and return its path."""
  with zipfile.ZipFile(path, "w", compression) as archive_file:
    for name, content in files.items():
      archive_file.writestr(name, content)
  return path


def change_signature(files, **changes):
  """Return the members with changes in the signature."""
  signature = json.loads(files[archive.SIGNATURE_FILE]) | changes
  return files | {archive.SIGNATURE_FILE: json.dumps(signature)}


def change_header_size(files, size):
  """Return the members with parameters whose header claims that size."""
  return files | {archive.PARAMS_FILE: size.to_bytes(8, "little") + files[archive.PARAMS_FILE][8:]}


CORRUPTIONS = {
  "no signature": lambda files: {n: c for n, c in files.items() if n != archive.SIGNATURE_FILE},
  "broken json": lambda files: files | {archive.SIGNATURE_FILE: "{"},
  "deep json": lambda files: files | {"vocabulary.json": "[" * 100_000},
  "a list": lambda files: files | {archive.SIGNATURE_FILE: "[]"},
  "no forms": lambda files: change_signature(files, inputs={"tokens": "int32(T, B)"}),
  "other forms": lambda files: change_signature(files, outputs={"log_p": "float32[T, B, 61]"}),
  "huge header": lambda files: change_header_size(files, 2**62),
  "header past the end": lambda files: change_header_size(files, len(files[archive.PARAMS_FILE])),
  "no parameters": lambda files: files | {archive.PARAMS_FILE: safetensors.numpy.save({})},
  "a program cut short": lambda files: (
    files | {archive.PROGRAM_FILE: files[archive.PROGRAM_FILE][:5000]}
  ),
  "an empty program": lambda files: files | {archive.PROGRAM_FILE: b""},
  "no program": lambda files: files | {archive.PROGRAM_FILE: bytes(range(256)) * 50},
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damaged_archive_raises(name, exported_lm, tmp_path):
  path = write_archive(tmp_path / "model.zip", CORRUPTIONS[name](archive_members(exported_lm)))
  with pytest.raises(InvalidInputError, match=r"model\.zip"):
    export.load(path)


def test_invalid_archive_raises(exported_lm, tmp_path):
  """A compressed archive, which could unpack to more than its size; a truncated one; none."""
  bomb = write_archive(
    tmp_path / "bomb.zip",
    archive_members(exported_lm) | {"a.json": b" " * 10**7},
    zipfile.ZIP_DEFLATED,
  )
  with pytest.raises(InvalidInputError, match="claims to hold more than its own size"):
    export.load(bomb)
  (tmp_path / "cut.zip").write_bytes(pathlib.Path(exported_lm).read_bytes()[:-100])
  with pytest.raises(InvalidInputError, match="is damaged"):
    export.load(tmp_path / "cut.zip")
  with pytest.raises(InvalidInputError, match="there is no file"):
    export.load(tmp_path / "none.zip")


def test_program_with_custom_call_raises(exported_lm, tmp_path):
  """A program with the right signature, exported by jax with its check of custom calls disabled."""
  call = jax.ffi.ffi_call("anything", jax.ShapeDtypeStruct((3,), jnp.float32))
  unchecked = [jax.export.DisabledSafetyCheck.custom_call("anything")]
  lowered = jax.export.export(
    jax.jit(lambda params, inputs: {"y": call(inputs["x"])}),
    platforms=archive.PLATFORMS,
    disabled_checks=unchecked,
  )({}, {"x": jax.ShapeDtypeStruct((3,), jnp.float32)})
  files = {
    archive.PROGRAM_FILE: bytes(lowered.serialize()),
    archive.PARAMS_FILE: safetensors.numpy.save({}),
    archive.SIGNATURE_FILE: json.dumps(
      {"inputs": {"x": "float32[3]"}, "outputs": {"y": "float32[3]"}}
    ),
  }
  with pytest.raises(InvalidInputError, match="makes custom calls"):
    export.load(write_archive(tmp_path / "model.zip", files))
