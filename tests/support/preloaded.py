"""What the process that ranks are forked from imports before the first of them: most of what any test's ranks use."""

import gc
import importlib
import os

# Where there is Triton, the compiler would start processes of its own at once, which forked ranks cannot share.
os.environ.setdefault("TORCH_WARM_POOL", "0")

for name in (
    "pytest",
    "shardwright",
    "shardwright.program.torch_files",
    "torch._dynamo.backends.debugging",
    "torch._dynamo.repro.after_dynamo",
    "torch._functorch.partitioners",
    "torch._inductor.compile_fx",
    "torch.export._trace",
    "transformers.models.auto.tokenization_auto",
    "tests.support.models",
    "tests.support.texts",
    "tests.support.tiny",
):
    importlib.import_module(name)

# Ranks never look through what is here for something to free.
gc.freeze()
