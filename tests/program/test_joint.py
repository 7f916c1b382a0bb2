"""`export_training`: the loss and the gradients that autograd gives, in one graph."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export.graph_signature import OutputKind

import shardwright as sw
from shardwright.program.nodes import module_path, module_stack, source_line
from tests.support.models import Decoder, redraw
from tests.support.training import IDS, next_token, run_alone, run_whole


class Trunk(nn.Module):
    """Batch norm, dropout, a part without gradients, a buffer that is written, a layer that nothing reads."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.head, self.teacher, self.idle = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(3, 3)
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x):
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        x = F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 1).flatten(1)
        with torch.no_grad():
            self.average.mul_(0.9).add_(x.mean(0))
            weights = self.teacher(x).softmax(-1)
        return self.head(x) * weights


class OwnLoss(nn.Module):
    """A model that is given its target by name and returns its loss beside other things, as transformers' do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x, labels=None, scale=1.0):
        logits = self.inner(x) * scale
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class ChannelsLast(nn.Module):
    """Pools to one place, of channels that lie last in memory."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        flat = F.adaptive_avg_pool1d(x.flatten(2), 1).flatten(1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1) + flat + F.adaptive_avg_pool2d(x, (2, 1)).sum((2, 3)))


class Mixed(nn.Module):
    """Computes in 16 bits, with a part in 32 and a part without gradients inside."""

    def __init__(self):
        super().__init__()
        self.body, self.last, self.teacher = (redraw(nn.Linear(6, 8)) for _ in range(3))
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.body(x)
            with torch.autocast("cpu", enabled=False):
                y = self.norm(y.float())
                with torch.no_grad():
                    offset = self.teacher(x)
            with torch.no_grad():
                scale = self.teacher(x).sigmoid()
                with torch.enable_grad():
                    scale = scale + self.last(x)
        return y * scale + offset


IMAGES = torch.randn(4, 3, 12, 12), torch.tensor([1, 0, 3, 3])
CASES = {
    "channels last": lambda: (ChannelsLast(), IMAGES, F.cross_entropy),
    "decoder": lambda: (redraw(Decoder(layers=2)).train(), IDS, next_token),
    "tied": lambda: (redraw(Decoder(layers=1, tied=True)).train(), IDS, next_token),
    "trunk": lambda: (Trunk().train(), IMAGES, F.cross_entropy),
    "evaluated": lambda: (Trunk().eval(), IMAGES, F.cross_entropy),
    "ignored": lambda: (nn.Linear(6, 5), (torch.randn(3, 6), torch.tensor([1, -100, 4])), F.cross_entropy),
    "squares": lambda: (nn.Linear(6, 5), (torch.randn(3, 6), torch.randn(3, 5)), F.mse_loss),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_gives_what_autograd_gives(case):
    torch.manual_seed(0)
    model, args, loss = case()
    model = model.double()
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    joint = sw.export_training(model, args, loss=loss)
    found, buffers = run_whole(joint, args)
    wanted, written = run_alone(model, args, loss)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)
    for name, value in buffers.items():
        torch.testing.assert_close(value, written[name])


def test_pooling_addresses_no_memory():
    model, args, loss = CASES["channels last"]()
    joint = sw.export_training(model, args, loss=loss)
    assert not [node for node in joint.graph.nodes if "as_strided" in str(node.target)]
    sharded = sw.shard(joint, mesh=2, plan={"conv": "colwise", "norm": "replicate"})
    assert sharded.fallbacks == []


class Overlapping(nn.Module):
    """Addresses memory to have chunks of a sequence that overlap by half, of dims of its own and of one dim."""

    def __init__(self):
        super().__init__()
        self.up, self.down = redraw(nn.Linear(6, 8)), redraw(nn.Linear(8, 4))

    def forward(self, x):
        y = self.up(x)
        chunks = y.view(2, 3, 4, 8).as_strided((2, 5, 4, 8), (96, 16, 8, 1))
        fewer = y.as_strided((2, 3, 5, 8), (96, 24, 8, 1))
        rows_first = self.up(x.transpose(0, 1)).transpose(0, 1).view(2, 3, 4, 8)
        others = rows_first.as_strided((2, 5, 4, 8), (8, 32, 16, 1))
        return sum(self.down(torch.tanh(one).mean(2)).mean(1) for one in (chunks, fewer, others))


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_overlapping_windows_address_no_memory(num_ranks):
    torch.manual_seed(0)
    model, args = Overlapping().double(), (torch.randn(2, 12, 6).double(), torch.randn(2, 4).double())
    joint = sw.export_training(model, args, loss=F.mse_loss)
    wanted = run_alone(model, args, F.mse_loss)[0]
    torch.testing.assert_close(run_whole(joint, args)[0], wanted, rtol=1e-12, atol=1e-12)
    assert not [node for node in joint.graph.nodes if "as_strided" in str(node.target)]
    sharded = sw.shard(joint, mesh=num_ranks, plan={"up": "colwise", "down": "rowwise"})
    assert sharded.fallbacks == []
    assert not sharded.gathered_weights
    report = sw.verify(sharded, joint, args, tolerance=1e-9)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((2, 3, 3), (12, 3, 2), None), ((2, 3, 3), (12, 3, 1), 1), ((3, 2), (1, 3), None), ((2, 3), (7, 2), None)],
)
def test_other_views_of_memory_are_kept_and_right(size, stride, offset):
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(2, 12).double())

        def forward(self, x):
            return (x * self.scale).as_strided(size, stride, offset).sin()

    model, args = Strided(), (torch.randn(2, 12).double(), torch.randn(size).double())
    joint = sw.export_training(model, args, loss=F.mse_loss)
    wanted = run_alone(model, args, F.mse_loss)[0]
    torch.testing.assert_close(run_whole(joint, args)[0], wanted, rtol=1e-12, atol=1e-12)
    assert [node for node in joint.graph.nodes if "as_strided" in str(node.target)]


