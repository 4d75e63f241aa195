"""Finding the first node of a file that is wrong."""
