"""Letters to sounds: the errors by hand, what any pronunciation counts for, and a run."""

import json
import pathlib
import shutil

import pytest

from experiments import pronounce, translate
from experiments.pronounce import Config
from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import seq2seq_common
from rnnjax import training
from rnnjax.types import InvalidInputError

TINY = dict(hidden_size=8, embed_dim=8, batch_size=64, epochs=1, beam_size=2, dataset="embedded")


def test_error_rates_on_small_example():
  """One word right in its second way; one with a phoneme wrong, one missing and one too many."""
  written = ["R IY D", "K AE T S", "AH", "", "G OW"]
  ways = [["R EH D", "R IY D"], ["K AH T"], ["AH N"], ["AY"], ["G OW"]]
  found = pronounce.error_rates(written, ways)
  assert found["word_error"] == pytest.approx(3 / 5)
  assert found["phoneme_error"] == pytest.approx((0 + 2 + 1 + 1 + 0) / (3 + 3 + 2 + 1 + 2))


@pytest.fixture(scope="module")
def pronounce_run(tmp_path_factory):
  """A run of a few words, of which each has one more pronunciation, with Q."""
  text = pairs_data.load("embedded", "", "", "", "pronunciations")
  more = {word: [way, f"{way} Q"] for word, way in text.test}
  text = text._replace(train=text.train[:640], test=text.test[:40], references=more)
  config = Config(
    **TINY, workdir=str(tmp_path_factory.mktemp("spoken") / "run"), predict="gecothime"
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pairs_data, "load", lambda *_: text)
    return config, text, pronounce.run(config)


def test_run_scores_and_tokenizers(pronounce_run):
  """What it wrote is what was scored; letters go in, and phonemes, each a piece, come out."""
  config, text, scores = pronounce_run
  path = pathlib.Path(config.workdir) / "written.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [(line["source"], line["target"]) for line in lines] == text.test
  ways = [text.references[word] for word, _ in text.test]
  again = pronounce.error_rates([line["written"] for line in lines], ways)
  assert scores["test/word_error"] == again["word_error"]
  assert scores["test/phoneme_error"] == again["phoneme_error"]
  speller = pronounce.load(config.workdir)
  assert speller.source_tokenizer.tokenize("chat") == ["c", "h", "a", "t"]
  assert speller.target_tokenizer.tokenize("CH AE T") == ["▁CH", "▁AE", "▁T"]


def test_predict_single_word(pronounce_run, capsys):
  """By --ensemble, the same as after training; a blank one is refused."""
  config, _, scores = pronounce_run
  how = dict(ensemble=config.workdir, beam_size=config.beam_size)
  assert pronounce.run(Config(**how, predict="gecothime")) == {"written": scores["written"]}
  assert capsys.readouterr().out == scores["written"] + "\n"
  with pytest.raises(InvalidInputError, match="--predict must be a text"):
    pronounce.run(Config(**how, predict=" "))


def test_loaded_model_scores_test_set(pronounce_run, monkeypatch):
  """Without a word to say the test part is read, of one run as after training, and of two."""
  config, text, scores = pronounce_run
  monkeypatch.setattr(pairs_data, "load", lambda *_: text)
  monkeypatch.setattr(training.Trainer, "__init__", lambda *_, **__: pytest.fail("it trains"))
  how = dict(TINY, ensemble=config.workdir)
  again = pronounce.run(Config(**how))
  errors = "test/word_error", "test/phoneme_error"
  assert [again[name] for name in errors] == [scores[name] for name in errors]
  two = pronounce.run(Config(**how | {"load": f"{config.workdir},{config.workdir}"}))
  assert [two[name] for name in errors] == [scores[name] for name in errors]
  with pytest.raises(
    InvalidInputError, match="--lowercase must be False, as in training; got True"
  ):
    pronounce.run(Config(**how, lowercase=True))


def test_ensemble_requires_same_tokenizer(pronounce_run, tmp_path):
  config = pronounce_run[0]
  shutil.copytree(config.workdir, tmp_path / "other")
  words = tmp_path / "other" / "subwords.json"
  words.write_text(words.read_text().replace('"lower": false', '"lower": true'))
  with pytest.raises(InvalidInputError, match="must have the same subwords"):
    pronounce.load(f"{config.workdir},{tmp_path / 'other'}")


def test_translate_rejects_pronounce_run(pronounce_run):
  """Though both are made of the same fields."""
  with pytest.raises(InvalidInputError, match="of another experiment, pronounce, not of translate"):
    translate.load(pronounce_run[0].out)


def test_lower_case_ignores_case_in_scores(monkeypatch):
  """--lowercase writes lower case, which is as right."""
  text = pairs_data.PairDataset("some", *[[("red", "R EH D")]] * 3)
  monkeypatch.setattr(pairs_data, "load", lambda *_: text)
  monkeypatch.setattr(
    seq2seq_common, "load_or_train", lambda *_: (lambda words, **how: ["r eh d"], {})
  )
  monkeypatch.setattr(seq2seq_common, "print_prediction", lambda *_: {})
  assert pronounce.run(Config(lowercase=True))["test/word_error"] == 0
  assert pronounce.run(Config())["test/word_error"] == 1


def test_shared_vocab_requires_same_tokenizer_type():
  with pytest.raises(
    InvalidInputError, match="--shared_vocab needs one kind of subwords; got --tokenizer=char"
  ):
    seq2seq_common.build(Config(shared_vocab=True), 5, 5)
