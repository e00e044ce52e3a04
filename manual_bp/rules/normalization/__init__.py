"""Normalisation by statistics of the batch."""
