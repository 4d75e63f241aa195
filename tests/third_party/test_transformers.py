"""Whole networks of transformers, as tiny as they go, with random weights and unchanged code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import stateport
from stateport.contract import resolve
from stateport_exporter import Spec, export
from tests.chunks import check_chunks

transformers = pytest.importorskip("transformers")
modeling_qwen3_next = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")

Array = NDArray[Any]

TOKENS = {"input_ids": Spec("int64", "batch", "time", high=31)}
STEPS = 4096
#: The most steps of each chunk; the last ones are ragged.
CHUNKS = ([1] * 64, [2] * 64, [3] * 64, [7] * 64, [64] * 16, [513, 1, 30, 900, 5])


def language(name: str, **config: Any) -> Callable[[], nn.Module]:
    """A language model without its head."""

    def build() -> nn.Module:
        settings = getattr(transformers, f"{name}Config")(
            vocab_size=32, hidden_size=16, use_cache=False, **config
        )
        network: nn.Module = getattr(transformers, f"{name}Model")(settings)
        return network

    return build


def gpt2() -> nn.Module:
    settings = transformers.GPT2Config(
        vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=64, use_cache=False
    )
    network: nn.Module = transformers.GPT2Model(settings)
    return network


def encodec_decoder(padding: str) -> Callable[[], nn.Module]:
    """The decoder of Encodec, which fills up the first steps in one way or another."""

    def build() -> nn.Module:
        settings = transformers.EncodecConfig(
            hidden_size=16,
            num_filters=4,
            upsampling_ratios=[2, 2],
            num_lstm_layers=1,
            pad_mode=padding,
        )
        network: nn.Module = transformers.EncodecModel(settings).decoder
        return network

    return build


def mimi_decoder() -> nn.Module:
    settings = transformers.MimiConfig(
        hidden_size=16,
        num_filters=4,
        upsampling_ratios=[2],
        num_residual_layers=1,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        sliding_window=6,
        vector_quantization_hidden_dimension=8,
        codebook_size=16,
        codebook_dim=8,
        num_quantizers=4,
        upsample_groups=16,
        use_cache=False,
    )
    network: nn.Module = transformers.MimiModel(settings).decoder
    return network


def gated_delta_net() -> nn.Module:
    """The recurrent layer of Qwen3-Next, which computes the delta rule in chunks of 64 steps."""
    settings = transformers.Qwen3NextConfig(
        hidden_size=16,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=4,
        linear_value_head_dim=4,
        num_hidden_layers=1,
    )
    network: nn.Module = modeling_qwen3_next.Qwen3NextGatedDeltaNet(settings, 0)
    return network


@dataclass(frozen=True)
class Model:
    """A network, its example, and a part of the names of its states; None if it has none."""

    build: Callable[[], nn.Module]
    example: Mapping[str, Spec]
    state: str | None


MODELS = {
    "Mamba": Model(language("Mamba", state_size=4, num_hidden_layers=1), TOKENS, "h0"),
    "FalconMamba": Model(language("FalconMamba", state_size=4, num_hidden_layers=1), TOKENS, "h0"),
    "Mamba-2": Model(
        language(
            "Mamba2",
            state_size=4,
            num_hidden_layers=2,
            num_heads=4,
            head_dim=8,
            chunk_size=8,
            n_groups=1,
        ),
        TOKENS,
        "loop_h0",
    ),
    "Rwkv": Model(
        language("Rwkv", num_hidden_layers=2, attention_hidden_size=16, intermediate_size=24),
        TOKENS,
        "s1_0",
    ),
    "RecurrentGemma": Model(
        language(
            "RecurrentGemma",
            num_hidden_layers=2,
            block_types=["recurrent", "attention"],
            intermediate_size=24,
            num_attention_heads=2,
            lru_width=16,
            attention_window_size=8,
        ),
        TOKENS,
        "window_input_ids",
    ),
    "Mistral with a sliding window": Model(
        language(
            "Mistral",
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=6,
            attn_implementation="eager",
        ),
        TOKENS,
        "window_input_ids",
    ),
    "Mimi's decoder": Model(
        mimi_decoder, {"latents": Spec("float32", "batch", 16, "time")}, "window_latents"
    ),
    "Qwen3-Next's gated DeltaNet": Model(
        gated_delta_net, {"hidden_states": Spec("float32", "batch", "time", 16)}, "h0"
    ),
    "Encodec's decoder": Model(
        encodec_decoder("constant"),
        {"hidden_states": Spec("float32", "batch", 16, "time")},
        "h0",
    ),
    "Encodec's decoder with mirrored steps": Model(
        encodec_decoder("reflect"),
        {"hidden_states": Spec("float32", "batch", 16, "time")},
        "window_hidden_states",
    ),
    "GPT-2": Model(gpt2, TOKENS, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_transformers(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    torch.manual_seed(0)
    net = model.build().float().eval()
    result = export(net, model.example, tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed

    names = [state.input for state in result.contract.states]
    if model.state is None:
        reason = result.contract.streaming.reason
        assert reason == "h.0.attn multiplies steps with one another, as attention does"
        assert dict(result.contract.limits) == {"time": 64}
        return
    assert any(model.state in name for name in names), names
    assert result.contract.streaming.ok
    check_chunks(result.path)
    _check_long_stream(net, stateport.load(result.path))


def _check_long_stream(net: nn.Module, model: stateport.Model) -> None:
    """A long sequence in chunks of all lengths gives what PyTorch gives for it at once.

    Chunks that have to be a multiple of steps are as many times as long, and fewer.
    """
    (x,), (y,) = model.contract.inputs, model.contract.outputs
    axis = x.shape.index("time")
    given = _drawn(x, STEPS)
    with torch.no_grad():
        expected = _first(net(torch.from_numpy(given))).numpy()

    multiple = model.contract.streaming.chunk_multiple
    lengths = [length * multiple for chunks in CHUNKS for length in chunks]
    ends = [end for end in np.cumsum(lengths).tolist() if end < STEPS]
    stream = model.stream()
    answers = [stream(part) for part in np.split(given, ends, axis)]
    along = next(i for i, size in enumerate(y.shape) if "time" in str(size))
    got = np.concatenate(answers, along)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def _drawn(x: stateport.ArraySpec, steps: int) -> Array:
    random = np.random.default_rng(0)
    shape = resolve(x.shape, {"batch": 2, "time": steps})
    if x.dtype == "int64":
        return random.integers(0, 32, shape)
    return random.standard_normal(shape, dtype=np.float32)


def _first(result: Any) -> Tensor:
    """The network's first result, whatever container it is in."""
    tensor = result if isinstance(result, Tensor) else result[0]
    assert isinstance(tensor, Tensor)
    return tensor
