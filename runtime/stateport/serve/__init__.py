# SPDX-License-Identifier: Apache-2.0
"""Serve streams over the open inference protocol (KServe v2): REST, gRPC and a WebSocket.

How a request flows: `connection -> transport -> Request -> Service -> stream -> pool -> engine`,
and the state to its store before or behind the answer.

>>> import stateport.serve
>>> application = stateport.serve.app({"lstm": "model.onnx"})  # an ASGI application
"""

from typing import TYPE_CHECKING

from .._lazy import on_first_use as _on_first_use

if TYPE_CHECKING:
    from .application import Application
    from .assembly import app
    from .errors import ServeError, Status
    from .request import Request, Response
    from .service import Service

__all__ = ["Application", "Request", "Response", "ServeError", "Service", "Status", "app"]

# The application needs the extra `serve`, and the rest does not.
__getattr__, __dir__ = _on_first_use(
    __name__, __all__, ("errors", "request", "service", "application", "assembly")
)
