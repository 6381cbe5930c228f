"""``python -m diffkit``."""

from diffkit.cli.main import run

if __name__ == "__main__":
    run()
