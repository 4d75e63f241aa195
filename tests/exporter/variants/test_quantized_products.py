"""Products in 8 and 4 bits: what is stored is what NumPy says, and the engine agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateport_exporter.variants.quantized_products import BLOCK, LARGEST_INT8, packed, quantized

sizes = st.integers(1, 70)


@given(sizes, sizes, st.integers(0, 2**32 - 1))
def test_int8_is_within_half_a_step_of_each_columns_scale(
    rows: int, columns: int, seed: int
) -> None:
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    weights, scale = quantized(matrix)
    assert weights.dtype == np.int8
    assert weights.shape == matrix.shape
    assert scale.shape == (columns,)
    assert np.abs(weights.astype(int)).max() == LARGEST_INT8
    assert np.all(np.abs(weights * scale - matrix) <= scale / 2 * 1.0001)


@given(sizes, sizes, st.integers(0, 2**32 - 1), st.sampled_from([8, 4]))
def test_blocks_are_within_half_a_step_of_their_scale(
    rows: int, columns: int, seed: int, bits: int
) -> None:
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    stored, scale = packed(matrix, bits)
    blocks = -(-rows // BLOCK)
    assert stored.shape == (columns, blocks, BLOCK * bits // 8)
    numbers = stored.astype(int)
    if bits == 4:
        numbers = np.stack([numbers & 15, numbers >> 4], axis=-1).reshape(columns, blocks, BLOCK)
    scales = scale.reshape(columns, blocks, 1)
    back = ((numbers - 2 ** (bits - 1)) * scales).reshape(columns, -1)[:, :rows].T
    bound = np.repeat(scales[..., 0], BLOCK, axis=1)[:, :rows].T / 2
    assert np.all(np.abs(back - matrix) <= bound * 1.0001)


@pytest.mark.parametrize("bits", [8, 4])
def test_columns_of_zeros_stay_zero(bits: int) -> None:
    zeros = np.zeros((5, 3), np.float32)
    assert not quantized(zeros)[0].any()
    stored, scale = packed(zeros, bits)
    assert np.isfinite(scale).all()
    middle = 128 if bits == 8 else 0x88
    assert (stored == middle).all()
