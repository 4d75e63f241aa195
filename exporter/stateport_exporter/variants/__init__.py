"""Other forms of a model's file."""
