"""Other number systems in which the text of a page runs: certified (truth) and bounded (rounding error)."""
