"""State that nothing reads, and that no package can hold, matters to nothing."""

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.program.read import read
from tests.support.models import relative_error

X = torch.randn(2, 16, generator=torch.Generator().manual_seed(5))
PLAN = {"up": "colwise", "down": "rowwise"}
UNUSABLE = {
    "sparse": lambda: torch.eye(4).bool().to_sparse(),
    "sparse rows": lambda: torch.eye(4).to_sparse_csr(),
    "sparse blocks": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "without data": lambda: torch.empty(4, device="meta"),
    "half complex": lambda: torch.ones(4).to(torch.complex32),
    "four bits": lambda: torch.empty(4, dtype=torch.uint4),
    "raw bits": lambda: torch.zeros(4, dtype=torch.uint8).view(torch.bits8),
}


class Model(nn.Module):
    def __init__(self, extra, *, persistent, reads=False):
        super().__init__()
        self.up, self.down, self.reads = nn.Linear(16, 64), nn.Linear(64, 16), reads
        self.register_buffer("extra", extra, persistent=persistent)

    def forward(self, x):
        y = self.down(self.up(x).relu())
        return y @ self.extra.to_dense() if self.reads else y


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:ComplexHalf")
@pytest.mark.parametrize("persistent", [False, True], ids=["not stored", "stored"])
@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_no_package_holds_is_left_out(tmp_path, kind, persistent):
    exported = torch.export.export(Model(UNUSABLE[kind](), persistent=persistent), (X,))
    placeholders = [node.name for node in exported.graph.nodes if node.op == "placeholder"]
    sharded = sw.shard(exported, mesh=2, plan=PLAN)
    assert sw.verify(sharded, exported, (X,)).ok
    assert "extra" not in {weight.name for weight in sharded.weights}
    sharded.save(tmp_path / "two")
    assert set(sw.gather(tmp_path / "two", tmp_path / "state.safetensors")) == {
        f"{n}.{w}" for n in ("up", "down") for w in ("weight", "bias")
    }
    sw.reshard(tmp_path / "two", tmp_path / "one", mesh=1)
    assert relative_error(sw.load(tmp_path / "one")(X), exported.module()(X)) < 1e-6
    # The exported program is the user's.
    assert [node.name for node in exported.graph.nodes if node.op == "placeholder"] == placeholders


def test_what_a_package_holds_is_kept(tmp_path):
    exported = torch.export.export(Model(torch.arange(4), persistent=True), (X,))
    sharded = sw.shard(exported, mesh=2, plan=PLAN)
    sharded.save(tmp_path / "two")
    assert "extra" in sw.gather(tmp_path / "two", tmp_path / "state.safetensors")


def test_sparse_state_that_is_read_is_refused_by_name():
    exported = torch.export.export(Model(torch.eye(16).to_sparse(), persistent=False, reads=True), (X,))
    with pytest.raises(sw.ProgramError, match=r"b_extra.*only strided tensors"):
        sw.shard(exported, mesh=2)


def test_a_program_without_weights_keeps_all_names():
    with torch.device("meta"):
        model = Model(torch.empty(4), persistent=True)
        exported = torch.export.export(model, (torch.empty(2, 16),))
    assert "extra" in read(exported).weights
