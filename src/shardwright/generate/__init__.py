"""Text from a sharded decoder: prefill, then one token at a time, from one package."""
