"""The formulas of metrics give the published numbers.

Every number comes from the files: ``$VIDGEN_REFERENCE/metrics/*.pt`` where that variable is set, else the small ones
that ``tests/fixtures/metrics/make_formulas.py`` writes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import files, folder
from vidgen.metrics.best_of import best_of_own_choice, best_sample
from vidgen.metrics.frechet import (
    Moments,
    covariance,
    frechet_distance,
    frechet_from_features,
    frechet_from_moments,
    merge,
    moments_of,
)
from vidgen.metrics.image_quality import mean_squared_error, psnr, ssim
from vidgen.metrics.inception_score import inception_score, probabilities_of
from vidgen.metrics.kernel_distance import kernel_inception_distance, polynomial_mmd, subset_mmds
from vidgen.metrics.neighbours import density_coverage, precision_recall
from vidgen.metrics.perceptual_path import filtered_mean, slerp
from vidgen.metrics.separability import conditional_entropy, linear_separability

ELSEWHERE = "c3d_*", "fvd_*", "i3d_*", "inception_v3.pt"
"""Files of networks and of what is done to a video before them."""
EXACT = 1e-9
"""Against 60 digits, as a share of mean term and traces."""
DOUBLE = 1e-9
"""Between two computations in float64."""
SINGLE = 1e-5
"""Where the original computes in float32."""


class Table:
    """One file of inputs and outputs, and which outputs have been compared."""

    def __init__(self, path: Path) -> None:
        data = torch.load(path, weights_only=True)
        self.config: dict[str, Any] = data.get("config", {})
        self.inputs: dict[str, Tensor] = data["inputs"]
        self.outputs = flat(data["outputs"])
        self.open = set(self.outputs)

    def __contains__(self, key: str) -> bool:
        return key in self.outputs

    def compare(self, key: str, actual: Any, tolerance: float, scale: float | None = None) -> None:
        """Assert that an output is as expected, within ``tolerance`` times ``scale``, or else its size (at least 1)."""
        self.open.discard(key)
        expected, actual = number(self.outputs[key]), number(actual)
        assert actual.shape == expected.shape, f"{key}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
        same = actual == expected  # infinities, too
        sizes = expected.abs().clamp(min=1) if scale is None else torch.tensor(scale)
        errors = ((actual - expected).abs() / sizes)[~same]
        assert (errors <= tolerance).all(), f"{key}: off by {errors.max():.3g}, allowed {tolerance:.3g}"

    def finish(self) -> None:
        assert not self.open, f"nothing compares {sorted(self.open)}"

    def with_other_numbers(self) -> Table:
        """A copy in which the last entry of each floating input is another number."""
        changed = copy.deepcopy(self)
        for value in changed.inputs.values():
            if value.is_floating_point():
                value.view(-1)[-1] = 0.5 * value.view(-1)[-1] + 0.4
        return changed


def flat(outputs: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in outputs.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return found


def number(value: Any) -> Tensor:
    return value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


# Fréchet distance ---------------------------------------------------------------------------------------------------

PUBLIC_CODE = {
    "scipy_sqrtm_float64": 1e-6,
    "scipy_biased_styleganv": 1e-6,
    "tats_float32": 1e-3,
    "tats_float64": 1e-6,
    "eigvals_torch_fidelity": 1e-6,
    "eigvals_torchmetrics": 1e-6,
    "eigh_svd_recommended": 1e-9,
}
"""Implementation -> the error of its method, as a share of mean term and traces."""


def check_frechet(table: Table) -> None:
    for case in [key.removesuffix("_x") for key in table.inputs if key.endswith("_x")]:
        check_frechet_case(table, case, table.inputs[f"{case}_x"], table.inputs[f"{case}_y"])
    check_merged_moments(table, table.inputs["full_rank_x"])


def check_frechet_case(table: Table, case: str, x: Tensor, y: Tensor) -> None:
    means, covs = zip(*((m.mean, covariance(m)) for m in map(moments_of, (x, y))), strict=True)
    mean_term, traces = (means[0] - means[1]).square().sum().item(), [cov.trace().item() for cov in covs]
    scale = mean_term + sum(traces)
    unbiased = frechet_distance(means[0], covs[0], means[1], covs[1])
    biased = frechet_from_moments(moments_of(x), moments_of(y), ddof=0)
    for distances in ((unbiased, biased), [frechet_from_features(x, y, ddof) for ddof in (1, 0)]):
        table.compare(f"{case}/exact_unbiased", distances[0], EXACT, scale)
        table.compare(f"{case}/exact_biased", distances[1], EXACT, scale)
    table.compare(f"{case}/mean_term", mean_term, EXACT, scale)
    table.compare(f"{case}/trace_x", traces[0], EXACT, scale)
    table.compare(f"{case}/trace_y", traces[1], EXACT, scale)
    table.compare(f"{case}/trace_sqrt", (scale - unbiased) / 2, EXACT, scale)
    for method, tolerance in PUBLIC_CODE.items():
        if f"{case}/{method}" in table:
            table.compare(f"{case}/{method}", biased if "biased" in method else unbiased, tolerance, scale)
    if f"{case}/scipy_max_imag" in table:
        table.compare(f"{case}/scipy_max_imag", 0.0, PUBLIC_CODE["scipy_sqrtm_float64"], scale)


def check_merged_moments(table: Table, features: Tensor) -> None:
    sizes = table.outputs["merge/sizes"]
    shards = features.split(sizes)
    table.compare("merge/sizes", [len(shard) for shard in shards], 0)
    merged = Moments.empty(features.shape[1])
    for shard in shards:
        merged = merge(merged, moments_of(shard))
    table.compare("merge/mean", merged.mean, DOUBLE)
    table.compare("merge/cov_unbiased", covariance(merged), DOUBLE)


# Others -------------------------------------------------------------------------------------------------------------


def check_kernel_distance(table: Table) -> None:
    x, y, config = table.inputs["x"], table.inputs["y"], table.config
    table.compare("tats_polynomial_mmd_full", polynomial_mmd(x, y), DOUBLE)
    table.compare("tats_polynomial_mmd_full_same", polynomial_mmd(x, x), DOUBLE)
    table.compare("subset_mmds", subset_mmds(x, y, table.inputs["subset_x"], table.inputs["subset_y"]), DOUBLE)
    mean, deviation = kernel_inception_distance(x, y, config["subsets"], config["subset_size"], config["rng_seed"])
    table.compare("torch_fidelity_kid_mean", mean, DOUBLE)
    table.compare("torch_fidelity_kid_std", deviation, DOUBLE)
    table.compare("stylegan_kid_x1000", 1000 * mean, DOUBLE)


CONVENTIONS = {"torch_fidelity_default": (10, 2020, 0.0), "hard_onehot_tgan_v1": (1, None, 1e-7)}
"""Name of a score that does not spell them -> splits, seed of the shuffle, epsilon."""


def convention(key: str) -> tuple[int, int | None, float]:
    if key in CONVENTIONS:
        return CONVENTIONS[key]
    splits, shuffle = re.search(r"splits(\d+)", key), re.search(r"_shuffle(\d+)", key)
    epsilon = re.search(r"_eps([\d.e-]+)", key)
    assert splits or "single_split" in key, f"{key}: how many splits?"
    return (
        int(splits[1]) if splits else 1,
        int(shuffle[1]) if shuffle else None,
        float(epsilon[1]) if epsilon else 0.0,
    )


def check_inception_score(table: Table) -> None:
    rows = probabilities_of(table.inputs["logits"])
    for name, order in table.inputs.items():
        if name.startswith("perm_seed"):
            drawn = np.random.RandomState(int(name.removeprefix("perm_seed"))).permutation(len(rows))
            assert drawn.tolist() == order.tolist()
    for key, expected in table.outputs.items():
        scores = inception_score(table.inputs["hard"] if "hard" in key else rows, *convention(key))
        table.compare(key, torch.stack(scores) if isinstance(expected, list) else scores[0], DOUBLE)


def check_prdc(table: Table) -> None:
    real, fake = table.inputs["real"], table.inputs["fake"]
    for key in table.outputs:
        rule, k, name = re.fullmatch(r"(torch_fidelity|prdc)_k(\d+)/(\w+)", key).groups()
        shares = precision_recall(real, fake, int(k), closed=rule == "torch_fidelity")._asdict()
        if rule == "prdc":
            shares |= density_coverage(real, fake, int(k))._asdict()
        table.compare(key, shares[name], 1e-7 if rule == "torch_fidelity" else DOUBLE)


def check_psnr_ssim(table: Table) -> None:
    true, pred = (table.inputs[key].transpose(1, 2) for key in ("gt", "pred"))  # (B, C, T, H, W)
    table.compare("svg_mse", mean_squared_error(pred, true), SINGLE)
    for name, protocol in (("svg", "svg"), ("finn", "standard"), ("common", "common")):
        suffix = "_skimage" if name == "svg" else ""
        table.compare(f"{name}_ssim{suffix}", ssim(pred, true, protocol), DOUBLE)
        table.compare(f"{name}_psnr{suffix}", psnr(pred, true, protocol), SINGLE)
    table.compare("best_of_n_index", best_sample(table.inputs["scores"]), 0)
    table.compare("best_of_n_per_frame", best_of_own_choice(table.inputs["scores"]), 0)


def check_stylegan(table: Table) -> None:
    a, b, t, tables = (table.inputs[key] for key in ("a", "b", "t", "tables"))
    for key in table.outputs:
        if key.startswith("slerp"):
            table.compare(key, slerp(a, b, t + float(key.partition("_plus_eps")[2] or 0)), DOUBLE)
        if key.startswith("separability_first"):
            first = int(key.removeprefix("separability_first"))
            table.compare(key, linear_separability(tables[:first]), SINGLE)
    kept = filtered_mean(table.inputs["distances"])
    table.compare("ppl_filtered_mean", kept.mean, DOUBLE)
    table.compare("ppl_lo_hi", [kept.low, kept.high], 0)
    table.compare("conditional_entropy_bits", conditional_entropy(tables), SINGLE)


CHECKS: dict[str, Callable[[Table], None]] = {
    "frechet.pt": check_frechet,
    "inception_score.pt": check_inception_score,
    "kernel_distance.pt": check_kernel_distance,
    "prdc.pt": check_prdc,
    "psnr_ssim.pt": check_psnr_ssim,
    "stylegan_metrics.pt": check_stylegan,
}


def table(name: str) -> Table:
    return Table(folder("metrics") / name)


def test_every_file_is_read() -> None:
    others = {name for name in files("metrics") if any(Path(name).match(pattern) for pattern in ELSEWHERE)}
    assert set(files("metrics")) - others == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_computes_what_the_original_computes(name: str) -> None:
    data = table(name)
    CHECKS[name](data)
    data.finish()


@pytest.mark.parametrize("name", CHECKS)
def test_other_inputs_are_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        CHECKS[name](table(name).with_other_numbers())


@pytest.mark.parametrize("name", CHECKS)
def test_an_output_that_nothing_compares_is_noticed(name: str) -> None:
    data = table(name)
    CHECKS[name](data)
    data.open.add("invented")
    with pytest.raises(AssertionError, match="nothing compares"):
        data.finish()
