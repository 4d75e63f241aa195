"""Train the sentiment network and write `models/sentiment.safetensors`.

    python -m models.train_sentiment

The training sentences are few, so the network begins with what a lexicon knows: the first
number of every word's embedding is the word's rating there. In training, rated words are
also exchanged for others of like rating, so that rare ones are met in sentences, and short
made-up phrases ("not good") are mixed in, so that it learns what a negation does.
"""

import argparse
import copy
import math
from pathlib import Path

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from models.sentiment import LABELS, WEIGHTS, Sentiment
from models.words import SPECIAL, UNKNOWN, encode, vocabulary

DATA = Path(__file__).with_name("data")
VALIDATION_EVERY = 8  # one training sentence in this number chooses the epoch that is kept
SWAP_CHOICES = 64  # words of like rating that may stand in for one another

# Made-up phrases around one rated word, and whether they turn its meaning round. Each turning
# one has a straight twin, lest "i" or "it" alone be taken for a sign of negation.
PHRASES = (
    ("{}", False),
    ("not {}", True),
    ("it was {}", False),
    ("it was not {}", True),
    ("it is very {}", False),
    ("it isn't very {}", True),
    ("isn't it {} ?", False),
    ("i {} it", False),
    ("i never {} it", True),
    ("i really {} this", False),
    ("i don't {} this at all", True),
)
CLEARLY_RATED = 1.0  # words with a weaker rating make no phrase

Example = tuple[Tensor, int]  # tokens, int64 (time,), and the index of the label


def read_examples(name: str) -> list[Example]:
    """Return the labelled sentences of a data file, in its order."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return [(torch.from_numpy(encode(sentence)), LABELS.index(label)) for label, sentence in rows]


def read_valence() -> Tensor:
    """Return each token's rating in the lexicon (-4 to 4; 0 if it has none), (vocabulary,)."""
    index = vocabulary()
    valence = torch.zeros(len(index))
    for line in (DATA / "lexicon.tsv").read_text(encoding="utf-8").splitlines():
        word, rating = line.split("\t")
        valence[index[word]] = float(rating)
    return valence


def make_phrases(valence: Tensor) -> list[Example]:
    """Return every made-up phrase around every clearly rated word, labelled."""
    examples = []
    for word, index in vocabulary().items():
        rating = valence[index].item()
        if word.isalpha() and abs(rating) >= CLEARLY_RATED:
            for phrase, turned in PHRASES:
                tokens = torch.from_numpy(encode(phrase.format(word)))
                examples.append((tokens, int((rating > 0) != turned)))
    return examples


