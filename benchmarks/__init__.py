"""Measurements: of the comparison (sensitivity) and of speed."""
