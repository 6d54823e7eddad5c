"""Texts as ids of subwords, words or characters, and back.

Every word begins with MARK, the blank before it: pieces that are joined give the text again, marks
of punctuation and all. The pieces are chosen by the `tokenizers` library.
"""

import itertools
import json
from collections.abc import Iterable, Sequence

import numpy as np

from rnnjax.data.vocabulary import PAD, UNKNOWN
from rnnjax.types import InvalidInputError

BOS, EOS = 2, 3
SPECIALS = ("<pad>", "<unk>", "<begin>", "<end>")  # at PAD, UNKNOWN, BEGIN, END
MODEL_TYPES = ("bpe", "word", "character")
WORD_MARK = "▁"
WORD_PATTERN = (
  rf"{WORD_MARK}?(?:\w+|[^\w{WORD_MARK}])"  # letters and digits, or one mark of punctuation
)


class Tokenizer:
  """Pieces of text and their ids; PAD, UNKNOWN, BEGIN and END come first.

  >>> subwords = Subwords.train(["low lower, lowest"], size=24)
  >>> subwords.pieces("slower,  low")
  ['▁', 's', 'lo', 'w', 'e', 'r', ',', '▁low']
  >>> subwords.decode(subwords.encode("slower,  low"))
  'slower, low'

  Attributes:
    words: the piece of each id.
    lower: whether all is taken as lower case.
  """

  def __init__(self, tokenizer, model_type: str, lowercase: bool = False):
    """Wraps a `tokenizers.Tokenizer`, which `train` and `from_json` make."""
    tokenizer.encode_special_tokens = True  # "<pad>" in a text is text
    ids = tokenizer.get_vocab()
    self.tokens = sorted(ids, key=ids.get)
    self._ids, self._tokenizer, self._model_type, self.lowercase = (
      ids,
      tokenizer,
      model_type,
      lowercase,
    )
    merges = json.loads(tokenizer.to_str())["model"].get("merges", [])
    self._merge_ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}

  @classmethod
  def train(
    cls,
    texts: Iterable[str],
    vocab_size: int,
    model_type: str = "bpe",
    lowercase: bool = False,
    min_count: int = 1,
  ) -> "Tokenizer":
    """Learns pieces; from texts of two languages, those of both.

    Args:
      texts: to learn from; the result is a function of them.
      size: at most so many ids, SPECIALS included; the most frequent pieces have them.
      kind: "bpe" (byte-pair encoding, Sennrich et al. 2016: every character is a piece, and then
        the most frequent pairs of pieces), "word" or "character".
      lower: all is taken as lower case.
      least: what occurs less often is no piece; with bpe, single characters always are.

    Raises:
      BadInput: there is no such kind; the texts are empty; `size` cannot hold their characters.
    """
    import tokenizers as hf

    if model_type not in MODEL_TYPES:
      raise InvalidInputError(f"kind must be one of {MODEL_TYPES}; got {model_type!r}")
    bpe = model_type == "bpe"
    marked = [_mark_words(text, model_type, lowercase) for text in texts]
    characters = set(itertools.chain.from_iterable(marked))
    need = len(SPECIALS) + (len(characters) if bpe else 1)
    if not characters or vocab_size < need:
      raise InvalidInputError(
        f"size must be at least {need}, for {SPECIALS} and, with bpe, every character; got {vocab_size}, "
        f"and {len(marked)} texts of {len(characters)} characters. Are they empty?"
      )
    tokenizer = _make_hf_tokenizer(model_type)
    trainer = hf.trainers.BpeTrainer if bpe else hf.trainers.WordLevelTrainer
    tokenizer.train_from_iterator(
      marked,
      trainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=[*SPECIALS],
        show_progress=False,
      ),
    )
    return cls(tokenizer, model_type, lowercase)

  def __len__(self):
    return len(self.tokens)

  def encode(self, text: str, dropout: float = 0.0, seed: int | Sequence[int] = 0) -> np.ndarray:
    """A text to ids [T], without BEGIN and END.

    Args:
      text: any; each unseen word, or character, is UNKNOWN.
      dropout: of kind "bpe", each merge is left out so often (Provilkov et al. 2020), and the same
        text is cut in many ways; 0 is for evaluation.
      seed: of the dropout.
    """
    marked = _mark_words(text, self._model_type, self.lowercase)
    if not (dropout and self._merge_ranks):
      return np.array(self._tokenizer.encode(marked, add_special_tokens=False).ids, np.int32)
    draw = np.random.default_rng(seed)
    cut = self._tokenizer.pre_tokenizer.pre_tokenize_str(marked)
    parts = [part for piece, _ in cut for part in self._merge_with_dropout(piece, dropout, draw)]
    return np.array([self._ids.get(part, UNKNOWN) for part in parts], np.int32)

  def tokenize(self, text: str) -> list[str]:
    """What the ids of a text stand for, the unknown in its own letters: a text to copy from."""
    marked = _mark_words(text, self._model_type, self.lowercase)
    spans = self._tokenizer.encode(marked, add_special_tokens=False).offsets
    return [marked[start:end] for start, end in spans]

  def detokenize(self, tokens: Iterable[str]) -> str:
    """Pieces to a text."""
    return "".join(tokens).replace(WORD_MARK, " ").strip()

  def decode(self, ids: Iterable[int], unknown_tokens: Iterable[str] = ()) -> str:
    """Ids to a text; PAD, BEGIN and END vanish.

    Args:
      ids: [T].
      unknown: the piece that each UNKNOWN stands for, in turn; "<unk>" where they run out.
    """
    blank, own = WORD_MARK if self._model_type == "word" else "", iter(unknown_tokens)
    shown = {PAD: "", BOS: "", EOS: ""}
    name = lambda i: next(own, f"{blank}<unk>") if i == UNKNOWN else shown.get(i, self.tokens[i])
    return self.detokenize(name(int(i)) for i in ids)

  def to_json(self) -> dict:
    """All there is to it, as a value that `json` can write."""
    return {
      "kind": self._model_type,
      "lower": self.lowercase,
      "tokenizer": json.loads(self._tokenizer.to_str()),
    }

  @classmethod
  def from_json(cls, value: dict) -> "Tokenizer":
    """The inverse of `to_json`.

    Of the tokenizer the pieces and the merges are taken, and nothing else: a stranger's pattern
    could search for ever.

    Raises:
      BadInput: the value is not what `to_json` returns.
    """
    try:
      kind, lower, model = value["kind"], value["lower"], value["tokenizer"]["model"]
      ids, merges = model["vocab"], [(one, other) for one, other in model.get("merges", [])]
      words = sorted(ids, key=ids.get)
      if kind not in MODEL_TYPES or not isinstance(lower, bool):
        raise ValueError(f"its kind is {kind!r} and its lower {lower!r}")
      if [ids[word] for word in words] != [*range(len(ids))] or (*words[:4],) != SPECIALS:
        raise ValueError("its ids must be 0, 1, 2 and so on, those of the specials first")
      tokenizer = _make_hf_tokenizer(
        kind, vocab=ids, **({"merges": merges} if kind == "bpe" else {})
      )
      tokenizer.add_special_tokens([*SPECIALS])
      return cls(tokenizer, kind, lower)
    except Exception as error:  # the library raises nothing more particular
      raise InvalidInputError(
        f"subwords must be what to_json returned; got {str(value)[:60]}: {error}. "
        "Was it written by another version of tokenizers?"
      ) from None

  def _merge_with_dropout(self, word: str, dropout: float, rng: np.random.Generator) -> list[str]:
    """Byte-pair encoding that overlooks each possible merge, at each step, with some chance."""
    parts = [*word]
    while True:
      seen = rng.random(len(parts)) >= dropout
      pairs = enumerate(itertools.pairwise(parts))
      possible = [(self._merge_ranks[p], i) for i, p in pairs if p in self._merge_ranks and seen[i]]
      if not possible:
        return parts
      _, i = min(possible)
      parts[i : i + 2] = ["".join(parts[i : i + 2])]


def _make_hf_tokenizer(model_type: str, **model_options):
  """A `tokenizers.Tokenizer` that has yet to learn its pieces, or knows these."""
  import tokenizers as hf

  model = hf.models.BPE if model_type == "bpe" else hf.models.WordLevel
  tokenizer = hf.Tokenizer(model(**model_options, unk_token=SPECIALS[UNKNOWN]))
  cut = hf.Regex("." if model_type == "character" else WORD_PATTERN)
  tokenizer.pre_tokenizer = hf.pre_tokenizers.Split(cut, "isolated")
  return tokenizer


def _mark_words(text: str, model_type: str, lowercase: bool) -> str:
  """A text with MARK for each run of blanks, and, where pieces are of words, for its beginning."""
  words = (text.lower() if lowercase else text).replace(WORD_MARK, " ").split()
  return (WORD_MARK if words and model_type != "character" else "") + WORD_MARK.join(words)
