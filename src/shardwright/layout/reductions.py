"""The reductions that combine what ranks hold."""

import torch

REDUCTIONS = {"sum": torch.add, "max": torch.maximum, "min": torch.minimum, "product": torch.mul}
"""How partial values are combined, by name."""
