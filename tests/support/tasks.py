"""Assignments stage by stage: small modules exported, read, and taken as far as a test of one stage needs."""

from functools import partial

import torch

from shardwright.assign.agreed import Agreed
from shardwright.assign.assign import assign_layouts, subgraph_solver
from shardwright.assign.choices import find_choices
from shardwright.assign.given import read_given
from shardwright.assign.site_rules import read_rules
from shardwright.assign.subgraph_choices import SubgraphSolver
from shardwright.assign.task import make_task
from shardwright.plan.pins import Pins
from shardwright.program.read import read


def task_of(model, args, num_ranks=2, *, auto=True, pins=None, agreed=None):
    program = read(torch.export.export(model.eval(), args))
    return make_task(program, pins or Pins(), num_ranks, auto=auto, cost=None, agreed=agreed or Agreed())


def choices_of(task):
    """(rules, what is given, choices) of a task."""
    rules, given = read_rules(task.folded.sites).rules, read_given(task)
    free = partial(assign_layouts, pins=Pins(), num_ranks=task.num_ranks, auto=True)
    solver = SubgraphSolver(subgraph_solver(task.num_ranks, task.cost), free)
    return rules, given, find_choices(task, rules, given, solver)


def site_of(task, name):
    """The site of a node."""
    return next(site for site in task.folded.sites if any(step.node.name == name for step in site.steps))
