# SPDX-License-Identifier: Apache-2.0
"""Parts of Triton's protocol that make no sense here, with what to do in their place."""

from __future__ import annotations

from typing import Final

from .errors import ServeError, Status

NO_REPOSITORY: Final = "no model repository. `stateport serve MODEL...` names the models"
NO_SHARED_MEMORY: Final = "no shared memory. Send and receive the data itself"
NO_TRACE_SETTINGS: Final = "no settings of traces. Set up OpenTelemetry where the server is started"
NO_LOG_SETTINGS: Final = "no settings of logs. Start it with --log-level"

#: The addresses of these parts over REST, and what the server does not have.
ADDRESSES: Final = {
    "/v2/repository/{rest:path}": NO_REPOSITORY,
    "/v2/systemsharedmemory/{rest:path}": NO_SHARED_MEMORY,
    "/v2/cudasharedmemory/{rest:path}": NO_SHARED_MEMORY,
    "/v2/trace/setting": NO_TRACE_SETTINGS,
    "/v2/logging": NO_LOG_SETTINGS,
}


def unsupported(call: str, words: str) -> ServeError:
    """The refusal of a call, or of an address."""
    return ServeError(Status.UNSUPPORTED, f"{call}: this server has {words}.")
