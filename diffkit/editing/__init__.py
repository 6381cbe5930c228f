"""Editing images with a trained model."""
