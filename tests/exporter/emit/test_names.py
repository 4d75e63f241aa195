"""Names in C."""

from __future__ import annotations

import pytest

from stateport_exporter.emit.names import identifier


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h0", "h0"),
        ("encoder.lstm/h0", "encoder_lstm_h0"),
        ("1st", "n1st"),
        ("", "value"),
        ("für", "f_r"),
        ("float", "float_"),
        ("state", "state_"),
        ("i", "i_"),
        ("NULL", "NULL_"),
        ("INFINITY", "INFINITY_"),
        ("int8_t", "int8_t_"),
        ("next_h", "next_h_"),
        ("product_1_2_3", "product_1_2_3_"),
        ("node0_x", "node0_x_"),
        ("x" * 100, "x" * 48),
    ],
)
def test_a_name_is_like_the_one_in_the_graph(name: str, expected: str) -> None:
    assert identifier(name, set()) == expected


def test_no_two_are_the_same_and_case_does_not_count() -> None:
    taken: set[str] = set()
    assert [identifier(name, taken) for name in ("x", "X", "x", "a.b", "a/b")] == [
        "x",
        "X_2",
        "x_3",
        "a_b",
        "a_b_2",
    ]
