"""Distillation: students that learn to do in few steps what a teacher does in many."""
