"""Sums whose length is known late."""

from __future__ import annotations

import pytest
import torch

from tests.pair import ProcessPair
from vidgen.metrics.summed import SummedStates


class Total(SummedStates):
    name = "total"
    sums = ("terms",)

    def update(self, values):
        self.add_to_sum("terms", values)

    def result(self):
        return float(self.terms.sum()), {"shape": list(self.terms.shape)}


def test_terms_add_up_in_double_precision():
    metric = Total()
    metric.update(torch.tensor([1.0, 2.0]))
    metric.update(torch.tensor([0.5, 0.25]))
    assert metric.terms.tolist() == [1.5, 2.25] and metric.terms.dtype == torch.float64
    metric.reset()
    assert metric.terms.shape == (0,)


def test_terms_of_another_shape_are_refused():
    metric = Total()
    metric.update(torch.ones(2))
    with pytest.raises(ValueError, match=r"^total: terms of shape \(3,\) cannot be added to \(2,\)$"):
        metric.update(torch.ones(3))


def on_rank(shapes):
    rank = torch.distributed.get_rank()
    metric = Total()
    if shapes[rank]:
        metric.update(torch.ones(shapes[rank]) * (rank + 1))
    try:
        metric.compute()
    except ValueError as error:
        return str(error)
    return metric.details["shape"], float(metric._computed), list(metric.terms.shape)


def test_processes_without_videos_take_part(pair: ProcessPair):
    assert pair.run(on_rank, shapes=[(3,), None]) == [([3], 3.0, [3]), ([3], 3.0, [0])]
    assert pair.run(on_rank, shapes=[None, (2, 3)]) == [([2, 3], 12.0, [0]), ([2, 3], 12.0, [2, 3])]
    assert pair.run(on_rank, shapes=[(3,), (3,)])[0][:2] == ([3], 9.0)
    assert pair.run(on_rank, shapes=[None, None])[0][:2] == ([0], 0.0)


def test_processes_with_different_shapes_fail_together(pair: ProcessPair):
    message = "total: processes have terms of shapes [[0, 3], [0, 5]]; they cannot be added"
    assert pair.run(on_rank, shapes=[(3,), (5,)]) == [message, message]
