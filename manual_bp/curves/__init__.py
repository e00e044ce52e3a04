"""What the two loss curves of a training say: when to stop, and whether it over-fits."""
