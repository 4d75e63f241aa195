"""Files: bounded where they are read, whole or absent where they are written."""
