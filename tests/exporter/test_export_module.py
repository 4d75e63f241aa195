"""`export`: names, forms of the example, what it refuses, and what it leaves alone."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import stateport
from models.lstm import ReferenceLSTM
from stateport.parity.engine_report import EngineReport
from stateport.parity.vectors import vectors_path
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.graph import serialization

Judge = Callable[[Path], EngineReport]
X = Spec("float32", "batch", "time", 5)
STATE = Spec("float32", 1, "batch", 10)


class TupleState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 10, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        y, state = self.lstm(x, state)
        return y, state


class Two(nn.Module):
    """Two recurrent layers, whose states come in one tuple of tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(5, 10, batch_first=True)
        self.decoder = nn.LSTM(10, 6, batch_first=True)

    def forward(self, x: Tensor, states: tuple[tuple[Tensor, Tensor], ...]) -> Any:
        z, first = self.encoder(x, states[0])
        y, second = self.decoder(z, states[1])
        return y, (first, second)


class Stacked(nn.Module):
    """h and c in one tensor (2, batch, 10), batch-major states, a dict as result."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 10, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> dict[str, Tensor]:
        y, (h, c) = self.rnn(x, (state[:1], state[1:]))
        return {"probability": torch.sigmoid(y), "stateN": torch.cat([h, c])}


class Answer(NamedTuple):
    logits: Tensor
    hidden: Tensor
    cell: Tensor


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 10, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, frames: Tensor, hidden: Tensor, cell: Tensor) -> Answer:
        y, (h, c) = self.lstm(frames, (hidden, cell))
        return Answer(self.head(y), h, c)


class Inner(nn.Module):
    """A network around an inner function, for the refusals."""

    def __init__(self, function: Callable[[nn.LSTM, Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 10, batch_first=True)
        self.function = function

    def forward(self, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
        return self.function(self.lstm, x, h0, c0)


def names(contract: stateport.Contract) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    return (
        [s.name for s in contract.inputs],
        [s.name for s in contract.outputs],
        [(s.input, s.output) for s in contract.states],
    )


def test_a_bare_lstm_has_the_fields_usual_names(tmp_path: Path, judged: Judge) -> None:
    result = export(nn.LSTM(5, 10, batch_first=True), (X, (STATE, STATE)), tmp_path / "m.onnx")
    assert names(result.contract) == (["x"], ["y"], [("h0", "hn"), ("c0", "cn")])
    assert judged(result.path).passed


def test_a_result_says_what_was_written(tmp_path: Path) -> None:
    x = Spec("float32", "batch", "time", 3)
    result = export(nn.GRU(3, 3, batch_first=True), x, tmp_path / "m.onnx", check=False)
    assert repr(result) == (
        f"<stateport_exporter.ExportResult {tmp_path / 'm.onnx'}: x: float32[batch, time, 3], "
        "h0: float32[1, batch, 3] -> y: float32[batch, time, 3], hn: float32[1, batch, 3], "
        "not verified>"
    )


def test_a_tuple_of_states(tmp_path: Path, judged: Judge) -> None:
    result = export(TupleState(), (X, (STATE, STATE)), tmp_path / "m.onnx")
    assert names(result.contract) == (["x"], ["y"], [("h0", "hn"), ("c0", "cn")])
    assert judged(result.path).passed


def test_several_layers_put_their_paths_first(tmp_path: Path, judged: Judge) -> None:
    six = Spec("float32", 1, "batch", 6)
    result = export(Two(), (X, ((STATE, STATE), (six, six))), tmp_path / "m.onnx")
    assert names(result.contract)[2] == [
        ("encoder_h0", "encoder_hn"),
        ("encoder_c0", "encoder_cn"),
        ("decoder_h0", "decoder_hn"),
        ("decoder_c0", "decoder_cn"),
    ]
    assert judged(result.path).passed


def test_one_tensor_may_hold_both_states(tmp_path: Path, judged: Judge) -> None:
    result = export(Stacked(), (X, Spec("float32", 2, "batch", 10)), tmp_path / "m.onnx")
    assert names(result.contract) == (["x"], ["probability"], [("state", "stateN")])
    assert judged(result.path).passed


def test_names_that_the_author_gave_are_kept(tmp_path: Path, judged: Judge) -> None:
    example = {"frames": X, "hidden": STATE, "cell": STATE}
    result = export(Named(), example, tmp_path / "m.onnx")
    assert names(result.contract) == (
        ["frames"],
        ["logits"],
        [("hidden", "hidden_n"), ("cell", "cell_n")],
    )
    assert judged(result.path).passed


def test_states_sort_alike_as_inputs_and_as_outputs(tmp_path: Path) -> None:
    class Awkward(TupleState):
        def forward(self, x: Tensor, h: Tensor, h_1: Tensor) -> Any:  # type: ignore[override]
            y, (a, b) = self.lstm(x, (h, h_1))
            return y, a, b

    pairs = names(export(Awkward(), (X, STATE, STATE), tmp_path / "m.onnx").contract)[2]
    assert [o for _, o in sorted(pairs)] == sorted(o for _, o in pairs)


def test_a_result_that_is_none_is_left_out(tmp_path: Path) -> None:
    class Sometimes(TupleState):
        def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
            y, state = self.lstm(x, state)
            return None, {"y": y, "attention": None}, state

    result = export(Sometimes(), (X, (STATE, STATE)), tmp_path / "m.onnx")
    assert names(result.contract) == (["x"], ["y"], [("h0", "hn"), ("c0", "cn")])


def test_a_layer_with_a_forward_of_its_own_keeps_its_names(tmp_path: Path) -> None:
    class Own(nn.GRU):
        def forward(self, frames: Tensor, hx: Tensor) -> Any:  # type: ignore[override]
            return super().forward(frames, hx)

    result = export(Own(5, 10, batch_first=True), (X, STATE), tmp_path / "m.onnx")
    assert names(result.contract)[0] == ["frames"]
    assert [state.input for state in result.contract.states] == ["hx"]


def test_a_squeeze_that_does_nothing(tmp_path: Path, judged: Judge) -> None:
    class Squeezing(TupleState):
        def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
            y, state = self.lstm(x.squeeze(2), state)  # 5 features, or one day 1
            return y, state

    assert judged(export(Squeezing(), (X, (STATE, STATE)), tmp_path / "m.onnx").path).passed


def test_unbatched_input(tmp_path: Path, judged: Judge) -> None:
    state = Spec("float32", 1, 10)
    example = (Spec("float32", "time", 5), (state, state))
    result = export(nn.LSTM(5, 10), example, tmp_path / "m.onnx")
    assert result.contract.inputs[0].shape == ("time", 5)
    assert judged(result.path).passed
    y, _ = stateport.load(result.path)(np.zeros((4, 5), np.float32))
    assert y.shape == (4, 10)


@pytest.mark.parametrize(
    "example",
    [
        lambda batch, time: (torch.randn(batch, time, 5), *[torch.zeros(1, batch, 10)] * 2),
        (X, STATE, STATE),
        {"x": X, "h0": STATE, "c0": STATE},
        (
            Spec.of(torch.randn(2, 3, 5), "batch", "time", 5),
            Spec.parse("float32[1,batch,10]"),
            Spec.parse("float32[1, batch, 10]"),
        ),
    ],
    ids=["function", "tuple", "dict", "tensor and text"],
)
def test_every_form_of_example_gives_the_same_graph(
    example: Any, reference: Path, tmp_path: Path
) -> None:
    result = export(ReferenceLSTM(), example, tmp_path / "m.onnx")
    assert result.path.read_bytes() == reference.read_bytes()


def test_the_same_input_gives_the_same_bytes_in_another_process(
    reference: Path, tmp_path: Path
) -> None:
    script = (
        "import sys; from stateport_exporter import export; from models.lstm import reference\n"
        "m = reference(); export(m, m.example_inputs, sys.argv[1])"
    )
    other = tmp_path / "other.onnx"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", script, other], check=True, env=environment)
    assert other.read_bytes() == reference.read_bytes()
    assert vectors_path(other).read_bytes() == vectors_path(reference).read_bytes()


def test_nothing_of_the_callers_is_changed(tmp_path: Path) -> None:
    module = ReferenceLSTM(num_layers=2, dropout=0.5).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    calls: list[object] = []
    module.lstm.register_forward_hook(lambda *_: calls.append(1))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    torch.set_num_threads(2)
    states = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()

    export(module, module.example_inputs, tmp_path / "m.onnx")

    assert module.training
    assert module.lstm.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())
    assert random.getstate() == states[0]
    assert repr(np.random.get_state()) == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == 2
    assert torch.backends.mkldnn.enabled
    assert torch.is_grad_enabled()
    calls.clear()
    y, _, _ = module(*module.example_inputs(2, 3))  # still works, still trains
    y.sum().backward()
    assert len(calls) == 1


def test_an_error_leaves_things_alone_as_well(tmp_path: Path) -> None:
    def fail(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
        raise RuntimeError("no such luck")

    module = Inner(fail).train()
    state = torch.get_rng_state()
    with pytest.raises(ExportError, match="no such luck"):
        export(module, (X, STATE, STATE), tmp_path / "m.onnx")
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []


def test_a_logger_is_no_part_of_the_network(tmp_path: Path) -> None:
    class Logging(ReferenceLSTM):
        def __init__(self) -> None:
            super().__init__()
            self.logger = logging.Logger("not registered")  # which cannot be copied

    module = Logging()
    export(module, module.example_inputs, tmp_path / "m.onnx")


def test_weights_are_taken_into_a_copy(tmp_path: Path) -> None:
    trained, fresh = ReferenceLSTM(seed=1), ReferenceLSTM(seed=2)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    before = fresh.state_dict()["lstm.weight_hh_l0"].clone()
    a = export(trained, trained.example_inputs, tmp_path / "a.onnx")
    b = export(fresh, fresh.example_inputs, tmp_path / "b.onnx", weights=tmp_path / "w.pt")
    assert a.path.read_bytes() == b.path.read_bytes()
    assert torch.equal(fresh.state_dict()["lstm.weight_hh_l0"], before)


def test_large_weights_go_to_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: Judge
) -> None:
    monkeypatch.setattr(serialization, "EXTERNAL_ABOVE", 1000)
    module = ReferenceLSTM()
    result = export(module, module.example_inputs, tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "m.onnx",
        "m.onnx.data",
        "m.vectors.safetensors",
    ]
    onnx.checker.check_model(result.path, full_check=True)
    assert judged(result.path).passed


@pytest.mark.large
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(2_200_000, 256)
            self.lstm = nn.LSTM(256, 10, batch_first=True)

        def forward(self, tokens: Tensor, h0: Tensor, c0: Tensor) -> Any:
            y, (hn, cn) = self.lstm(self.embedding(tokens), (h0, c0))
            return y, hn, cn

    tokens = Spec("int64", "batch", "time", high=2_199_999)
    result = export(Large(), (tokens, STATE, STATE), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size > 2**31
    assert result.path.stat().st_size < 100_000
    model = stateport.load(result.path)
    y, _ = model(np.array([[0, 2_199_999]]))
    assert y.shape == (1, 2, 10)


def packed(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
    sequence = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 7, 7]), batch_first=True)
    y, (hn, cn) = lstm(sequence, (h0, c0))
    return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0], hn, cn


def looped(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
    ys, state = [], (h0, c0)
    for t in range(x.shape[1]):
        y, state = lstm(x[:, t : t + 1], state)
        ys.append(y * t**3)  # every step is another one
    return torch.cat(ys, 1), *state


def chosen(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
    y, (hn, cn) = lstm(x, (h0, c0) if x.sum() > 0 else (c0, h0))
    return y, hn, cn


def crossed(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
    y, (hn, cn) = lstm(x, (h0 + c0, c0))
    return y, hn, cn


def short_ones_reversed(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
    y, (hn, cn) = lstm(x if x.size(1) > 5 else x.flip(1), (h0, c0))
    return y, hn, cn


def written_into(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
    y, (hn, cn) = lstm(x, (h0, c0))
    h0.copy_(hn)
    return y, hn, cn


def one_next_for_two(lstm: nn.LSTM, x: Tensor, h0: Tensor, c0: Tensor) -> Any:
    y, (hn, cn) = lstm(x, (h0, c0))
    return y, hn + cn


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (packed, "packs with lengths that are fixed in forward. Take them as an argument"),
        (looped, "Inner cannot take any number of time steps: .*same in every step"),
        (chosen, r"takes numbers out of a tensor \(test_export_module.py:\d+, .*x.sum\(\) > 0"),
        (crossed, "hidden state that forward computes from its arguments"),
        (written_into, "writes into its argument 'h0'.*Return the new value"),
        (one_next_for_two, "'h0' and 'c0' hold two states, but one result, result 2.*for each"),
    ],
    ids=["packed", "loop", "choice", "computed state", "written into", "one for two"],
)
def test_what_cannot_be_exported_is_refused(
    function: Callable[..., Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export(Inner(function), (X, STATE, STATE), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_sizes_at_which_the_file_does_not_hold_are_excluded(tmp_path: Path) -> None:
    result = export(Inner(short_ones_reversed), (X, STATE, STATE), tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    assert result.contract.minimums == (("time", 6),)
    assert not result.contract.streaming.ok
    assert any("time below 6" in note for note in result.notes)


def test_a_memory_in_a_buffer_is_refused(tmp_path: Path) -> None:
    class Counter(TupleState):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
            self.count += 1
            y, state = super().forward(x, state)
            return y * self.count, state

    module = Counter()
    with pytest.raises(ExportError, match=r"remembers something .*\(count\)"):
        export(module, (X, (STATE, STATE)), tmp_path / "m.onnx")
    assert module.count.item() == 0


@pytest.mark.parametrize("kind", ["float64", "float16"])
def test_other_dtypes_are_refused(kind: str, tmp_path: Path) -> None:
    module = ReferenceLSTM().to(getattr(torch, kind))
    with pytest.raises(ExportError, match=f"is {kind}; float32 was expected"):
        export(module, (X, STATE, STATE), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((X, STATE), "missing a required argument: 'c0'"),
        ((Spec("float32", "batch", "time", 4), STATE, STATE), "input.size"),
        (
            lambda b, t: (torch.zeros(b * t, 5), *[torch.zeros(1, b, 10)] * 2),
            "must be an axis itself",
        ),
        (
            lambda b, t: (torch.zeros(b, -(-t // 4) * 4, 5), *[torch.zeros(1, b, 10)] * 2),
            "gives 'x' the size 8 for time=7 and time=8, and 16 for time=14",
        ),
    ],
    ids=["too few", "wrong size", "product of axes", "rounded"],
)
def test_an_example_that_does_not_fit_is_refused(
    example: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export(ReferenceLSTM(), example, tmp_path / "m.onnx")


class Told(nn.Module):
    """Takes a number besides its input."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        y: Tensor = self.gru(x)[0]
        return y * steps


