"""Hugging Face folders and GGUF files: models built without weights, and which stored tensors make theirs."""
