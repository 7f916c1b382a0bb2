"""Checkpoints: from a Hugging Face folder or a GGUF file to a package, without ever holding the whole model."""

from shardwright.checkpoint.checkpoint import Checkpoint, open_checkpoint, shard_checkpoint

__all__ = ["Checkpoint", "open_checkpoint", "shard_checkpoint"]
