"""Instance norms that keep statistics, written out: torch has no functional form of them.

The operator writes its running statistics without saying so in its schema, and `run_decompositions` leaves it as it is.
"""

import torch
from torch import Tensor, fx

aten = torch.ops.aten


def keeps_statistics(node: fx.Node) -> bool:
    """Whether a call is a norm that moves its running statistics on, which its schema does not say."""
    is_norm = node.target in (aten.batch_norm.default, aten.instance_norm.default)
    return is_norm and len(node.args) > 5 and bool(node.args[5]) and node.args[3] is not None


def written_out(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """``aten.instance_norm`` of (batch, channels, places…): a batch norm in which every entry's channels are its own.

    The statistics that are kept are the means over the entries, as in the kernel.
    """
    entries, channels = x.shape[:2]

    def for_each(of_channel: Tensor | None) -> Tensor | None:
        return None if of_channel is None else of_channel.repeat(entries)

    mean, var = for_each(running_mean), for_each(running_var)
    found = aten.batch_norm.default(
        x.reshape(1, entries * channels, *x.shape[2:]),
        for_each(weight),
        for_each(bias),
        mean,
        var,
        use_input_stats,
        momentum,
        eps,
        cudnn_enabled,
    )
    if use_input_stats:
        for kept, moved in ((running_mean, mean), (running_var, var)):
            if kept is not None and moved is not None:
                kept.copy_(moved.view(entries, channels).mean(0))
    return found.view(x.shape)


WRITTEN_OUT = {aten.instance_norm.default: written_out}
"""For `ExportedProgram.run_decompositions`."""
