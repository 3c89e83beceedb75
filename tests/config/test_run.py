"""Objects built from a checked config."""

from __future__ import annotations

from pathlib import Path

from tests.config.example import GOOD, FakeData, FakeModel, Part, write
from vidgen.config import build_data, build_model, check, compose


class TestBuilding:
    def test_model_and_data(self, folder: Path) -> None:
        (run,) = check(compose(write(GOOD), ["data.num_workers=1", "data.part.share=0.5"]))
        model = build_model(run)
        assert isinstance(model, FakeModel)
        assert (model.seed, model.layer.in_features) == (3, 5)
        data = build_data(run, batches_per_iteration=2)
        dataset = data.dataset
        assert isinstance(dataset, FakeData)
        assert (dataset.root, dataset.part, dataset.seed) == (Path("videos"), Part(0.5), 7)
        assert (data.batch_size, data.num_workers, data.seed, data.batches_per_iteration) == (2, 1, 3, 2)

    def test_a_seed_in_the_data_section_is_the_data_sets_own(self, folder: Path) -> None:
        (run,) = check(compose(write(GOOD), ["data.seed=11"]))
        data = build_data(run, batches_per_iteration=0)
        assert isinstance(data.dataset, FakeData)
        assert (data.dataset.seed, data.seed) == (11, 3)
