"""All readers of files, with small valid inputs: the table that `tests.fuzz` runs on."""

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
from rnnjax.data import files, labeled_texts, log_mel, word_vectors
from rnnjax.data.tokenizer import MODEL_TYPES, Tokenizer
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.training import run_dir

# File contents by path. A dict as content is an archive of its members, packed by the suffix.
Seed = dict[str, "bytes | Seed"]


class Reader(NamedTuple):
  """A reader and its inputs.

  Attributes:
    read: reads a folder; any result, or InvalidInputError.
    seeds: returns small valid inputs.
  """

  read: Callable[[pathlib.Path], object]
  seeds: Callable[[], list[Seed]]


# -- Packing


def zip_bytes(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", method) as archive:
    for name, content in members.items():
      archive.writestr(zipfile.ZipInfo(name), content, method)
  return stream.getvalue()


def tar_bytes(members: dict[str, bytes], compression: str = "") -> bytes:
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode=f"w:{compression}") as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return stream.getvalue()


def gzip_bytes(members: dict[str, bytes]) -> bytes:
  return gzip.compress(b"".join(members.values()), 6, mtime=0)


def mat_bytes(members: dict[str, bytes]) -> bytes:
  """Pack a MATLAB header and variables, which are compressed."""
  header, *variables = members.values()
  compressed = map(zlib.compress, variables)
  return header + b"".join(struct.pack("<II", 15, len(data)) + data for data in compressed)


@functools.cache
def _crc32c_table() -> list[int]:
  """Return the CRC-32C (Castagnoli) of each byte."""
  table = []
  for value in range(256):
    for _ in range(8):
      value = value >> 1 ^ 0x82F63B78 * (value & 1)
    table.append(value)
  return table


def ocdbt_bytes(members: dict[str, bytes]) -> bytes:
  """Pack a file of tensorstore's OCDBT: its length after four bytes, and a CRC-32C at the end."""
  body = b"".join(members.values())
  body = body[:4] + struct.pack("<Q", len(body) + 4) + body[12:]
  checksum = 0xFFFFFFFF
  for byte in body:
    checksum = _crc32c_table()[(checksum ^ byte) & 0xFF] ^ checksum >> 8
  return body + struct.pack("<I", checksum ^ 0xFFFFFFFF)


PACKERS = {
  ".zip": zip_bytes,
  ".npz": functools.partial(zip_bytes, method=zipfile.ZIP_STORED),
  ".tar": tar_bytes,
  ".tgz": functools.partial(tar_bytes, compression="gz"),
  ".gz": gzip_bytes,
  ".mat": mat_bytes,
  ".ocdbt": ocdbt_bytes,
  "": ocdbt_bytes,
}


def pack_file(name: str, content: "bytes | Seed") -> bytes:
  """Return the bytes of a file."""
  return content if isinstance(content, bytes) else PACKERS[pathlib.Path(name).suffix](content)


def written_bytes(write: Callable, *args, **options) -> bytes:
  """Return what `write(stream, ...)` writes."""
  stream = io.BytesIO()
  write(stream, *args, **options)
  return stream.getvalue()


def npy_bytes(array) -> bytes:
  return written_bytes(np.save, array)


def json_bytes(value) -> bytes:
  return json.dumps(value).encode()


def jsonl_bytes(*rows) -> bytes:
  return b"\n".join(map(json_bytes, rows)) + b"\n"


def gzipped(files_by_name: dict[str, bytes]) -> Seed:
  return {f"{name}.gz": {"": content} for name, content in files_by_name.items()}


# -- Text


def archive_seeds():
  members = {
    "folder/a.txt": b"a\none\n",
    "folder/b.gz": pack_file("b.gz", {"": b"two" * 20}),
    "text": b"",
  }
  return [{f"a{suffix}": members} for suffix in (".zip", ".tar", ".tgz")] + [{"a.gz": {"": b"one"}}]


def read_archive(folder):
  (path,) = folder.iterdir()
  if path.suffix == ".gz":
    return files.read_text(path)
  return [[*files.read_lines(file)] for file in files.list_files(path)]


