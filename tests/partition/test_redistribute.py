"""Every change of layout, even and uneven, blocked and tiled: at most one collective, and the exact pieces."""

import functools
import itertools

import numpy
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.export import Dim
from torch.export.graph_signature import InputKind, OutputKind

from shardwright.layout.cut import Blocks, Cut
from shardwright.layout.layout import Partial, Replicate, Shard, resolve
from shardwright.layout.pieces import join_shards, take_shard
from shardwright.partition.emit import Emitter
from shardwright.partition.lower import lower
from shardwright.partition.redistribute import piece_sizes, redistribute
from shardwright.program.backends import is_reducible
from shardwright.program.duplicate import duplicate
from shardwright.program.program import Input, Output, Program
from shardwright.program.simulate import Simulation
from shardwright.rules.call import tensor_meta
from tests.support.ranks import on_ranks

SHAPE = (6, 5, 8)
WHOLE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).round(decimals=2)


def rank_program(source, target, rank, dtype=torch.float32, fake=None, beside=None, group="tp"):
    """A program that takes a rank's piece and redistributes it. ``fake``: the whole value, where its sizes are
    symbolic; ``beside``: another input that has these sizes.
    """
    mode = FakeTensorMode() if fake is None else fake.fake_mode
    emit = Emitter(nn.Module(), mode)
    with mode:
        whole = torch.empty(SHAPE if fake is None else fake.shape, dtype=dtype)
    if beside is not None:
        emit.graph.placeholder("beside").meta["val"] = beside
    x = emit.graph.placeholder("x")
    x.meta["val"] = emit.fake(piece_sizes(whole, source, rank), dtype, whole.device)
    result = redistribute(emit, x, source, target, whole, "tp", rank)
    emit.graph.output((result,))
    program = Program(
        source=None,
        graph=emit.graph,
        inputs=tuple(
            Input(node.name, InputKind.USER_INPUT, None) for node in emit.graph.nodes if node.op == "placeholder"
        ),
        outputs=(Output(OutputKind.USER_OUTPUT, None, None),),
        weights={},
        owner=nn.Module(),
    )
    program.__class__ = type("Bare", (Program,), {"fake_mode": mode})
    return lower(duplicate(program), {"tp": group})


def pieces_of(layout, num_ranks, whole=WHOLE):
    if not isinstance(layout, Partial):
        return [take_shard(whole, layout, rank) for rank in range(num_ranks)]
    if layout.op in ("max", "min"):
        return [whole - rank if layout.op == "max" else whole + rank for rank in range(num_ranks)]
    # Shares that are zero on no rank, so that a missing one shows.
    shares = [torch.full_like(whole, float(rank)) for rank in range(1, num_ranks)]
    return [whole - sum(shares), *shares]


def run(source, target, num_ranks, whole=WHOLE, fake=None):
    programs = [rank_program(source, target, rank, whole.dtype, fake) for rank in range(num_ranks)]
    simulation = Simulation(programs, {"tp": [list(range(num_ranks))]})
    found = simulation.run_raw([[piece] for piece in pieces_of(source, num_ranks, whole)])
    return [values[0] for values in found], [num_collectives(program.graph) for program in programs]


def num_collectives(graph):
    names = [str(node.target) for node in graph.nodes]
    return sum("_c10d_functional" in name and "wait" not in name for name in names)


def assert_piece(found, wanted, source, target):
    torch.testing.assert_close(found, wanted, msg=lambda text: f"{source} to {target}: {text}")


SHARDS = [
    Shard(0),
    Shard(1),
    Shard(2),
    Shard(2, Blocks(parts=(4, 2, 2))),
    Shard(2, Blocks(unit=4)),
    Shard(0, Blocks(parts=(3, 3))),
]


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("target", [Replicate(), *SHARDS], ids=repr)
@pytest.mark.parametrize("source", [Replicate(), Partial(), *SHARDS], ids=repr)
def test_redistribute(source, target, num_ranks):
    source, target = (resolve(layout, SHAPE, num_ranks) for layout in (source, target))
    if source == target:
        return  # the two give every rank the same indices, and redistribute is never called for that
    found, counts = run(source, target, num_ranks)
    for rank, piece in enumerate(found):
        torch.testing.assert_close(piece, take_shard(WHOLE, target, rank))
    assert set(counts) == {0 if isinstance(source, Replicate) else 1}


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("other", [Replicate(), Partial(), *SHARDS], ids=repr)
def test_redistribute_where_every_rank_holds_a_part(other, num_ranks):
    shared = Shard(2, Cut.join([Cut.whole(1, num_ranks), Cut.even(4, num_ranks), Cut.whole(3, num_ranks)]))
    other = resolve(other, SHAPE, num_ranks)
    pairs = [(other, shared)] if isinstance(other, Partial) else [(other, shared), (shared, other)]
    for source, target in pairs:
        found, counts = run(source, target, num_ranks)
        for rank, piece in enumerate(found):
            torch.testing.assert_close(piece, take_shard(WHOLE, target, rank))
        assert set(counts) == {0 if isinstance(source, Replicate) else 1}


