"""Attention: rows that are averaged by how well their keys fit, and positions as rotations."""
