"""Subword, word and character tokenizers that decode to the original text.

WORD_MARK before a word represents the space before that word. Concatenated tokens therefore give
the original text, including punctuation. Vocabularies are trained by the `tokenizers` library.
"""

import itertools
import json
from collections.abc import Iterable, Sequence

import numpy as np

from rnnjax.data.vocabulary import PAD, UNKNOWN
from rnnjax.types import InvalidInputError

BOS, EOS = 2, 3
SPECIALS = ("<pad>", "<unk>", "<begin>", "<end>")  # with ids PAD, UNKNOWN, BOS, EOS
MODEL_TYPES = ("bpe", "word", "character")
WORD_MARK = "▁"
# Letters and digits, or one punctuation mark.
WORD_PATTERN = rf"{WORD_MARK}?(?:\w+|[^\w{WORD_MARK}])"


class Tokenizer:
  """A tokenizer and its vocabulary; the special tokens have the ids PAD, UNKNOWN, BOS and EOS.

  >>> tokenizer = Tokenizer.train(["low lower, lowest"], vocab_size=24)
  >>> tokenizer.tokenize("slower,  low")
  ['▁', 's', 'lo', 'w', 'e', 'r', ',', '▁low']
  >>> tokenizer.decode(tokenizer.encode("slower,  low"))
  'slower, low'

  Attributes:
    tokens: the token of each id.
    lowercase: whether texts are lower-cased before they are split.
  """

  def __init__(self, tokenizer, model_type: str, lowercase: bool = False):
    """Wrap a `tokenizers.Tokenizer`. Use `train` or `from_json` to create a Tokenizer."""
    tokenizer.encode_special_tokens = True  # treat "<pad>" in a text as text
    self._ids = tokenizer.get_vocab()
    self.tokens = sorted(self._ids, key=self._ids.get)
    self._tokenizer = tokenizer
    self._model_type = model_type
    self.lowercase = lowercase
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
    """Return a tokenizer trained on texts. Texts in two languages give a joint vocabulary.

    Args:
      texts: the training texts.
      vocab_size: maximum number of ids, SPECIALS included; the most frequent tokens are kept.
      model_type: "bpe" (byte-pair encoding, Sennrich et al. 2016: all characters, then the most
        frequent pairs of tokens), "word" or "character".
      lowercase: whether to lower-case texts.
      min_count: minimum number of occurrences of a token; "bpe" keeps all single characters.

    Raises:
      InvalidInputError: `model_type` is unknown; the texts are empty; `vocab_size` is too
        small for the special tokens plus one token ("bpe": plus all characters).
    """
    import tokenizers as hf

    if model_type not in MODEL_TYPES:
      raise InvalidInputError(f"model_type must be one of {MODEL_TYPES}; got {model_type!r}")
    bpe = model_type == "bpe"
    marked_texts = [_mark_words(text, model_type, lowercase) for text in texts]
    characters = set(itertools.chain.from_iterable(marked_texts))
    min_vocab_size = len(SPECIALS) + (len(characters) if bpe else 1)
    if not characters or vocab_size < min_vocab_size:
      raise InvalidInputError(
        f"vocab_size must be at least {min_vocab_size}, for {SPECIALS} and, with bpe, every "
        f"character; got {vocab_size}, and {len(marked_texts)} texts of {len(characters)} "
        "characters. Are they empty?"
      )
    tokenizer = _make_hf_tokenizer(model_type)
    trainer = hf.trainers.BpeTrainer if bpe else hf.trainers.WordLevelTrainer
    tokenizer.train_from_iterator(
      marked_texts,
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
    """Return the ids [T] of a text, without BOS and EOS.

    Args:
      text: any text. Each unknown word ("word") or unknown character ("bpe" and "character")
        becomes UNKNOWN.
      dropout: probability of skipping each merge of "bpe" (BPE-dropout, Provilkov et al. 2020). The
        segmentation of a text then varies in training. Use 0 for evaluation.
      seed: seed of the dropout.
    """
    marked_text = _mark_words(text, self._model_type, self.lowercase)
    if not (dropout and self._merge_ranks):
      return np.array(self._tokenizer.encode(marked_text, add_special_tokens=False).ids, np.int32)
    rng = np.random.default_rng(seed)
    words = self._tokenizer.pre_tokenizer.pre_tokenize_str(marked_text)
    tokens = [token for word, _ in words for token in self._merge_with_dropout(word, dropout, rng)]
    return np.array([self._ids.get(token, UNKNOWN) for token in tokens], np.int32)

  def tokenize(self, text: str) -> list[str]:
    """Split a text into tokens. Unknown tokens keep their spelling, so models can copy them."""
    marked_text = _mark_words(text, self._model_type, self.lowercase)
    spans = self._tokenizer.encode(marked_text, add_special_tokens=False).offsets
    return [marked_text[start:end] for start, end in spans]

  def detokenize(self, tokens: Iterable[str]) -> str:
    """Join tokens into a text."""
    return "".join(tokens).replace(WORD_MARK, " ").strip()

  def decode(self, ids: Iterable[int], unknown_tokens: Iterable[str] = ()) -> str:
    """Convert ids to text. PAD, BOS and EOS are omitted.

    Args:
      ids: token ids [T].
      unknown_tokens: texts that replace the UNKNOWN ids, in order. If there are fewer texts than
        UNKNOWN ids, the remaining ids become "<unk>".
    """
    unknown = WORD_MARK * (self._model_type == "word") + SPECIALS[UNKNOWN]
    unknown_tokens = iter(unknown_tokens)
    tokens = []
    for i in map(int, ids):
      if i == UNKNOWN:
        tokens.append(next(unknown_tokens, unknown))
      elif i not in (PAD, BOS, EOS):
        tokens.append(self.tokens[i])
    return self.detokenize(tokens)

  def to_json(self) -> dict:
    """Return the tokenizer as a JSON value."""
    return {
      "kind": self._model_type,
      "lower": self.lowercase,
      "tokenizer": json.loads(self._tokenizer.to_str()),
    }

  @classmethod
  def from_json(cls, value: dict) -> "Tokenizer":
    """Create a tokenizer from the JSON value that `to_json` returned.

    Only the vocabulary and the merges are used: a regular expression from an untrusted source
    could take exponential time.

    Raises:
      InvalidInputError: the value does not have the format of `to_json`.
    """
    try:
      model_type, lowercase = value["kind"], value["lower"]
      model = value["tokenizer"]["model"]
      ids = model["vocab"]
      merges = [(left, right) for left, right in model.get("merges", [])]
      tokens = sorted(ids, key=ids.get)
      if model_type not in MODEL_TYPES or not isinstance(lowercase, bool):
        raise ValueError(f"its kind is {model_type!r} and its lower {lowercase!r}")
      if [ids[token] for token in tokens] != [*range(len(ids))] or (*tokens[:4],) != SPECIALS:
        raise ValueError("its ids must be 0, 1, 2 and so on, the special tokens first")
      model_options = {"vocab": ids} | ({"merges": merges} if model_type == "bpe" else {})
      tokenizer = _make_hf_tokenizer(model_type, **model_options)
      tokenizer.add_special_tokens([*SPECIALS])
      return cls(tokenizer, model_type, lowercase)
    except Exception as error:  # the library raises plain Exception
      raise InvalidInputError(
        f"a tokenizer must be what to_json returned; got {str(value)[:60]}: {error}. "
        "Was it written by another version of tokenizers?"
      ) from None

  def _merge_with_dropout(self, word: str, dropout: float, rng: np.random.Generator) -> list[str]:
    """Return the tokens of a word, by byte-pair encoding with randomly skipped merges.

    In each iteration every merge is skipped with probability `dropout`. Of the remaining merges,
    the one with the lowest rank is applied.
    """
    tokens = [*word]
    while True:
      enabled = rng.random(len(tokens)) >= dropout
      pairs = enumerate(itertools.pairwise(tokens))
      merges = [
        (self._merge_ranks[pair], i)
        for i, pair in pairs
        if pair in self._merge_ranks and enabled[i]
      ]
      if not merges:
        return tokens
      _, i = min(merges)
      tokens[i : i + 2] = ["".join(tokens[i : i + 2])]


def _make_hf_tokenizer(model_type: str, **model_options):
  """Return a `tokenizers.Tokenizer`, untrained if `model_options` contain no vocabulary."""
  import tokenizers as hf

  model = hf.models.BPE if model_type == "bpe" else hf.models.WordLevel
  tokenizer = hf.Tokenizer(model(**model_options, unk_token=SPECIALS[UNKNOWN]))
  pattern = hf.Regex("." if model_type == "character" else WORD_PATTERN)
  tokenizer.pre_tokenizer = hf.pre_tokenizers.Split(pattern, "isolated")
  return tokenizer


def _mark_words(text: str, model_type: str, lowercase: bool) -> str:
  """Replace each run of whitespace in a text by WORD_MARK.

  With "bpe" and "word", WORD_MARK is also added at the start.
  """
  words = (text.lower() if lowercase else text).replace(WORD_MARK, " ").split()
  return (WORD_MARK if words and model_type != "character" else "") + WORD_MARK.join(words)
