"""PyTorch: eager, compiled, scripted and frozen, in bfloat16 and in int8; and on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..contender import Array, Contender
from ..loads import Load
from ..networks import Network


def contenders(network: Network, load: Load, threads: int) -> Iterator[Contender]:
    """On the CPU."""
    torch.set_num_threads(threads)
    module = network.module()
    for name, made in (
        ("eager", module),
        ("torch.compile", torch.compile(module, dynamic=False)),
        ("frozen torch.jit", torch.jit.freeze(torch.jit.script(module))),
    ):
        yield _contender(made, network, load, name)
    bf16 = copy.deepcopy(module).bfloat16()
    yield _contender(bf16, network, load, "bfloat16", torch.bfloat16)
    int8 = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
        module, {nn.LSTM}, dtype=torch.qint8
    )
    yield _contender(int8, network, load, "dynamic int8", precision="int8")


def on_cuda(network: Network, load: Load) -> Iterator[Contender]:
    """On a GPU, with cuDNN: eager, and captured as a CUDA graph."""
    if not torch.cuda.is_available() or load.among is not None:
        return
    module = network.module().cuda()
    yield _contender(module, network, load, "eager", device="cuda")
    yield _captured(module, network, load)


def _contender(
    module: Callable[..., Any],
    network: Network,
    load: Load,
    name: str,
    dtype: torch.dtype = torch.float32,
    *,
    precision: str | None = None,
    device: str = "cpu",
) -> Contender:
    """Chunks are tensors of its dtype already, and so are its answers."""
    shape = network.state_shape(load.among or load.streams)
    state = [torch.zeros(shape, dtype=dtype, device=device) for _ in "hc"]
    chosen = torch.from_numpy(load.chosen())

    @torch.inference_mode()
    def step(x: Tensor) -> Tensor:
        x = x.to(device)
        y, *state[:] = module(x, *state)
        return y.cpu()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def step_some(x: Tensor) -> Tensor:
        y, *after = module(x, *(part.index_select(1, chosen) for part in state))
        for part, new in zip(state, after, strict=True):
            part.index_copy_(1, chosen, new)
        return y  # type: ignore[no-any-return]

    return Contender(
        "PyTorch",
        f"PyTorch {name}",
        step if load.among is None else step_some,
        precision or str(dtype).removeprefix("torch."),
        native=lambda x: torch.from_numpy(x).to(dtype),
        array=_array,
    )


def _captured(module: nn.Module, network: Network, load: Load) -> Contender:
    """A graph for each of two halves of a ping-pong: what a replay reads, it does not write."""
    halves = [
        [torch.zeros(network.state_shape(load.streams), device="cuda") for _ in "hc"] for _ in "ab"
    ]
    x = torch.zeros((load.streams, load.time, network.input_size), device="cuda")
    graphs: list[tuple[Any, Tensor]] = []
    with torch.inference_mode():
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm up, as PyTorch's documentation asks
            for _ in range(3):
                module(x, *halves[0])
        torch.cuda.current_stream().wait_stream(side)
        for before, after in (halves, halves[::-1]):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y, *nexts = module(x, *before)
                for part, new in zip(after, nexts, strict=True):
                    part.copy_(new)
            graphs.append((graph, y))
    for half in halves:
        for part in half:
            part.zero_()
    turn = [0]

    @torch.inference_mode()
    def step(chunk: Tensor) -> Tensor:
        x.copy_(chunk)
        graph, y = graphs[turn[0]]
        graph.replay()
        turn[0] = 1 - turn[0]
        return y.cpu()

    return Contender("PyTorch", "PyTorch CUDA graphs", step, native=torch.from_numpy, array=_array)


def _array(y: Tensor) -> Array:
    return y.float().numpy()
