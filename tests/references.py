"""The reference networks, in the forms that every engine has to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from models import sentiment, text_generator
from models.lstm import ReferenceLSTM

REFERENCES: Final[dict[str, Callable[[], nn.Module]]] = {
    "reference": ReferenceLSTM,
    "two layers, time first": lambda: ReferenceLSTM(num_layers=2, batch_first=False),
    "bidirectional": lambda: ReferenceLSTM(bidirectional=True),
    "projected": lambda: ReferenceLSTM(hidden_size=16, proj_size=4),
    "text generator": text_generator.trained,
    "sentiment": sentiment.trained,
}
