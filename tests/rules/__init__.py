"""What one page alone says, and no generated test can ask of it."""
