"""What a model's file says, read without the `onnx` package."""
