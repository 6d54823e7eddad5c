"""All readers of what strangers may have written, in one table against which safety is tried.

A reader takes a folder. A seed is what it reads: the files of the folder by their paths. What is a
dict is packed, by the ending of its name, from the files in it.
"""

import functools
import gzip
import io
import json
import pathlib
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.io
from scipy.io import wavfile

from experiments.action_segmentation import data as video_data
from experiments.captioning import data as captions_data
from experiments.forecasting import data as series_data
from experiments.language_modeling import data as corpus_data
from experiments.lip_sync import data as faces_data
from experiments.pixel_sequences import data as digits_data
from experiments.polyphonic_music import data as music_data
from experiments.polyphonic_music import midi
from experiments.question_answering import data as babi_data
from experiments.seq2seq import data as pairs_data
from experiments.sequence_tagging import data as tagged_data
from experiments.sequence_tagging.lexicon import Lexicon
from experiments.speech_recognition import data as fsdd_data
from experiments.text_classification import data as imdb_data
from rnnjax.analysis import run_history
from rnnjax.data import files, log_mel, word_vectors
from rnnjax.data.tokenizer import MODEL_TYPES, Tokenizer
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.training import saved_run

Seed = dict[str, "bytes | Seed"]


class Reader(NamedTuple):
  """What is tried.

  Attributes:
    read: the folder -> anything, or BadInput.
    seeds: what it can read, small.
  """

  read: Callable[[pathlib.Path], object]
  seeds: Callable[[], list[Seed]]


def zip_bytes(parts: dict[str, bytes], way: int = zipfile.ZIP_DEFLATED) -> bytes:
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", way) as archive:
    for name, content in parts.items():
      archive.writestr(zipfile.ZipInfo(name), content, way)
  return stream.getvalue()


def tar_bytes(parts: dict[str, bytes], way: str = "") -> bytes:
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode=f"w:{way}") as archive:
    for name, content in parts.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return stream.getvalue()


def mat_bytes(parts: dict[str, bytes]) -> bytes:
  """A head, and elements that are compressed."""
  head, *elements = parts.values()
  packed = map(zlib.compress, elements)
  return head + b"".join(struct.pack("<II", 15, len(one)) + one for one in packed)


@functools.cache
def _crc32c_table() -> list[int]:
  """Of the bytes, by the polynomial of Castagnoli."""
  made = []
  for n in range(256):
    for _ in range(8):
      n = n >> 1 ^ 0x82F63B78 * (n & 1)
    made.append(n)
  return made


def ocdbt_bytes(parts: dict[str, bytes]) -> bytes:
  """A file of a store of tensorstore's: its own length after four bytes, and CRC-32C at its end."""
  body = b"".join(parts.values())
  body = body[:4] + struct.pack("<Q", len(body) + 4) + body[12:]
  rest = 0xFFFFFFFF
  for byte in body:
    rest = _crc32c_table()[(rest ^ byte) & 0xFF] ^ rest >> 8
  return body + struct.pack("<I", rest ^ 0xFFFFFFFF)


PACKERS = {
  ".zip": zip_bytes,
  ".npz": functools.partial(zip_bytes, way=zipfile.ZIP_STORED),
  ".tar": tar_bytes,
  ".tgz": functools.partial(tar_bytes, way="gz"),
  ".mat": mat_bytes,
  ".ocdbt": ocdbt_bytes,
  "": ocdbt_bytes,
  ".gz": lambda parts: gzip.compress(b"".join(parts.values()), 6, mtime=0),
}


def pack_file(name: str, content: "bytes | Seed") -> bytes:
  """A file as it lies on disk."""
  return content if isinstance(content, bytes) else PACKERS[pathlib.Path(name).suffix](content)


def stream_bytes(save: Callable) -> bytes:
  """What a function writes to a stream."""
  stream = io.BytesIO()
  save(stream)
  return stream.getvalue()


def _npy_bytes(array) -> bytes:
  return stream_bytes(lambda stream: np.save(stream, array))


def _json_bytes(value) -> bytes:
  return json.dumps(value).encode()


def _jsonl_bytes(*rows) -> bytes:
  return b"\n".join(map(_json_bytes, rows)) + b"\n"


