"""Tagged sentences from files: formats, schemes, splits, and malformed files."""

import gzip
import io
import zipfile

import pytest

from experiments.sequence_tagging import bio_tags, synthetic_sentences
from experiments.sequence_tagging import data as tagged_data
from rnnjax.types import InvalidInputError

PARTS = ("train", "valid", "test")
NER = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
calls NNS I-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- -X- O

Paris NNP B-NP B-LOC
"""
UD = """# newdoc id = one
# sent_id = 1
1\tHe\the\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
3.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_

# newpar
# sent_id = 2
1\t10 000\t10 000\tNUM\tCD\t_\t0\troot\t_\t_

# newdoc id = two
# text = #
1\t#\t#\tSYM\tNN\t_\t0\troot\t_\t_

"""


def write_text(path, text):
  path.parent.mkdir(exist_ok=True, parents=True)
  data = text.encode() if isinstance(text, str) else text
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return path


def write_splits(path, train, test="a O\n", valid=None, suffix=".txt"):
  """Write the files of a folder; return its path."""
  for split, text in zip(PARTS, (train, valid, test)):
    if text is not None:
      write_text(path / f"{split}{suffix}", text)
  return str(path)


def sentence_texts(split):
  return [" ".join(sentence.words) for sentence in split]


def sentence_tags(split):
  return [" ".join(sentence.tags) for sentence in split]


@pytest.mark.parametrize(
  "task, expected, columns",
  [
    ("pos", ["NNP VBZ JJ NNS", "NNP NNP", "NNP"], []),
    ("chunk", ["B-NP B-VP B-NP I-NP", "B-NP I-NP", "B-NP"], ["NNP VBZ JJ NNS"]),
    (
      "ner",
      ["B-ORG O B-MISC O", "B-PER I-PER", "B-LOC"],
      ["NNP VBZ JJ NNS", "B-NP B-VP B-NP I-NP"],
    ),
  ],
)
def test_conll2003_columns(tmp_path, task, expected, columns):
  """The tag is the column of the task; the columns before it are additional inputs."""
  dataset = tagged_data.load_files(write_splits(tmp_path / "conll", NER, NER, NER), task)
  assert dataset.name == "conll"
  for split, sentences in zip(PARTS, dataset[1:], strict=True):
    assert sentence_texts(sentences) == ["EU rejects German calls", "Peter Blackburn", "Paris"]
    assert sentence_tags(sentences) == expected
    assert [" ".join(column) for column in sentences[0].columns] == columns
    assert [s.document_id for s in sentences] == [0, 0, 1]
    lines = [f"{tmp_path / 'conll' / split}.txt:{line}" for line in (3, 8, 13)]
    assert [s.location for s in sentences] == lines


def test_conll2000_columns(tmp_path):
  """CoNLL-2000 has no documents."""
  text = "the DT B-NP\npound NN I-NP\n\nfell VBD B-VP\n"
  data_dir = write_splits(tmp_path, text, text, text)
  for task, expected in (("pos", ["DT NN", "VBD"]), ("chunk", ["B-NP I-NP", "B-VP"])):
    dataset = tagged_data.load_files(data_dir, task)
    assert sentence_tags(dataset.train) == sentence_tags(dataset.test) == expected
    assert {s.document_id for s in dataset.train} == {0}
  assert dataset.train[0].columns == [["DT", "NN"]]


def test_conllu(tmp_path):
  """Contractions and omitted words are skipped; "#" can be a word; documents are counted."""
  data_dir = write_splits(tmp_path / "ud", UD, UD, suffix=".conllu.gz")
  write_text(tmp_path / "ud" / "en-dev.conllu", UD)
  dataset = tagged_data.load("auto", data_dir, "pos")
  for split, name in zip(dataset[1:], ("train.conllu.gz", "en-dev.conllu", "test.conllu.gz")):
    assert [s.words for s in split] == [["He", "do", "n't"], ["10 000"], ["#"]]
    assert sentence_tags(split) == ["PRON AUX PART", "NUM", "SYM"]
    assert [s.columns for s in split] == [[], [], []]
    assert [s.document_id for s in split] == [0, 0, 1]
    assert [s.location for s in split] == [f"{tmp_path}/ud/{name}:{line}" for line in (3, 11, 15)]


@pytest.mark.parametrize("task, tag", [("pos", "NN"), ("ner", "B-PER"), ("chunk", "B-NP")])
def test_two_column_files(tmp_path, task, tag):
  """For any task. Spaces separate columns if there is no tab, and "#" is a word."""
  train = f"# {tag}\nb   {tag} \n\n\n\n  c {tag}\n"
  valid = f"New York\t{tag}\nc\u2028d\u00a0e\t{tag}\t\n"
  dataset = tagged_data.load_files(write_splits(tmp_path, train, f"d {tag}", valid), task)
  assert [s.words for s in dataset.train] == [["#", "b"], ["c"]]
  assert [s.words for s in dataset.valid] == [["New York", "c\u2028d\u00a0e"]]
  assert sentence_tags(dataset.train + dataset.valid + dataset.test) == [
    f"{tag} {tag}",
    tag,
    f"{tag} {tag}",
    tag,
  ]


def test_bom_and_crlf_are_ignored(tmp_path):
  text = "\ufeff" + NER.replace("\n", "\r\n")
  plain, with_crlf = (
    tagged_data.load_files(write_splits(tmp_path / "data", t, t, t), "ner") for t in (NER, text)
  )
  assert with_crlf == plain


def test_docstart_without_empty_lines(tmp_path):
  """A document without sentences does not count."""
  text = "a O\n-DOCSTART- O\nb O\n\n-DOCSTART- O\n-DOCSTART-\n\nc O\n\nd O"
  dataset = tagged_data.load_files(write_splits(tmp_path, text, text, text), "ner")
  assert [(s.words, s.document_id) for s in dataset.train] == [
    (["a"], 0),
    (["b"], 1),
    (["c"], 2),
    (["d"], 2),
  ]


def test_last_tenth_is_validation_set(tmp_path):
  """If there is no validation file. Its documents are numbered from 0."""
  text = "".join(f"-DOCSTART- X\n\n{n} X\n\n{n}b X\n\n" for n in range(20))
  dataset = tagged_data.load_files(write_splits(tmp_path, text, "a X"), "pos")
  expected = [word for n in range(20) for word in (str(n), f"{n}b")]
  assert sentence_texts(dataset.train) == expected[:36]
  assert [(s.words[0], s.document_id) for s in dataset.valid] == [
    ("18", 0),
    ("18b", 0),
    ("19", 1),
    ("19b", 1),
  ]
  assert sentence_texts(dataset.test) == ["a"]


@pytest.mark.parametrize(
  "written",
  ["I-PER B-PER I-PER O I-LOC", "S-PER B-PER E-PER O S-LOC", "U-PER B-PER L-PER O U-LOC"],
)
def test_all_tag_schemes_become_bio(tmp_path, written):
  """The scheme is detected from all files: the test file alone would be BIO."""
  rows = lambda text: "".join(f"w {tag}\n" for tag in text.split())
  dataset = tagged_data.load_files(
    write_splits(tmp_path, rows(written), rows("O O"), rows(written)), "ner"
  )
  assert (
    sentence_tags(dataset.train) == sentence_tags(dataset.valid) == ["B-PER B-PER I-PER O B-LOC"]
  )
  assert sentence_tags(dataset.test) == ["O O"]


def test_pos_tags_are_unchanged(tmp_path):
  """Even if they look like tags of spans."""
  dataset = tagged_data.load_files(
    write_splits(tmp_path, "a I-X\nb E-Y\n", "c O\n", "d S-X"), "pos"
  )
  assert sentence_tags(dataset.train + dataset.valid + dataset.test) == ["I-X E-Y", "S-X", "O"]


def test_archive_equals_folder(tmp_path):
  """Its files may be in a folder and compressed; hidden files of macOS are ignored."""
  archive_bytes = io.BytesIO()
  with zipfile.ZipFile(archive_bytes, "w") as archive:
    archive.writestr("conll/", "")
    archive.writestr("conll/README", "nothing")
    archive.writestr("conll/latest-train.txt", NER)
    archive.writestr("conll/dev.txt.gz", gzip.compress(NER.encode()))
    archive.writestr("conll/TEST.TXT", NER)
    archive.writestr("__MACOSX/conll/._latest-train.txt", b"\xff")
  path = write_text(tmp_path / "conll.zip", archive_bytes.getvalue())
  dataset = tagged_data.load_files(str(path), "ner")
  plain = tagged_data.load_files(write_splits(tmp_path / "plain", NER, NER, NER), "ner")
  for archive_split, folder_split in zip(dataset[1:], plain[1:], strict=True):
    assert [s[:4] for s in archive_split] == [s[:4] for s in folder_split]
  assert dataset.name == "conll.zip"
  assert dataset.train[1].location == f"{path}/conll/latest-train.txt:8"
  assert sorted(p.name for p in tmp_path.iterdir()) == ["conll.zip", "plain"]


def write_files(tmp_path, *names):
  for name in names:
    write_text(tmp_path / name, NER)
  return str(tmp_path)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda p: "", r"--data_dir must be a folder or a \.zip .*; got ''"),
    (
      lambda p: write_files(p, "train.txt"),
      r"must hold one file each .*; it holds \['.*train\.txt'\]",
    ),
    (
      lambda p: write_files(p, "test.txt", "train.md"),
      r"must hold one .*test\.txt', '.*train\.md'\]",
    ),
    (lambda p: write_files(p, "train.txt", "train.tsv", "test.txt"), r"must hold .*train\.tsv', "),
    (
      lambda p: write_files(p, "train.txt", "dev.txt", "valid.txt", "test.txt"),
      "must hold one file",
    ),
    (lambda p: write_splits(p, "", NER), r"the train set of .* has no sentences"),
    (lambda p: write_splits(p, "a O\n", NER), r"the train set of .* has no sentences"),
    (lambda p: write_splits(p, NER, NER, "\n"), r"the valid set of .* has no sentences"),
    (lambda p: write_splits(p, NER, "-DOCSTART- O\n"), r"the test set of .* has no sentences"),
    (
      lambda p: write_splits(p, "a O\nb O\n\nc\n"),
      r"train\.txt:4 has 1 columns, and the first row 2: 'c'\. Is an empty line or",
    ),
    (
      lambda p: write_splits(p, UD),
      r"train\.txt has no column for 'ner': 10 columns are word, pos$",
    ),
    (
      lambda p: write_splits(p, "a DT B-NP\n"),
      r"train\.txt has no column for 'ner': 3 columns are word, pos, chunk$",
    ),
    (
      lambda p: write_splits(p, "a b c d O\n"),
      r"no column for 'ner': 5 columns are not one of the formats, which have \[2, 3, 4, 10\]",
    ),
    (
      lambda p: write_splits(p, "a B-X\nb I-X\n\nc B-X\nd O\ne I-X\n"),
      r"train\.txt:4: 'I-X' at position 2 cannot follow 'O' in BIO, the scheme detected from all",
    ),
    (
      lambda p: write_splits(p, "a DT B-NP O\n\nb DT I-NP O\n", "a O\n"),
      "the test set must have as many columns as the training set",
    ),
    (
      lambda p: write_splits(p, "a O\n\nb NN\n"),
      r"train\.txt:3: 'NN' at position 0 is not a tag of BIO",
    ),
  ],
)
def test_invalid_files_raise(tmp_path, make, message):
  with pytest.raises(InvalidInputError, match=message):
    tagged_data.load("files", make(tmp_path), "ner")


def test_unknown_dataset_or_task_raises():
  with pytest.raises(
    InvalidInputError, match=r"dataset must be one of \('auto', .*\); got 'linux'"
  ):
    tagged_data.load("linux", "", "ner")
  with pytest.raises(InvalidInputError, match=r"task must be one of .*'chunk'\); got 'names'"):
    tagged_data.load("embedded", "", "names")


@pytest.mark.parametrize("task", tagged_data.TASKS)
def test_embedded_set_and_fallback_warning(caplog, task):
  """Each sentence is a document. "auto" warns if there are no files."""
  dataset = tagged_data.load("embedded", "", task)
  assert not caplog.text
  assert dataset.name == "embedded"
  for split, rows in zip(dataset[1:], synthetic_sentences.generate_splits(task), strict=True):
    convert = list if task == "pos" else bio_tags.to_iobes
    assert [(s.words, s.tags) for s in split] == [(words, convert(tags)) for words, tags in rows]
    assert [s.document_id for s in split] == list(range(len(rows)))
  assert dataset.test[4].location == "embedded test:5"
  assert tagged_data.load("auto", "", task) == dataset
  assert "--data_dir=FOLDER" in caplog.text


def test_long_training_sentences_are_truncated(tmp_path):
  """Only training sentences are. A truncated span still ends with E."""
  rows = "a DT B-NP\nbig JJ I-NP\ndog NN I-NP\n\n"
  for split in ("train", "valid", "test"):
    (tmp_path / f"{split}.txt").write_text(rows)
  dataset = tagged_data.load("files", str(tmp_path), "chunk", max_train_length=2)
  assert dataset.train[0][:3] == (["a", "big"], ["B-NP", "E-NP"], [["DT", "JJ"]])
  assert dataset.test[0][:3] == (
    ["a", "big", "dog"],
    ["B-NP", "I-NP", "E-NP"],
    [["DT", "JJ", "NN"]],
  )
  assert (
    tagged_data.load("files", str(tmp_path), "chunk", use_extra_columns=False).test[0].columns == []
  )
