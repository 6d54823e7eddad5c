"""Files from untrusted sources: no reader runs code, leaves its folder, or exhausts memory.

Four protections, first each by itself and then all of them for every reader in
`tests.reader_cases.READERS`: no pickle, no path outside of the folder, bounded unpacking, and sizes
that are checked before memory is allocated.
"""

import ast
import io
import json
import os
import pickle
import struct
import tarfile
import time
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.captioning import data as captions_data
from experiments.polyphonic_music import midi
from experiments.question_answering import data as babi_data
from experiments.sequence_tagging.lexicon import Lexicon
from rnnjax import training
from rnnjax.data import files, log_mel, tables, word_vectors
from rnnjax.data.mat import read_cells
from rnnjax.data.npy import read_npy
from rnnjax.data.tokenizer import MODEL_TYPES, Tokenizer
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.training.checkpoints import Checkpoints
from rnnjax.types import InvalidInputError
from tests import fuzz
from tests.reader_cases import READERS, Reader, pack_file, zip_bytes
from tests.test_architecture import FILES, TREES, imports_of_packages

NUM_INPUTS = 300  # corrupted inputs of each reader; launch/fuzz runs many more


# -- No pickle, no code


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_pickle_or_eval_in_source(path):
  assert not imports_of_packages(
    path, "pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"
  )
  for call in (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)):
    name = ast.unparse(call.func)
    assert name not in ("eval", "exec", "compile", "__import__"), name
    assert not name.endswith((".loadmat", "yaml.load", "torch.load", "Tokenizer.from_str")), name
    if name in ("np.load", "numpy.load", "jnp.load"):
      assert "allow_pickle=False" in map(ast.unparse, call.keywords)


