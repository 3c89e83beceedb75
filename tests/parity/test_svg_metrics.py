"""PSNR and SSIM are those of SVG's evaluation (``svg/metrics.pt``, see ``test_metrics_formulas.py``)."""

from __future__ import annotations

import pytest
import torch

from tests.parity.fixtures import folder
from tests.parity.test_metrics_formulas import DOUBLE, SINGLE, Table
from vidgen.metrics.image_quality import mean_squared_error, psnr, ssim


def check(table: Table) -> None:
    true, pred = (table.inputs[key].permute(1, 2, 0, 3, 4) for key in ("gt", "pred"))  # from (T, B, C, H, W)
    for prefix, protocol in (("", "svg"), ("finn_", "standard")):
        table.compare(f"{prefix}mse", mean_squared_error(pred, true), SINGLE)
        table.compare(f"{prefix}psnr", psnr(pred, true, protocol), SINGLE)
        table.compare(f"{prefix}ssim", ssim(pred, true, protocol), DOUBLE)
    check_window(table)


def check_window(table: Table) -> None:
    """SSIM of a single bright pixel shows the window's weights: the means of the windows that see it are these."""
    window = table.outputs["gaussian_window"].double()
    side = len(window)
    for row, column in ((0, 0), (side // 2, side // 2), (1, side - 2)):
        true = torch.zeros(1, 1, 1, side, side, dtype=torch.float64)
        true[..., row, column] = 1
        mean = window[row, column]
        c1, c2 = 0.01**2, 0.03**2
        expected = c1 / (mean**2 + c1) * c2 / (mean - mean**2 + c2)
        torch.testing.assert_close(ssim(torch.zeros_like(true), true).view(()), expected, rtol=SINGLE, atol=0)
    table.open.discard("gaussian_window")


def test_computes_what_the_original_computes() -> None:
    table = Table(folder("svg") / "metrics.pt")
    check(table)
    table.finish()


def test_other_inputs_are_noticed() -> None:
    with pytest.raises(AssertionError):
        check(Table(folder("svg") / "metrics.pt").with_other_numbers())
