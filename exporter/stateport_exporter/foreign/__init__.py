"""Files that somebody else exported."""
