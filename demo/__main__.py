"""Exports, verifies and streams the reference networks; the streaming where PyTorch is not.

Run by `make demo`. Everything it makes lies in build/.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from demo.clean_venv import make_venv
from models import characters, sentiment, text_generator, words
from models.data import heldout

BUILD = Path("build")
NETWORKS = {
    "lstm": "models.lstm:reference",
    "text_generator": "models.text_generator:trained",
    "sentiment": "models.sentiment:trained",
}
CHARACTERS = 600


def main() -> None:
    """The whole demonstration; raises where a step fails."""
    BUILD.mkdir(exist_ok=True)
    for name, target in NETWORKS.items():
        model = str(BUILD / f"{name}.onnx")
        step("stateport", "export", target, "-o", model)
        step("stateport", "verify", model)
    expected = BUILD / "expected.json"
    expected.write_text(json.dumps({"text": generated_text(), "labels": labels()}))
    print("\nMaking a virtual environment in which PyTorch is not installed ...", flush=True)
    python = make_venv(BUILD / "runtime-venv", "./runtime[cpu]")
    subprocess.run([python, "-m", "demo.without_torch", BUILD], check=True)


def step(command: str, *arguments: str) -> None:
    """Shows a command and runs it."""
    print(f"\n$ {command} {' '.join(arguments)}", flush=True)
    subprocess.run([Path(sys.executable).with_name(command), *arguments], check=True)


@torch.no_grad()
def generated_text() -> str:
    """What PyTorch writes: the likeliest next character, again and again."""
    network = text_generator.trained()
    state: tuple[Tensor, ...] = network.initial_state(1)
    written = characters.encode(characters.PROMPT)
    tokens = torch.from_numpy(written)[None]
    ids = list(written)
    for _ in range(CHARACTERS):
        logits, *after = network(tokens, *state)
        state, tokens = tuple(after), logits[:, -1:].argmax(-1)
        ids.append(tokens.item())
    return characters.decode(ids)


@torch.no_grad()
def labels() -> list[str]:
    """What PyTorch thinks of every held-out sentence."""
    network = sentiment.trained()
    found = []
    for _, sentence in heldout():
        tokens = torch.from_numpy(words.encode(sentence))[None]
        logits, *_ = network(tokens, *network.initial_state(1))
        found.append(sentiment.LABELS[int(logits.argmax())])
    return found


if __name__ == "__main__":
    main()
