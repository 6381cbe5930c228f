"""Samplers: each one screen of mathematics."""
