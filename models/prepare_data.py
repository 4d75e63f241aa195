"""Make the files in `models/data/` again from the packages that they come from.

    bible -f ge1:1-rev22:21 > kjv.txt        # Debian packages bible-kjv, bible-kjv-text
    pip download --no-binary :all: --no-deps vaderSentiment==3.3.2
    python -m models.prepare_data --bible kjv.txt --vader vaderSentiment-3.3.2.tar.gz

The same packages give the same files, byte for byte. `models/data/README.md` says what the
files are and under which terms they stand.
"""

import argparse
import hashlib
import html
import io
import re
import tarfile
from collections import Counter
from pathlib import Path

from models.words import SPECIAL, tokenize

DATA = Path(__file__).with_name("data")

#: Stories, laws of life, letters of love: books chosen because they differ.
BOOKS = ("Ge", "Ruth", "1Sm", "Est", "Prv", "Eccl", "SSol", "Jonah", "Luke")
HELD_OUT_EVERY = 16  # one chapter in this number is held out

SENTIMENT_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
SENTENCES = "hutto_ICWSM_2014/tweets_GroundTruth.txt"
LEXICON = "vaderSentiment/vader_lexicon.txt"
NEUTRAL_BELOW = 0.5  # mean ratings run from -4 to 4
HELD_OUT_SHARE = 0.2
TOO_SIMILAR = 0.7  # share of common words from which two sentences count as one
RARE_BELOW = 2  # words seen less often in training are left to <unknown>

_VERSE = re.compile(r"(\d?[A-Za-z]+)(\d+):\d+\s+(.*)")
_CONTACT = re.compile(r"\d{3}[-. ]\d{3}[-. ]\d{4}|\w@\w+\.\w")


def bible_chapters(text: str) -> list[str]:
    """Return the chapters of `BOOKS` in order, one verse to a line, blanks normalised."""
    chapters: dict[tuple[str, str], list[str]] = {}
    for line in text.splitlines():
        match = _VERSE.fullmatch(line.strip())
        if match and match[1] in BOOKS:
            chapters.setdefault((match[1], match[2]), []).append(" ".join(match[3].split()))
    ordered = sorted(chapters, key=lambda key: BOOKS.index(key[0]))
    return ["\n".join(chapters[key]) + "\n" for key in ordered]


def write_text(source: Path) -> None:
    """Write `text-train.txt` and `text-heldout.txt`, whole chapters to each."""
    chapters = bible_chapters(source.read_text(encoding="utf-8"))
    last = HELD_OUT_EVERY - 1
    train = [c for i, c in enumerate(chapters) if i % HELD_OUT_EVERY != last]
    held_out = chapters[last::HELD_OUT_EVERY]
    _write("text-train.txt", "".join(train))
    _write("text-heldout.txt", "".join(held_out))


def read_vader(source: Path) -> tuple[str, str]:
    """Return the rated sentences and the lexicon, as text, out of the package's archive."""
    with tarfile.open(source) as package:
        root = package.getnames()[0].split("/")[0]
        lexicon = _member(package, f"{root}/{LEXICON}")
        inner = io.BytesIO(_member(package, f"{root}/{SENTIMENT_ARCHIVE}"))
    with tarfile.open(fileobj=inner) as archive:
        return _member(archive, SENTENCES).decode(), lexicon.decode()


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the bytes of one file of an archive; nothing is unpacked to disk."""
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is not a plain file in the archive")
    return file.read()


def rated_sentences(text: str) -> dict[str, str]:
    """Return sentence -> label, without neutral, doubled and personal ones."""
    seen: set[tuple[str, ...]] = set()
    labels: dict[str, str] = {}
    for line in text.splitlines():
        _, rating, raw = line.split("\t")
        sentence = " ".join(html.unescape(raw).split())
        key = tuple(tokenize(sentence))
        if abs(float(rating)) < NEUTRAL_BELOW or key in seen or _CONTACT.search(sentence):
            continue
        seen.add(key)
        labels[sentence] = "positive" if float(rating) > 0 else "negative"
    return labels


def is_held_out(sentence: str) -> bool:
    """Decide by the sentence alone, so that the split is the same on every machine."""
    digest = hashlib.sha256(" ".join(tokenize(sentence)).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def without_echoes(candidates: list[str], others: list[str]) -> list[str]:
    """Drop every candidate that has nearly the same words as one of the others."""
    bags = [set(tokenize(other)) for other in others]
    return [c for c in candidates if not any(_overlap(set(tokenize(c)), b) for b in bags)]


def _overlap(one: set[str], two: set[str]) -> bool:
    return len(one & two) >= TOO_SIMILAR * max(1, len(one | two))


def read_lexicon(text: str) -> dict[str, float]:
    """Return token -> mean rating (-4 to 4) for the entries that are one token here."""
    valence: dict[str, float] = {}
    for line in text.splitlines():
        entry, rating = line.split("\t")[:2]
        tokens = tokenize(entry)
        if len(tokens) == 1 and tokens[0] == entry.lower():
            valence.setdefault(tokens[0], float(rating))
    return valence


def write_sentiment(source: Path) -> None:
    """Write the two sets of sentences, the lexicon and the vocabulary."""
    sentences, lexicon_text = read_vader(source)
    labels = rated_sentences(sentences)
    train = [s for s in labels if not is_held_out(s)]
    held_out = without_echoes([s for s in labels if is_held_out(s)], train)
    for name, part in (("train", train), ("heldout", held_out)):
        _write(f"sentiment-{name}.tsv", "".join(f"{labels[s]}\t{s}\n" for s in part))

    lexicon = read_lexicon(lexicon_text)
    _write("lexicon.tsv", "".join(f"{w}\t{lexicon[w]:g}\n" for w in sorted(lexicon)))
    counts = Counter(token for s in train for token in tokenize(s))
    frequent = {token for token, count in counts.items() if count >= RARE_BELOW}
    words = sorted((frequent | lexicon.keys()) - set(SPECIAL))
    _write("vocabulary.txt", "".join(f"{word}\n" for word in (*SPECIAL, *words)))


def _write(name: str, text: str) -> None:
    (DATA / name).write_text(text, encoding="utf-8", newline="\n")
    print(f"{name}: {text.count(chr(10))} lines, {len(text.encode())} bytes")


def main() -> None:
    """Read the two sources named on the command line and write every data file."""
    parser = argparse.ArgumentParser(description="Make the files in models/data/ again.")
    parser.add_argument("--bible", type=Path, required=True, help="the verses, one to a line")
    parser.add_argument("--vader", type=Path, required=True, help="vaderSentiment's sdist")
    arguments = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    write_text(arguments.bible)
    write_sentiment(arguments.vader)


if __name__ == "__main__":
    main()
