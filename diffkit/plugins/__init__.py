"""Hooks and plugins."""
