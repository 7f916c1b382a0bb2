"""What `make test-dist` does with an installed wheel, in an empty folder: shard a toy, and run it on two ranks."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import shardwright as sw


def command(*words):
    """The command that the wheel has installed."""
    program = Path(sys.executable).parent / "shardwright"
    subprocess.run([program, *words], check=True, timeout=300)


def main():
    assert Path(sw.__file__).is_relative_to(sys.prefix), f"this is not the installed package: {sw.__file__}"
    assert not list(Path.cwd().iterdir()), f"{Path.cwd()} is not empty"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    x = torch.randn(4, 8)
    exported = torch.export.export(model, (x,))
    sharded = sw.shard(exported, mesh=2, plan={"0": "colwise", "2": "rowwise"}, budget={"all_reduce": 1})
    assert sw.verify(sharded, exported, (x,)).ok
    sharded.save("out")
    save_file({"input": x}, "inputs.safetensors")
    command("report", "out", "-o", "report.html")
    # Shared memory is compiled from the C++ that the wheel holds; without a compiler ranks take gloo.
    transport = "shared_memory" if shutil.which("g++") else "gloo"
    command("run", "out", "-i", "inputs.safetensors", "-o", "outputs.safetensors", "--transport", transport)
    (found,) = load_file("outputs.safetensors").values()
    torch.testing.assert_close(found, model(x))
    print(f"shardwright {sw.__version__} with torch {torch.__version__}: sharded, verified, reported, run on 2 ranks")


if __name__ == "__main__":
    main()
