"""Calling: candidates of every kind, what they do beside their results, and where they run."""
