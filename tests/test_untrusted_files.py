"""What strangers wrote is read or refused: it runs no code, writes nowhere, and fills no memory."""

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

INPUTS = 300  # of each reader here; launch/fuzz tries many more


# -- no code is run


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_pickle_or_eval_in_source(path):
  """No file imports what makes code of bytes, nor calls it."""
  assert not imports_of_packages(
    path, "pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"
  )
  for call in (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)):
    name = ast.unparse(call.func)
    assert name not in ("eval", "exec", "compile", "__import__"), name
    assert not name.endswith((".loadmat", "yaml.load", "torch.load", "Tokenizer.from_str")), name
    if name in ("np.load", "numpy.load", "jnp.load"):
      assert [True for given in call.keywords if ast.unparse(given) == "allow_pickle=False"]


class PickleTrap:
  """Makes a file of that name when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def object_npy_bytes(trap) -> bytes:
  """A .npy file of Python objects."""
  stream = io.BytesIO()
  np.save(stream, np.array([PickleTrap(trap)], object), allow_pickle=True)
  return stream.getvalue()


def test_object_arrays_raise(tmp_path):
  """In a .npy and in a .npz; a trap would spring if they were loaded."""
  trap, path = tmp_path / "sprung", tmp_path / "a.npy"
  path.write_bytes(object_npy_bytes(trap))
  np.load(path, allow_pickle=True)
  assert trap.exists()
  trap.rmdir()
  with pytest.raises(
    InvalidInputError, match=r"a\.npy must hold numbers or text.*of Python objects\?"
  ):
    read_npy(path)
  (tmp_path / "a.npz").write_bytes(
    zip_bytes(dict.fromkeys(("images", "names"), object_npy_bytes(trap)))
  )
  (tmp_path / "a.token.txt").write_text("a#0\tb")
  with pytest.raises(InvalidInputError, match=r"a\.npz/images must hold numbers or text"):
    captions_data.load_files(str(tmp_path))
  assert not trap.exists()


def test_tokenizer_file_patterns_are_ignored():
  """Of subwords only pieces and merges are taken."""
  value = Tokenizer.train(["aaab"], 20).to_json()
  slow = {"type": "Split", "pattern": {"Regex": "(a|a)*(a|a)*$"}, "behavior": "Isolated"}
  padding = {"strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_id": 0}
  value["tokenizer"] |= {"pre_tokenizer": slow | {"invert": False}, "padding": padding}
  subwords = Tokenizer.from_json(value)
  assert subwords.decode(subwords.encode("a" * 50 + "b")) == "a" * 50 + "b"


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_tokenizer_file_ids_must_be_contiguous(kind):
  """Their ids are those of their pieces, without gaps."""
  value = Tokenizer.train(["low lower"], 30, kind).to_json()
  for change in ({"low": 1 << 31}, {"new": 4}, {"<pad>": 7}):
    model = value["tokenizer"]["model"]
    spoilt = value | {"tokenizer": {"model": model | {"vocab": model["vocab"] | change}}}
    with pytest.raises(
      InvalidInputError, match="its ids must be 0, 1, 2 and so on, those of the specials"
    ):
      Tokenizer.from_json(spoilt)
  for change in ({"kind": "code"}, {"lower": 1}):
    with pytest.raises(InvalidInputError, match="subwords must be what to_json returned"):
      Tokenizer.from_json(value | change)


@pytest.mark.parametrize("value", [None, "abc", {"a": 1}, [["a"]], [1], ["a", "b", "a"]])
def test_invalid_vocabulary_raises(value):
  with pytest.raises(InvalidInputError, match="a vocabulary must "):
    Vocabulary.from_json(value)
  whole = {"words": [], "characters": [], "columns": [[]], "tags": ["O"]}
  for key in whole:
    with pytest.raises(InvalidInputError, match=r"a (vocabulary|lexicon) must "):
      Lexicon.from_json(whole | {key: [value] if key == "columns" else value or 1})


# -- the checkpoints of a stranger


def write_run(folder, tree, config='{"config": {}}'):
  """A folder as if a run had left this tree there."""
  checkpoints = Checkpoints(folder / "checkpoints")
  checkpoints.save(1, tree)
  checkpoints.close()
  (folder / "config.json").write_text(config)
  return folder


def test_checkpoint_of_other_structure_raises(tmp_path):
  """By who goes on from it, and by who only wants what did best."""
  out = write_run(tmp_path, {"weights": jnp.zeros(3)})
  with pytest.raises(InvalidInputError, match="has a checkpoint without best parameters"):
    training.load_saved_run(str(out))
  checkpoints = Checkpoints(out / "checkpoints")
  with pytest.raises(InvalidInputError, match="none of the checkpoints of steps"):
    checkpoints.restore({"best_params": {"w": jnp.zeros(3)}})
  with pytest.raises(InvalidInputError, match="none of the checkpoints of steps"):
    checkpoints.restore({"weights": jnp.zeros(4)})
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
def test_checkpoint_array_with_false_metadata_is_rejected(tmp_path, change):
  """tensorstore would end the process. So it is with one that is not of numbers."""
  seed = next(
    one for one in READERS["checkpoints"].seeds() if any("zarray" in name for name in one)
  )
  name = next(name for name in seed if name.endswith("w/.zarray"))
  content = json.dumps(json.loads(seed[name]) | change).encode()
  assert run_reader_on("checkpoints", seed | {name: content}, tmp_path) == fuzz.REJECTED
  assert run_reader_on("checkpoints", seed, tmp_path) == fuzz.ACCEPTED


def test_large_incompressible_checkpoint_is_read(tmp_path, monkeypatch):
  """A checkpoint of numbers that hardly pack is read, however many bytes it has."""
  numbers = np.random.default_rng(0).normal(size=10**5).astype(np.float32)
  checkpoints = Checkpoints(tmp_path / "large")
  checkpoints.save(1, {"w": numbers})
  monkeypatch.setattr(files, "UNPACK_LIMIT", 10**5)
  np.testing.assert_array_equal(checkpoints.restore()["w"], numbers)
  checkpoints.close()


def test_checkpoint_with_symlink_raises(tmp_path):
  """A link in it is refused, and so are descriptions of a version that is not written."""
  out = write_run(tmp_path / "own", {"best_params": {"w": jnp.zeros(3)}})
  inside = out / "checkpoints" / "1" / "default"
  inside.rename(tmp_path / "elsewhere")
  inside.symlink_to(tmp_path / "elsewhere")
  with pytest.raises(InvalidInputError, match="none of the checkpoints of steps"):
    training.load_saved_run(str(out))
  inside.unlink()
  (tmp_path / "elsewhere").rename(inside)
  assert training.load_saved_run(str(out)).params["w"].tolist() == [0, 0, 0]
  (inside / "zarr.json").write_text('{"shape": [3]}')
  with pytest.raises(InvalidInputError, match="none of the checkpoints of steps"):
    training.load_saved_run(str(out))


@pytest.mark.parametrize(
  "text, words",
  [
    ("[]", "is not a configuration that this library wrote"),
    ('{"config": 1}', "is not a configuration"),
    ("{", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ('{"config": "\xff', "not JSON|not UTF-8"),
    ('{"a":' * 200 + "1" + "}" * 200, "100 lists within one another"),
  ],
)
def test_invalid_config_json_raises(tmp_path, text, words):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(InvalidInputError, match=words):
    training.load_saved_run(str(tmp_path))


# -- archives stay where they are


def test_archives_cannot_read_or_write_outside(tmp_path):
  """Names that lead up, absolute ones and links give no file that is not in the archive."""
  (tmp_path / "secret.txt").write_text("a secret")
  inside, stream = (
    {"../up.txt": b"1", f"{tmp_path}/whole.txt": b"2", "a/../../up.txt": b"3"},
    io.BytesIO(),
  )
  with tarfile.open(fileobj=stream, mode="w") as archive:
    for name, content in inside.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
      info = tarfile.TarInfo(f"link{kind.decode()}.txt")
      info.type, info.linkname = kind, f"{tmp_path}/secret.txt"
      archive.addfile(info)
  (tmp_path / "own").mkdir()
  for name, content in (("a.zip", zip_bytes(inside)), ("a.tar", stream.getvalue())):
    path = tmp_path / "own" / name
    path.write_bytes(content)
    found = files.list_files(path)
    assert [files.read_bytes(file) for file in found] == [b"1", b"2", b"3"]
  assert sorted(path.name for path in tmp_path.rglob("*")) == [
    "a.tar",
    "a.zip",
    "own",
    "secret.txt",
  ]


def test_tar_with_negative_size_raises(tmp_path):
  """Where a size is below zero, tarfile would come to the same file for ever."""
  head = bytearray(tarfile.TarInfo("a").tobuf())
  head[124:136] = b"\xff" * 10 + (0x10000 - 512).to_bytes(2, "big")  # -512, base 256
  head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:]))
  (tmp_path / "a.tar").write_bytes(tarfile.TarInfo("b").tobuf() + head + bytes(1024))
  with pytest.raises(
    InvalidInputError, match=r"a\.tar cannot be read as an archive: 'a' has -512 bytes"
  ):
    files.list_files(tmp_path / "a.tar")


# -- sizes


AB = Vocabulary("ab")
ZEROS = bytes(1 << 26)  # which a .gz holds in 65 kB


@pytest.mark.parametrize(
  "name, read",
  [
    ("a.zip", files.list_files),
    ("a.tgz", files.list_files),
    ("a.gz", files.read_text),
    ("a.mat", lambda path: read_cells(path, "a")),
    ("v.gz", lambda path: word_vectors.load_embeddings(path, AB)),
  ],
)
def test_decompression_bomb_raises(tmp_path, name, read):
  parts = {"a": ZEROS if name != "v.gz" else (b"b" + b" 1" * 2000 + b"\n") * (1 << 14)}
  if name == "a.mat":
    parts = {"head": bytes(126) + b"IM"} | parts
  (tmp_path / name).write_bytes(pack_file(name, parts))
  with fuzz.resource_limits(), pytest.raises(InvalidInputError, match=r"bytes at most"):
    read(tmp_path / name)


def read_json_objects(path):
  return [*tables.read_jsonl(path)]


def read_csv_rows(path):
  return [*tables.read_csv(path)]


def npy_bytes(shape, kind="<f8"):
  head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
  return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(16)


def wav_bytes(rate):
  head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate % (1 << 32), 2, 16)
  data = b"data" + struct.pack("<I", 200) + bytes(200)
  return b"RIFF" + struct.pack("<I", len(head + data)) + head + data


def midi_bytes(*track):
  track = b"".join(track)
  head = b"MThd" + struct.pack(">IHHH", 6, 1, 1, 1)
  return head + b"MTrk" + struct.pack(">I", len(track)) + track


def mat_file_bytes(shape, kind=6, flat=b""):
  """A MATLAB file of a matrix of this class and shape."""
  element = lambda kind, content: struct.pack("<II", kind, len(content)) + content
  dims = b"".join(struct.pack("<i", n) for n in shape)
  parts = element(6, struct.pack("<II", kind, 0)) + element(5, dims + bytes(-len(dims) % 8))
  return (
    bytes(126) + b"IM" + element(14, parts + struct.pack("<HHI", 1, 1, ord("a")) + element(9, flat))
  )


@pytest.mark.parametrize(
  "content, read, words",
  [
    (npy_bytes((10**12,)), read_npy, "8000000000000 bytes of float64"),
    (npy_bytes((0, 2**62, 2**62)), read_npy, "must hold numbers|cannot be read as an array"),
    (npy_bytes((2, -1)), read_npy, "must hold numbers"),
    (npy_bytes((2, 1), "<U2000000000"), read_npy, "cannot be read|must hold numbers"),
    (npy_bytes("(" * 900), read_npy, "cannot be read as an array"),
    (npy_bytes((2,)) + ZEROS, read_npy, "Was it cut off"),
    (wav_bytes(10**9), lambda path: log_mel.read_wav(path, 8000), "1000000000 Hz"),
    (wav_bytes(1), lambda path: log_mel.read_wav(path, 16000), "1 Hz"),
    (
      midi_bytes(b"\0\x90\x3c\x40", b"\xff" * 4 + b"\x7f", b"\x80\x3c\0"),
      midi.read_midi,
      "1000000 steps",
    ),
    (
      midi_bytes(b"\0\x90\x3c\x40", b"\xff" * 300 + b"\x7f", b"\x80\x3c\0"),
      midi.read_midi,
      "too large",
    ),
    (
      midi_bytes(b"\0\x90\x3c\x40", b"\xff" * 200_000 + b"\x7f"),
      midi.read_midi,
      "200000 bytes follow",
    ),
    (
      mat_file_bytes((2**31 - 1, 2**31 - 1)),
      lambda path: read_cells(path, "a"),
      "cannot be read as a MATLAB file",
    ),
    (
      mat_file_bytes((2**31 - 1, 1), kind=1),
      lambda path: read_cells(path, "a"),
      "2147483647 cells; it has 1",
    ),
    (
      b"1 " + b"9" * 16 + b"\n",
      lambda path: word_vectors.load_embeddings(path, AB),
      "hold them|blank",
    ),
    (b"[" * 100_000, read_json_objects, "is not a line of JSON"),
    (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", read_json_objects, "lists within"),
    (b'{"a": ' + b"9" * 5000 + b"}", read_json_objects, "is not a line of JSON"),
    (b'a,b\n"' + b"c" * 1_100_000 + b'",d\n', read_csv_rows, "not CSV: field larger"),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_with_excessive_declared_size_raises(tmp_path, content, read, words):
  """With a message, in no time, before any memory is taken."""
  path = tmp_path / "a"
  path.write_bytes(content)
  begun = time.process_time()
  with fuzz.resource_limits(), pytest.raises(InvalidInputError, match=words):
    read(path)
  assert time.process_time() - begun < fuzz.SECONDS


def test_too_long_story_raises(tmp_path):
  """All of its sentences stand before each of its questions: together, their square."""
  story = "1 a b\n" + "2 a b\n3 who?\tb\t1\n" * 5000
  for part in ("train", "test"):
    (tmp_path / f"qa1_a_{part}.txt").write_text(story)
  with pytest.raises(
    InvalidInputError, match=r"train\.txt:1001 is line 1001 of a story, which may have 1000"
  ):
    babi_data.load_files(str(tmp_path))


# -- damaged files of all kinds


def run_reader_on(name, seed, folder):
  made = {path: pack_file(path, content) for path, content in seed.items()}
  with fuzz.resource_limits(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return fuzz.run_reader(READERS[name], made, folder / "input")


@pytest.mark.parametrize("name", [name for name in READERS if name != "checkpoints"])
def test_corrupt_files_are_read_or_rejected(name, tmp_path, caplog):
  counts = [0] * 5
  with caplog.at_level("CRITICAL"), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    fuzz.fuzz_inputs(name, 0, range(INPUTS), tmp_path / "input", tmp_path, counts)
  found = [path.read_text() for path in tmp_path.glob("*/why.txt")]
  assert not found, found[0]
  assert counts[1] + counts[2] == INPUTS and min(counts[1:3]) > INPUTS / 50


def test_corrupt_checkpoints_are_read_or_rejected(tmp_path):
  """In a process of its own, for the threads of orbax complain of each."""
  row = fuzz.fuzz_reader("checkpoints", INPUTS, 0, tmp_path)
  assert not row["findings"], next(tmp_path.glob("*/why.txt")).read_text()
  assert row["read"] + row["refused"] == INPUTS and min(row["read"], row["refused"]) > INPUTS / 50


def loop_forever(folder):
  while True:
    pass


def reject_silently(folder):
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
    (reject_silently, AssertionError),
    (lambda folder: [][0], IndexError),
  ],
  ids="unpickles evaluates starts climbs writes fills loops silent fails".split(),
)
def test_fuzzer_detects_violations(read, error, tmp_path, monkeypatch):
  monkeypatch.setattr(fuzz, "SECONDS", 0.2)
  with fuzz.resource_limits(), pytest.raises(error):
    fuzz.run_reader(Reader(read, None), {"a": b""}, tmp_path / "input")
  assert not (tmp_path / "up").exists()


def test_fuzz_inputs_are_deterministic():
  made = lambda seed, n: fuzz.corrupt_files(READERS["midi"].seeds(), seed, n)
  assert made(0, 7) == made(0, 7) and made(0, 7) != made(1, 7) != made(1, 8)