def babi_seeds():
  story = b"1 Ann is in the garden.\n2 Ben has the ball.\n3 Where is Ann?\tgarden\t1\n" * 3
  names = [f"qa{n}_some_{split}.txt" for n in (1, 2) for split in ("train", "test")]
  members = {f"en/{name}": story for name in names}
  return [dict.fromkeys(names, story), {"a.tgz": members}, {"a.zip": members}]


def folder_or_archive_reader(load, **options):
  """Return a reader that passes the folder, or the only file in it, as `data_dir`."""

  def read(folder):
    path, *others = sorted(folder.iterdir())
    suffixes = (".zip", ".tgz", ".csv", ".mat", ".json", ".gz", ".txt")
    is_only_file = not others and path.suffix in suffixes
    return load(data_dir=str(path if is_only_file else folder), **options)

  return read


def positional_reader(load):
  """Return a reader that passes the folder, or the only file in it, as the first argument."""
  return folder_or_archive_reader(lambda data_dir: load(data_dir))


def json_reader(from_json):
  """Return a reader that passes the content of a.json."""
  return lambda folder: from_json(run_dir.read_json(folder / "a.json"))


def corpus_seeds():
  text = b"The old man, and the sea.\n" * 8
  splits = {f"a.{split}.txt": text for split in corpus_data.SPLITS}
  gzipped_train = {**splits, **gzipped({"a.train.txt": text})}
  del gzipped_train["a.train.txt"]
  return [{"a.txt": text}, splits, gzipped_train]


def read_corpus(folder):
  for byte_level in (False, True):
    corpus_data.load_characters("files", str(folder), strip_lines=True, byte_level=byte_level)
  return corpus_data.load_words("files", str(folder), 20)


def review_seeds():
  rows = jsonl_bytes(*({"text": f"a good film {n}", "label": n % 2} for n in range(12)))
  files_by_class = {
    f"{split}/{label}/{n}_7.txt": b"a bad film"
    for split in ("train", "test")
    for label in ("1", "2.5")
    for n in range(3)
  }
  splits = [f"{split}.jsonl" for split in ("train", "valid", "test")]
  return [
    dict.fromkeys(splits, rows),
    gzipped({"train.jsonl": rows, "test.jsonl": rows}),
    files_by_class,
  ]


def table_seeds():
  rows = [{"Text": f"word {n}, or {n * n}", "Title": f"label{n % 2}", "id": n} for n in range(60)]
  lines = [f'"{row["Text"]}",{row["Title"]},{row["id"]}\n' for row in rows]
  csv_file = {"a.csv": ("Text,Title,id\n" + "".join(lines)).encode()}
  return [csv_file, gzipped(csv_file), {"a.jsonl": jsonl_bytes(*rows)}]


def read_table(folder):
  (path,) = folder.iterdir()
  pairs = pairs_data.load_table(path, "Text", "Title")
  return pairs, imdb_data.load_table(path, "id,Text", "Title")


def parallel_seeds():
  names = [f"{split}.{language}" for split in ("train", "val", "test") for language in ("en", "de")]
  return [dict.fromkeys(names, b"a small cat\na big dog\n")]


def article_seeds():
  return [{"a.zip": {f"bbc/{n}.txt": f"Headline {n}\n\nText {n}.".encode() for n in range(40)}}]


def pronunciation_seeds():
  lines = "".join(f"WORD{chr(65 + n)} 1 W ER1 D\n" for n in range(26)) + "WORDA 2 W ER2\n"
  return [{"cmudict.zip": {"cmudict/cmudict": lines.encode(), "cmudict/README": b""}}]


TAGGED_SENTENCES = {
  "chunk": b"The DT B-NP\nold JJ I-NP\nman NN I-NP\n\nIt PRP B-NP\n\n",
  "ner": b"-DOCSTART- -X- O O\n\nTeddy NNP I-NP B-PER\nbears NNS I-NP O\n\n",
  "pos": b"# newdoc id = 1\n1\tA\ta\tDET\tDT\t_\t2\tdet\t_\t_\n2-3\tdon't" + b"\t_" * 8 + b"\n\n",
}


