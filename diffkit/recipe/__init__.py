"""Recipes: their tables, loading, checking and writing."""
