# SPDX-License-Identifier: Apache-2.0
"""Files made of a model's file: quantised ones, and its single step. Without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

import onnx_ir as ir

from stateport.axes import with_known_sizes
from stateport.contract import CONTRACT_KEY, PRECISION_KEY, has_time
from stateport.model_file.onnx_outline import read
from stateport.model_file.read_contract import read_contract
from stateport.parity.engine_report import EngineReport
from stateport.parity.pair import remarks
from stateport.parity.vectors import Vectors, vectors_path
from stateport.tune import Variant

from .dtypes import KINDS
from .errors import CheckError, ExportError
from .graph.serialization import save
from .graph.verified_file import check_paths, write_verified
from .variants.float16 import port_names, to_float16
from .variants.native_operators import ENGINES as NATIVE_ENGINES
from .variants.native_operators import native_operators
from .variants.quantization import QuantizedOperator, product_in, quantize_graph, quantize_linear
from .variants.quantized_products import Product, blockwise
from .variants.single_step import single_step

#: The widths that weights can have.
BITS: Final = (8, 4)


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` wrote, and what became of every operator with weights.

    `report` is the result of verifying the file, None where it was not verified. `remarks` says so
    if the vectors beside the model were not recorded with it.
    """

    path: Path
    outcomes: tuple[QuantizedOperator, ...]
    report: EngineReport | None
    remarks: tuple[str, ...] = ()


