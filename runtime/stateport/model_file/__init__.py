# SPDX-License-Identifier: Apache-2.0
"""What a model's file says, read without the `onnx` package."""
