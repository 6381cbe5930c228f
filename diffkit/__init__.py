"""diffkit: build, train, take apart and extend pixel-space diffusion models."""

from diffkit.plugins.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]
