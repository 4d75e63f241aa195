"""What a network keeps from call to call, and whether results depend on it."""
