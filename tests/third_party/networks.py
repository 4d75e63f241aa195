"""Networks of other people's packages, built through their public names and left as they are."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport.contract import resolve
from stateport_exporter import Spec
from stateport_exporter.network.example import ExampleLike

Shape = tuple[int | str, ...]


def sequence(*features: int) -> Spec:
    return Spec("float32", "batch", "time", *features)


def step(*features: int) -> Spec:
    return Spec("float32", "batch", *features)


def state(layers: int, size: int) -> Spec:
    return Spec("float32", layers, "batch", size)


def first(result: Any) -> Tensor:
    """What a network gives besides its state: the first of its results."""
    y = result[0] if isinstance(result, tuple) else result
    assert isinstance(y, Tensor)
    return y


def whole(net: nn.Module, x: Tensor) -> Tensor:
    """The package's own answer to a sequence, all at once."""
    return first(net(x))


def stepped(net: nn.Module, xs: Tensor) -> Tensor:
    """The package's own answers to one step after the other: it keeps the state itself."""
    return torch.stack([first(net(x)) for x in xs])


def fed_back(*states: Shape) -> Callable[[nn.Module, Tensor], Tensor]:
    """The same where forward takes states of these shapes behind x, and returns the next ones."""

    def run(net: nn.Module, xs: Tensor) -> Tensor:
        kept = [torch.zeros(resolve(shape, {"batch": xs.shape[1]})) for shape in states]
        ys = []
        for x in xs:
            y, *kept = net(x, *kept)
            ys.append(y)
        return torch.stack(ys)

    return run


def from_zeros(count: int) -> Callable[[nn.Module, Tensor], Tensor]:
    """The package's own answer to (time, batch, ...), where forward takes first states.

    There are `count` of shape (1, batch, 16): one alone, or several in a tuple.
    """

    def run(net: nn.Module, xs: Tensor) -> Tensor:
        zeros = torch.zeros(1, xs.shape[1], 16)
        return first(net(xs, zeros if count == 1 else (zeros,) * count))

    return run


@dataclass(frozen=True)
class Network:
    """One network, what its file has to promise, and how the package itself answers.

    `own` takes the network and x, of (batch, time, ...) as the file takes it, or (time, batch, ...)
    where the network takes single steps. `states` are the shapes of the states by their inputs'
    names.
    """

    build: Callable[[], nn.Module]
    example: ExampleLike
    states: Mapping[str, Shape]
    own: Callable[[nn.Module, Tensor], Tensor] = whole
    streams: bool = True


def resemblyzer_encoder() -> Any:
    """The network that tells speakers apart, with weights from resemblyzer's own wheel."""
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def medaka_consensus() -> nn.Module:
    """The network that corrects sequences of DNA, with weights from medaka's own wheel."""
    from medaka.architectures.gru import GRUModel

    spec = importlib.util.find_spec("medaka")
    assert spec is not None
    assert spec.origin is not None
    name = "r1041_e82_400bps_sup_variant_v5.0.0_model_pt.tar.gz"
    with tarfile.open(Path(spec.origin).parent / "data" / name) as archive:
        stored = archive.extractfile("model/weights.pt")
        assert stored is not None
        weights = torch.load(io.BytesIO(stored.read()), map_location="cpu", weights_only=True)
    net: nn.Module = GRUModel()
    net.load_state_dict(weights)
    return net


def rsl_rl_policy(kind: str) -> Any:
    """A policy for robots, in the form that rsl-rl itself hands to PyTorch's exporter."""
    from rsl_rl.models import RNNModel
    from tensordict import TensorDict

    observed = TensorDict({"policy": torch.zeros(2, 6)}, batch_size=[2])
    groups = {"actor": ["policy"]}
    model = RNNModel(observed, groups, "actor", 3, [32], rnn_type=kind, rnn_hidden_dim=16)
    return model.as_onnx()


