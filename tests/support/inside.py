"""Layers inside branches and loops, for tests of programs whose subgraphs communicate."""

import torch
from torch import nn
from torch._higher_order_ops.map import map as map_rounds
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop, while_loop_stack_output_op


class Layers(nn.Module):
    """Two linears and a table of rows."""

    def __init__(self, hidden=12):
        super().__init__()
        self.up, self.down, self.table = nn.Linear(8, hidden), nn.Linear(hidden, 8), nn.Embedding(20, 8)

    def block(self, x):
        """The two linears."""
        return self.down(torch.relu(self.up(x)))

    def other(self, x):
        """The same two with another function between them."""
        return self.down(torch.tanh(self.up(x)))


class Branches(Layers):
    """Both branches take a block."""

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.block, self.other, (x,))


class OneBranch(Layers):
    """One branch takes a block, the other has no weights."""

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.block, lambda x: x.sin(), (x,))


class Curved(Layers):
    """What follows the block inside is not a sum of parts."""

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.block(x).relu(), lambda x: self.other(x).sin(), (x,))


class SecondInside(Layers):
    """The first linear is before the branches, the second in them."""

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda h: self.down(h.relu()), lambda h: self.down(h.tanh()), (self.up(x),))


class FirstInside(Layers):
    """The first linear is in the branches, the second behind them."""

    def forward(self, x):
        return self.down(torch.cond(x.sum() > 0, lambda x: self.up(x).relu(), lambda x: self.up(x).sin(), (x,)))


class Nested(Layers):
    """A branch with branches."""

    def forward(self, x):
        def inner(x):
            return torch.cond(x[0, 0] > 0, self.block, lambda x: self.down(self.up(x)), (x,))

        return torch.cond(x.sum() > 0, inner, self.other, (x,))


class Loop(Layers):
    """A block a round, of what is carried."""

    def forward(self, x):
        def body(i, h):
            return i + 1, (h + self.block(h)).tanh()

        return while_loop(lambda i, h: i < 3, body, (torch.zeros((), dtype=torch.int64), x))[1]


class Stack(Layers):
    """A block a round, as many as rows begin above zero; what every round carried is returned."""

    def forward(self, x):
        def body(i, h):
            return i + 1, (h + self.block(h)).tanh()

        start = torch.zeros((), dtype=torch.int64)
        return while_loop_stack_output_op(lambda i, h: i < (x[:, 0] > 0).sum(), body, (start, x), ())[1]


class Scan(Layers):
    """A block a round of what is carried, and one of the row alone."""

    def forward(self, x):
        def combine(carry, row):
            return (carry * 0.5 + self.block(row + carry)).tanh(), self.block(row)

        last, every = scan(combine, torch.zeros(8), x)
        return every, last


class Rows(Layers):
    """A block a row."""

    def forward(self, x):
        return map_rounds(self.block, x)


class Lookup(Layers):
    """A table that is looked up inside."""

    def forward(self, x):
        rows = (x[:, 0].abs() * 3).long().clamp(max=19)
        return torch.cond(x.sum() > 0, self.table, lambda rows: self.table(rows).sin(), (rows,))