def test_an_argument_that_changes_with_the_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'steps' is 7, and 8 when time changes"):
        export(Told(), lambda batch, time: (torch.randn(batch, time, 5), time), tmp_path / "m.onnx")


def test_an_example_that_does_not_fit_a_cell_is_refused(tmp_path: Path) -> None:
    example = (Spec("float32", "batch", 4), Spec("float32", "batch", 10))
    with pytest.raises(ExportError, match="inconsistent input_size: got 4 expected 5"):
        export(nn.GRUCell(5, 10), example, tmp_path / "m.onnx")


@pytest.mark.parametrize("text", ["float32", "float32[batch", "float99[1]", "float32[0]", ""])
def test_a_malformed_spec_is_refused(text: str) -> None:
    with pytest.raises(ExportError):
        Spec.parse(text)


def test_a_spec_may_take_dtype_and_range_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.array([[4, 9], [7, 5]]))
    spec = Spec.parse(f"{tmp_path / 'tokens.npy'}[batch,time]")
    assert (spec.dtype, spec.shape, spec.low, spec.high) == ("int64", ("batch", "time"), 4, 9)
    with pytest.raises(ExportError, match="name every dimension"):
        Spec.parse(f"{tmp_path / 'tokens.npy'}[batch]")


def test_integers_are_drawn_from_their_range() -> None:
    drawn = Spec.parse("int64[batch,time]:3..5").make(
        {"batch": 50, "time": 50}, np.random.default_rng(0)
    )
    assert set(drawn.flatten().tolist()) == {3, 4, 5}
    assert drawn.dtype == torch.int64