class PickleTrap:
  """An object that makes a folder when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_object_arrays_raise(tmp_path):
  trap, path, stream = tmp_path / "unpickled", tmp_path / "a.npy", io.BytesIO()
  np.save(stream, np.array([PickleTrap(trap)], object), allow_pickle=True)
  path.write_bytes(stream.getvalue())
  np.load(path, allow_pickle=True)
  assert trap.exists()  # the trap works
  trap.rmdir()
  with pytest.raises(
    InvalidInputError, match=r"a\.npy must hold numbers or text, not Python objects"
  ):
    read_npy(path)
  (tmp_path / "a.npz").write_bytes(zip_bytes({"images": stream.getvalue()}))
  (tmp_path / "a.token.txt").write_text("a#0\tb")
  with pytest.raises(InvalidInputError, match=r"a\.npz/images must hold numbers or text"):
    captions_data.load_files(str(tmp_path))
  assert not trap.exists()


def test_tokenizer_file_patterns_are_ignored():
  """The regular expression takes exponential time, and the padding a terabyte."""
  value = Tokenizer.train(["aaab"], 20).to_json()
  slow = {"type": "Split", "pattern": {"Regex": "(a|a)*(a|a)*$"}, "behavior": "Isolated"}
  padding = {"strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_id": 0}
  value["tokenizer"] |= {"pre_tokenizer": slow | {"invert": False}, "padding": padding}
  tokenizer = Tokenizer.from_json(value)
  assert tokenizer.decode(tokenizer.encode("a" * 50 + "b")) == "a" * 50 + "b"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_invalid_tokenizer_file_raises(model_type):
  value = Tokenizer.train(["low lower"], 30, model_type).to_json()
  model = value["tokenizer"]["model"]
  for change in ({"low": 1 << 31}, {"new": 4}, {"<pad>": 7}):
    changed = {"model": model | {"vocab": model["vocab"] | change}}
    with pytest.raises(InvalidInputError, match="its ids must be 0, 1, 2 and so on"):
      Tokenizer.from_json(value | {"tokenizer": changed})
  for change in ({"kind": "code"}, {"lower": 1}):
    with pytest.raises(InvalidInputError, match="a tokenizer must be what to_json returned"):
      Tokenizer.from_json(value | change)


@pytest.mark.parametrize("value", [None, "abc", {"a": 1}, [["a"]], [1], ["a", "b", "a"]])
def test_invalid_vocabulary_raises(value):
  with pytest.raises(InvalidInputError, match="a vocabulary must "):
    Vocabulary.from_json(value)
  valid = {"words": [], "characters": [], "columns": [[]], "tags": ["O"]}
  for key in valid:
    with pytest.raises(InvalidInputError, match=r"a (vocabulary|lexicon) must "):
      Lexicon.from_json(valid | {key: [value] if key == "columns" else value or 1})


# -- Checkpoints


def write_run(folder, tree):
  """Write a run directory with a checkpoint of a tree."""
  checkpoints = Checkpoints(folder / "checkpoints")
  checkpoints.save(1, tree)
  checkpoints.close()
  (folder / "config.json").write_text('{"config": {}}')
  return folder


def test_checkpoint_of_other_structure_raises(tmp_path):
  workdir = write_run(tmp_path, {"weights": jnp.zeros(3)})
  with pytest.raises(InvalidInputError, match="has a checkpoint without best parameters"):
    training.load_saved_run(str(workdir))
  checkpoints = Checkpoints(workdir / "checkpoints")
  for template in ({"best_params": {"w": jnp.zeros(3)}}, {"weights": jnp.zeros(4)}):
    with pytest.raises(InvalidInputError, match="none of the checkpoints of steps"):
      checkpoints.restore(template)
  checkpoints.close()


@pytest.mark.parametrize(
  "change",
  [
    {"shape": [10**6, 10**6]},
    {"chunks": [10**6, 10**6]},
    {"dtype": [["a", "<f4", [10**9]]]},
    {"dtype": "|V1000000000"},
    {"dtype": "|O"},
    {"filters": [{"id": "pickle"}]},
    {"compressor": {"id": "blosc"}},
    {"shape": ["a", 10**9]},
    {"shape": [-1]},
  ],
  ids=str,
)
def test_checkpoint_with_false_array_metadata_is_rejected(tmp_path, change):
  """tensorstore would end the process if there is less memory than the metadata declares."""
  separate = READERS["checkpoints"].seeds()[-1]
  name = next(name for name in separate if name.endswith("w/.zarray"))
  content = json.dumps(json.loads(separate[name]) | change).encode()
  assert run_reader_on("checkpoints", separate | {name: content}, tmp_path) == fuzz.REJECTED
  assert run_reader_on("checkpoints", separate, tmp_path) == fuzz.ACCEPTED


def test_large_incompressible_checkpoint_is_read(tmp_path, monkeypatch):
  """The limit on unpacking does not apply to parameters, which hardly compress."""
  params = np.random.default_rng(0).normal(size=10**5).astype(np.float32)
  checkpoints = Checkpoints(tmp_path / "large")
  checkpoints.save(1, {"w": params})
  monkeypatch.setattr(files, "UNPACK_LIMIT", 10**5)
  np.testing.assert_array_equal(checkpoints.restore()["w"], params)
  checkpoints.close()


def test_checkpoint_with_symlink_or_zarr3_raises(tmp_path):
  workdir = write_run(tmp_path / "run", {"best_params": {"w": jnp.zeros(3)}})
  folder = workdir / "checkpoints" / "1" / "default"
  folder.rename(tmp_path / "elsewhere")
  folder.symlink_to(tmp_path / "elsewhere")
  with pytest.raises(InvalidInputError, match="none of the checkpoints of steps"):
    training.load_saved_run(str(workdir))
  folder.unlink()
  (tmp_path / "elsewhere").rename(folder)
  assert training.load_saved_run(str(workdir)).params["w"].tolist() == [0, 0, 0]
  (folder / "zarr.json").write_text('{"shape": [3]}')
  with pytest.raises(InvalidInputError, match="none of the checkpoints of steps"):
    training.load_saved_run(str(workdir))


@pytest.mark.parametrize(
  "text, message",
  [
    ("[]", "is not a configuration"),
    ('{"config": 1}', "is not a configuration"),
    ("{", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ('{"config": "\xff', "not JSON|not UTF-8"),
  ],
)
def test_invalid_config_json_raises(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(InvalidInputError, match=message):
    training.load_saved_run(str(tmp_path))


# -- Archives do not leave their folder


def test_archives_cannot_read_or_write_outside(tmp_path):
  """Nothing is extracted, so "..", absolute names and links lead nowhere."""
  (tmp_path / "secret.txt").write_text("a secret")
  members = {"../up.txt": b"1", f"{tmp_path}/absolute.txt": b"2", "a/../../up.txt": b"3"}
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode="w") as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
    for link_type in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
      info = tarfile.TarInfo(f"link{link_type.decode()}.txt")
      info.type, info.linkname = link_type, f"{tmp_path}/secret.txt"
      archive.addfile(info)
  (tmp_path / "folder").mkdir()
  for name, content in (("a.zip", zip_bytes(members)), ("a.tar", stream.getvalue())):
    path = tmp_path / "folder" / name
    path.write_bytes(content)
    assert [files.read_bytes(file) for file in files.list_files(path)] == [b"1", b"2", b"3"]
  names = sorted(path.name for path in tmp_path.rglob("*"))
  assert names == ["a.tar", "a.zip", "folder", "secret.txt"]


def test_tar_with_negative_size_raises(tmp_path):
  """tarfile would read the same member forever."""
  header = bytearray(tarfile.TarInfo("a").tobuf())
  header[124:136] = b"\xff" * 10 + (0x10000 - 512).to_bytes(2, "big")  # -512, base 256
  header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
  (tmp_path / "a.tar").write_bytes(tarfile.TarInfo("b").tobuf() + header + bytes(1024))
  with pytest.raises(InvalidInputError, match=r"a\.tar cannot be read as an archive: 'a' has -512"):
    files.list_files(tmp_path / "a.tar")


# -- Bounded unpacking


VOCABULARY = Vocabulary("ab")
ZEROS = bytes(1 << 26)  # 65 kB in a .gz file


def read_mat(path):
  return read_cells(path, "a")


def read_vectors(path):
  return word_vectors.load_embeddings(str(path), VOCABULARY)


@pytest.mark.parametrize(
  "name, read",
  [
    ("a.zip", files.list_files),
    ("a.tgz", files.list_files),
    ("a.gz", files.read_text),
    ("a.mat", read_mat),
    ("v.gz", read_vectors),
  ],
)
def test_decompression_bomb_raises(tmp_path, name, read):
  members = {"a": ZEROS}
  if name == "v.gz":
    members = {"a": (b"b" + b" 1" * 2000 + b"\n") * (1 << 14)}
  if name == "a.mat":
    members = {"header": bytes(126) + b"IM"} | members
  (tmp_path / name).write_bytes(pack_file(name, members))
  with fuzz.resource_limits(), pytest.raises(InvalidInputError, match=r"bytes at most|more than"):
    read(tmp_path / name)


# -- Sizes are checked before memory is allocated


def npy_header(shape, descr="<f8"):
  header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
  return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(16)


def wav_file(sample_rate):
  header = b"WAVEfmt " + struct.pack(
    "<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate % (1 << 32), 2, 16
  )
  data = b"data" + struct.pack("<I", 200) + bytes(200)
  return b"RIFF" + struct.pack("<I", len(header + data)) + header + data


def midi_file(*events):
  track = b"".join(events)
  header = b"MThd" + struct.pack(">IHHH", 6, 1, 1, 1)
  return header + b"MTrk" + struct.pack(">I", len(track)) + track


def mat_element(type_code, content):
  return struct.pack("<II", type_code, len(content)) + content


def mat_file(shape, matrix_class=6):
  """Return a MATLAB file with an empty matrix that declares a class and a shape."""
  dimensions = struct.pack(f"<{len(shape)}i", *shape)
  content = mat_element(6, struct.pack("<II", matrix_class, 0)) + mat_element(5, dimensions)
  content += struct.pack("<HHI", 1, 1, ord("a")) + mat_element(9, b"")
  return bytes(126) + b"IM" + mat_element(14, content)


NOTE_ON, NOTE_OFF = b"\0\x90\x3c\x40", b"\x80\x3c\0"


@pytest.mark.parametrize(
  "content, read, message",
  [
    (npy_header((10**12,)), read_npy, "declares 8000000000000 bytes"),
    (npy_header((0, 2**62, 2**62)), read_npy, "cannot be read as an array"),
    (npy_header((2, -1)), read_npy, "must hold numbers"),
    (npy_header((2, 1), "<U2000000000"), read_npy, "cannot be read|declares"),
    (npy_header("(" * 900), read_npy, "cannot be read as an array"),
    (mat_file((2**31 - 1, 2**31 - 1)), read_mat, "cannot be read as a MATLAB file"),
    (mat_file((2**31 - 1, 1), matrix_class=1), read_mat, "2147483647 cells; it has 1"),
    (b"1 " + b"9" * 16 + b"\n", read_vectors, "one blank between"),
    (b"9" * 16 + b" 9\n", read_vectors, r"declares \d+ bytes"),
    (wav_file(10**9), lambda path: log_mel.read_wav(path, 8000), "1000000000 Hz"),
    (wav_file(1), lambda path: log_mel.read_wav(path, 16000), "1 Hz"),
    (midi_file(NOTE_ON, b"\xff" * 4 + b"\x7f", NOTE_OFF), midi.read_midi, "1000000"),
    (midi_file(NOTE_ON, b"\xff" * 300 + b"\x7f", NOTE_OFF), midi.read_midi, "too large"),
    (midi_file(NOTE_ON, b"\xff" * 200_000 + b"\x7f"), midi.read_midi, "200000"),
    (b"[" * 100_000, lambda path: [*tables.read_jsonl(path)], "is not a line of JSON"),
    (b'{"a": ' + b"9" * 5000 + b"}", lambda path: [*tables.read_jsonl(path)], "is not a line"),
    (
      b'a,b\n"' + b"c" * 1_100_000 + b'",d\n',
      lambda path: [*tables.read_csv(path)],
      "field larger",
    ),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_with_excessive_declared_size_raises(tmp_path, content, read, message):
  path = tmp_path / "a"
  path.write_bytes(content)
  start_time = time.process_time()
  with fuzz.resource_limits(), pytest.raises(InvalidInputError, match=message):
    read(path)
  assert time.process_time() - start_time < fuzz.SECONDS


def test_too_long_story_raises(tmp_path):
  """Each question is stored with all sentences before it, which takes quadratic memory."""
  story = "1 a b\n" + "2 a b\n3 who?\tb\t1\n" * 5000
  for split in ("train", "test"):
    (tmp_path / f"qa1_a_{split}.txt").write_text(story)
  with pytest.raises(InvalidInputError, match=r"train\.txt:1001 .*1000"):
    babi_data.load_files(str(tmp_path))


# -- All protections, for every reader


def run_reader_on(name, seed_files, folder):
  files_by_path = {path: pack_file(path, content) for path, content in seed_files.items()}
  with fuzz.resource_limits(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return fuzz.run_reader(READERS[name], files_by_path, folder / "input")


@pytest.mark.parametrize("name", [name for name in READERS if name != "checkpoints"])
def test_corrupt_files_are_read_or_rejected(name, tmp_path, caplog):
  counts = [0] * 5
  with caplog.at_level("CRITICAL"), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    fuzz.fuzz_inputs(name, 0, range(NUM_INPUTS), tmp_path / "input", tmp_path, counts)
  findings = [path.read_text() for path in tmp_path.glob("*/why.txt")]
  assert not findings, findings[0]
  _, num_read, num_refused, _, _ = counts
  assert num_read + num_refused == NUM_INPUTS
  assert min(num_read, num_refused) > NUM_INPUTS / 50


def test_corrupt_checkpoints_are_read_or_rejected(tmp_path):
  """In a process of its own: Orbax's threads print every error."""
  row = fuzz.fuzz_reader("checkpoints", NUM_INPUTS, 0, tmp_path)
  assert not row["findings"], next(tmp_path.glob("*/why.txt")).read_text()
  assert row["read"] + row["refused"] == NUM_INPUTS
  assert min(row["read"], row["refused"]) > NUM_INPUTS / 50


