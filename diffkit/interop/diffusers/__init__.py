"""Models of diffusers: pipeline folders of a UNet2DModel and a scheduler, both ways."""