class NamedList(nn.Module):
    """A list of results under one name, beside a state that the layer keeps to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        y, state = self.lstm(x)
        return {"logits": y, "state": state}


def test_items_of_a_named_list_are_numbered(tmp_path: Path) -> None:
    contract = export(NamedList(), (X,), tmp_path / "m.onnx").contract
    assert [spec.name for spec in contract.outputs] == ["logits", "state_0", "state_1"]


class StateAndOutput(nn.Module):
    """The hidden state is the output too; the next states are a dict by the arguments' names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(5, 6), nn.LSTMCell(6, 6)

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> Any:
        h1, c1 = self.first(x, (state["h1"], state["c1"]))
        h2, c2 = self.second(h1, (state["h2"], state["c2"]))
        return h2, {"h1": h1, "c1": c1, "h2": h2, "c2": c2}


def test_a_state_that_is_the_output_too_is_the_one_with_the_arguments_name(
    tmp_path: Path,
) -> None:
    state = {name: Spec("float32", "batch", 6) for name in ("h1", "c1", "h2", "c2")}
    result = export(StateAndOutput(), (Spec("float32", "batch", 5), state), tmp_path / "m.onnx")
    assert len(result.contract.states) == 4
    assert [spec.name for spec in result.contract.outputs] == ["y"]
    assert result.report is not None
    assert result.report.passed