def test_a_maximum_is_reduced_as_one():
    found, counts = run(Partial("max"), Replicate(), 3)
    assert all(torch.equal(piece, WHOLE) for piece in found)
    assert counts == [1, 1, 1]


def test_booleans_are_gathered():
    found, _ = run(resolve(Shard(1), SHAPE, 2), Replicate(), 2, WHOLE > 0)
    assert all(torch.equal(piece, WHOLE > 0) for piece in found)


def test_the_whole_spreads_into_a_sum():
    found, counts = run(Replicate(), Partial(), 3)
    assert torch.equal(join_shards(found, Partial()), WHOLE)
    assert counts == [0, 0, 0]


def test_tiled_cuts_gather_with_one_permutation():
    cut = Cut.even(4, 2).tile(2)
    found, counts = run(Shard(2, cut), Replicate(), 2)
    assert all(torch.equal(piece, WHOLE) for piece in found)
    assert counts == [1, 1]


def symbolic(dynamic, num_ranks):
    """The fake tensor of a whole value whose dims in ``dynamic`` have sizes that are not known."""
    sizes = {dim: num_ranks * Dim(f"d{dim}", min=2, max=64) for dim in dynamic}
    exported = torch.export.export(nn.Identity(), (torch.zeros([num_ranks * 4] * 3),), dynamic_shapes=(sizes,))
    return next(iter(exported.graph.nodes)).meta["val"]


@pytest.mark.parametrize(("num_ranks", "dynamic"), [(2, (0,)), (2, (1,)), (2, (2,)), (3, (0, 1, 2))])
def test_every_pair_of_layouts_with_sizes_unknown(num_ranks, dynamic):
    fake = symbolic(dynamic, num_ranks)
    shape = tensor_meta(fake).shape
    whole = torch.randn([num_ranks * (3 + dim) if dim in dynamic else num_ranks * 4 for dim in range(3)])
    layouts = [resolve(layout, shape, num_ranks) for layout in (Replicate(), Shard(0), Shard(1), Shard(2))]
    sources = [*layouts, Partial(), Partial("max"), Partial("min")]
    for source, target in itertools.product(sources, layouts):
        if source == target:
            continue
        found, counts = run(source, target, num_ranks, whole, fake)
        for rank, piece in enumerate(found):
            torch.testing.assert_close(piece, take_shard(whole, target, rank), msg=f"{source} to {target}")
        assert set(counts) == {0 if isinstance(source, Replicate) else 1}


UNEVEN = [Cut.even(3, 2), Cut.even(1, 2), Cut.of(2, [(1, 1), (0, 2), (1, 1)]), Cut.of(2, [(-1, 1), (0, 2), (1, 2)])]


@pytest.mark.parametrize("cut", UNEVEN, ids=repr)
@pytest.mark.parametrize(("around", "dim"), [("outer", 0), ("inner", 1), ("both", 2)])
def test_uneven_cuts_of_sizes_unknown(around, cut, dim):
    """Heads in a dim with a batch before them, a sequence after them, or both; fewer heads than ranks, too."""
    beside = symbolic((0, 1), 1)
    a, b = (size.node.expr for size in beside.shape[:2])
    unknown, known = {
        "outer": (cut.tile(a), cut.tile(3)),
        "inner": (cut.scale(b), cut.scale(5)),
        "both": (cut.tile(a).scale(b), cut.tile(3).scale(5)),
    }[around]
    size = cut.size * (1 if around == "inner" else beside.shape[0]) * (1 if around == "outer" else beside.shape[1])
    with beside.fake_mode:
        fake = torch.empty([size if i == dim else 2 + i for i in range(3)])
    whole = torch.randn([known.size if i == dim else 2 + i for i in range(3)])
    pairs = [(Shard(dim, unknown), Replicate()), (Replicate(), Shard(dim, unknown)), (Partial(), Shard(dim, unknown))]
    for source, target in pairs:
        programs = [rank_program(source, target, rank, fake=fake, beside=beside) for rank in range(2)]
        held, wanted = (Shard(dim, known) if isinstance(one, Shard) else one for one in (source, target))
        given = [[torch.zeros(3, 5, 4), piece] for piece in pieces_of(held, 2, whole)]
        found = Simulation(programs, {"tp": [[0, 1]]}).run_raw(given)
        for rank, (piece,) in enumerate(found):
            assert_piece(piece, take_shard(whole, wanted, rank), source, target)
        counts = {num_collectives(program.graph) for program in programs}
        assert counts == {0 if isinstance(source, Replicate) else 1}


DTYPES = [
    *(torch.bool, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64, torch.bfloat16),
    *(torch.float16, torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2fnuz),
    *(torch.float8_e8m0fnu, torch.float4_e2m1fn_x2),
]
MOVED = [(Shard(0), Replicate()), (Shard(1), Replicate()), (Shard(2), Replicate()), (Shard(0), Shard(2))]
REDUCED = [(op, target) for op in ("sum", "product", "max", "min") for target in (Replicate(), Shard(0), Shard(1))]