def rsl_rl_memory() -> Any:
    """A GRU that keeps its state in an attribute."""
    from rsl_rl.modules import RNN

    return RNN(6, 16, 2, "gru")


def tianshou_policy() -> Any:
    """Returns its state in a Batch, which PyTorch knows how to open."""
    from tianshou.data import Batch
    from tianshou.utils.net.common import Recurrent

    if Batch not in pytree.SUPPORTED_NODES:
        pytree.register_pytree_node(
            Batch,
            lambda batch: (list(batch.values()), list(batch.keys())),
            lambda values, keys: Batch(dict(zip(keys, values, strict=True))),
            flatten_with_keys_fn=lambda batch: (
                [(pytree.MappingKey(key), value) for key, value in batch.items()],
                list(batch.keys()),
            ),
        )
    return Recurrent(layer_num=2, state_shape=4, action_shape=3, hidden_layer_size=16)


def tianshou_steps(net: nn.Module, xs: Tensor) -> Tensor:
    ys, kept = [], None
    for x in xs:
        y, kept = net(x, kept)
        ys.append(y)
    return torch.stack(ys)


def torchrl_cell() -> Any:
    from torchrl.modules.tensordict_module.rnn import LSTMCell

    return LSTMCell(5, 8)


def torchrl_steps(net: nn.Module, xs: Tensor) -> Tensor:
    kept, ys = (torch.zeros(xs.shape[1], 8), torch.zeros(xs.shape[1], 8)), []
    for x in xs:
        kept = net(x, kept)
        ys.append(kept[0])
    return torch.stack(ys)


def asteroid(name: str, *sizes: int, **options: int) -> Any:
    from asteroid.masknn import recurrent

    return getattr(recurrent, name)("LSTM", *sizes, **options)


def denoiser_lstm() -> Any:
    """The recurrent part of a network that takes noise out of speech."""
    from denoiser.demucs import BLSTM

    return BLSTM(8, 2, bi=False)


def causal_convolutions() -> Any:
    from pytorch_tcn import TCN

    return TCN(4, [6, 6], kernel_size=3, dilations=[1, 2], dropout=0.0, input_shape="NLC")


def encodec_lstm() -> Any:
    from transformers import EncodecConfig
    from transformers.models.encodec.modeling_encodec import EncodecLSTM

    return EncodecLSTM(EncodecConfig(), 16)


def parakeet_decoder() -> Any:
    """The prediction network of a speech recogniser."""
    from transformers import ParakeetRNNTConfig
    from transformers.models.parakeet.modeling_parakeet import ParakeetRNNTDecoder

    return ParakeetRNNTDecoder(ParakeetRNNTConfig(decoder_hidden_size=16, vocab_size=32))


def ncps_network(name: str, **options: bool) -> Any:
    """A closed-form continuous-time network, which loops over time in Python."""
    import ncps.torch

    return getattr(ncps.torch, name)(5, 8, **options)


def ncps_cell() -> Any:
    from ncps.torch import LTCCell
    from ncps.wirings import AutoNCP

    wiring = AutoNCP(12, 4)
    wiring.build(5)
    return LTCCell(wiring)


def snntorch_neuron(name: str, *arguments: float, **options: float) -> Any:
    import snntorch

    return getattr(snntorch, name)(*arguments, **options)


def mamba(*, parallel: bool) -> Any:
    """A selective state space, by a parallel scan or as a loop over time."""
    from mambapy.mamba import Mamba, MambaConfig

    return Mamba(MambaConfig(d_model=8, n_layers=1, d_state=4, pscan=parallel))


def min_gru() -> Any:
    """Computes its state by a cumulative sum of logarithms."""
    from minGRU_pytorch import minGRU

    return minGRU(8)


def min_lstm() -> Any:
    from minGRU_pytorch.minLSTM import minLSTM

    return minLSTM(8)


