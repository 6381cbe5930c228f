"""Callbacks: what watches a training run."""