# -- The fuzz test itself


def loop_forever(folder):
  while True:
    pass


def raise_without_message(folder):
  raise InvalidInputError("")


@pytest.mark.parametrize(
  "read, error",
  [
    (lambda folder: pickle.loads(pickle.dumps(os.getcwd)), fuzz.FuzzViolation),
    (lambda folder: exec("a = 1"), fuzz.FuzzViolation),
    (lambda folder: os.system("true"), fuzz.FuzzViolation),
    (lambda folder: (folder.parent / "up").write_text("a"), fuzz.FuzzViolation),
    (lambda folder: open("/etc/passwd", "a"), fuzz.FuzzViolation),
    (lambda folder: np.ones(1 << 28), MemoryError),
    (loop_forever, fuzz.FuzzViolation),
    (raise_without_message, AssertionError),
    (lambda folder: [][0], IndexError),
  ],
  ids="unpickle exec process write_outside write_system memory loop no_message error".split(),
)
def test_fuzzer_detects_violations(read, error, tmp_path, monkeypatch):
  monkeypatch.setattr(fuzz, "SECONDS", 0.2)
  with fuzz.resource_limits(), pytest.raises(error):
    fuzz.run_reader(Reader(read, None), {"a": b""}, tmp_path / "input")
  assert not (tmp_path / "up").exists()


def test_fuzz_inputs_are_deterministic():
  def corrupt(seed, n):
    return fuzz.corrupt_files(READERS["midi"].seeds(), seed, n)

  assert corrupt(0, 7) == corrupt(0, 7)
  assert corrupt(0, 7) != corrupt(1, 7) != corrupt(1, 8)
