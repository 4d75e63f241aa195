# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: who may call, and by which name limits count a client."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from ..errors import FileError, in_words
from .errors import ServeError, Status

#: Shorter tokens can be guessed.
SHORTEST: Final = 16
_PREFIX: Final = "Bearer "


@dataclass(frozen=True)
class Tokens:
    """The tokens that are accepted. Without any, every caller is.

    Attributes:
        digests: the SHA-256 of each token -> the client's name. Digests have one length, so that a
            comparison tells nothing of the token's.
    """

    digests: Mapping[bytes, str]

    @classmethod
    def none(cls) -> Tokens:
        """No tokens: every caller is accepted."""
        return cls({})

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """Reads a file of tokens.

        Each line is a token, or a client's name, a space and a token. Empty lines and lines that
        start with `#` are left out. A token without a name is named after the number of its line.

        Raises:
            FileError: the file cannot be read, has no token, or has a token that is too short or is
                there twice.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(
                f"The file of tokens {str(path)!r} cannot be read: {in_words(error)}. Pass a text "
                "file with one token on each line."
            ) from error

        digests: dict[bytes, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if words and not line.lstrip().startswith("#"):
                _add(digests, words, f"{str(path)!r}, line {number}", f"token-{number}")

        if not digests:
            raise FileError(
                f"The file of tokens {str(path)!r} has no token, so that nobody could call. Write "
                "one token on each line."
            )
        return cls(digests)

    def client_of(self, authorization: str | None, address: str) -> str:
        """The name of the client that sent this header.

        Args:
            authorization: the value of the header `Authorization`.
            address: the client's address, which is its name where no tokens are asked for.

        Raises:
            ServeError: tokens are asked for, and this is none of them.
        """
        if not self.digests:
            return address

        name = self._name_of(authorization or "")
        if name is None:
            raise ServeError(
                Status.UNAUTHENTICATED,
                f"The request has {'another' if authorization else 'no'} bearer token than this "
                "server accepts. Send the header `Authorization: Bearer TOKEN`.",
            )
        return name

    def _name_of(self, authorization: str) -> str | None:
        """Compares with every token, so that the time does not tell which one is close."""
        scheme, token = authorization[: len(_PREFIX)], authorization[len(_PREFIX) :]
        digest = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()

        name = None
        for known, client in self.digests.items():
            if hmac.compare_digest(known, digest):
                name = client
        return name if scheme.lower() == _PREFIX.lower() else None


def _add(digests: dict[bytes, str], words: list[str], source: str, default: str) -> None:
    """Adds the token of one line."""
    if len(words) > 2:
        raise FileError(
            f"{source} has {len(words)} words; a token, or a name and a token were expected."
        )

    name = words[0] if len(words) == 2 else default
    token = words[-1]
    if len(token) < SHORTEST or not token.isascii():
        raise FileError(
            f"{source} has a token of {len(token)} characters; {SHORTEST} or more of ASCII were "
            "expected. Make one with `openssl rand -hex 32`."
        )

    digest = sha256(token.encode()).digest()
    if digest in digests:
        raise FileError(f"{source} repeats a token. Give each client one of its own.")
    digests[digest] = name
