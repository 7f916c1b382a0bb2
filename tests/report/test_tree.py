"""The module tree: what is alike and numbered is shown once."""

import torch
from rich.console import Console
from torch import nn

from shardwright.program.read import read
from shardwright.report.tree import module_tree


class Cached(nn.Module):
    """Four caches, of which the last is longer; three layers, of which the last is wider; and two lists of weights."""

    def __init__(self):
        super().__init__()
        for number, length in enumerate((6, 6, 6, 7)):
            self.register_buffer(f"key_cache_{number}", torch.zeros(length, 4))
        self.layers = nn.ModuleList(nn.Linear(4, size, bias=False) for size in (4, 4, 8))
        self.scales = nn.ParameterList(torch.ones(4) for _ in range(2))

    def forward(self, x):
        for number in range(4):
            x = x + self.get_buffer(f"key_cache_{number}").sum(0)
        for layer, scale in zip(self.layers, self.scales, strict=False):
            x = layer(x) * scale
        return self.layers[2](x)


def shown(model, x, num_ranks):
    console = Console(width=200)
    with console.capture() as printed:
        console.print(module_tree(read(torch.export.export(model.eval(), (x,))), num_ranks))
    return printed.get().splitlines()


def test_numbered_tensors_and_layers_that_are_alike_are_shown_once():
    lines = shown(Cached(), torch.randn(3, 4), 4)
    assert lines[0].startswith("(root) Cached")
    assert [line for line in lines if "key_cache" in line] == [
        "├── key_cache_0 … key_cache_2 (3 equal) (6, 4) float32, dims to cut: 0~ 1",
        "├── key_cache_3 (7, 4) float32, dims to cut: 0~ 1",
    ]
    assert [line.split(" ", 1)[1].strip() for line in lines if "Linear" in line] == [
        "  ├── 0 … 1 (2 equal) Linear 64 B".strip(),
        "  └── 2 Linear 128 B".strip(),
    ]
    assert sum("0 … 1 (2 equal) (4,) float32" in line for line in lines) == 1


def test_brackets_in_names_are_no_markup():
    model = nn.Sequential()
    model.add_module("[red]up", nn.Linear(4, 4, bias=False))
    assert any("[red]up Linear" in line for line in shown(model, torch.randn(3, 4), 2))