def _mat_seeds(values: dict) -> list["bytes | Seed"]:
  """A MATLAB file plain, and as what is packed into one: its head and its elements."""
  plain = stream_bytes(lambda stream: scipy.io.savemat(stream, values))
  parts, at = {"head": plain[:128]}, 128
  while at < len(plain):
    size = 8 + struct.unpack_from("<I", plain, at + 4)[0]
    parts[f"{at}"], at = plain[at : at + size], at + size
  return [plain, parts]


def _cell_array(arrays) -> np.ndarray:
  made = np.empty((1, len(arrays)), object)
  made[0] = [*arrays]
  return made


def _wav_bytes(samples=400, rate=8000, kind=np.int16) -> bytes:
  wave = (100 * np.sin(np.arange(samples))).astype(kind)
  return stream_bytes(lambda stream: wavfile.write(stream, rate, wave))


# -- texts


def _archive_seeds():
  inner = {"own/a.txt": b"a\none\n", "own/b.gz": {"": b"two" * 20}, "text": b""}
  inner = {name: pack_file(name, content) for name, content in inner.items()}
  return [{f"a{suffix}": inner} for suffix in (".zip", ".tar", ".tgz")] + [{"a.gz": {"": b"one"}}]


def _read_archive(folder):
  (path,) = folder.iterdir()
  if path.suffix == ".gz":
    return files.read_text(path)
  return [[*files.read_lines(file)] for file in files.list_files(path)]


def _babi_seeds():
  told = b"".join(
    b"1 Ann is in the garden.\n2 Ben has the ball.\n3 Where is Ann?\tgarden\t1\n" for _ in range(3)
  )
  names = [f"en/qa{n}_some_{part}.txt" for n in (1, 2) for part in ("train", "test")]
  parts = dict.fromkeys(names, told)
  return [{name[3:]: told for name in names}, {"a.tgz": parts}, {"a.zip": parts}]


def _folder_or_archive_reader(read, **how):
  """What reads a folder, or the archive that is alone in it."""

  def reading(folder):
    one, *rest = sorted(folder.iterdir())
    alone = not rest and one.suffix in (".zip", ".tgz", ".csv", ".mat", ".json", ".gz", ".txt")
    return read(data_dir=str(one if alone else folder), **how)

  return reading


def _corpus_seeds():
  text = ("The old man, and the sea.\n" * 8).encode()
  parts = {f"a.{part}.txt": text for part in corpus_data.SPLITS}
  train = parts.pop("a.train.txt")
  return [{"a.txt": text}, parts | {"a.train.txt": train}, parts | {"a.train.txt.gz": {"": train}}]


def _read_corpus(folder):
  for raw in (False, True):
    corpus_data.load_characters("files", str(folder), strip_lines=True, byte_level=raw)
  return corpus_data.load_words("files", str(folder), 20)


def _review_seeds():
  rows = [{"text": f"a good film {n}", "label": n % 2} for n in range(12)]
  packed = {f"{part}.jsonl.gz": {"": _jsonl_bytes(*rows)} for part in ("train", "test")}
  own = {
    f"{part}/{label}/{n}_7.txt": b"a bad film"
    for part in ("train", "test")
    for label in ("1", "2.5")
    for n in range(3)
  }
  return [
    {f"{part}.jsonl": _jsonl_bytes(*rows) for part in ("train", "valid", "test")},
    packed,
    own,
  ]


def _table_seeds():
  rows = [(f"word {n}, or {n * n}", f"label{n % 2}", n) for n in range(60)]
  text = "Text,Title,id\n" + "".join(f'"{text}",{title},{n}\n' for text, title, n in rows)
  lines = _jsonl_bytes(*({"Text": text, "Title": title, "id": n} for text, title, n in rows))
  return [{"a.csv": text.encode()}, {"a.jsonl": lines}, {"a.csv.gz": {"": text.encode()}}]


def _read_table(folder):
  (path,) = folder.iterdir()
  return pairs_data.load_table(path, "Text", "Title"), imdb_data.load_table(
    path, "id,Text", "Title"
  )


def _parallel_seeds():
  text = b"a small cat\na big dog\n"
  names = [f"{part}.{language}" for part in ("train", "val", "test") for language in ("en", "de")]
  return [dict.fromkeys(names, text)]


