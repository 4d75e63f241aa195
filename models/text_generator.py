"""A character-level text generator: embedding, LSTM, and a linear layer on every step.

The state is an argument and a result, so a text can be read and written in pieces of any
length: what the network knows of the past is `(h, c)` and nothing else.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.characters import ALPHABET, encode
from models.data import heldout_text

#: So many characters of the held-out text lie between the beginnings of two example rows.
ROW_DISTANCE = 4099
WEIGHTS = Path(__file__).with_name("text_generator.safetensors")


class TextGenerator(nn.Module):
    """Predict the next character after each character of a text."""

    def __init__(
        self,
        *,
        vocabulary: int = len(ALPHABET),
        embedding: int = 32,
        hidden: int = 320,
        num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        """Make an untrained network; `dropout` matters in training only."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read `tokens` and score what may follow each of them.

        tokens: int64 (batch, time); h0, c0: float32 (num_layers, batch, hidden).
        Returns logits, float32 (batch, time, vocabulary), and the state after the last
        step, hn and cn, shaped as h0 and c0.
        """
        embedded = self.dropout(self.embedding(tokens))
        features, (hn, cn) = self.lstm(embedded, (h0, c0))
        return self.head(self.dropout(features)), hn, cn

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the state before the first character: zeros (num_layers, batch, hidden)."""
        weight = self.head.weight
        shape = (self.lstm.num_layers, batch, self.lstm.hidden_size)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def example_inputs(self, batch: int, time: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return valid arguments of `forward`: held-out text (batch, time), zero states.

        Every row begins elsewhere in it. Random characters would not do: on them the network is
        chaotic, so that a last bit of difference grows until nothing can be compared.
        """
        text = torch.from_numpy(encode(heldout_text()))
        starts = torch.arange(batch)[:, None] * ROW_DISTANCE
        tokens = text[(starts + torch.arange(time)) % len(text)]
        return tokens % self.embedding.num_embeddings, *self.initial_state(batch)


def untrained(*, hidden: int = 320, num_layers: int = 1, seed: int = 0) -> TextGenerator:
    """Return a network of any size with random weights that depend on `seed` alone."""
    # nn.Module draws its first weights from torch's global generator: lend it a copy.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextGenerator(hidden=hidden, num_layers=num_layers).eval()


def trained() -> TextGenerator:
    """Return the network with the weights that lie beside this file, in eval mode."""
    model = untrained()
    model.load_state_dict(load_file(WEIGHTS), strict=True)
    return model
