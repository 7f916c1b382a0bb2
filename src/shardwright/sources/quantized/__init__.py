"""Quantised checkpoints: how each format packs a weight, and modules that hold it so and unpack it when they run."""
