"""How good images are: features of images, and metrics on them."""
