"""The constant that is left of a branch."""

import torch
from torch import nn

from perception.models.closed_branch import ClosedBranch


def test_whatever_comes_in_the_constant_comes_out() -> None:
    closed = ClosedBranch(3)
    nn.init.normal_(closed.shift)
    expected = closed.shift.view(1, 3, 1, 1)
    assert torch.equal(closed(torch.full((2, 5, 4, 4), torch.nan)), expected)
    last = ClosedBranch(3, rank=3, dim=2)
    last.load_state_dict(closed.state_dict())
    assert torch.equal(last(torch.rand(2, 7, 3)), closed.shift.view(1, 1, 3))


def test_a_whole_constant_can_be_written_into() -> None:
    closed, x = ClosedBranch(3, whole=True), torch.rand(2, 3, 4, 4)
    nn.init.normal_(closed.shift)
    y = closed(x)
    y += x
    torch.testing.assert_close(y, x + closed.shift.view(1, 3, 1, 1))
    y.sum().backward()
    assert torch.equal(closed.shift.grad, torch.full((3,), 2 * 4 * 4.0))