def _article_seeds():
  return [{"a.zip": {f"bbc/{n}.txt": f"Headline {n}\n\nText {n}.".encode() for n in range(40)}}]


def _pronunciation_seeds():
  spoken = "".join(f"{'WORD' + chr(65 + n)} 1 W ER1 D\n" for n in range(26)) + "WORDA 2 W ER2\n"
  return [{"cmudict.zip": {"cmudict/cmudict": spoken.encode(), "cmudict/README": b""}}]


FORMATS = {
  "chunk": b"The DT B-NP\nold JJ I-NP\nman NN I-NP\n\nIt PRP B-NP\n\n",
  "ner": b"-DOCSTART- -X- O O\n\nTeddy NNP I-NP B-PER\nbears NNS I-NP O\n\n",
  "pos": b"# newdoc id = 1\n1\tA\ta\tDET\tDT\t_\t2\tdet\t_\t_\n2-3\tdon't" + b"\t_" * 8 + b"\n\n",
}


def _tagged_seeds():
  names = ("train.txt", "dev.conll", "test.tsv")
  return [dict.fromkeys(names, 3 * text) for text in FORMATS.values()] + [
    {"train.txt": b"New York\tB-LOC\nis\tO\n\n" * 3, "test.txt.gz": {"": b"a\tO\n\n"}}
  ]


def _read_tagged(folder):
  text = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
  tasks = {"pos": b"DET", "chunk": b"NP", "ner": b""}
  task = next(task for task, mark in tasks.items() if mark in text)
  read = tagged_data.load("files", str(folder), task)
  lexicon = Lexicon.from_sentences(
    read.train, {tag for part in read[1:] for one in part for tag in one.tags}
  )
  return [lexicon.encode(one) for part in read[1:] for one in part]


def _series_seeds():
  rows = "".join(f"2016-07-{n:02},{n},{n / 3:.3e}\n" for n in range(1, 30))
  text = f"date,load,OT\n{rows}".encode()
  return [{"a.csv": text}, {"a.csv.gz": {"": text}}]


# -- arrays, pictures, sounds


def _caption_seeds():
  draw = np.random.default_rng(0)
  arrays = {
    "images.npy": _npy_bytes(draw.integers(0, 256, (6, 4, 5, 3), np.uint8)),
    "names.npy": _npy_bytes(np.array([f"{n}.jpg" for n in range(6)])),
    "split.npy": _npy_bytes(np.array(["train", "dev", "test"] * 2)),
  }
  text = "".join(f"{n}.jpg#{m}\ta dog runs\n" for n in range(6) for m in range(2)).encode()
  return [{"a.npz": arrays, "a.token.txt": text}, {"a.npz": arrays, "a.token.txt.gz": {"": text}}]


def _digit_seeds():
  idx = lambda array: (
    bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
  )
  images, labels = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3), np.uint8([0, 1, 1, 0])
  made = {}
  for part in ("train", "t10k"):
    made[f"{part}-images-idx3-ubyte"] = idx(images)
    made[f"{part}-labels-idx1-ubyte"] = idx(labels)
  return [made, {f"{name}.gz": {"": content} for name, content in made.items()}, {"a.zip": made}]


def _face_seeds():
  face = np.random.default_rng(0).normal(size=(20, 3))
  made = {}
  for name, kind in zip("ab", ("<f8", ">f4")):
    made |= {
      f"{name}.npy": _npy_bytes(face.astype(kind)),
      f"{name}.wav": _wav_bytes(480 * 20, 14400),
    }
  return [made, {"a.zip": made}]


def _fsdd_seeds():
  names = [f"{digit}_ann_{index}.wav" for digit in range(10) for index in (0, 5, 10)]
  return [dict.fromkeys(names, _wav_bytes(1000)), {"a.zip": dict.fromkeys(names, _wav_bytes(1000))}]


def _sound_seeds():
  stereo = np.zeros((90, 2), np.float32)
  kinds = (np.uint8, np.int32, np.float32, np.float64)
  seeds = [_wav_bytes(rate=44100), *(_wav_bytes(90, kind=kind) for kind in kinds)]
  return [{"a.wav": seed} for seed in seeds] + [
    {"a.wav": stream_bytes(lambda stream: wavfile.write(stream, 11025, stereo))}
  ]


