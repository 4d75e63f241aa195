"""Python says what the table says; `javascript/tests/messages.test.ts` checks the other side."""

from __future__ import annotations

import json

from tests.javascript.messages import TABLE, table


def test_the_table_is_what_python_says() -> None:
    written = TABLE.read_text(encoding="utf-8")
    assert written == table(), "run python -m tests.javascript.messages"


def test_thirty_wrong_inputs_are_in_the_table() -> None:
    document = json.loads(table())
    assert len(document["calls"]) >= 30
    same = [case for case in document["calls"] if "javascript" not in case]
    assert len(same) >= 30
