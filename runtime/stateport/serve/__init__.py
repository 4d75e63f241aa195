# SPDX-License-Identifier: Apache-2.0
"""Serve streams over the open inference protocol (KServe v2): REST, gRPC and a WebSocket.

How a request flows: `connection -> transport -> Request -> Service -> stream -> pool -> engine`,
and the state to its store before or behind the answer.
"""
