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
from rnnjax.types import BadInput

TINY = dict(hidden=8, width=8, batch=64, epochs=1, beam=2, dataset="embedded")


def test_errors_by_hand():
  """One word right in its second way; one with a phoneme wrong, one missing and one too many."""
  written = ["R IY D", "K AE T S", "AH", "", "G OW"]
  ways = [["R EH D", "R IY D"], ["K AH T"], ["AH N"], ["AY"], ["G OW"]]
  found = pronounce.errors(written, ways)
  assert found["word_error"] == pytest.approx(3 / 5)
  assert found["phoneme_error"] == pytest.approx((0 + 2 + 1 + 1 + 0) / (3 + 3 + 2 + 1 + 2))


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
  """A run of a few words, of which each has one more pronunciation, with Q."""
  text = pairs_data.load("embedded", "", "", "", "pronunciations")
  more = {word: [way, f"{way} Q"] for word, way in text.test}
  text = text._replace(train=text.train[:640], test=text.test[:40], references=more)
  config = Config(**TINY, out=str(tmp_path_factory.mktemp("spoken") / "run"), word="gecothime")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pairs_data, "load", lambda *_: text)
    return config, text, pronounce.run(config)


def test_a_run(spoken):
  """What it wrote is what was scored; letters go in, and phonemes, each a piece, come out."""
  config, text, scores = spoken
  path = pathlib.Path(config.out) / "written.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [(line["source"], line["target"]) for line in lines] == text.test
  ways = [text.references[word] for word, _ in text.test]
  again = pronounce.errors([line["written"] for line in lines], ways)
  assert scores["test/word_error"] == again["word_error"]
  assert scores["test/phoneme_error"] == again["phoneme_error"]
  speller = pronounce.load(config.out)
  assert speller.source.pieces("chat") == ["c", "h", "a", "t"]
  assert speller.target.pieces("CH AE T") == ["▁CH", "▁AE", "▁T"]


def test_a_word_is_asked_for(spoken, capsys):
  """By --load, the same as after training; a blank one is refused."""
  config, _, scores = spoken
  how = dict(load=config.out, beam=config.beam)
  assert pronounce.run(Config(**how, word="gecothime")) == {"written": scores["written"]}
  assert capsys.readouterr().out == scores["written"] + "\n"
  with pytest.raises(BadInput, match="--word must be a text"):
    pronounce.run(Config(**how, word=" "))


def test_what_is_loaded_is_tested(spoken, monkeypatch):
  """Without a word to say the test part is read, of one run as after training, and of two."""
  config, text, scores = spoken
  monkeypatch.setattr(pairs_data, "load", lambda *_: text)
  monkeypatch.setattr(training.Run, "__init__", lambda *_, **__: pytest.fail("it trains"))
  how = dict(TINY, load=config.out)
  again = pronounce.run(Config(**how))
  errors = "test/word_error", "test/phoneme_error"
  assert [again[name] for name in errors] == [scores[name] for name in errors]
  two = pronounce.run(Config(**how | {"load": f"{config.out},{config.out}"}))
  assert [two[name] for name in errors] == [scores[name] for name in errors]
  with pytest.raises(BadInput, match="--lower must be False, as in training; got True"):
    pronounce.run(Config(**how, lower=True))


def test_only_what_has_the_same_words_writes_together(spoken, tmp_path):
  config = spoken[0]
  shutil.copytree(config.out, tmp_path / "other")
  words = tmp_path / "other" / "subwords.json"
  words.write_text(words.read_text().replace('"lower": false', '"lower": true'))
  with pytest.raises(BadInput, match="must have the same subwords"):
    pronounce.load(f"{config.out},{tmp_path / 'other'}")


def test_what_pronounces_does_not_translate(spoken):
  """Though both are made of the same fields."""
  with pytest.raises(BadInput, match="of another experiment, pronounce, not of translate"):
    translate.load(spoken[0].out)


def test_in_lower_case_a_sound_is_a_sound(monkeypatch):
  """--lower writes lower case, which is as right."""
  text = pairs_data.Pairs("some", *[[("red", "R EH D")]] * 3)
  monkeypatch.setattr(pairs_data, "load", lambda *_: text)
  monkeypatch.setattr(seq2seq_common, "rewriter", lambda *_: (lambda words, **how: ["r eh d"], {}))
  monkeypatch.setattr(seq2seq_common, "show", lambda *_: {})
  assert pronounce.run(Config(lower=True))["test/word_error"] == 0
  assert pronounce.run(Config())["test/word_error"] == 1


def test_one_vocabulary_is_of_one_kind():
  with pytest.raises(BadInput, match="--joint needs one kind of subwords; got --subwords=char"):
    seq2seq_common.build(Config(joint=True), 5, 5)
