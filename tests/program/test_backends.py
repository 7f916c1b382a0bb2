"""The table of what gloo takes is what gloo does: every kind of collective, reduction and dtype, on two processes."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import shardwright as sw
from shardwright.program.backends import BACKENDS, GLOO, MOVES, NCCL, REDUCTIONS, form_of, is_taken
from tests.support.ranks import on_ranks

c10d = torch.ops._c10d_functional
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64),
    *(torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e4m3fnuz),
    *(torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2),
]
REDUCED = ["all_reduce", "reduce_scatter"]
KINDS = [*MOVES, *(f"{kind} {op}" for kind, op in itertools.product(REDUCED, REDUCTIONS))]


@pytest.mark.ranks
def test_gloo_takes_what_the_table_says():
    ours = {(kind, dtype) for kind, dtypes in GLOO.items() for dtype in dtypes}
    for rank, right in enumerate(on_ranks(2, measure, backend="gloo")):
        assert right == ours, f"rank {rank}: {sorted(map(str, right ^ ours))}"


def test_the_tables_are_of_the_same_kinds():
    assert set(GLOO) == set(NCCL) == set(KINDS)
    assert set().union(*GLOO.values(), *NCCL.values()) <= set(DTYPES)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sent_is_taken_everywhere(kind):
    name, _, op = kind.partition(" ")
    for dtype in DTYPES:
        form = form_of(name, dtype, op)
        if form is None:
            assert op, f"every dtype can be moved, {dtype} cannot"
            continue
        sent = form.dtype.to_real() if form.how == "reals" else form.dtype
        assert is_taken(name, sent, form.op)
        assert all(sent in table[f"{name} {form.op}".strip()] for table in BACKENDS.values())


def test_what_stays_without_a_form():
    lacking = {(kind.partition(" ")[2], d) for kind in KINDS for d in DTYPES if not form_of(*_split(kind, d))}
    complex_, small = {d for d in DTYPES if d.is_complex}, {torch.float8_e8m0fnu, torch.float4_e2m1fn_x2}
    eights = {d for d in DTYPES if "float8" in str(d)} | small
    wanted = {("sum", d) for d in small} | set(itertools.product(("product", "max", "min"), complex_ | eights))
    assert lacking == wanted | {("max", torch.uint64), ("min", torch.uint64)}


def test_the_simulator_refuses_what_a_backend_gets_wrong():
    """gloo's maximum of floats may lose a NaN, so a program that asks for one is not simulated as if it did not."""
    program = torch.export.export(torch.nn.Linear(4, 4), (torch.randn(2, 4),))
    simulation = sw.shard(program, mesh=2, plan={"": "rowwise"}).simulation()
    for one in simulation.programs:
        (reduce,) = [node for node in one.graph.nodes if node.target is c10d.all_reduce.default]
        reduce.args = (reduce.args[0], "max", *reduce.args[2:])
    with pytest.raises(sw.RunError, match=r"not every backend takes all_reduce \(max\) of torch.float32"):
        simulation(torch.randn(2, 4))


def _split(kind, dtype):
    name, _, op = kind.partition(" ")
    return (name, dtype, op)


def measure(rank):
    """The (kind, dtype) of which gloo makes, on this rank, what torch makes of both ranks' values on one device."""
    group = dist.group.WORLD.group_name
    right = set()
    for kind, dtype in itertools.product(KINDS, DTYPES):
        name, _, op = kind.partition(" ")
        shares = [values(dtype, one) for one in range(2)]
        try:
            found = c10d.wait_tensor(call(name, op, shares[rank], group))
            wanted = whole(name, op, shares, rank)
        except (RuntimeError, NotImplementedError):
            continue
        if same(found, wanted):
            right.add((kind, dtype))
    return right


def values(dtype, rank):
    """Four numbers of a rank: true on both, on one, on the other; NaN, where the dtype has it, on either."""
    numbers = torch.tensor([[1, 0, 2, 3], [1, 2, 0, 1]][rank])
    if dtype == torch.bool:
        return numbers > 0
    if dtype == torch.float4_e2m1fn_x2:
        return numbers.to(torch.uint8).view(dtype)
    if dtype.is_complex:
        return torch.complex(numbers.double(), torch.tensor([[2.0, -1, 0, 1], [3.0, 1, 1, -1]][rank]).double()).to(
            dtype
        )
    if dtype.is_floating_point and dtype.itemsize > 1:
        # At many places, as gloo works on a tensor in pieces and by vectors.
        missing = torch.tensor([float("nan"), 1.0] if rank == 0 else [1.0, float("nan")]).repeat(64)
        return torch.cat([numbers.double(), missing.double()]).to(dtype)
    return numbers.to(dtype)


def call(name, op, x, group):
    half = x.shape[0] // 2
    return {
        "all_gather": lambda: c10d.all_gather_into_tensor(x, 2, group),
        "all_to_all": lambda: c10d.all_to_all_single(x, [half, half], [half, half], group),
        "broadcast": lambda: c10d.broadcast(x, 0, group),
        "all_reduce": lambda: c10d.all_reduce(x, op, group),
        "reduce_scatter": lambda: c10d.reduce_scatter_tensor(x, op, 2, group),
    }[name]()


def whole(name, op, shares, rank):
    if name == "all_gather":
        return torch.cat(shares)
    if name == "all_to_all":
        return torch.cat([share.chunk(2)[rank] for share in shares])
    if name == "broadcast":
        return shares[0]
    total = reduced(op, *shares)
    return total if name == "all_reduce" else total.chunk(2)[rank]


def reduced(op, a, b):
    if a.dtype == torch.bool:
        return a | b if op in ("sum", "max") else a & b
    return {"sum": torch.add, "product": torch.mul, "max": torch.maximum, "min": torch.minimum}[op](a, b)


def same(found, wanted):
    """Equal bit by bit, but for which NaN it is."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if wanted.dtype.is_complex:
        return torch.equal(torch.view_as_real(found), torch.view_as_real(wanted))
    if wanted.dtype.is_floating_point and wanted.dtype.itemsize > 1:
        return bool(((found == wanted) | (found.isnan() & wanted.isnan())).all())
    return torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))


def test_the_table_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "collectives.md").read_text()
    assert table() in text, f"docs/collectives.md should have\n{table()}"


def table():
    """The rows of the tables, kinds that take the same in one."""
    rows = {}
    for kind in GLOO:
        rows.setdefault((named(GLOO[kind]), named(NCCL[kind])), []).append(kind)
    return "\n".join(f"| {', '.join(kinds)} | {gloo} | {nccl} |" for (gloo, nccl), kinds in rows.items())


def named(dtypes):
    """A set of dtypes by the names of its parts."""
    integers = {torch.uint8, torch.int8, torch.int32, torch.int64}
    parts = {
        "numbers": integers | {torch.float16, torch.bfloat16, torch.float32, torch.float64},
        "integers": integers,
        "bool": {torch.bool},
        "complex": {dtype for dtype in DTYPES if dtype.is_complex},
        "float8": {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz},
    }
    found, left = [], set(dtypes)
    for name, part in parts.items():
        if part <= left:
            found.append(name)
            left -= part
    assert not left
    return ", ".join(found)
