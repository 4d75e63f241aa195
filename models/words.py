"""The sentiment network's tokeniser and vocabulary: sentences to integers, with NumPy alone.

Nothing here imports PyTorch, so the same file serves training and a deployed model.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

VOCABULARY_FILE = Path(__file__).with_name("data") / "vocabulary.txt"

START = "<start>"  # before every sentence, so that an empty one is a step as well
UNKNOWN = "<unknown>"  # any word that is not in the vocabulary
USER = "<user>"
LINK = "<link>"
NUMBER = "<number>"
SPECIAL = (START, UNKNOWN, USER, LINK, NUMBER)

_TOKEN = re.compile(
    r"""
      (?P<link> https?:\S* | www\.\S+ )
    | (?P<user> @\w+ )
    | (?P<face> [:;=][-o^']?[()\[\]dp/\\|*o$](?!\w) | </?3 | \^_\^ )
    | (?P<word> [a-z]+ (?:['-][a-z]+)* )
    | (?P<number> \d[\d.,:]* )
    | (?P<mark> [!?] | \.\.\. )
    """,
    re.VERBOSE,
)
_CLASSES = {"link": LINK, "user": USER, "number": NUMBER}
_STRETCHED = re.compile(r"(.)\1{2,}")


def tokenize(sentence: str) -> list[str]:
    """Split a sentence into lower-case words, faces such as `:)`, and the marks ! ? ...

    Names (@somebody), links and numbers each become one shared token;
    a stretched word is shortened ("sooooo" to "soo"); every other sign is left out.
    """
    text = sentence.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    tokens = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        token = match.group()
        if kind == "word":
            token = _STRETCHED.sub(r"\1\1", token)
        tokens.append(_CLASSES.get(kind, token))
    return tokens


@cache
def vocabulary() -> dict[str, int]:
    """Return every token's integer: its line in `VOCABULARY_FILE`, counted from 0."""
    lines = VOCABULARY_FILE.read_text(encoding="utf-8").splitlines()
    return {token: index for index, token in enumerate(lines)}


def encode(sentence: str) -> npt.NDArray[np.int64]:
    """Turn a sentence into integers, int64 of shape (time,).

    The first is always `START`, so time is at least 1; words outside the vocabulary become
    `UNKNOWN`. There is no padding.
    """
    index = vocabulary()
    unknown = index[UNKNOWN]
    tokens = [START, *tokenize(sentence)]
    return np.array([index.get(token, unknown) for token in tokens], dtype=np.int64)