def test_a_loss_that_the_model_computes_itself():
    model, x, y = OwnLoss(), torch.randn(3, 6), torch.tensor([1, 0, 4])
    joint = sw.export_training(model, (x,), {"labels": y})
    assert [spec.kind for spec in joint.graph_signature.output_specs] == [
        OutputKind.LOSS_OUTPUT,
        OutputKind.GRADIENT_TO_PARAMETER,
        OutputKind.GRADIENT_TO_PARAMETER,
    ]
    report = sw.verify(sw.shard(joint, mesh=2), joint, (x,), {"labels": y})
    assert report.ok, str(report)


def test_tied_names_have_one_gradient():
    joint = sw.export_training(redraw(Decoder(layers=1, tied=True)), IDS, loss=next_token)
    named = [spec.target for spec in joint.graph_signature.output_specs]
    assert ("embed.weight" in named) != ("lm_head.weight" in named)


def test_what_is_frozen_has_no_gradient():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    model[0].requires_grad_(False)
    joint = sw.export_training(model, (torch.randn(3, 4), torch.randn(3, 2)), loss=F.mse_loss)
    named = [spec.target for spec in joint.graph_signature.output_specs if spec.target]
    assert named == ["1.weight", "1.bias"]


def test_every_node_of_the_backward_pass_knows_its_module_and_ran_in_none():
    joint = sw.export_training(redraw(Decoder(layers=1)), IDS, loss=next_token)
    (node,) = (n for n in joint.graph.nodes if "silu_backward" in str(n.target))
    assert module_path(node) == "layers.0.mlp"
    assert list(module_stack(node)) == []


def test_mixed_precision_gives_what_autograd_gives_and_every_node_knows_its_module():
    torch.manual_seed(0)
    model, args = Mixed(), (torch.randn(5, 6), torch.randn(5, 8))
    joint = sw.export_training(model, args, loss=F.mse_loss)
    found, wanted = run_whole(joint, args)[0], run_alone(model, args, F.mse_loss)[0]
    assert found.keys() == wanted.keys() == {"", *dict(model.named_parameters())} - {"teacher.weight", "teacher.bias"}
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    calls = [node for node in joint.graph.nodes if node.target is torch.ops.aten.addmm.default]
    assert [module_path(node) for node in calls] == ["body", "teacher", "teacher", "last"]
    assert [node.meta["val"].dtype.itemsize for node in calls] == [2, 4, 2, 2]
    backward = [node for node in joint.graph.nodes if node.target is torch.ops.aten.mm.default]
    assert [module_path(node) for node in backward] == ["last", "body"]
    assert all("test_joint.py" in source_line(node) for node in calls)


def test_the_model_is_left_as_it_was():
    model = Decoder(layers=1)
    before = dict(model.__dict__), type(model)
    sw.export_training(model, IDS, loss=next_token)
    assert (dict(model.__dict__), type(model)) == before


def with_hooks():
    """A model whose hooks change what goes in and what comes out."""
    model = nn.Linear(4, 2).double()
    model.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    model.register_forward_pre_hook(
        lambda module, given, named: ((given[0] + module.bias.sum(),), {}), with_kwargs=True
    )
    model.register_forward_hook(lambda module, given, outputs: outputs * 3)
    model.register_forward_hook(lambda module, given, named, outputs: outputs + 1, with_kwargs=True, always_call=True)
    return model


def with_its_own_forward():
    """A model one of which is called otherwise than its class."""
    model = nn.Linear(4, 2).double()
    model.forward = lambda x: F.linear(x, model.weight.exp(), model.bias) * 2
    return model


