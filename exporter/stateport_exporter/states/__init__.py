"""Which arguments and results are states, and which states a network hides."""
