# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: read from a file, compared, and asked for on every transport."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from stateport.errors import FileError
from stateport.serve import Application, ServeError, Status
from stateport.serve.tokens import Tokens
from tests.runtime.serve.asking import chunk, document, in_process

TOKEN = "0123456789abcdef"  # noqa: S105  # of a test
OTHER = "fedcba9876543210"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\n\nalice {TOKEN}\n{OTHER}\n", encoding="utf-8")
    return path


def test_a_client_has_the_name_of_its_token(token_file: Path) -> None:
    tokens = Tokens.load(token_file)
    assert tokens.client_of(f"Bearer {TOKEN}", "address") == "alice"
    assert tokens.client_of(f"bearer {OTHER}", "address") == "token-4"
    assert Tokens.none().client_of(None, "address") == "address"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"]
)
def test_other_headers_are_refused(token_file: Path, header: str | None) -> None:
    with pytest.raises(ServeError) as caught:
        Tokens.load(token_file).client_of(header, "address")
    assert caught.value.status is Status.UNAUTHENTICATED
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no token"),
        ("# only words\n", "no token"),
        ("short\n", "5 characters"),
        ("a b c\n", "3 words"),
        (f"{TOKEN}\nbob {TOKEN}\n", "repeats"),
        ("ä" * 20, "ASCII"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=words):
        Tokens.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        Tokens.load(tmp_path / "none")


def test_rest_asks_for_a_token(reference: Path, token_file: Path) -> None:
    async def conversation(client: httpx.AsyncClient, application: Application) -> None:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/lstm/ready"):
            expected = 401 if "models" in path else 200
            assert (await client.get(path)).status_code == expected

        for path in ("/v2", "/metrics", "/openapi.json", "/v2/models/lstm"):
            answer = await client.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"

        body = document(chunk(), sequence_id=1, sequence_start=True)
        path = "/v2/models/lstm/infer"
        assert (await client.post(path, json=body)).status_code == 401
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert (await client.post(path, json=body, headers=known)).status_code == 200
        assert application.service.live_streams == 1

    in_process(reference, conversation, token_file=token_file)
