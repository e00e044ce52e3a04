"""Costs: one number for a batch."""
