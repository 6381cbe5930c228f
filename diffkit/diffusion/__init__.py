"""The mathematics of diffusion: process, prediction, loss, spacing and samplers."""
