"""A sentiment network: embedding, LSTM, and a linear layer on the last step.

One sentence at a time and no padding: batch 1, time = its number of tokens. The state goes
in and comes out, so a sentence may also be read in pieces; the logits then say what the
network thinks of everything so far.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("sentiment.safetensors")

#: What the two logits stand for, in their order.
LABELS = ("negative", "positive")


class Sentiment(nn.Module):
    """Tell whether a sentence is negative or positive."""

    def __init__(
        self,
        *,
        vocabulary: int = 9270,
        embedding: int = 32,
        hidden: int = 64,
        num_layers: int = 1,
        classes: int = len(LABELS),
        dropout: float = 0.0,
    ) -> None:
        """Make an untrained network; `dropout` matters in training only."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read `tokens` and judge them.

        tokens: int64 (batch, time), time at least 1; h0, c0: float32 (num_layers, batch,
        hidden). Returns logits, float32 (batch, classes), of everything up to the last
        token, and the state after it, hn and cn, shaped as h0 and c0.
        """
        embedded = self.dropout(self.embedding(tokens))
        features, (hn, cn) = self.lstm(embedded, (h0, c0))
        return self.head(self.dropout(features[:, -1])), hn, cn

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the state before the first token: zeros (num_layers, batch, hidden)."""
        weight = self.head.weight
        shape = (self.lstm.num_layers, batch, self.lstm.hidden_size)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def example_inputs(self, batch: int, time: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return valid arguments of `forward`: random tokens (batch, time), zero states."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.embedding.num_embeddings, (batch, time), generator=generator)
        return tokens, *self.initial_state(batch)


def untrained(*, hidden: int = 64, num_layers: int = 1, seed: int = 0) -> Sentiment:
    """Return a network of any size with random weights that depend on `seed` alone."""
    # nn.Module draws its first weights from torch's global generator: lend it a copy.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Sentiment(hidden=hidden, num_layers=num_layers).eval()


def trained() -> Sentiment:
    """Return the network with the weights that lie beside this file, in eval mode."""
    model = untrained()
    model.load_state_dict(load_file(WEIGHTS), strict=True)
    return model
