"""Each form of quantised weights beside float32: its error and its speed on this processor.

`make bench-quantization` rewrites the table of this kind of processor in docs/performance.md, and
leaves that of the other kind alone. All forms of one network take turns on one pinned core.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

import click
import numpy as np
import onnx_ir as ir
from rich.console import Console

import stateport
from models.lstm import reference
from models.sentiment import trained as sentiment
from models.text_generator import trained as text_generator
from stateport.bench.timing import Ratio, measure, ratio
from stateport.bench.workload import Workload, step_call
from stateport.parity.bounds import SignalToNoise
from stateport.parity.engine_report import measure_model
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import export, quantize
from stateport_exporter.variants import quantized_products
from tests.exporter.stacks import KINDS, exported

from .marks import replace_of_processor
from .networks import NETWORKS
from .processor import DOCS, kind_of_processor, processor

PAGE: Final = DOCS / "performance.md"
FLOAT32: Final = "float32"
STREAMS: Final = (1, 64)
#: A budget that every form keeps: here the error is measured, not judged.
_ANY: Final = SignalToNoise(1e-3)
_REFERENCES: Final[Mapping[str, Callable[[], Any]]] = {
    "reference LSTM": reference,
    "sentiment": sentiment,
    "text generator": text_generator,
}


@dataclass(frozen=True)
class Row:
    """One network in one form.

    Attributes:
        network: its name.
        form: how its weights are stored.
        snr: decibels of the truth above the error, in the worst window of all recorded cases.
        ratios: the time of a step as a share of float32's, by the number of streams.
    """

    network: str
    form: str
    snr: float
    ratios: Mapping[int, Ratio]


def as_written(source: Path, target: Path) -> None:
    """int8 weights of 7 bits, as `stateport quantize` writes them."""
    quantize(source, target, check=False)


def signed_8_bits(source: Path, target: Path) -> None:
    """int8 weights of 8 bits, whose products saturate on processors without VNNI."""
    with mock.patch.object(quantized_products, "LARGEST_INT8", 127):
        quantize(source, target, check=False)


def unsigned_8_bits(source: Path, target: Path) -> None:
    """uint8 weights of 8 bits around 128: exact everywhere, by a slower kernel."""
    signed_8_bits(source, target)
    model = ir.load(target)
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            if node.op_type in ("DynamicQuantizeLSTM", "DynamicQuantizeMatMul"):
                _make_unsigned(node, model.graph)
    ir.save(model, target)


def blocks_of_4_bits(source: Path, target: Path) -> None:
    """4-bit weights with a scale for each block of 32, as `stateport quantize --bits 4` writes."""
    quantize(source, target, bits=4, check=False)


FORMS: Final[Mapping[str, Callable[[Path, Path], None]]] = {
    "int8, 7 bits (`quantize`)": as_written,
    "int8, 8 bits": signed_8_bits,
    "uint8, 8 bits": unsigned_8_bits,
    "blocks of 4 bits (`quantize --bits 4`)": blocks_of_4_bits,
}


def _make_unsigned(node: ir.Node, graph: ir.Graph) -> None:
    # (weights, zero point) by position in each operator's inputs.
    is_lstm = node.op_type == "DynamicQuantizeLSTM"
    for weights, zero_point in ((1, 9), (2, 11)) if is_lstm else ((1, 3),):
        value = node.inputs[weights]
        assert value is not None
        assert value.const_value is not None
        shifted = (value.const_value.numpy().astype(np.int16) + 128).astype(np.uint8)
        columns = (shifted.shape[0], shifted.shape[-1]) if is_lstm else (shifted.shape[-1],)

        for position, array, name in (
            (weights, shifted, f"{value.name}.unsigned"),
            (zero_point, np.full(columns, 128, np.uint8), f"{value.name}.zero128"),
        ):
            stored = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            graph.register_initializer(stored)
            if position >= len(node.inputs):  # optional inputs at the end may be left out
                node.resize_inputs(position + 1)
            node.replace_input_with(position, stored)


def measured(name: str, source: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """All forms of one network, whose speed is measured in turns with float32."""
    vectors = Vectors.load(vectors_path(source))
    models = {FLOAT32: stateport.load(source)}
    for form, write in FORMS.items():
        target = folder / f"{source.stem}.{len(models)}.onnx"
        write(source, target)
        models[form] = stateport.load(target)

    times = {}
    for streams in STREAMS:
        calls = {form: step_call(model, Workload(streams, 1)) for form, model in models.items()}
        times[streams] = measure(calls, rounds=rounds)

    for form in FORMS:
        report = measure_model(models[form], vectors, wanted=_ANY)
        snr = min(m.snr for m in report.measurements if m.snr is not None)
        ratios = {n: ratio(taken[form], taken[FLOAT32]) for n, taken in times.items()}
        yield Row(name, form, snr, ratios)


def networks(folder: Path) -> Iterator[tuple[str, Path]]:
    """The reference networks, each kind of layer, and the sizes that `make bench` measures."""
    for name, build in _REFERENCES.items():
        module = build()
        path = folder / f"{name.replace(' ', '-')}.onnx"
        yield name, export(module, module.example_inputs, path).path
    for number, kind in enumerate(KINDS):
        yield kind, exported(kind, folder / f"kind-{number}.onnx")
    for network in NETWORKS[1:4]:
        yield f"LSTM {network}", network.path


def table(rows: list[Row]) -> Iterator[str]:
    """The rows in Markdown."""
    yield "| network | weights | dB | 1 stream, of float32's time | 64 streams |"
    yield "| --- | --- | --- | --- | --- |"
    for row in rows:
        ratios = " | ".join(
            f"{r.median:.2f} ({r.low:.2f} to {r.high:.2f})" for r in row.ratios.values()
        )
        yield f"| {row.network} | {row.form} | {row.snr:.1f} | {ratios} |"


@click.command()
@click.option("--rounds", default=20, show_default=True, help="Turns of each form.")
@click.option("--page", default=PAGE, type=click.Path(path_type=Path), help="The page to rewrite.")
def main(rounds: int, page: Path) -> None:
    """Measures every form of every network and rewrites this processor's table."""
    rows: list[Row] = []
    screen = Console(stderr=True)
    with tempfile.TemporaryDirectory() as place:
        sources = list(networks(Path(place)))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for name, source in sources:
            screen.print(name, highlight=False)
            rows += measured(name, source, Path(place), rounds)
    lines = [f"{processor()}.", "", *table(rows)]
    replace_of_processor(page, "quantization", kind_of_processor(), lines)


if __name__ == "__main__":
    main()
