"""Truth: what is due at a case, and how far off a right program may be."""