def tagged_seeds():
  names = ("train.txt", "dev.conll", "test.tsv")
  seeds = [dict.fromkeys(names, 3 * text) for text in TAGGED_SENTENCES.values()]
  tab_separated = {"train.txt": b"New York\tB-LOC\nis\tO\n\n" * 3}
  return [*seeds, tab_separated | gzipped({"test.txt": b"a\tO\n\n"})]


def read_tagged(folder):
  text = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
  markers = {"pos": b"DET", "chunk": b"NP", "ner": b""}
  task = next(task for task, marker in markers.items() if marker in text)
  _, *splits = tagged_data.load("files", str(folder), task)
  sentences = [sentence for split in splits for sentence in split]
  lexicon = Lexicon.from_sentences(splits[0], {tag for s in sentences for tag in s.tags})
  return [lexicon.encode(sentence) for sentence in sentences]


def series_seeds():
  rows = "".join(f"2016-07-{n:02},{n},{n / 3:.3e}\n" for n in range(1, 30))
  csv_file = {"a.csv": f"date,load,OT\n{rows}".encode()}
  return [csv_file, gzipped(csv_file)]


# -- Arrays, images, sounds, music


def caption_seeds():
  rng = np.random.default_rng(0)
  arrays = {
    "images.npy": npy_bytes(rng.integers(0, 256, (6, 4, 5, 3), np.uint8)),
    "names.npy": npy_bytes(np.array([f"{n}.jpg" for n in range(6)])),
    "split.npy": npy_bytes(np.array(["train", "dev", "test"] * 2)),
  }
  lines = [f"{n}.jpg#{m}\ta dog runs\n" for n in range(6) for m in range(2)]
  captions = {"a.token.txt": "".join(lines).encode()}
  return [{"a.npz": arrays} | captions, {"a.npz": arrays} | gzipped(captions)]


def idx_bytes(array: np.ndarray) -> bytes:
  """Return a file in the format of MNIST."""
  shape = struct.pack(f">{array.ndim}I", *array.shape)
  return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def digit_seeds():
  images, labels = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3), np.uint8([0, 1, 1, 0])
  idx_files = {}
  for split in ("train", "t10k"):
    idx_files[f"{split}-images-idx3-ubyte"] = idx_bytes(images)
    idx_files[f"{split}-labels-idx1-ubyte"] = idx_bytes(labels)
  return [idx_files, gzipped(idx_files), {"a.zip": idx_files}]


def wav_bytes(num_samples=400, sample_rate=8000, dtype=np.int16) -> bytes:
  samples = (100 * np.sin(np.arange(num_samples))).astype(dtype)
  return written_bytes(wavfile.write, sample_rate, samples)


def face_seeds():
  face = np.random.default_rng(0).normal(size=(20, 3))
  pairs = {}
  for name, dtype in zip("ab", ("<f8", ">f4")):
    pairs[f"{name}.npy"] = npy_bytes(face.astype(dtype))
    pairs[f"{name}.wav"] = wav_bytes(480 * 20, 14400)
  return [pairs, {"a.zip": pairs}]


def fsdd_seeds():
  names = [f"{digit}_ann_{index}.wav" for digit in range(10) for index in (0, 5, 10)]
  recordings = dict.fromkeys(names, wav_bytes(1000))
  return [recordings, {"a.zip": recordings}]


def wav_seeds():
  stereo = written_bytes(wavfile.write, 11025, np.zeros((90, 2), np.float32))
  dtypes = (np.uint8, np.int32, np.float32, np.float64)
  sounds = [wav_bytes(sample_rate=44100), *(wav_bytes(90, dtype=dtype) for dtype in dtypes), stereo]
  return [{"a.wav": sound} for sound in sounds]


def mat_contents(variables: dict) -> list["bytes | Seed"]:
  """Return a MATLAB file without compression, and the header and variables of a compressed one."""
  plain = written_bytes(scipy.io.savemat, variables)
  members, start = {"header": plain[:128]}, 128
  while start < len(plain):
    end = start + 8 + struct.unpack_from("<I", plain, start + 4)[0]
    members[f"{start}"], start = plain[start:end], end
  return [plain, members]


def cell_array(arrays) -> np.ndarray:
  cells = np.empty((1, len(arrays)), object)
  cells[0] = [*arrays]
  return cells


