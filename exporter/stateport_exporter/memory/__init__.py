"""What a network remembers from call to call besides its states, and whether that matters."""
