"""Packed sequences: rows of several lengths, each ending where it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import stateport
from stateport.model_file.onnx_outline import read
from stateport_exporter import ExportError, Spec, export

Forward = Callable[["Packing", Tensor, Tensor], Any]
X = Spec("float32", "batch", "time", 5)
LENGTHS = Spec("int64", "batch")
#: Rows of one batch: descending, unsorted, equal, all of them shorter than the data, one alone.
SORTED = [[6, 4, 4, 1], [3, 3], [6]]
UNSORTED = [[2, 6, 1, 4], [1, 3, 2]]
TIME = 6


class Packing(nn.Module):
    """A network with layers of every kind, around a forward of the test's own."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.lstm = nn.LSTM(5, 6, batch_first=True)
            self.both = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
            self.projected = nn.LSTM(5, 6, 2, proj_size=3, bidirectional=True, batch_first=True)
            self.gru = nn.GRU(5, 6)
            self.rnn = nn.RNN(4, 3, bidirectional=True, nonlinearity="relu")
            self.linear = nn.Linear(6, 4)
        self.function = function

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.function(self, x, lengths)


class Outer(nn.Module):
    """A network below another one, so that messages have a path to name."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.encoder = Packing(function)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.encoder(x, lengths)


def pack(x: Tensor, lengths: Any) -> PackedSequence:
    return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def pad(packed: PackedSequence, **options: Any) -> Tensor:
    return pad_packed_sequence(packed, batch_first=True, **options)[0]


def unpacked(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, lengths.cpu()))[0])


def with_lengths(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    packed = pack(x, lengths.to("cpu").int().clamp(min=1))
    return pad_packed_sequence(net.lstm(packed)[0], batch_first=True, padding_value=-3.0)


def enforced(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    packed = pack_padded_sequence(x, lengths, batch_first=True)
    return pad(net.lstm(packed)[0])


def time_major(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    packed = pack_padded_sequence(x.transpose(0, 1), lengths, enforce_sorted=False)
    y, _ = pad_packed_sequence(net.gru(packed)[0])
    return y.transpose(0, 1)


def last_state(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    _, (h, _) = net.both(pack(x, lengths))
    return torch.cat((h[-2], h[-1]), -1)


def projection(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    y, (h, _) = net.projected(pack(x, lengths))
    return pad(y), torch.cat((h[-2], h[-1]), -1)


def goes_on(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    """From one packed layer through others to the next."""
    y, _ = net.lstm(pack(x, lengths))
    data = torch.relu(net.linear(y.data))
    y = PackedSequence(data, y.batch_sizes, y.sorted_indices, y.unsorted_indices)
    return pad(net.rnn(y)[0])


def sorts_itself(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    lengths, order = lengths.sort(descending=True)
    packed = pack_padded_sequence(x.index_select(0, order), lengths.cpu(), batch_first=True)
    y, (h, _) = net.both(packed)
    back = order.argsort()
    return pad(y, total_length=x.size(1))[back], h.index_select(1, back)


def last_step(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    y = pad(net.lstm(pack(x, lengths))[0])
    return y[torch.arange(x.size(0)), lengths - 1]


def mean_of_steps(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, lengths))[0]).sum(1) / lengths[:, None]


def residual(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, lengths))[0], total_length=x.size(1))[..., :5] + x


PATTERNS = [
    unpacked,
    with_lengths,
    enforced,
    time_major,
    last_state,
    projection,
    goes_on,
    sorts_itself,
    last_step,
    mean_of_steps,
    residual,
]


def arrays(lengths: list[int]) -> dict[str, Any]:
    x = np.random.default_rng(len(lengths)).standard_normal((len(lengths), TIME, 5))
    return {"x": x.astype(np.float32), "lengths": np.array(lengths)}


def compare(outputs: dict[str, Any], expected: Any) -> None:
    """Results as PyTorch gives them, which unpacks only as far as the longest row."""
    results = expected if isinstance(expected, tuple) else (expected,)
    assert len(outputs) == len(results)
    for output, result in zip(outputs.values(), results, strict=True):
        part = output[tuple(slice(size) for size in result.shape)]
        assert part.shape == result.shape
        np.testing.assert_allclose(part, result, atol=1e-6)


@pytest.mark.patterns
@pytest.mark.parametrize("function", PATTERNS, ids=lambda function: function.__name__)
def test_rows_of_any_lengths_agree_with_pytorch(function: Forward, tmp_path: Path) -> None:
    net = Packing(function).eval()
    result = export(net, (X, LENGTHS), tmp_path / "m.onnx")
    spec = {one.name: one for one in result.contract.inputs}["lengths"]
    assert spec.lengths_of == "time"
    assert not result.contract.streaming.ok
    model = stateport.load(result.path)
    for lengths in SORTED if function is enforced else [*SORTED, *UNSORTED]:
        inputs = arrays(lengths)
        with torch.no_grad():
            expected = net(*(torch.from_numpy(array) for array in inputs.values()))
        compare(model.run(inputs)[0], expected)


@pytest.mark.parametrize("function", [unpacked, enforced], ids=["unsorted", "sorted"])
def test_each_row_ends_in_its_own_state(function: Forward, tmp_path: Path) -> None:
    """And goes on from there, which a second call of shorter rows shows."""
    net = Packing(function).eval()
    model = stateport.load(export(net, (X, LENGTHS), tmp_path / "m.onnx").path)
    assert model.contract.streaming.reason is not None
    assert "lstm takes the length of each row" in model.contract.streaming.reason
    first, second = [2, 6, 1, 4], [1, 3, 5, 2]  # the file sorts nothing, so it takes any order
    _, state = model.run(arrays(first))
    outputs, state = model.run(arrays(second), state)
    for row, (one, two) in enumerate(zip(first, second, strict=True)):
        x = torch.from_numpy(np.concatenate([arrays(first)["x"][row, :one]]))
        with torch.no_grad():
            _, between = net.lstm(x[None])
            y, (h, c) = net.lstm(torch.from_numpy(arrays(second)["x"][None, row, :two]), between)
        np.testing.assert_allclose(outputs["y"][row, :two], y[0], atol=1e-6)
        np.testing.assert_allclose(state["h0"][:, row], h[:, 0], atol=1e-6)
        np.testing.assert_allclose(state["c0"][:, row], c[:, 0], atol=1e-6)


def test_states_that_are_given_and_returned(tmp_path: Path) -> None:
    class Given(Packing):
        def forward(self, x: Tensor, lengths: Tensor, h0: Any = None, c0: Any = None) -> Any:
            y, (h, c) = self.both(pack(x, lengths), (h0, c0))
            return pad(y), h, c

    net, state = Given(unpacked).eval(), Spec("float32", 4, "batch", 6)
    result = export(net, (X, LENGTHS, state, state), tmp_path / "m.onnx")
    assert [(s.input, s.output) for s in result.contract.states] == [("h0", "hn"), ("c0", "cn")]
    model, inputs = stateport.load(result.path), arrays([2, 6, 1, 4])
    random = np.random.default_rng(0)
    first = {s: random.standard_normal((4, 4, 6)).astype(np.float32) for s in ("h0", "c0")}
    outputs, after = model.run(inputs, stateport.State(first))
    with torch.no_grad():
        expected = net(*(torch.from_numpy(a) for a in (*inputs.values(), *first.values())))
    compare({**outputs, **after}, expected)


def test_rows_that_forward_sorts_have_no_state_to_carry(tmp_path: Path) -> None:
    """Its rows stand in another order in every call."""
    result = export(Packing(sorts_itself), (X, LENGTHS), tmp_path / "m.onnx")
    assert result.contract.states == ()
    assert result.lifted == ()


def test_a_state_kept_in_an_attribute(tmp_path: Path) -> None:
    class Kept(Packing):
        state: Any = None

        def forward(self, x: Tensor, lengths: Tensor) -> Any:
            y, self.state = self.lstm(pack(x, lengths), self.state)
            return pad(y)

    result = export(Kept(unpacked), (X, LENGTHS), tmp_path / "m.onnx")
    assert result.lifted == ("h0", "c0")


def test_a_packed_sequence_as_argument_and_result(tmp_path: Path) -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(5, 6, bidirectional=True)

        def forward(self, p: PackedSequence) -> Any:
            y, h = self.gru(p)
            return y, torch.cat((h[-2], h[-1]), -1)

        def example_inputs(self, batch: int, time: int) -> PackedSequence:
            lengths = torch.tensor([time] + [1] * (batch - 1))
            return pack(torch.zeros(batch, time, 5), lengths)

    net = Inside().eval()
    result = export(net, net.example_inputs, tmp_path / "m.onnx")
    assert [str(spec) for spec in result.contract.inputs] == [
        "p_data: float32[batch, time, 5]",
        "p_lengths: int64[batch]",
    ]
    model = stateport.load(result.path)
    for lengths in [*SORTED, *UNSORTED]:
        x = arrays(lengths)["x"]
        outputs, _ = model.run({"p_data": x, "p_lengths": np.array(lengths)})
        with torch.no_grad():
            packed, last = net(pack(torch.from_numpy(x), torch.tensor(lengths)))
        compare(outputs, (*pad_packed_sequence(packed, batch_first=True), last))


def test_lengths_that_do_not_fit_never_reach_the_engine(tmp_path: Path) -> None:
    result = export(Packing(unpacked), (X, LENGTHS), tmp_path / "m.onnx")
    model = stateport.load(result.path)
    for wrong in (0, -1, TIME + 1):
        with pytest.raises(stateport.InputError, match=f"length {wrong}; .* 1 to {TIME} long"):
            model.run(arrays([TIME, wrong, 1]))


def test_the_operator_is_told_the_lengths(tmp_path: Path) -> None:
    result = export(Packing(last_state), (X, LENGTHS), tmp_path / "m.onnx")
    operators = read(result.path).operators
    assert operators["LSTM"] == 2
    assert not operators.keys() & {"Loop", "Scan", "If", "TopK", "ScatterElements"}


# Just outside: what is refused, and what the message says to change.


def as_a_list(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, lengths.tolist()))[0])


def as_numpy(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, lengths.cpu().numpy()))[0])


def cut_to_the_longest(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x[:, : int(lengths.max())], lengths))[0])


def from_a_mask(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, (x[..., 0] != 0).sum(1)))[0])


def halved(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, (lengths + 1) // 2))[0])


def fixed(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, torch.tensor([7, 7, 7])))[0])


def one_step_less(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x[:, 1:], lengths))[0])


def own_total_length(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, lengths))[0], total_length=50)


def mean_of_padding(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, lengths))[0]).mean(1)


def bare_data(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return net.lstm(pack(x, lengths))[0].data


def mean_of_data(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return net.lstm(pack(x, lengths))[0].data.mean(0)


def forgets_the_order(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    y, _ = net.lstm(pack(x, lengths))
    return pad(PackedSequence(net.linear(y.data), y.batch_sizes))


def steps_left_out(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    packed = pack(x, lengths)
    return net.lstm(packed._replace(data=packed.data[1:]))[1][0]


def batch_sizes(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    packed = pack(x, lengths)
    return pad(net.lstm(packed)[0]) * packed.batch_sizes.sum()


def order_of_rows(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    packed = pack(x, lengths)
    assert packed.sorted_indices is not None
    return pad(net.lstm(packed)[0]) * packed.sorted_indices[:, None, None]


NUMBERS = r"^'encoder' takes numbers out of a tensor .*takes lengths.cpu\(\) itself"
REFUSED = [
    (as_a_list, NUMBERS),
    (as_numpy, NUMBERS),
    (cut_to_the_longest, NUMBERS),
    (from_a_mask, r"LSTM 'encoder.lstm' are computed .*Take the lengths themselves as an argument"),
    (halved, r"LSTM 'encoder.lstm' are computed .*Take the lengths themselves as an argument"),
    (fixed, r"'encoder' packs with lengths that are fixed in forward. Take them as an argument"),
    (one_step_less, r"LSTM 'encoder.lstm' have lengths, but it runs over the axis 'time - 1'"),
    (own_total_length, r"'encoder' pads to total_length=.*total_length=x.size\(1\)"),
    (mean_of_padding, r"LSTM 'encoder.lstm', forward computes with the padding.*Pass total_length"),
    (bare_data, r"LSTM 'encoder.lstm', forward returns something whose size.*unpack it first"),
    (mean_of_data, r"forward may compute with each step's data by itself"),
    (forgets_the_order, r"must keep sorted_indices and unsorted_indices"),
    (steps_left_out, r"'encoder.lstm' changes how many steps.*Unpack first"),
    (batch_sizes, r"'encoder' computes with the batch_sizes.*Compute with the lengths instead"),
    (order_of_rows, r"'encoder' computes with the order of rows.*Index with it alone"),
]


@pytest.mark.patterns
@pytest.mark.parametrize(
    ("function", "message"), REFUSED, ids=[function.__name__ for function, _ in REFUSED]
)
def test_what_is_just_outside_is_refused(
    function: Forward, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=message):
        export(Outer(function), (X, LENGTHS), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_lengths_must_be_integers(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"LSTM 'lstm' come from .* Take them as an int64 tensor"):
        export(Packing(halved_floats), (X, Spec("float32", "batch")), tmp_path / "m.onnx")


def halved_floats(net: Packing, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.lstm(pack(x, lengths.long()))[0])


def test_batch_sizes_from_elsewhere_are_refused(tmp_path: Path) -> None:
    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(5, 6)

        def forward(self, data: Tensor, sizes: Tensor) -> Any:
            return self.lstm(PackedSequence(data, sizes), None)[1][0]

    example = (Spec("float32", "time", 5), Spec("int64", "steps"))
    with pytest.raises(ExportError, match=r"'lstm' .* batch_sizes that pack_padded_sequence"):
        export(Elsewhere(), example, tmp_path / "m.onnx")


def test_the_layers_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    net = Packing(unpacked)
    export(net, (X, LENGTHS), tmp_path / "m.onnx")
    assert not any("check_forward_args" in vars(module) for module in net.modules())
