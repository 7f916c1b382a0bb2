"""Where models come from besides exported programs: checkpoints and other packages, streamed to a new package."""
