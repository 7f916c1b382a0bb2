"""Libraries that define operators beside torch's, imported where a program names them.

torch does not import its own module of quantised operators, and nobody who opens a file should need to know of torchao,
or that transformers multiplies experts in float32 by an operator of its own.
"""

import importlib

from shardwright.program.quiet import quiet_imports

_LIBRARIES = {
    "quantized_decomposed": "torch.ao.quantization.fx._decomposed",
    "torchao": "torchao.quantization",
    "transformers": "transformers.integrations.moe",
    "transformers_msa": "transformers.integrations.msa_attention",
}
"""Operators' namespace → the module that defines them."""


def library_of(namespace: str) -> str:
    """The library, as it is installed, that defines the operators of a namespace; '' where that is not known."""
    return _LIBRARIES.get(namespace, "").partition(".")[0]


def import_library(namespace: str) -> bool:
    """Import what defines the operators of a namespace; False where that is not known or not installed."""
    if namespace not in _LIBRARIES:
        return False
    try:
        with quiet_imports():
            importlib.import_module(_LIBRARIES[namespace])
    except ImportError:
        return False
    return True


def import_named_in(text: str) -> bool:
    """Import the libraries whose operators a text names; False for none."""
    named = [namespace for namespace in _LIBRARIES if f"torch.ops.{namespace}." in text]
    return any([*map(import_library, named)])
