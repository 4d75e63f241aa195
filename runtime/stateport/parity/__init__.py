"""Whether an engine gives PyTorch's answers: recorded vectors, comparison, report. No PyTorch."""