class Dilated(nn.Module):
    """Convolutions over a list, whose number gives the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(5, 5, 2, dilation=2**i) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x.mT
        for i, layer in enumerate(self.layers):
            y = y + torch.tanh(layer(nn.functional.pad(y, (2**i, 0))))
        return y.mT


def test_a_number_that_counts_layers_is_no_size(tmp_path: Path) -> None:
    result = export(Dilated(), (X,), tmp_path / "m.onnx")
    assert result.contract.streaming.ok
    assert len(result.contract.states) == 3


def test_a_path_in_the_place_of_the_example_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"tuple; a path was expected.*module, example, path"):
        export(nn.GRU(5, 3), str(tmp_path / "m.onnx"), (X,))  # type: ignore[arg-type]


class TwoLoops(nn.Module):
    """A loop with a state, and one that treats each of its steps alone."""

    def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part = part
        self.x, self.h = nn.Linear(5, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h, hs = x.new_zeros(x.shape[0], 6), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.x(x[:, t]) + self.h(h))
            hs.append(h)
        return torch.stack([self.part(h) for h in hs], 1)


@pytest.mark.parametrize(
    "part",
    [
        lambda h: h * 2,
        lambda h: h[:, 1:5],
        lambda h: h[:, 1:5][:, 0],
        lambda h: h.view(-1, 2, 3)[:, 1][:, 0],
        lambda h: h[:1].expand_as(h) * 0 + h,
    ],
)
def test_a_loop_without_states_has_none(
    part: Callable[[Tensor], Tensor], tmp_path: Path, judged: Judge
) -> None:
    result = export(TwoLoops(part), (X,), tmp_path / "m.onnx")
    assert len(result.contract.states) == 1
    assert result.contract.streaming.ok
    judged(result.path)
