"""`make bench-javascript`: the npm package beside a loop on ONNX Runtime written by hand."""
