"""Pronunciation: error rates, runs, prediction and ensembles."""

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
  """Right, right in its second variant, a phoneme wrong and one too many, one missing."""
  predictions = ["R IY D", "K AE T S", "AH", "", "G OW"]
  pronunciations = [["R EH D", "R IY D"], ["K AH T"], ["AH N"], ["AY"], ["G OW"]]
  errors = pronounce.error_rates(predictions, pronunciations)
  assert errors["word_error"] == pytest.approx(3 / 5)
  assert errors["phoneme_error"] == pytest.approx((0 + 2 + 1 + 1 + 0) / (3 + 3 + 2 + 1 + 2))


@pytest.fixture(scope="module")
def pronounce_run(tmp_path_factory):
  """A run on a few words; each test word has a second pronunciation, which ends in Q."""
  text = pairs_data.load("embedded", "", "", "", "pronunciations")
  references = {word: [phonemes, f"{phonemes} Q"] for word, phonemes in text.test}
  text = text._replace(train=text.train[:640], test=text.test[:40], references=references)
  config = Config(**TINY, workdir=str(tmp_path_factory.mktemp("pronounce") / "run"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pairs_data, "load", lambda *_: text)
    return config, text, pronounce.run(config)


def test_run_scores_and_tokenizers(pronounce_run):
  """Scores are those of the written predictions; tokens are letters and phonemes."""
  config, text, scores = pronounce_run
  path = pathlib.Path(config.workdir) / "written.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [(line["source"], line["target"]) for line in lines] == text.test
  pronunciations = [text.references[word] for word, _ in text.test]
  errors = pronounce.error_rates([line["written"] for line in lines], pronunciations)
  assert scores["test/word_error"] == errors["word_error"]
  assert scores["test/phoneme_error"] == errors["phoneme_error"]
  predictor = pronounce.load(config.workdir)
  assert predictor.source_tokenizer.tokenize("chat") == ["c", "h", "a", "t"]
  assert predictor.target_tokenizer.tokenize("CH AE T") == ["▁CH", "▁AE", "▁T"]


def test_predict_single_word(pronounce_run, capsys):
  """--predict with --workdir prints the same as after training; a blank word raises."""
  config, text, scores = pronounce_run
  flags = dict(workdir=config.workdir, beam_size=config.beam_size)
  assert pronounce.run(Config(**flags, predict=text.test[0][0])) == {"written": scores["written"]}
  assert capsys.readouterr().out == scores["written"] + "\n"
  with pytest.raises(InvalidInputError, match="--predict must be a text"):
    pronounce.run(Config(**flags, predict=" "))


def test_loaded_model_scores_test_set(pronounce_run, monkeypatch):
  """--ensemble scores the test set, of one run as after training, and of two runs."""
  config, text, scores = pronounce_run
  monkeypatch.setattr(pairs_data, "load", lambda *_: text)
  monkeypatch.setattr(training.Trainer, "__init__", lambda *_, **__: pytest.fail("it trains"))
  for workdirs in (config.workdir, f"{config.workdir},{config.workdir}"):
    loaded_scores = pronounce.run(Config(**TINY, ensemble=workdirs))
    for name in ("test/word_error", "test/phoneme_error"):
      assert loaded_scores[name] == scores[name]
  with pytest.raises(
    InvalidInputError, match="--lowercase must be False, as in training; got True"
  ):
    pronounce.run(Config(**TINY, ensemble=config.workdir, lowercase=True))


def test_ensemble_requires_same_tokenizer(pronounce_run, tmp_path):
  config = pronounce_run[0]
  shutil.copytree(config.workdir, tmp_path / "other")
  path = tmp_path / "other" / "subwords.json"
  path.write_text(path.read_text().replace('"lower": false', '"lower": true'))
  with pytest.raises(InvalidInputError, match="must have the same vocabulary"):
    pronounce.load(f"{config.workdir},{tmp_path / 'other'}")


def test_translate_rejects_pronounce_run(pronounce_run):
  """Even though both configurations have the same shared fields."""
  with pytest.raises(InvalidInputError, match="of another experiment, pronounce, not of translate"):
    translate.load(pronounce_run[0].workdir)


def test_lower_case_ignores_case_in_scores(monkeypatch):
  """With --lowercase the references are lowercased, too."""
  text = pairs_data.PairDataset("one word", *[[("red", "R EH D")]] * 3)
  monkeypatch.setattr(pairs_data, "load", lambda *_: text)

  def predictor(words, **options):
    return ["r eh d"]

  monkeypatch.setattr(seq2seq_common, "load_or_train", lambda *_: (predictor, {}))
  monkeypatch.setattr(seq2seq_common, "print_prediction", lambda *_: {})
  assert pronounce.run(Config(lowercase=True))["test/word_error"] == 0
  assert pronounce.run(Config())["test/word_error"] == 1


def test_shared_vocab_requires_same_tokenizer_type():
  with pytest.raises(
    InvalidInputError, match=r"--shared_vocab needs the same tokenizer .* got --tokenizer=char"
  ):
    seq2seq_common.build(Config(shared_vocab=True), 5, 5)
