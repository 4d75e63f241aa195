"""Train the text generator and write `models/text_generator.safetensors`.

    python -m models.train_text_generator

The text is read as `--streams` parallel streams, each in windows of `--window` characters;
the state is carried from window to window, as it is when the network is used.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from models.characters import PROMPT, decode, encode
from models.text_generator import WEIGHTS, TextGenerator

DATA = Path(__file__).with_name("data")
VALIDATION_SHARE = 0.05  # of the training text; chooses the epoch that is kept


def read_text(name: str) -> Tensor:
    """Return a data file as character ids, int64 (time,)."""
    return torch.from_numpy(encode((DATA / name).read_text(encoding="utf-8")))


def split_validation(text: Tensor, pieces: int = 10) -> tuple[Tensor, Tensor]:
    """Cut the end off each of several pieces of the text, so that every book is in both parts."""
    train, validation = [], []
    for piece in text.chunk(pieces):
        cut = int(len(piece) * (1 - VALIDATION_SHARE))
        train.append(piece[:cut])
        validation.append(piece[cut:])
    return torch.cat(train), torch.cat(validation)


def windows(text: Tensor, streams: int, window: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and the characters that follow them, int64 (streams, window) each."""
    # A new first character every epoch, so that the cuts between windows fall elsewhere.
    offset = int(torch.randint(window, ()))
    length = (len(text) - offset - 1) // streams
    inputs = text[offset : offset + streams * length].view(streams, length)
    targets = text[offset + 1 : offset + 1 + streams * length].view(streams, length)
    for start in range(0, length, window):
        yield inputs[:, start : start + window], targets[:, start : start + window]


def train_epoch(
    model: TextGenerator,
    text: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    arguments: argparse.Namespace,
) -> float:
    """Go over the text once; return the mean loss in bits per character."""
    model.train()
    h, c = model.initial_state(arguments.streams)
    total, count = 0.0, 0
    for inputs, targets in windows(text, arguments.streams, arguments.window):
        logits, h, c = model(inputs, h.detach(), c.detach())
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item() * targets.numel()
        count += targets.numel()
    return total / count / math.log(2)


@torch.no_grad()
def bits_per_character(model: TextGenerator, text: Tensor, window: int = 2000) -> float:
    """Read a text (time,) once from its beginning; return the loss in bits per character."""
    model.eval()
    h, c = model.initial_state(1)
    total = 0.0
    for start in range(0, len(text) - 1, window):
        targets = text[start + 1 : start + 1 + window]
        inputs = text[start : start + len(targets)]
        logits, h, c = model(inputs[None], h, c)
        total += nn.functional.cross_entropy(logits[0], targets, reduction="sum").item()
    return total / (len(text) - 1) / math.log(2)


@torch.no_grad()
def continue_greedily(model: TextGenerator, prompt: str, length: int) -> str:
    """Return the prompt and `length` more characters, the likeliest one at every step."""
    model.eval()
    tokens = torch.from_numpy(encode(prompt))[None]
    written: list[int] = []
    h, c = model.initial_state(1)
    for _ in range(length):
        logits, h, c = model(tokens, h, c)
        tokens = logits[:, -1].argmax(dim=-1, keepdim=True)
        written.append(int(tokens))
    return prompt + decode(written)


def save(model: nn.Module, path: Path) -> None:
    """Write the weights so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(serialize(model.state_dict()))
    partial.replace(path)


def fit(model: TextGenerator, arguments: argparse.Namespace) -> None:
    """Train for all epochs and save the weights of the best one by validation loss."""
    text, validation = split_validation(read_text("text-train.txt"))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=arguments.lr, weight_decay=arguments.weight_decay
    )
    steps = arguments.epochs * math.ceil(len(text) / arguments.streams / arguments.window)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.lr, steps, pct_start=0.1)
    best = math.inf
    for epoch in range(1, arguments.epochs + 1):
        loss = train_epoch(model, text, optimizer, schedule, arguments)
        now = bits_per_character(model, validation)
        kept = now < best
        if kept:
            best = now
            save(model, arguments.output)
        print(
            f"epoch {epoch:3d}/{arguments.epochs}  train {loss:.3f}  validation {now:.3f}"
            f" bits per character{'  (kept)' if kept else ''}",
            flush=True,
        )


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the defaults are those of the weights in the repository."""
    parser = argparse.ArgumentParser(description="Train the text generator.")
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--streams", type=int, default=16, help="parallel streams of text")
    parser.add_argument("--window", type=int, default=128, help="characters per step")
    parser.add_argument("--lr", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--hidden", type=int, default=320)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more may change the figures")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    return parser.parse_args()


def main() -> None:
    """Train, then say how well the kept weights do on text that was never used."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = TextGenerator(
        hidden=arguments.hidden, num_layers=arguments.num_layers, dropout=arguments.dropout
    )
    fit(model, arguments)
    model.load_state_dict(load_file(arguments.output))
    held_out = bits_per_character(model, read_text("text-heldout.txt"))
    print(f"held-out: {held_out:.3f} bits per character\n")
    print(continue_greedily(model, PROMPT, 600))


if __name__ == "__main__":
    main()
