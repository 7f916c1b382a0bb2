"""The model types of transformers: causal language models first, then whatever else `AutoModel` builds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelType:
    """A model type, and the auto class that builds it: ``causal`` or ``base``."""

    name: str
    group: str


def model_types(names=()):
    """All model types in the order they are run, or only those named."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES as BASE

    known = [ModelType(name, "causal") for name in CAUSAL if name in CONFIG_MAPPING]
    known += [ModelType(name, "base") for name in BASE if name in CONFIG_MAPPING and name not in CAUSAL]
    if unknown := set(names) - {kind.name for kind in known}:
        raise SystemExit(f"transformers has no model type {', '.join(sorted(unknown))}")
    return [kind for kind in known if not names or kind.name in names]