def conformer_convolution() -> Any:
    from conformer import ConformerConvModule

    return ConformerConvModule(8, causal=True, expansion_factor=2, kernel_size=5)


def recurrent_with_dones(kind: str) -> Any:
    """The recurrent layer of a policy, whose state rl_games carries itself."""
    from rl_games.common.layers import recurrent

    return getattr(recurrent, kind)(8, 16)


def linear_recurrent_unit() -> Any:
    from LRU_pytorch import LRU

    return LRU(8, 8, 16)


def slstm_layer() -> Any:
    """A layer of xLSTM, with its cell in PyTorch alone."""
    from xlstm import sLSTMLayer, sLSTMLayerConfig

    configuration = sLSTMLayerConfig(
        embedding_dim=16, num_heads=2, conv1d_kernel_size=4, backend="vanilla"
    )
    return sLSTMLayer(configuration)


def mlstm_layer() -> Any:
    """A layer of xLSTM that takes up to 64 steps, as attention does."""
    from xlstm import mLSTMLayer, mLSTMLayerConfig

    return mLSTMLayer(
        mLSTMLayerConfig(embedding_dim=16, num_heads=2, conv1d_kernel_size=4, context_length=64)
    )


#: A sum of exponentials is carried with its largest exponent; a call's first step stands alone.
LOG_SPACE_STATES: Mapping[str, Shape] = {
    "window_x": ("batch", 1, 8),
    "window_steps": ("batch",),
    "loop_h0": ("batch", 8),
    "loop_2_h0": ("batch", 8),
}