def compiled():
    """A model whose calls go through `torch.compile`."""
    model = nn.Linear(4, 2).double()
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("make", [with_hooks, with_its_own_forward, compiled])
@pytest.mark.parametrize("has_loss", [True, False])
def test_a_model_is_run_as_a_call_of_it_runs(make, has_loss):
    model, args = make(), (torch.randn(3, 4).double(), torch.randn(3, 2).double())
    wanted, _ = run_alone(model, args, F.mse_loss)
    if not has_loss:
        wrapped, target = model, args[1]
        wrapped.register_forward_hook(lambda module, given, outputs: F.mse_loss(outputs, target))
        args = args[:1]
    found, _ = run_whole(sw.export_training(model, args, loss=F.mse_loss if has_loss else None), args)
    torch.testing.assert_close(found, wanted)


def test_example_inputs_that_require_a_gradient_are_refused():
    args = (torch.randn(3, 4, requires_grad=True), torch.randn(3, 2))
    with pytest.raises(sw.ProgramError, match=r"(?s)requires a gradient.*x\.detach\(\)"):
        sw.export_training(nn.Linear(4, 2), args, loss=F.mse_loss)


@pytest.mark.parametrize(
    ("model", "args", "options", "words"),
    [
        (nn.Linear(4, 2), (torch.ones(3, 4),), {}, "a loss is one floating-point number.*loss=lambda"),
        (nn.Linear(4, 2), (torch.ones(3, 4), torch.ones(3, 2)), {"loss": lambda out, y: out - y}, "one floating-point"),
        (nn.Linear(4, 2).requires_grad_(False), (torch.ones(3, 4), torch.ones(3, 2)), {"loss": F.mse_loss}, "no param"),
        (nn.Linear(4, 2), (), {"loss": F.mse_loss}, "args are empty"),
        (nn.Linear(4, 2), (torch.ones(3, 4),), {"loss": F.mse_loss}, "missing 1 required.*last of args is the target"),
        (nn.Linear(4, 2), torch.ones(3, 4), {}, "a tuple of positional inputs"),
        (nn.Linear(4, 2), (torch.ones(3, 4),), {"kwargs": 3}, "kwargs are a mapping of inputs by name, got int"),
        (nn.Linear(4, 2), (torch.ones(3, 4), torch.ones(3, 2)), {"loss": "mse"}, "loss is a function .* got 'mse'"),
        (nn.Linear(4, 2), (torch.ones(3, 4), torch.ones(3, 5)), {"loss": F.mse_loss}, "cannot be exported.*broadcast"),
        (nn.Linear(5, 2), (torch.ones(3, 4), torch.ones(3, 2)), {"loss": F.mse_loss}, "cannot be exported.*Runtime"),
        (F.mse_loss, (torch.ones(3, 4),), {}, r"takes a torch\.nn\.Module"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(model, args, options, words):
    with pytest.raises(sw.ProgramError, match=f"(?s){words}"):
        sw.export_training(model, args, **options)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_what_torch_may_run_on_is_left_as_it_was(monkeypatch, is_frozen):
    """Torch's own test helpers freeze the flags of its backends for a whole process."""
    flags = torch.backends.flags_frozen.__globals__
    monkeypatch.setitem(flags, "__allow_nonbracketed_mutation_flag", not is_frozen)
    assert torch.backends.flags_frozen() == is_frozen
    before = torch.backends.mkldnn.enabled
    sw.export_training(nn.Linear(3, 2), (torch.randn(4, 3), torch.randn(4, 2)), loss=F.mse_loss)
    assert torch.backends.mkldnn.enabled == before


@pytest.mark.parametrize("name", ["t", "mul", "sum_1", "view"])
def test_an_input_may_have_the_name_of_a_call(name):
    scope = {"F": F}
    exec(f"def forward(self, {name}): return (self.inner({name}) * {name}.sum()).view(-1)", scope)
    kind = type("Named", (nn.Module,), {"forward": scope["forward"]})
    model = redraw(_holding(kind(), nn.Linear(3, 2)))
    args = (torch.randn(4, 3), torch.randn(8))
    joint = sw.export_training(model, args, loss=F.mse_loss)
    assert [spec.arg.name for spec in joint.graph_signature.input_specs][2] == name
    assert sw.verify(sw.shard(joint, mesh=2, plan={"inner": "colwise"}), joint, args).ok


def _holding(model, inner):
    model.inner = inner
    return model


class Doubled(nn.Module):
    def forward(self, x):
        return x * (2 * x.shape[0])


@pytest.mark.parametrize("dynamic", [None, ({0: torch.export.Dim("rows", min=2)},) * 2])
def test_a_model_on_the_meta_device(dynamic):
    """Operators that are made of others (embeddings, losses) have gradients there as well."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(96, 12), Doubled(), nn.LayerNorm(12), nn.Linear(12, 96))
    ids = [one.to("meta") for one in IDS]
    joint = sw.export_training(model, ids, loss=next_token, dynamic_shapes=dynamic)
    trained = {spec.target for spec in joint.graph_signature.output_specs if spec.kind.name == "GRADIENT_TO_PARAMETER"}
    assert trained == {name for name, _ in model.named_parameters()}
    sharded = sw.shard(joint, mesh=2, plan={"3": "colwise"})
    assert sharded.fallbacks == []