def video_seeds():
  rng, folds = np.random.default_rng(0), []
  for _ in range(2):
    labels = cell_array([rng.integers(0, 3, (1, 5)).astype(np.uint8) for _ in range(2)])
    scores = cell_array([rng.normal(size=(5, 3)) for _ in range(2)])
    folds.append(mat_contents({"S": scores, "Y": labels, "P": labels}))
  plain, compressed = (
    {f"a_mid_split{n}.mat": content for n, content in enumerate(contents, 1)}
    for contents in zip(*folds)
  )
  return [plain, compressed, {"a.zip": plain}]


def music_seeds():
  roll = np.zeros((3, 88))
  roll[[0, 1, 2], [40, 44, 47]] = 1
  cells = cell_array([roll, roll.astype(np.uint8)])
  mat_files = mat_contents({f"{split}data": cells for split in music_data.SPLITS})
  pieces = {split: [[[60, 64.0], []], [[21], [108]]] for split in music_data.SPLITS}
  json_file = {"a.json": json_bytes(pieces)}
  return [*({"a.mat": content} for content in mat_files), json_file, gzipped(json_file)]


def midi_seeds():
  seeds = []
  for events in (b"", b"\x00\xff\x01\x03abc", b"\x00\xf0\x03\x01\x02\xf7\x00\xff\x59\x02\x00\x00"):
    track = (
      b"\x00\xff\x51\x03\x07\xa1\x20" + events + b"\x00\x90\x3c\x40\x83\x60\x3c\x00\x00\x99\x40\x40"
      b"\x00\xc0\x05\x60\x90\x43\x50\x60\x80\x43\x00\x00\xff\x2f\x00"
    )
    header = b"MThd" + struct.pack(">IHHH", 6, 1, 2, 480)
    seeds.append({"a.mid": header + 2 * (b"MTrk" + struct.pack(">I", len(track)) + track)})
  return seeds


# -- Files of a run


def vocabulary_seeds():
  return [{"a.json": json_bytes(["a", "b", "<eos>", "é"])}]


def lexicon_seeds():
  sentence = tagged_data.Sentence(["Teddy", "bears"], ["B-PER", "O"], [["NNP", "NNS"]], 0, "")
  lexicon = Lexicon.from_sentences([sentence] * 3, ["O", "B-PER"])
  return [{"a.json": json_bytes(lexicon.to_json())}]


def tokenizer_seeds():
  tokenizers = [Tokenizer.train(["low lower, lowest é"], 40, model) for model in MODEL_TYPES]
  return [{"a.json": json_bytes(tokenizer.to_json())} for tokenizer in tokenizers]


def use_tokenizer(value):
  tokenizer = Tokenizer.from_json(value)
  ids = tokenizer.encode("the lowest <pad>")
  assert not len(ids) or ids.max() < len(tokenizer)
  return tokenizer.decode(ids), tokenizer.encode("lower", 0.5)


def word_vector_seeds():
  words = [b"the", b"film", b". . ."]
  vectors = np.arange(9, dtype="<f4").reshape(3, 3) / 7
  text = b""
  for word, vector in zip(words, vectors):
    text += word + b"".join(b" %.5f" % x for x in vector) + b"\n"
  binary = b"2 3\n" + b"".join(w + b" " + v.tobytes() + b"\n" for w, v in zip(words[:2], vectors))
  plain = [{"a": text}, {"a": b"3 3\n" + text}, {"a": binary}]
  return [*plain, gzipped({"a": text}), gzipped({"a": binary})]


def read_word_vectors(folder):
  (path,) = folder.iterdir()
  return word_vectors.load_embeddings(str(path), Vocabulary(["film", "The", "."]))


def run_seeds():
  config = {"cell": "lstm", "hidden_size": 8, "learning_rate": 0.1, "workdir": ""}
  return [
    {
      "config.json": json_bytes({"config": config, "versions": {"jax": "1"}}),
      "vocabulary.json": json_bytes(["a"]),
      "metrics.jsonl": jsonl_bytes(
        {"step": 1, "train/loss": 2.5}, {"step": 2, "valid/loss": float("nan")}
      ),
    }
  ]


