"""The texts and sentences that the networks were trained on, and those that were held out."""

from pathlib import Path


def heldout() -> list[tuple[str, str]]:
    """The held-out sentences with their labels, "negative" or "positive"."""
    lines = Path(__file__).with_name("sentiment-heldout.tsv").read_text(encoding="utf-8")
    return [(label, text) for label, text in (line.split("\t", 1) for line in lines.splitlines())]


def heldout_text() -> str:
    """The held-out verses, some 34,000 characters of the text generator's alphabet."""
    return Path(__file__).with_name("text-heldout.txt").read_text(encoding="utf-8")
