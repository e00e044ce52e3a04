"""Elements that are looked up by their position."""
