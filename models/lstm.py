"""The reference network: one `nn.LSTM` whose state is passed by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReferenceLSTM(nn.Module):
    """An LSTM that takes its hidden and cell state as arguments and returns them.

    Shapes, with `batch_first=True`: x and y are (batch, time, features); h0, c0, hn and cn are
    (num_layers * num_directions, batch, hidden_size), or `proj_size` in place of `hidden_size`
    for h0 and hn where a projection is asked for. All are float32.
    """

    def __init__(
        self,
        input_size: int = 5,
        hidden_size: int = 10,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # The global generator is put back afterwards; the weights are then drawn from our own.
        with torch.random.fork_rng(devices=[]):
            self.lstm = nn.LSTM(
                input_size,
                hidden_size,
                num_layers,
                bias=bias,
                batch_first=batch_first,
                dropout=dropout,
                bidirectional=bidirectional,
                proj_size=proj_size,
            )
        generator = torch.Generator().manual_seed(seed)
        bound = hidden_size**-0.5  # PyTorch's own range for the weights of an LSTM
        with torch.no_grad():
            for parameter in self.lstm.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One call: the outputs of all steps, and the state after the last one."""
        y, (hn, cn) = self.lstm(x, (h0, c0))
        return y, hn, cn

    def example_inputs(self, batch: int, time: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random inputs and a zero state, for any batch and time."""
        lstm = self.lstm
        sequence = (batch, time) if lstm.batch_first else (time, batch)
        layers = lstm.num_layers * (2 if lstm.bidirectional else 1)
        return (
            torch.randn(*sequence, lstm.input_size),
            torch.zeros(layers, batch, lstm.proj_size or lstm.hidden_size),
            torch.zeros(layers, batch, lstm.hidden_size),
        )


reference = ReferenceLSTM
