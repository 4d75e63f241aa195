"""Files made of a model's file: quantised ones, and its single step. Without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

import onnx_ir as ir

from stateport import Contract
from stateport.contract import CONTRACT_KEY, PRECISION_KEY
from stateport.files.writing import check_place, written_together
from stateport.model_file.onnx_outline import read
from stateport.model_file.read_contract import read_contract
from stateport.parity.engine_report import EngineReport
from stateport.parity.pair import remarks
from stateport.parity.vectors import Vectors, vectors_path
from stateport.tune import Variant

from .dtypes import KINDS
from .errors import ExportError
from .graph.serialization import save
from .graph.verified_file import write_vectors
from .variants.float16 import port_names, to_float16
from .variants.quantization import QuantizedOperator, product_in, quantize_graph, quantize_linear
from .variants.quantized_products import Product, blockwise
from .variants.single_step import single_step

#: The widths that weights can have.
BITS: Final = (8, 4)


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` wrote, and what became of every operator with weights.

    `report` is what verifying the file said, None where it was not done. `remarks` says where the
    vectors beside the model were not recorded with it.
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
) -> QuantizeResult:
    """Makes a file with weights in 8 or 4 bits of a model's file. The contract stays the same.

    The vectors beside the model are written beside the new file too, so that it can be verified by
    itself; they name both. Its metadata say its precision, by which `verify` chooses the budget.

    Args:
        source: a model file with float32 weights, as `export` writes it.
        path: the file to write.
        bits: 8: int8 weights with a scale for each column; each call quantises the values. 4: a
            scale for each block of 32 weights, and values in float32. Both are right on every
            processor: int8 weights keep within -64 to 64, so that no product saturates.
        check: whether the file is verified on `ort-cpu` before it appears.

    Raises:
        FileError: a file cannot be read or written.
        ContractError: the file has no contract.
        ExportError: nothing in it can be quantised, or it fails verification.
    """
    source, path = Path(source), Path(path)
    if bits not in BITS:
        raise ExportError(f"bits is {bits!r}; 8 or 4 was expected.")
    check_place(path)
    check_place(vectors_path(path))
    if path.exists() and path.samefile(source):
        raise ExportError(f"{path} is the model itself; give the new file another name.")
    file = read(source)
    read_contract(file)
    if PRECISION_KEY in file.metadata:
        raise ExportError(
            f"{source} is in {file.metadata[PRECISION_KEY]} already; quantise the file that "
            "`stateport export` wrote."
        )
    recorded = vectors_path(source)
    if check and not recorded.is_file():
        raise ExportError(
            f"There are no vectors {recorded}, against which the new file would be verified. "
            "Copy them beside the model, or say --no-check."
        )
    model = ir.load(source)
    outcomes = quantize_graph(model, bits)
    if not any(outcome.form for outcome in outcomes):
        raise ExportError(f"{source} has nothing that can be quantised: {_reasons(outcomes)}.")
    model.metadata_props[PRECISION_KEY] = f"int{bits}"
    vectors = Vectors.load(recorded) if recorded.is_file() else None
    report, said = None, () if vectors is None else remarks(source, vectors)
    with written_together(path) as folder:
        save(model, folder / path.name)
        if vectors is not None:
            report = write_vectors(
                folder / path.name,
                vectors,
                name=str(path),
                check=check,
                related=not said,
                refusal=lambda worst: (
                    "The quantised file is too far from PyTorch, so it was not written. "
                    f"{worst} --no-check writes it anyway."
                ),
            )
    return QuantizeResult(path, tuple(outcomes), report, said)


def _reasons(outcomes: Sequence[QuantizedOperator]) -> str:
    reasons = [f"{o.operator} {o.name!r}: {o.reason}" for o in outcomes]
    return "; ".join(reasons) or "it has no recurrent or linear layer with stored weights"


def make_variants(source: Path, folder: Path, *, reduced: bool) -> Iterator[Variant | str]:
    """Writes what else of a model's file `stateport tune` may choose from, into a folder.

    Gives variants, and of those that cannot be made the reason why.

    Args:
        source: a model file.
        folder: where to write.
        reduced: whether variants of reduced precision are wanted too.
    """
    model = read(source)
    if PRECISION_KEY in model.metadata or "time" not in _axes(read_contract(model)):
        yield "the file has no time axis, or its precision is reduced already"
        return

    def stepped(name: str, product: Product | None = None, bits: int = 0) -> Path:
        step = _single_step(source, per_gate=product is None)
        if product is not None:
            quantize_linear(step, product)
            step.metadata_props[PRECISION_KEY] = f"int{bits}"
        return _written(step, folder / f"{name}.onnx")

    def whole(name: str) -> Path:
        network = ir.load(source)
        quantize_graph(network, 8)
        network.metadata_props[PRECISION_KEY] = "int8"
        return _written(network, folder / f"{name}.onnx")

    def half(name: str) -> Path:
        network = ir.load(source)
        # A variant has the model's own contract, so its inputs, outputs and states stay float32.
        to_float16(network, port_names(read_contract(model), KINDS))
        network.metadata_props[PRECISION_KEY] = "float16"
        return _written(network, folder / f"{name}.onnx")

    makers: dict[str, Callable[[str], Variant]] = {
        "plain step": lambda name: Variant(name, step=stepped("step")),
    }
    if reduced:
        makers |= {
            "int8": lambda name: Variant(name, "int8", whole("int8")),
            "int8, plain step": lambda name: Variant(
                name, "int8", whole("int8"), stepped("int8.step", product_in(8), 8)
            ),
            "step in blocks of 8 bits": lambda name: Variant(
                name, "int8", step=stepped("w8", blockwise(8), 8)
            ),
            "step in blocks of 4 bits": lambda name: Variant(
                name, "int4", step=stepped("w4", blockwise(4), 4)
            ),
            "float16": lambda name: Variant(name, "float16", half("half"), engines=("ort-cuda",)),
        }
    for name, make in makers.items():
        try:
            yield make(name)
        except ExportError as error:
            yield f"{name}: {error}"


def _written(model: ir.Model, path: Path) -> Path:
    save(model, path)
    return path


def _single_step(source: Path, *, per_gate: bool) -> ir.Model:
    """The model's single step, with a contract in which time is 1."""
    model = ir.load(source)
    single_step(model, per_gate=per_gate)
    document = json.loads(model.metadata_props[CONTRACT_KEY])
    for kind in ("inputs", "outputs", "states"):
        for spec in document[kind]:
            spec["shape"] = [1 if axis == "time" else axis for axis in spec["shape"]]
    model.metadata_props[CONTRACT_KEY] = json.dumps(document)
    return model


def _axes(contract: Contract) -> set[object]:
    return {axis for spec in contract.inputs for axis in spec.shape}
