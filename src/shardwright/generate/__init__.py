"""Text from a sharded decoder: prefill, then one token at a time, from one package."""

from shardwright.generate.decoding import generate
from shardwright.generate.sampling import Sampling

__all__ = ["Sampling", "generate"]
