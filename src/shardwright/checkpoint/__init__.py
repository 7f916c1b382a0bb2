"""Checkpoints: from a Hugging Face folder or a GGUF file to a package, without ever holding the whole model."""
