"""What `shardwright` exports: enough to write down every argument and result of what it exports."""

import dataclasses
import inspect
import typing

import pytest

import shardwright as sw

RESULTS = [
    *("Assignment", "AutoDeployPlan", "BorrowedPlan", "Collective", "Discovery", "Program", "RankModule", "Report"),
    *("Simulation", "TrainingModule", "WeightSource"),
]
"""Types that calls return, or that code of a user's own implements: they can be named; what they hold is theirs."""


def classes_in(hint):
    """The classes that an annotation names, wherever it nests them."""
    if isinstance(hint, list | tuple):
        for one in hint:
            yield from classes_in(one)
    elif typing.get_args(hint):
        yield from classes_in(typing.get_args(hint))
    elif isinstance(hint, type):
        yield hint


def public_callables():
    for name in sw.__all__:
        exported = getattr(sw, name)
        if not inspect.isclass(exported):
            yield name, inspect.unwrap(exported)
        elif name not in RESULTS:
            if dataclasses.is_dataclass(exported):
                yield name, exported
            for member, value in vars(exported).items():
                value = getattr(value, "__func__", getattr(value, "fget", value))
                if not member.startswith("_") and inspect.isfunction(value):
                    yield f"{name}.{member}", inspect.unwrap(value)


INNER = {"CostModel.work_us"}
"""Called by the solver, with what it has."""

CALLABLES = {name: one for name, one in public_callables() if name not in INNER}


def test_there_are_functions_methods_and_values():
    assert {"shard", "verify", "Mesh.of", "ShardedProgram.save", "ShardedProgram.collectives", "Shard"} <= set(
        CALLABLES
    )
    assert sw.__all__ == sorted(sw.__all__) and all(hasattr(sw, name) for name in sw.__all__)


@pytest.mark.parametrize("name", CALLABLES)
def test_every_type_in_a_public_signature_is_exported(name):
    named = {one for hint in typing.get_type_hints(CALLABLES[name]).values() for one in classes_in(hint)}
    ours = {one for one in named if one.__module__.startswith("shardwright")}
    assert {one for one in ours if getattr(sw, one.__name__, None) is not one} == set()


@pytest.mark.parametrize("name", CALLABLES)
def test_no_public_signature_hides_its_arguments(name):
    parameters = inspect.signature(CALLABLES[name]).parameters.values()
    # Arguments of an operator or of a user's own program are whatever these take.
    taken = {one.name for one in parameters if one.kind is one.VAR_KEYWORD} - {"kwargs"}
    assert taken == set()


@pytest.mark.parametrize("name", ["shard_checkpoint", "reshard"])
def test_what_shards_takes_what_shard_takes(name):
    wanted, got = (inspect.signature(getattr(sw, one)).parameters for one in ("shard", name))
    same = [one for one in wanted if one not in ("exported", "plan")]
    assert [got[one] for one in same] == [wanted[one] for one in same] and "plan" in got
