"""A package that was exported for a GPU says so where there is none, and runs on the CPU when told to."""

import io
import json
import zipfile

import pytest
import torch

import shardwright as sw


class Positions(torch.nn.Module):
    """Makes a tensor on the device it was exported for."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) + torch.arange(4, device=x.device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_package_for_a_gpu(tmp_path):
    model, x = Positions(), torch.randn(2, 4)
    path = tmp_path / "p"
    sw.shard(torch.export.export(model, (x,)), mesh=1).save(path)
    graph, manifest = path / "graph-0.pt2", path / "shardwright.json"
    out = io.BytesIO()
    with zipfile.ZipFile(graph) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if "/models/" in info.filename:
                content = content.replace(b'"type":"cpu","index":null', b'"type":"cuda","index":0')
                assert b'"cuda"' in content
            new.writestr(info.filename, content)
    graph.write_bytes(out.getvalue())
    told = json.loads(manifest.read_text())
    next(entry for entry in told["files"] if entry["name"] == graph.name)["num_bytes"] = len(out.getvalue())
    manifest.write_text(json.dumps(told))
    with pytest.raises(
        sw.PackageError, match=r"exported for CUDA, and there is no GPU here\n  try: load\(…, device='cpu'"
    ):
        sw.load(path, check=False)
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            loaded = sw.load(path, check=False, device="cpu")
        torch.testing.assert_close(loaded(x), model(x).detach())