class Augment:
    """Vary training sentences: exchange rated words for like ones, and forget some words."""

    def __init__(self, valence: Tensor, *, swap: float, forget: float) -> None:
        """Take the ratings (vocabulary,) and the two probabilities per token."""
        self.rated = valence.nonzero().flatten()
        self.rated = self.rated[valence[self.rated].argsort()]
        self.rank = torch.full_like(valence, -1, dtype=torch.int64)
        self.rank[self.rated] = torch.arange(len(self.rated))
        self.swap, self.forget = swap, forget
        self.unknown = vocabulary()[UNKNOWN]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return a varied copy of `tokens`, int64 (time,); the start token stays."""
        rank = self.rank[tokens]
        near = rank + torch.randint(-SWAP_CHOICES, SWAP_CHOICES + 1, rank.shape)
        other = self.rated[near.clamp(0, len(self.rated) - 1)]
        swapped = (rank >= 0) & (torch.rand(rank.shape) < self.swap)
        varied = torch.where(swapped, other, tokens)
        forgotten = (torch.rand(rank.shape) < self.forget) & (tokens >= len(SPECIAL))
        return torch.where(forgotten, self.unknown, varied)


def padded_logits(model: Sentiment, sentences: list[Tensor]) -> Tensor:
    """Judge sentences of different lengths at once; return logits (batch, classes).

    The same as `Sentiment.forward` on each of them alone: packing keeps the LSTM away from
    the padding, and its last hidden state is its output on the last real step.
    """
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    embedded = model.dropout(model.embedding(pad_sequence(sentences, batch_first=True)))
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    _, (hn, _) = model.lstm(packed)
    logits: Tensor = model.head(model.dropout(hn[-1]))
    return logits


@torch.no_grad()
def evaluate(model: Sentiment, examples: list[Example]) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    model.eval()
    logits = padded_logits(model, [tokens for tokens, _ in examples])
    labels = torch.tensor([label for _, label in examples])
    accuracy = (logits.argmax(dim=-1) == labels).double().mean().item()
    return nn.functional.cross_entropy(logits, labels).item(), accuracy


def train_epoch(
    model: Sentiment,
    examples: list[Example],
    augment: Augment,
    optimizer: torch.optim.Optimizer,
    batch: int,
) -> float:
    """Go over the sentences once, in a new order; return the mean loss."""
    model.train()
    total = 0.0
    order = torch.randperm(len(examples)).tolist()
    for start in range(0, len(order), batch):
        picked = [examples[i] for i in order[start : start + batch]]
        logits = padded_logits(model, [augment(tokens) for tokens, _ in picked])
        labels = torch.tensor([label for _, label in picked])
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item() * len(picked)
    return total / len(examples)


def begin_with_lexicon(model: Sentiment, valence: Tensor, spread: float) -> None:
    """Start the embedding from small random numbers, its first column from the ratings."""
    with torch.no_grad():
        model.embedding.weight.normal_(std=spread)
        model.embedding.weight[:, 0] = valence / 2


@torch.no_grad()
def blend(average: Sentiment, model: Sentiment, keep: float) -> None:
    """Move `average` towards `model`: average = keep * average + (1 - keep) * model."""
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(parameter, 1 - keep)


def make_optimizer(model: Sentiment, arguments: argparse.Namespace) -> torch.optim.Optimizer:
    """Return AdamW with a slower rate for the embedding.

    Words that the few sentences lack keep their rating, and those that they have should stay
    comparable with it.
    """
    slow = {"params": [model.embedding.weight], "lr": arguments.lr * arguments.embedding_lr}
    rest = {"params": [p for n, p in model.named_parameters() if not n.startswith("embedding")]}
    return torch.optim.AdamW([slow, rest], lr=arguments.lr, weight_decay=arguments.weight_decay)


def fit(model: Sentiment, arguments: argparse.Namespace) -> None:
    """Train for all epochs; leave in `model` the averaged weights that validate best."""
    examples = read_examples("sentiment-train.tsv")
    validation = examples[::VALIDATION_EVERY]
    train = [e for i, e in enumerate(examples) if i % VALIDATION_EVERY]
    valence = read_valence()
    begin_with_lexicon(model, valence, arguments.spread)
    phrases = make_phrases(valence)
    augment = Augment(valence, swap=arguments.swap, forget=arguments.forget)
    optimizer = make_optimizer(model, arguments)
    # The average of the last few epochs judges more steadily than any one of them.
    average = copy.deepcopy(model)
    best, best_loss = copy.deepcopy(model.state_dict()), math.inf
    for epoch in range(1, arguments.epochs + 1):
        some = [phrases[i] for i in torch.randperm(len(phrases))[: arguments.phrases].tolist()]
        loss = train_epoch(model, train + some, augment, optimizer, arguments.batch)
        blend(average, model, arguments.average)
        now, accuracy = evaluate(average, validation)
        if kept := now < best_loss:
            best, best_loss = copy.deepcopy(average.state_dict()), now
        print(
            f"epoch {epoch:3d}/{arguments.epochs}  train {loss:.3f}  validation {now:.3f}"
            f"  accuracy {accuracy:.1%}{'  (kept)' if kept else ''}",
            flush=True,
        )
    model.load_state_dict(best)


def save(model: nn.Module, path: Path) -> None:
    """Write the weights so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(serialize(model.state_dict()))
    partial.replace(path)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the defaults are those of the weights in the repository."""
    parser = argparse.ArgumentParser(description="Train the sentiment network.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32, help="sentences per step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--embedding-lr", type=float, default=0.1, help="as a share of --lr")
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--swap", type=float, default=0.5, help="chance of exchanging a word")
    parser.add_argument("--forget", type=float, default=0.1, help="chance of forgetting a word")
    parser.add_argument("--phrases", type=int, default=1600, help="made-up ones per epoch")
    parser.add_argument("--spread", type=float, default=0.1, help="of the first embedding")
    parser.add_argument("--average", type=float, default=0.8, help="decay per epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more may change the figures")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    return parser.parse_args()


def main() -> None:
    """Train, save, and only then look at the held-out sentences."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = Sentiment(dropout=arguments.dropout)
    fit(model, arguments)
    save(model, arguments.output)
    held_out = read_examples("sentiment-heldout.tsv")
    loss, accuracy = evaluate(model, held_out)
    positive = sum(label for _, label in held_out) / len(held_out)
    print(f"held-out: loss {loss:.3f}, accuracy {accuracy:.1%} of {len(held_out)} sentences")
    print(f"always the commoner label: {max(positive, 1 - positive):.1%}")


if __name__ == "__main__":
    main()
