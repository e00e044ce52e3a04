"""What keeps a network from fitting noise."""
