"""What a graph that somebody else wrote says of itself, where it carries no contract."""
