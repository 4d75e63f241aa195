"""What all work on graphs shares."""
