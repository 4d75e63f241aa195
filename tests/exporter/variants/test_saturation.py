"""int8 products are right on processors whose instructions saturate, and on those whose do not.

x86 processors without VNNI multiply unsigned by signed bytes with `vpmaddubsw`, which adds pairs of
products in 16 bits and saturates. That rule is imitated here in NumPy, so that one machine tests
both kinds. Sources: vpmaddubsw in Intel's Intrinsics Guide; onnxruntime's
core/mlas/lib/x86_64/QgemmU8X8KernelAvx2.asm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stateport_exporter.variants.quantized_products import LARGEST_INT8, quantized

Array = NDArray[Any]


def exact_product(values: Array, weights: Array) -> Array:
    """uint8 (m, k) times int8 (k, n), summed in 32 bits, as processors with VNNI do it."""
    product: Array = values.astype(np.int32) @ weights.astype(np.int32)
    return product


def saturating_product(values: Array, weights: Array) -> Array:
    """The same where each pair of products along k is added in 16 bits first."""
    odd = values.shape[1] % 2
    values = np.pad(values.astype(np.int32), [(0, 0), (0, odd)])
    weights = np.pad(weights.astype(np.int32), [(0, odd), (0, 0)])

    products = values[:, :, None] * weights[None]
    pairs = products[:, 0::2] + products[:, 1::2]
    limits = np.iinfo(np.int16)
    sums: Array = np.clip(pairs, limits.min, limits.max).sum(axis=1)
    return sums


def quantized_values(x: Array) -> tuple[Array, float, int]:
    """A float32 array as uint8, its scale and its zero point, as DynamicQuantizeLinear says."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((high - low) / 255)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    values = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
    return values, float(scale), zero


def session(weights: Array, scale: Array) -> onnxruntime.InferenceSession:
    """A file with one `DynamicQuantizeMatMul`, loaded."""
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", weights.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scale, "s")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32 - 1), st.booleans())
def test_no_stored_weight_saturates(rows: int, columns: int, seed: int, extreme: bool) -> None:
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, columns)).astype(np.float32)
    weights, _ = quantized(np.sign(matrix) if extreme else matrix)
    values = random.integers(0, 256, (3, rows)).astype(np.uint8)
    values[0] = 255
    assert np.array_equal(saturating_product(values, weights), exact_product(values, weights))


def test_one_more_would_saturate() -> None:
    values = np.full((1, 2), 255, np.uint8)
    for sign in (1, -1):
        safe = np.full((2, 1), sign * LARGEST_INT8, np.int8)
        assert np.array_equal(saturating_product(values, safe), exact_product(values, safe))
    larger = np.full((2, 1), LARGEST_INT8 + 1, np.int8)
    assert not np.array_equal(saturating_product(values, larger), exact_product(values, larger))


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 65])
@pytest.mark.parametrize("batch", [1, 5, 33])
def test_the_engine_gives_the_exact_product_on_this_processor(rows: int, batch: int) -> None:
    random = np.random.default_rng(rows)
    matrix = np.sign(random.standard_normal((rows, 16))).astype(np.float32)
    x = random.uniform(0.0, 1.0, (batch, rows)).astype(np.float32)
    x[0] = 1.0  # every value is 255, every weight the largest: what saturates the soonest
    weights, scale = quantized(matrix)

    (answer,) = session(weights, scale).run(["y"], {"x": x})

    values, step, zero = quantized_values(x)
    total = exact_product(values, weights) - zero * weights.astype(np.int32).sum(axis=0)
    np.testing.assert_allclose(answer, total * step * scale, rtol=1e-5, atol=1e-5)
