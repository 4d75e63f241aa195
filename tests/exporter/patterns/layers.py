"""Group 1: PyTorch's own layers and cells, each with every option."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from stateport_exporter import Spec

from .pattern import (
    HIDDEN,
    HIDDEN_AND_CELL,
    MAJOR,
    ROW,
    STEP,
    H,
    Outside,
    Pattern,
    X,
    gru,
    lstm,
    network,
)

GROUP: Final = "Layers"
PAIR: Final = (H, H)


def with_state(net: Any, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
    y, (hn, cn) = net.lstm(x, (h0, c0))
    return y, hn, cn


def weights_from_the_input(net: Any, x: Tensor, h: Tensor) -> Any:
    weights = [w * x.mean() for w in net.gru._flat_weights]
    return torch.gru(x, h, weights, True, 1, 0.0, False, False, True)


def weights_of_a_layer_from_the_input(net: Any, x: Tensor, h: Tensor) -> Any:
    return net.inner(x, h)


def dropout_that_never_ends(net: Any, x: Tensor) -> Any:
    return net.lstm(nn.functional.dropout(x, 0.5, training=True))[0]


def state_from_both(net: Any, x: Tensor, h: Tensor, context: Tensor) -> Any:
    return net.gru(x, h + context)


def encoder_and_decoder(net: Any, x: Tensor, states: Any) -> Any:
    z, first = net.encoder(x, states[0])
    y, second = net.decoder(z, states[1])
    return y, (first, second)


def one_state_for_both(net: Any, x: Tensor, h: Tensor) -> Any:
    z, first = net.encoder(x, h)
    y, second = net.decoder(z, h)
    return y, first, second


def shared(net: Any, x: Tensor, a: Tensor, b: Tensor) -> Any:
    z, a = net.gru(x, a)
    y, b = net.gru(torch.cat([z, x[..., 4:]], 2), b)
    return y, a, b


def shared_and_ambiguous(net: Any, x: Tensor, a: Tensor, b: Tensor) -> Any:
    z, first = net.gru(x, a)
    y, second = net.gru(-x, b)
    return y + z, first + second, first - second


def flattened(net: Any, x: Tensor) -> Any:
    y, _ = net.lstm(x)
    return net.head(y.reshape(-1, 4))


def flattened_for_the_traced_length(net: Any, x: Tensor) -> Any:
    y, _ = net.lstm(x)
    return net.head(y.reshape(-1, 7 * 4))


def half(layer: nn.Module) -> nn.Module:
    return layer.to(torch.float16)


LAYERS: Final = (
    Pattern(
        GROUP,
        "`nn.LSTM`, batch first",
        lstm,
        (X, PAIR),
        HIDDEN_AND_CELL,
        Outside(
            lambda: lstm().to(torch.bfloat16),
            (X, PAIR),
            r"'weight_ih_l0' is bfloat16; float32 was expected.*module\.float\(\)",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.LSTM`, time first",
        lambda: lstm(batch_first=False),
        (MAJOR, PAIR),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(lambda net, x: net.lstm(x)[0], lstm=lstm(batch_first=False)),
            (X,),
            "The LSTM 'lstm' runs over the axis 'batch'.*batch_first is wrong",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.LSTM`, three layers, dropout",
        lambda: lstm(num_layers=3, dropout=0.5),
        (X, (Spec("float32", 3, "batch", 4),) * 2),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(dropout_that_never_ends, lstm=lstm(num_layers=3, dropout=0.5)),
            (X,),
            "draws random numbers, in evaluation mode too.*Leave them out",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.LSTM`, no bias",
        lambda: lstm(bias=False),
        (X, PAIR),
        HIDDEN_AND_CELL,
        Outside(
            lambda: torch.jit.script(lstm(bias=False)),
            (X, PAIR),
            "'LSTM' has no forward of its own.*or pass the original nn.Module",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.LSTM`, bidirectional, two layers",
        lambda: lstm(num_layers=2, bidirectional=True),
        (X, (Spec("float32", 4, "batch", 4),) * 2),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(
                lambda net, x, h, c: net.lstm(x, (torch.cat([h[:2], c[2:] * h[2:]]), c)),
                lstm=lstm(num_layers=2, bidirectional=True),
            ),
            (X, *(Spec("float32", 4, "batch", 4),) * 2),
            "The LSTM 'lstm' starts from a hidden state that forward computes",
        ),
        streams=False,
    ),
    Pattern(
        GROUP,
        "`nn.LSTM`, projection",
        lambda: lstm(proj_size=2),
        (X, (Spec("float32", 1, "batch", 2), H)),
        HIDDEN_AND_CELL,
        Outside(
            lambda: lstm(proj_size=2).to("meta"),
            (X, (Spec("float32", 1, "batch", 2), H)),
            r"is on the device meta, where it has no values",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.GRU`",
        gru,
        (X, H),
        HIDDEN,
        Outside(
            lambda: network(
                weights_of_a_layer_from_the_input, inner=network(weights_from_the_input, gru=gru())
            ),
            (X, H),
            "weights of the recurrent layer 'inner' are computed from the network's inputs",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.GRU`, bidirectional, no bias",
        lambda: gru(bidirectional=True, bias=False),
        (X, Spec("float32", 2, "batch", 4)),
        HIDDEN,
        Outside(
            lambda: network(state_from_both, gru=gru(bidirectional=True, bias=False)),
            (X, *(Spec("float32", 2, "batch", 4),) * 2),
            "The GRU 'gru' starts from a hidden state that forward computes",
        ),
        streams=False,
    ),
    Pattern(
        GROUP,
        "`nn.RNN`, tanh",
        lambda: nn.RNN(5, 4, batch_first=True),
        (X, H),
        HIDDEN,
        Outside(
            lambda: network(lambda net, x: net.rnn(x)[0], rnn=nn.RNN(5, 4, batch_first=True)),
            (Spec("float32", "batch", "frames", 5),),
            "The RNN 'rnn' runs over the axis 'frames'. Call the axis that it runs over 'time'",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.RNN`, relu, two layers",
        lambda: nn.RNN(5, 4, 2, nonlinearity="relu", batch_first=True),
        (X, Spec("float32", 2, "batch", 4)),
        HIDDEN,
        Outside(
            lambda: half(nn.RNN(5, 4, 2, nonlinearity="relu", batch_first=True)),
            (X, Spec("float32", 2, "batch", 4)),
            "'weight_ih_l0' is float16; float32 was expected",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.LSTMCell`",
        lambda: nn.LSTMCell(5, 4),
        (STEP, (ROW, ROW)),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(lambda net, x, h, c: net.cell(x, (h * c, c)), cell=nn.LSTMCell(5, 4)),
            (STEP, ROW, ROW),
            "The LSTM 'cell' starts from a hidden state that forward computes",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.GRUCell`",
        lambda: nn.GRUCell(5, 4),
        (STEP, ROW),
        HIDDEN,
        Outside(
            lambda: network(
                lambda net, x: net.cell(x, torch.rand(x.size(0), 4)), cell=nn.GRUCell(5, 4)
            ),
            (STEP,),
            "The first state of 'cell' differs along the axis 'batch'. Take it as an argument",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.RNNCell`, tanh",
        lambda: nn.RNNCell(5, 4),
        (STEP, ROW),
        HIDDEN,
        Outside(
            lambda: network(
                lambda net, x, h: (net.cell(x, h), net.cell(-x, h)), cell=nn.RNNCell(5, 4)
            ),
            (STEP, ROW),
            "The argument 'h' holds a state.*not clear: result 1, result 2. Return exactly one",
        ),
    ),
    Pattern(
        GROUP,
        "`nn.RNNCell`, relu, no bias",
        lambda: nn.RNNCell(5, 4, bias=False, nonlinearity="relu"),
        (STEP, ROW),
        HIDDEN,
        Outside(
            lambda: nn.RNNCell(5, 4, bias=False, nonlinearity="relu").double(),
            (STEP, ROW),
            "'weight_ih' is float64; float32 was expected",
        ),
    ),
    Pattern(
        GROUP,
        "several layers",
        lambda: network(encoder_and_decoder, encoder=lstm(), decoder=gru(4)),
        (X, (PAIR, H)),
        (
            ("encoder_h0", "encoder_hn"),
            ("encoder_c0", "encoder_cn"),
            ("decoder_h0", "decoder_hn"),
        ),
        Outside(
            lambda: network(one_state_for_both, encoder=gru(), decoder=gru(4)),
            (X, H),
            "The argument 'h' holds a state.*not clear: result 2, result 3. Return exactly one",
        ),
    ),
    Pattern(
        GROUP,
        "one layer, called twice",
        lambda: network(shared, gru=gru()),
        (X, H, H),
        (("a", "a_n"), ("b", "b_n")),
        Outside(
            lambda: network(shared_and_ambiguous, gru=gru()),
            (X, H, H),
            "The argument 'a' holds a state.*not clear: result 2, result 3. Return exactly one",
        ),
    ),
    Pattern(
        GROUP,
        "result reshaped to (batch * time, features)",
        lambda: network(flattened, lstm=lstm(), head=nn.Linear(4, 3)),
        (X,),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(flattened_for_the_traced_length, lstm=lstm(), head=nn.Linear(28, 3)),
            (X,),
            "cannot take any size of the axis 'time'",
        ),
    ),
)
