"""What a trained model can do with given images. Like samplers, these see `denoise` and levels only."""