def quantize(
    source: str | PathLike[str],
    path: str | PathLike[str],
    *,
    bits: int = 8,
    check: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> QuantizeResult:
    """Writes a model's file again, with weights in 8 or 4 bits. The contract stays the same.

    The vectors beside the model are written beside the new file too, so that it can be verified by
    itself; they name both files. The new file's metadata hold its precision, by which `verify`
    chooses the budget.

    Args:
        source: a model file with float32 weights, as `export` writes it.
        path: the file to write.
        bits: 8: int8 weights with a scale for each column; each call quantises the values. 4: a
            scale for each block of 32 weights, and values in float32. Both are right on every
            processor: int8 weights keep within -64 to 64, so that no product saturates.
        check: whether the file is verified on `ort-cpu` before it appears, where ONNX Runtime is
            installed. A file that is too far from the recorded answers is then not written.
        progress: is called with a text before each part of the work: "part" or "part: detail".

    Raises:
        FileError: a file cannot be read or written.
        ContractError: the file has no contract.
        ExportError: nothing in it can be quantised, it has no vectors, or it fails verification.
    """
    source, path = Path(source), Path(path)
    if bits not in BITS:
        raise ExportError(f"bits is {bits!r}; 8 or 4 was expected.")
    check_paths(path, source)
    _check_is_exported(source)

    recorded = vectors_path(source)
    has_vectors = recorded.is_file()
    if check and not has_vectors:
        raise CheckError(
            f"There are no vectors {recorded} to verify the new file against. Copy them beside the "
            "model, or write the file without verifying it: check=False."
        )

    progress("quantising")
    model = ir.load(source)
    outcomes = quantize_graph(model, bits)
    if not any(outcome.form for outcome in outcomes):
        raise ExportError(f"{source} has nothing that can be quantised: {_reasons(outcomes)}.")
    model.metadata_props[PRECISION_KEY] = f"int{bits}"

    vectors = Vectors.load(recorded) if has_vectors else None
    notes = () if vectors is None else remarks(source, vectors)
    report = write_verified(
        model,
        path,
        lambda _: vectors,
        check=check,
        fault="The quantised file is too far from the recorded answers",
        advice="To write it anyway, pass check=False.",
        related=not notes,
        progress=progress,
    )
    return QuantizeResult(path, tuple(outcomes), report, notes)


def make_variants(source: Path, folder: Path, *, reduced: bool) -> Iterator[Variant | str]:
    """Writes the other forms of a model that `stateport tune` may choose from, into a folder.

    Gives a variant for each form, or in words the reason why it cannot be made.

    Args:
        source: a model file.
        folder: where to write.
        reduced: whether variants of reduced precision are made too.
    """
    outline = read(source)
    if PRECISION_KEY in outline.metadata or not has_time(read_contract(outline)):
        yield "the file has no time axis, or its precision is reduced already"
        return

    forms = _Forms(source, folder)
    makers = forms.float32() | (forms.reduced() if reduced else {})
    for name, make in makers.items():
        try:
            yield make(name)
        except ExportError as error:
            yield f"{name}: {error}"


@dataclass(frozen=True)
class _Forms:
    """Functions that write one form of a model each, by the form's name."""

    source: Path
    folder: Path

    def float32(self) -> dict[str, Callable[[str], Variant]]:
        """The forms that compute in float32."""
        forms = {"plain step": lambda name: Variant(name, step=self._write_step("step"))}
        if "Scan" in read(self.source).operators:
            forms["native operators"] = lambda name: Variant(
                name, whole=self._write_native(), engines=NATIVE_ENGINES
            )
        return forms

    def reduced(self) -> dict[str, Callable[[str], Variant]]:
        """The forms of reduced precision."""
        return {
            "int8": lambda name: Variant(name, "int8", self._write_int8()),
            "int8, plain step": lambda name: Variant(
                name, "int8", self._write_int8(), self._write_step("int8.step", product_in(8), 8)
            ),
            "step in blocks of 8 bits": lambda name: Variant(
                name, "int8", step=self._write_step("w8", blockwise(8), 8)
            ),
            "step in blocks of 4 bits": lambda name: Variant(
                name, "int4", step=self._write_step("w4", blockwise(4), 4)
            ),
            "float16": lambda name: Variant(
                name, "float16", self._write_float16(), engines=("ort-cuda",)
            ),
        }

    def _write_step(self, name: str, product: Product | None = None, bits: int = 0) -> Path:
        """Writes the single step: in float32, or with quantised products."""
        step = _single_step(self.source, per_gate=product is None)
        if product is not None:
            quantize_linear(step, product)
            step.metadata_props[PRECISION_KEY] = f"int{bits}"
        return self._write(step, name)

    def _write_int8(self) -> Path:
        network = ir.load(self.source)
        quantize_graph(network, 8)
        network.metadata_props[PRECISION_KEY] = "int8"
        return self._write(network, "int8")

    def _write_native(self) -> Path:
        network = ir.load(self.source)
        native_operators(network)
        return self._write(network, "native")

    def _write_float16(self) -> Path:
        network = ir.load(self.source)
        # A variant has the model's own contract, so its inputs, outputs and states stay float32.
        to_float16(network, port_names(read_contract(read(self.source)), KINDS))
        network.metadata_props[PRECISION_KEY] = "float16"
        return self._write(network, "half")

    def _write(self, model: ir.Model, name: str) -> Path:
        path = self.folder / f"{name}.onnx"
        save(model, path)
        return path


def _check_is_exported(source: Path) -> None:
    """Checks that a file has a contract, and weights in float32."""
    outline = read(source)
    read_contract(outline)

    precision = outline.metadata.get(PRECISION_KEY)
    if precision is not None:
        raise ExportError(
            f"{source} is in {precision} already; a file in float32 was expected. Quantise the "
            "file that it was made from."
        )


def _reasons(outcomes: Sequence[QuantizedOperator]) -> str:
    """Why no operator was quantised."""
    if not outcomes:
        return "it has no recurrent or linear layer with stored weights"
    return "; ".join(f"{each.operator} {each.name!r}: {each.reason}" for each in outcomes)


def _single_step(source: Path, *, per_gate: bool) -> ir.Model:
    """The model's single step, with a contract in which time is 1."""
    model = ir.load(source)
    single_step(model, per_gate=per_gate)

    document = json.loads(model.metadata_props[CONTRACT_KEY])
    for kind in ("inputs", "outputs", "states"):
        for spec in document[kind]:
            spec["shape"] = with_known_sizes(spec["shape"], {"time": 1})
    model.metadata_props[CONTRACT_KEY] = json.dumps(document)
    return model
