# SPDX-License-Identifier: Apache-2.0
"""The steps of an export, in their order: `export` calls one after the other.

`arguments` checks what the caller passes. `tracing` captures the author's network as a graph.
`building` makes its states arguments and results, and measures whether chunks give what the whole
gives; `finishing` is the part of that which writes the graph in ONNX. `sizes` looks for sizes at
which the network does something else. `writing` writes the file and verifies it, and `narrowing`
says for which sizes it is right where that is not for all.
"""
