"""What lies on disk: atomic files, checkpoints, run folders."""
