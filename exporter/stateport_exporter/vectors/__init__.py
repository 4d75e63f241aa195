"""PyTorch's answers: on what a network is run, and what it gives."""
