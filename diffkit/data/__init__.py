"""Data sets, batches of them, and pixels as numbers."""