def of_dtype(dtype):
    """Bits of every kind: NaN, infinities, both zeros, the least and the largest integers among them."""
    count = WHOLE.numel() * dtype.itemsize
    bits = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    bits[: count // 3] = torch.tensor([0, 255, 128, 127]).to(torch.uint8).repeat(count)[: count // 3]
    return (bits > 127).reshape(SHAPE) if dtype == torch.bool else bits.view(dtype).reshape(SHAPE)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits_of(a), bits_of(b))


def bits_of(x):
    x = x.clone(memory_format=torch.contiguous_format)
    return x.view(torch.uint8) if x.numel() else torch.empty(0)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex32], ids=str)
def test_every_dtype_is_moved_to_the_bit(dtype):
    whole = of_dtype(dtype)
    for num_ranks, pair in itertools.product((2, 3), MOVED):
        source, target = (resolve(layout, SHAPE, num_ranks) for layout in pair)
        found, counts = run(source, target, num_ranks, whole)
        assert set(counts) == {1}
        for rank, piece in enumerate(found):
            assert same_bits(piece, take_shard(whole, target, rank)), (source, target, rank)


def shares_of(dtype, op, num_ranks):
    """Every rank's share of a reduction, and the result, worked out on one device."""
    shares = [of_dtype(dtype).roll(rank * 7) for rank in range(num_ranks)]
    if "float8" in str(dtype):
        # No operator adds them: one rank's share is not zero.
        return [shares[0], *(torch.zeros_like(share) for share in shares[1:])], shares[0]
    if dtype.is_floating_point and op in ("sum", "product"):
        shares = [
            torch.randint(-4, 5, SHAPE, generator=torch.Generator().manual_seed(r)).to(dtype) for r in range(num_ranks)
        ]
    if dtype.is_complex:
        shares = [(WHOLE * 8).round().to(dtype) * (1j if rank else 2) for rank in range(num_ranks)]
    kinds = {"sum": torch.add, "product": torch.mul, "max": torch.maximum, "min": torch.minimum}
    if dtype == torch.bool:
        kinds = {"sum": torch.logical_or, "product": torch.logical_and, "max": torch.maximum, "min": torch.minimum}
    if str(dtype).startswith("torch.uint") and dtype != torch.uint8:
        # torch lacks most operators of these.
        numbers = [numpy.asarray(share) for share in shares]
        plain = {"sum": numpy.add, "product": numpy.multiply, "max": numpy.maximum, "min": numpy.minimum}[op]
        return shares, torch.from_numpy(functools.reduce(plain, numbers))
    return shares, functools.reduce(kinds[op], shares)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_reduced_as_on_one_device(dtype):
    for num_ranks, (op, target) in itertools.product((2, 3), REDUCED):
        if is_reducible(dtype, op):
            shares, wanted = shares_of(dtype, op, num_ranks)
            target = resolve(target, SHAPE, num_ranks)
            programs = [rank_program(Partial(op), target, rank, dtype) for rank in range(num_ranks)]
            found = Simulation(programs, {"tp": [list(range(num_ranks))]}).run_raw([[share] for share in shares])
            for rank, (piece,) in enumerate(found):
                assert_same(piece, take_shard(wanted, target, rank), f"{op} to {target} on rank {rank}")


def assert_same(found, wanted, what):
    assert found.dtype == wanted.dtype, what
    if wanted.dtype in (torch.uint16, torch.uint32, torch.uint64):
        assert same_bits(found, wanted), what
    else:
        found, wanted = (x.float() if "float8" in str(x.dtype) else x for x in (found, wanted))
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True, msg=what)


@pytest.mark.ranks
def test_the_same_on_real_ranks():
    on_ranks(2, check_on_rank)


def check_on_rank(rank):
    group = dist.group.WORLD.group_name
    for dtype, pair in itertools.product(DTYPES, MOVED):
        source, target = (resolve(layout, SHAPE, 2) for layout in pair)
        whole = of_dtype(dtype)
        found = on_rank(rank_program(source, target, rank, dtype, group=group), take_shard(whole, source, rank))
        assert same_bits(found, take_shard(whole, target, rank)), (dtype, source, target)
    for dtype, (op, target) in itertools.product(DTYPES, REDUCED):
        if is_reducible(dtype, op):
            shares, wanted = shares_of(dtype, op, 2)
            target = resolve(target, SHAPE, 2)
            found = on_rank(rank_program(Partial(op), target, rank, dtype, group=group), shares[rank])
            assert_same(found, take_shard(wanted, target, rank), f"{op} of {dtype} to {target}")
    fake = symbolic((0, 1, 2), 2)
    whole = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    layouts = [resolve(layout, tensor_meta(fake).shape, 2) for layout in (Replicate(), Shard(0), Shard(1), Shard(2))]
    for source, target in itertools.product([*layouts, Partial()], layouts):
        if source != target:
            found = on_rank(
                rank_program(source, target, rank, fake=fake, group=group), pieces_of(source, 2, whole)[rank]
            )
            assert_piece(found, take_shard(whole, target, rank), source, target)


def on_rank(program, piece):
    # A piece of a tensor is a view of it, and collectives read memory as it lies.
    (found,) = torch.fx.Interpreter(torch.fx.GraphModule(program.owner, program.graph)).run(piece.contiguous())
    return found
