"""Beta schedules of discrete diffusion processes."""