#: By what they are called in the tests.
NETWORKS = {
    "resemblyzer VoiceEncoder": Network(
        resemblyzer_encoder,
        sequence(40),
        {"h0": (3, "batch", 256), "c0": (3, "batch", 256)},
    ),
    "medaka GRUModel": Network(
        medaka_consensus, sequence(10), {"h0": (4, "batch", 128)}, streams=False
    ),
    "rsl-rl LSTM policy": Network(
        lambda: rsl_rl_policy("lstm"),
        (step(6), state(1, 16), state(1, 16)),
        {"h_in": (1, "batch", 16), "c_in": (1, "batch", 16)},
        fed_back((1, "batch", 16), (1, "batch", 16)),
    ),
    "rsl-rl GRU policy": Network(
        lambda: rsl_rl_policy("gru"),
        (step(6), state(1, 16)),
        {"h_in": (1, "batch", 16)},
        fed_back((1, "batch", 16)),
    ),
    "rsl-rl RNN": Network(rsl_rl_memory, step(6), {"h0": (2, "batch", 16)}, stepped),
    "tianshou Recurrent": Network(
        tianshou_policy,
        (step(4), {"hidden": step(2, 16), "cell": step(2, 16)}),
        {"h0": ("batch", 2, 16), "c0": ("batch", 2, 16)},
        tianshou_steps,
    ),
    "torchrl LSTMCell": Network(
        torchrl_cell,
        (step(5), (step(8), step(8))),
        {"hx_0": ("batch", 8), "hx_1": ("batch", 8)},
        torchrl_steps,
    ),
    "ncps CfC": Network(lambda: ncps_network("CfC"), sequence(5), {"h0": ("batch", 8)}),
    "ncps CfC with an LSTM's memory": Network(
        lambda: ncps_network("CfC", mixed_memory=True),
        sequence(5),
        {"s1_0": ("batch", 8), "s2_0": ("batch", 8)},
    ),
    "ncps LTCCell": Network(
        ncps_cell, (step(5), step(12)), {"states": ("batch", 12)}, fed_back(("batch", 12))
    ),
    "snntorch Leaky": Network(
        lambda: snntorch_neuron("Leaky", 0.9),
        (step(5), step(5)),
        {"mem": ("batch", 5)},
        fed_back(("batch", 5)),
    ),
    "snntorch SLSTM": Network(
        lambda: snntorch_neuron("SLSTM", 5, 5, threshold=0.1),
        (step(5), step(5), step(5)),
        {"syn": ("batch", 5), "mem": ("batch", 5)},
        fed_back(("batch", 5), ("batch", 5)),
    ),
    "asteroid StackedResidualRNN": Network(
        lambda: asteroid("StackedResidualRNN", 8, n_layers=2),
        sequence(8),
        {f"layers_{i}_rnn_{s}0": (1, "batch", 8) for i in range(2) for s in "hc"},
    ),
    "asteroid MulCatRNN": Network(
        lambda: asteroid("MulCatRNN", 5, 8),
        sequence(5),
        {f"rnn{i}_{s}0": (1, "batch", 8) for i in (1, 2) for s in "hc"},
    ),
    "denoiser BLSTM": Network(
        denoiser_lstm,
        Spec("float32", "time", "batch", 8),
        {"h0": (2, "batch", 8), "c0": (2, "batch", 8)},
    ),
    "pytorch-tcn TCN": Network(
        causal_convolutions,
        sequence(4),
        {
            "network_0_conv1_padder_pad_frames": ("batch", 4, 2),
            "network_0_conv2_padder_pad_frames": ("batch", 6, 2),
            "network_1_conv1_padder_pad_frames": ("batch", 6, 4),
            "network_1_conv2_padder_pad_frames": ("batch", 6, 4),
        },
    ),
    "transformers EncodecLSTM": Network(
        encodec_lstm,
        Spec("float32", "batch", 16, "time"),
        {"h0": (2, "batch", 16), "c0": (2, "batch", 16)},
    ),
    "mambapy Mamba as a loop": Network(
        lambda: mamba(parallel=False),
        sequence(8),
        {"h0": ("batch", 16, 4), "frames": ("batch", 16, 3)},
    ),
    "minGRU": Network(min_gru, sequence(8), LOG_SPACE_STATES),
    "minLSTM": Network(min_lstm, sequence(8), LOG_SPACE_STATES),
    "conformer ConformerConvModule": Network(
        conformer_convolution, sequence(8), {"net_4_frames": ("batch", 16, 4)}
    ),
    "rl_games LSTMWithDones": Network(
        lambda: recurrent_with_dones("LSTMWithDones"),
        {
            "input": Spec("float32", "time", "batch", 8),
            "states": (state(1, 16), state(1, 16)),
        },
        {"h0": (1, "batch", 16), "c0": (1, "batch", 16)},
        from_zeros(2),
    ),
    "rl_games GRUWithDones": Network(
        lambda: recurrent_with_dones("GRUWithDones"),
        {"input": Spec("float32", "time", "batch", 8), "states": state(1, 16)},
        {"states": (1, "batch", 16)},
        from_zeros(1),
    ),
    "xlstm mLSTMLayer": Network(mlstm_layer, sequence(16), {}, streams=False),
    "transformers ParakeetRNNTDecoder": Network(
        parakeet_decoder,
        Spec("int64", "batch", "time", high=31),
        {"h0": (2, "batch", 16), "c0": (2, "batch", 16)},
    ),
}

#: Networks that are refused: how they are built, their examples, and the reason.
REFUSED: Mapping[str, tuple[Callable[[], nn.Module], ExampleLike, str]] = {
    "mambapy Mamba by a parallel scan": (
        lambda: mamba(parallel=True),
        sequence(8),
        "takes another way at another number of time steps.*no loop over single steps",
    ),
    # The cell chooses by `if torch.all(n == 0.0)`.
    "xlstm sLSTMLayer": (
        slstm_layer,
        sequence(16),
        r"takes numbers out of a tensor \(slstm\.py:\d+, 'if torch\.all",
    ),
    "LRU-pytorch LRU": (
        linear_recurrent_unit,
        sequence(8),
        "cannot take any size of the axis 'batch'.*A Python loop over that axis",
    ),
}