def _video_seeds():
  draw, folds = np.random.default_rng(0), []
  for _ in range(2):
    labels = [draw.integers(0, 3, (1, 5)).astype(np.uint8) for _ in range(2)]
    scores = [draw.normal(size=(5, 3)) for _ in range(2)]
    folds.append(
      _mat_seeds({"S": _cell_array(scores), "Y": _cell_array(labels), "P": _cell_array(labels)})
    )
  names = [f"a_mid_split{n}.mat" for n in (1, 2)]
  return [dict(zip(names, fold)) for fold in zip(*folds)] + [
    {"a.zip": {name: plain for name, (plain, _) in zip(names, folds)}}
  ]


def _music_arrays():
  roll = np.zeros((3, 88))
  roll[[0, 1, 2], [40, 44, 47]] = 1
  return {f"{part}data": _cell_array([roll, roll.astype(np.uint8)]) for part in music_data.SPLITS}


def _pitch_list_seeds():
  pieces = {part: [[[60, 64.0], []], [[21], [108]]] for part in music_data.SPLITS}
  return [{"a.json": _json_bytes(pieces)}, {"a.json.gz": {"": _json_bytes(pieces)}}]


def _midi_seeds():
  seeds = []
  for rest in (b"", b"\x00\xff\x01\x03abc", b"\x00\xf0\x03\x01\x02\xf7\x00\xff\x59\x02\x00\x00"):
    track = (
      b"\x00\xff\x51\x03\x07\xa1\x20" + rest + b"\x00\x90\x3c\x40\x83\x60\x3c\x00\x00\x99\x40\x40"
    )
    track += b"\x00\xc0\x05\x60\x90\x43\x50\x60\x80\x43\x00\x00\xff\x2f\x00"
    head = b"MThd" + struct.pack(">IHHH", 6, 1, 2, 480)
    seeds.append({"a.mid": head + 2 * (b"MTrk" + struct.pack(">I", len(track)) + track)})
  return seeds


# -- what a run leaves


def _vocabulary_seeds():
  return [{"a.json": _json_bytes(["a", "b", "<eos>", "é"])}]


def _lexicon_seeds():
  sentence = tagged_data.Sentence(["Teddy", "bears"], ["B-PER", "O"], [["NNP", "NNS"]], 0, "")
  return [{"a.json": _json_bytes(Lexicon.from_sentences([sentence] * 3, ["O", "B-PER"]).to_json())}]


def _tokenizer_seeds():
  text = ["low lower, lowest é"]
  return [
    {"a.json": _json_bytes(Tokenizer.train(text, 40, kind).to_json())} for kind in MODEL_TYPES
  ]


def _read_tokenizer(folder):
  subwords = Tokenizer.from_json(saved_run.read_json(folder / "a.json"))
  ids = subwords.encode("the lowest <pad>")
  assert not len(ids) or ids.max() < len(subwords)
  return subwords.decode(ids), subwords.encode("lower", 0.5)


def _vector_seeds():
  words = [b"the", b"film", b". . ."]
  numbers = np.arange(9, dtype="<f4").reshape(3, 3) / 7
  text = b"".join(w + b"".join(b" %.5f" % x for x in row) + b"\n" for w, row in zip(words, numbers))
  binary = b"2 3\n" + b"".join(w + b" " + r.tobytes() + b"\n" for w, r in zip(words[:2], numbers))
  return [
    {"a": text},
    {"a": b"3 3\n" + text},
    {"a": binary},
    {"a.gz": {"": text}},
    {"a.gz": {"": binary}},
  ]


def _read_vectors(folder):
  (path,) = folder.iterdir()
  return word_vectors.load_embeddings(str(path), Vocabulary(["film", "The", "."]))


def _run_seeds():
  config = {
    "config": {"cell": "lstm", "hidden": 8, "rate": 0.1, "out": ""},
    "versions": {"jax": "1"},
  }
  metrics = _jsonl_bytes({"step": 1, "train/loss": 2.5}, {"step": 2, "valid/loss": float("nan")})
  return [
    {
      "config.json": _json_bytes(config),
      "vocabulary.json": _json_bytes(["a"]),
      "metrics.jsonl": metrics,
    }
  ]


def _read_run(folder):
  return saved_run.read_config_and_extras(folder), run_history.read_history(str(folder))


