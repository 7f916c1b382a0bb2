"""Passes over the collectives of a rank's program, before they are lowered."""
