"""The half of the demonstration that runs where PyTorch is not installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

import stateport
from models import characters, words
from models.data import heldout


def main(build: Path) -> None:
    """Streams the three networks and compares with what PyTorch said."""
    present = [name for name in ("torch", "onnx") if importlib.util.find_spec(name)]
    if present:
        sys.exit(f"This environment has {', '.join(present)}; it should not.")
    print("Here neither torch nor onnx can be imported.\n")
    expected = json.loads((build / "expected.json").read_text())
    stream_reference(build / "lstm.onnx")
    text = generated_text(build / "text_generator.onnx", len(expected["text"]))
    print(f"\nThe text generator, one character at a time:\n\n{text}\n")
    check("text", list(text), list(expected["text"]), "characters")
    check("sentiment", labels(build / "sentiment.onnx"), expected["labels"], "held-out sentences")


def stream_reference(path: Path) -> None:
    """The same sequence in chunks and whole."""
    model = stateport.load(path)
    print(model)
    x = np.random.default_rng(0).standard_normal((1, 100, 5)).astype(np.float32)
    whole, last = model(x)
    stream = model.stream()
    pieces = [stream(x[:, start : start + 16]) for start in range(0, 100, 16)]
    difference = np.abs(np.concatenate(pieces, axis=1) - whole).max()
    print(f"100 steps in chunks of 16 against the whole: {difference:.1e} apart.")
    print(f"The state afterwards: {stream.state}")
    if difference > 1e-6 or not np.allclose(stream.state["c0"], last["c0"], atol=1e-6):
        sys.exit("The chunks do not give what the whole gives.")


def generated_text(path: Path, length: int) -> str:
    """The likeliest next character, again and again, from a stream that carries the state."""
    stream = stateport.load(path).stream()
    ids = characters.encode(characters.PROMPT)
    logits = stream(ids[None])
    while len(ids) < length:
        ids = np.append(ids, np.argmax(logits[0, -1]))
        logits = stream(ids[None, -1:])
    return characters.decode(ids)


def labels(path: Path) -> list[str]:
    """The sentiment of every held-out sentence."""
    model = stateport.load(path)
    names = ("negative", "positive")
    return [names[int(np.argmax(model(words.encode(s)[None])[0]))] for _, s in heldout()]


def check(what: str, got: list[str], wanted: list[str], unit: str) -> None:
    """Compares one by one; a difference ends the demonstration."""
    same = sum(a == b for a, b in zip(got, wanted, strict=True))
    print(f"{what}: {same} of {len(wanted)} {unit} are what PyTorch gives.")
    if same != len(wanted):
        sys.exit(f"The {what} differs from PyTorch's.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