@functools.cache
def _checkpoint_seeds():
  """A small tree as orbax writes it: in one store, and each array in files of its own; and in a
  store that is not compressed."""
  import orbax.checkpoint as ocp
  import tensorstore as ts

  from rnnjax.training.checkpoints import Checkpoints

  tree = {"best": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2)}, "step": 3}
  seeds = []
  for store in (True, False):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name).resolve()
      checkpoints = Checkpoints(folder / "checkpoints")
      if store:
        checkpoints.save(1, tree)
      else:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as plain:
          plain.save(folder / "checkpoints" / "1" / "default", tree)
      checkpoints.close()
      seeds.append(_folder_contents(folder))
      if store:
        where = {"driver": "file", "path": f"{folder}/checkpoints/1/default/"}
        whole = ts.KvStore.open({"driver": "ocdbt", "base": where}).result()
        plain = {"driver": "ocdbt", "base": where | {"path": f"{folder}/plain/"}}
        how = {"compression": None, "max_inline_value_bytes": 1 << 20}
        copy = ts.KvStore.open(plain | {"config": how}).result()
        with ts.Transaction() as together:
          for key in whole.list().result():
            copy.with_transaction(together)[key] = whole[key]
        rest = {name: one for name, one in seeds[0].items() if not re.search("ocdbt|/d/", name)}
        made = {name: {"": one[:-4]} for name, one in _folder_contents(folder / "plain").items()}
        seeds.append(rest | {f"checkpoints/1/default/{name}": one for name, one in made.items()})
  return [seed | {"config.json": b'{"config": {}}'} for seed in seeds]


def _folder_contents(folder: pathlib.Path) -> dict[str, bytes]:
  found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  return {str(path.relative_to(folder)): path.read_bytes() for path in found}


READERS = {
  "archives": Reader(_read_archive, _archive_seeds),
  "babi": Reader(_folder_or_archive_reader(babi_data.load_files), _babi_seeds),
  "captions": Reader(_folder_or_archive_reader(captions_data.load_files), _caption_seeds),
  "checkpoints": Reader(lambda folder: saved_run.load_saved_run(str(folder)), _checkpoint_seeds),
  "corpus": Reader(_read_corpus, _corpus_seeds),
  "digits": Reader(_folder_or_archive_reader(digits_data.load), _digit_seeds),
  "faces": Reader(_folder_or_archive_reader(faces_data.load), _face_seeds),
  "fsdd": Reader(_folder_or_archive_reader(fsdd_data.load), _fsdd_seeds),
  "lexicon": Reader(
    lambda folder: Lexicon.from_json(saved_run.read_json(folder / "a.json")), _lexicon_seeds
  ),
  "midi": Reader(lambda folder: midi.read_midi(folder / "a.mid", 2.0), _midi_seeds),
  "music": Reader(
    _folder_or_archive_reader(music_data.load, dataset="auto"),
    lambda: [{"a.mat": content} for content in _mat_seeds(_music_arrays())] + _pitch_list_seeds(),
  ),
  "news": Reader(
    _folder_or_archive_reader(lambda data_dir: pairs_data.load_articles(data_dir)), _article_seeds
  ),
  "parallel": Reader(lambda folder: pairs_data.load_parallel(folder, "en", "de"), _parallel_seeds),
  "pronunciations": Reader(
    _folder_or_archive_reader(lambda data_dir: pairs_data.load_cmudict(data_dir)),
    _pronunciation_seeds,
  ),
  "reviews": Reader(lambda folder: imdb_data.load_files(str(folder)), _review_seeds),
  "run": Reader(_read_run, _run_seeds),
  "series": Reader(_folder_or_archive_reader(series_data.load), _series_seeds),
  "sound": Reader(lambda folder: log_mel.read_wav(folder / "a.wav", 8000), _sound_seeds),
  "subwords": Reader(_read_tokenizer, _tokenizer_seeds),
  "tables": Reader(_read_table, _table_seeds),
  "tagged": Reader(_read_tagged, _tagged_seeds),
  "vectors": Reader(_read_vectors, _vector_seeds),
  "video": Reader(_folder_or_archive_reader(video_data.load), _video_seeds),
  "vocabulary": Reader(
    lambda folder: Vocabulary.from_json(saved_run.read_json(folder / "a.json")), _vocabulary_seeds
  ),
}