def read_run(folder):
  return run_dir.read_config_and_extras(folder), run_history.read_history(str(folder))


def folder_contents(folder: pathlib.Path) -> dict[str, bytes]:
  paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@functools.cache
def checkpoint_seeds():
  """Return a small checkpoint in the three layouts of Orbax: OCDBT, OCDBT without compression, and
  each array in files of its own."""
  import orbax.checkpoint as ocp
  import tensorstore as ts

  from rnnjax.training.checkpoints import Checkpoints

  tree = {
    "best_params": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2)},
    "step": 3,
  }
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary).resolve()
    checkpoints = Checkpoints(folder / "run" / "checkpoints")
    checkpoints.save(1, tree)
    checkpoints.close()
    ocdbt = folder_contents(folder / "run")

    store = {"driver": "file", "path": f"{folder}/run/checkpoints/1/default/"}
    source = ts.KvStore.open({"driver": "ocdbt", "base": store}).result()
    copy = ts.KvStore.open(
      {
        "driver": "ocdbt",
        "base": {"driver": "file", "path": f"{folder}/uncompressed/"},
        "config": {"compression": None, "max_inline_value_bytes": 1 << 20},
      }
    ).result()
    with ts.Transaction() as transaction:
      for key in source.list().result():
        copy.with_transaction(transaction)[key] = source[key]
    uncompressed = {name: data for name, data in ocdbt.items() if not re.search("ocdbt|/d/", name)}
    for name, data in folder_contents(folder / "uncompressed").items():
      # Packing adds the checksum again, so that corruptions are not caught by it.
      uncompressed[f"checkpoints/1/default/{name}"] = {"": data[:-4]}

    checkpoints = Checkpoints(folder / "separate" / "checkpoints")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
      checkpointer.save(folder / "separate" / "checkpoints" / "1" / "default", tree)
    checkpoints.close()
    separate = folder_contents(folder / "separate")
  return [seed | {"config.json": b'{"config": {}}'} for seed in (ocdbt, uncompressed, separate)]


READERS = {
  "archives": Reader(read_archive, archive_seeds),
  "babi": Reader(folder_or_archive_reader(babi_data.load_files), babi_seeds),
  "captions": Reader(folder_or_archive_reader(captions_data.load_files), caption_seeds),
  "checkpoints": Reader(lambda folder: run_dir.load_saved_run(str(folder)), checkpoint_seeds),
  "corpus": Reader(read_corpus, corpus_seeds),
  "digits": Reader(folder_or_archive_reader(digits_data.load), digit_seeds),
  "faces": Reader(folder_or_archive_reader(faces_data.load), face_seeds),
  "fsdd": Reader(folder_or_archive_reader(fsdd_data.load), fsdd_seeds),
  "lexicon": Reader(json_reader(Lexicon.from_json), lexicon_seeds),
  "midi": Reader(lambda folder: midi.read_midi(folder / "a.mid", 2.0), midi_seeds),
  "music": Reader(folder_or_archive_reader(music_data.load, dataset="auto"), music_seeds),
  "news": Reader(positional_reader(pairs_data.load_articles), article_seeds),
  "parallel": Reader(lambda folder: pairs_data.load_parallel(folder, "en", "de"), parallel_seeds),
  "pronunciations": Reader(positional_reader(pairs_data.load_cmudict), pronunciation_seeds),
  "reviews": Reader(lambda folder: labeled_texts.load_folder(str(folder)), review_seeds),
  "run": Reader(read_run, run_seeds),
  "series": Reader(folder_or_archive_reader(series_data.load), series_seeds),
  "sound": Reader(lambda folder: log_mel.read_wav(folder / "a.wav", 8000), wav_seeds),
  "subwords": Reader(json_reader(use_tokenizer), tokenizer_seeds),
  "tables": Reader(read_table, table_seeds),
  "tagged": Reader(read_tagged, tagged_seeds),
  "vectors": Reader(read_word_vectors, word_vector_seeds),
  "video": Reader(folder_or_archive_reader(video_data.load), video_seeds),
  "vocabulary": Reader(json_reader(Vocabulary.from_json), vocabulary_seeds),
}
