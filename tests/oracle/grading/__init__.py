"""Frauds of graders, and what becomes of them."""
