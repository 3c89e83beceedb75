"""tools/benchmark.py measures what it says, and times nothing against an original that computes something else."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from vidgen.models.base import AdversarialModel, Batch, LikelihoodModel, LossTerms, VideoModel
from vidgen.models.mocogan import LatentDraws, MoCoGAN

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import benchmark
import pairing
from references import mocogan as official
from references import svg as official_svg

TINY = [f"{key}={value}" for key, value in MoCoGAN.small_variants()["default"].items()]
SHORT = ["--iterations", "2", "--warm-up", "1", "--batch-size", "2", "--images", "3"]


class Toy(AdversarialModel):
    """One update of one layer against noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def build_optimizers(self) -> dict[str, Optimizer]:
        return {"generator": SGD(self.parameters(), lr=0.1)}

    def example_batch(self, batch_size: int, seed: int = 0) -> Batch:
        return {"video": torch.arange(1.0, 1 + 2 * batch_size).view(batch_size, 2)}

    def iteration(self, batches: list[Batch]) -> None:
        self.update("generator", self.generator_loss)

    def draw(self, rows: int) -> Tensor:
        return self.noise("toy").normal(rows, 1)

    def generator_loss(self, batches: list[Batch]) -> LossTerms:
        video = batches[0]["video"].to(self.dtype)
        return {"distance": (self.layer(video) - self.draw(len(video))).square().mean()}


class ToyOriginal(pairing.Reference):
    """The same, written down a second time."""

    title = "the toy's original"
    learning_rate = 0.1

    def __init__(self, path: Path, model: AdversarialModel) -> None:
        self.model: Any = model
        self.weight = torch.ones(1, 2, dtype=model.dtype, requires_grad=True)
        self.state = {"layer.weight": self.weight}
        self.optimizers = {"generator": SGD([self.weight], lr=self.learning_rate)}
        self.drawn: list[Tensor] = []

    def loss(self, video: Tensor, noise: Tensor) -> Tensor:
        return ((video @ self.weight.T - noise) ** 2).sum() / len(video)

    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        video = batches[0]["video"].to(self.weight.dtype)
        self.drawn.append(torch.randn(len(video), 1, dtype=video.dtype))
        loss = self.loss(video, self.drawn[-1])
        self.optimizers["generator"].zero_grad()
        loss.backward()
        self.optimizers["generator"].step()
        return {"generator": loss}

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        self.drawn.clear()
        yield self.drawn

    @contextmanager
    def replayed(self, draws: list[Tensor]) -> Iterator[None]:
        self.model.draw = lambda rows: draws[0]
        yield
        del self.model.draw


class OtherLoss(ToyOriginal):
    """Twice the loss."""

    def loss(self, video: Tensor, noise: Tensor) -> Tensor:
        return 2 * super().loss(video, noise)


class OtherGradient(ToyOriginal):
    """The same loss with twice the gradient."""

    def loss(self, video: Tensor, noise: Tensor) -> Tensor:
        loss = super().loss(video, noise)
        return 2 * loss - loss.detach()


class OtherStep(ToyOriginal):
    """Steps twice as far."""

    learning_rate = 0.2


class OtherWeights(ToyOriginal):
    """Has a weight more."""

    def __init__(self, path: Path, model: AdversarialModel) -> None:
        super().__init__(path, model)
        self.state = {**self.state, "layer.bias": torch.zeros(1)}


TOY = f"{__name__}.Toy"


def run_toy(monkeypatch: pytest.MonkeyPatch, original: type[ToyOriginal], path: Path) -> int:
    monkeypatch.setattr(benchmark, "find_reference", lambda name: original)
    return benchmark.main(["train", "--model", TOY, "--reference", str(path), *SHORT])


def test_prints_speed_shares_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["train", "--model", "mocogan", "--set", *TINY, *SHORT]) == 0
    printed = capsys.readouterr().out
    speed = re.search(r"^speed: (\S+) iterations/s \((\S+) s, median of 2\)$", printed, re.MULTILINE)
    assert speed is not None
    assert float(speed[1]) > 0
    assert float(speed[1]) * float(speed[2]) == pytest.approx(1, rel=1e-2)
    shares = {name: float(share) for name, share in re.findall(r"^  (\S+) +(\S+) %$", printed, re.MULTILINE)}
    updates = ["image_discriminator", "video_discriminator", "generator"]
    assert list(shares) == ["data", *(part for name in updates for part in (name, f"{name}/optimizer")), "other"]
    assert sum(shares.values()) == pytest.approx(100, abs=1)
    assert all(share >= 0 for share in shares.values())
    memory = re.search(r"^peak memory: (\d+) MiB", printed, re.MULTILINE)
    assert memory is not None
    assert int(memory[1]) > 50


def test_times_whole_iterations_and_the_parts_of_others() -> None:
    ticks = count()
    stopwatch = benchmark.Stopwatch(warm_up=1, timed=2, clock=lambda: float(next(ticks)))  # a period of one
    model = Toy()
    source = benchmark.data_source(model, "random", 2, 0, 1)
    benchmark.train(model, source, stopwatch, stopwatch.total, torch.device("cpu"))
    assert stopwatch.total == 4
    assert stopwatch.seconds == [1.0, 1.0]  # two readings: the end of the iteration before, the end of this one
    assert stopwatch.parts == {"data": 1.0, "generator": 1.0, "generator/optimizer": 1.0}
    assert stopwatch.parts_total == 6.0  # the first part begins at once, four readings more lie between
    assert sum(stopwatch.shares().values()) == pytest.approx(1)


def test_compares_then_times_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_toy(monkeypatch, ToyOriginal, tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "reference: the toy's original"
    assert re.fullmatch(
        r"largest differences over 2 iterations in float64: losses \S+, gradients \S+, weights \S+ "
        r"\(tolerance 1e-08\)",
        lines[4],
    )
    assert re.fullmatch(r"2 pairs: vidgen \S+ s, original \S+ s per iteration \(medians\)", lines[5])
    assert re.fullmatch(r"ratio of the medians: \S+", lines[6])
    assert re.fullmatch(r"ratio pair by pair: median \S+, min \S+, max \S+", lines[7])


@pytest.mark.parametrize(
    ("original", "what"),
    [
        (OtherLoss, "the loss of generator is 0.5 of its norm apart (tolerance 1e-06)"),
        (OtherGradient, "the gradient of layer.weight is 0.5 of its norm apart (tolerance 1e-08)"),
        (OtherStep, "layer.weight after the update is 0.5 of its norm apart (tolerance 1e-08)"),
    ],
)
def test_refuses_an_original_that_computes_something_else(
    original: type[ToyOriginal],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert run_toy(monkeypatch, original, tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: the toy's original computes something else: in iteration 1 {what}"


def test_refuses_an_original_with_other_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_toy(monkeypatch, OtherWeights, tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: the toy's original: only one of the two has layer.bias"


def test_each_takes_its_turn_on_the_same_clock() -> None:
    model, ticks = Toy(), count()
    turns = pairing.Turns(model, ToyOriginal(Path(), model), warm_up=1, clock=lambda: float(next(ticks)))
    benchmark.train(model, benchmark.data_source(model, "random", 2, 0, 1), turns, 3, torch.device("cpu"))
    assert turns.pairs == [(1.0, 1.0), (1.0, 1.0)]


def test_describes_pairs() -> None:
    assert pairing.describe_pairs([(1.0, 2.0), (3.0, 4.0), (2.0, 8.0)]) == (
        "3 pairs: vidgen 2 s, original 4 s per iteration (medians)\n"
        "ratio of the medians: 0.500\n"
        "ratio pair by pair: median 0.500, min 0.250, max 0.750"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mocogan", "--set", "resolutoin=32"],
         "--set resolutoin: mocogan has no such argument; did you mean 'resolution'?"),
        (["--model", "mocogan", "--set", "resolution=wide"], "--set resolution: expected int, got 'wide'"),
        (["--model", "mocogan", "--set", "resolution"], "--set resolution: expected key=value"),
        (["--model", "mocogan", "--set", *TINY, "dim_category=3"],
         "model.dim_category: is 3, but the data has classes 4; make them equal"),
        (["--model", TOY, "--reference", "/nowhere"],
         f"--reference: there is no adapter for {TOY} (there is one for: mocogan, svg, tats, tats_vqgan)"),
        (["--model", "mocogan", "--set", *TINY, "--reference", "/nowhere"],
         "model.resolution: is 16, but the official code is compared at 64 only"),
        (["--model", "mocogan", "--reference", "/nowhere"],
         "/nowhere: has no src/models.py; give a checkout of github.com/sergeytulyakov/mocogan"),
        (["--model", "svg", "--reference", "/nowhere"],
         "/nowhere: has no models/lstm.py; give a checkout of github.com/edenton/svg"),
        (["--model", "svg", "--set", "widths=[4, 8, 8, 8]", "--reference", "/nowhere"],
         "model.widths: is (4, 8, 8, 8), but the official code is compared at (64, 128, 256, 512) only"),
        (["--model", "svg", "--set", "prior=none", "--reference", "/nowhere"],
         "model.prior: is 'none', the official code has learned or fixed"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["train", *arguments, *SHORT]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"


class Line(LikelihoodModel):
    """One weight, and a shift whose gradient is as small as rounding makes it."""

    def __init__(self, resolution: int = 1, num_frames: int = 1, channels: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.full((1,), 1 / 3))

    def loss(self, batch: Batch) -> LossTerms:
        made = self.weight * batch["video"].flatten(1)
        error = (made - self.noise("line").normal(len(made), 1)).square().mean()
        return {"error": error + 1e-13 * self.shift.sum()}

    def build_optimizer(self) -> Adam:
        return Adam(self.parameters(), lr=0.1)


class LineOriginal(pairing.Reference):
    """The same with other rounding, by which Adam would let the shift wander."""

    title = "the line's original"
    without_effect: Collection[str] = ("shift",)

    def __init__(self, path: Path, model: VideoModel) -> None:
        self.model: Any = model
        self.state = {name: torch.ones_like(tensor).requires_grad_() for name, tensor in model.state_dict().items()}
        self.optimizers = {"first": Adam([self.state["weight"]], lr=0.1), "second": Adam([self.state["shift"]], lr=0.1)}
        self.drawn: list[Tensor] = []

    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        video = batches[0]["video"].to(self.state["weight"].dtype).flatten(1)
        self.drawn.append(torch.randn(len(video), 1, dtype=video.dtype))
        error = (self.state["weight"] * video - self.drawn[-1]).square().sum() / len(video)
        loss = error - 1e-13 * self.state["shift"].sum()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"error": loss}

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        self.drawn.clear()
        yield self.drawn

    @contextmanager
    def replayed(self, draws: list[Tensor]) -> Iterator[None]:
        self.model.noise = lambda _: SimpleNamespace(normal=lambda *_: draws[0])
        yield
        del self.model.noise


class WanderingLineOriginal(LineOriginal):
    """Says nothing of the shift."""

    without_effect = ()


def test_compares_a_model_that_lightning_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "find_reference", lambda name: LineOriginal)
    arguments = ["train", "--model", f"{__name__}.Line", "--reference", ".", *SHORT]
    assert benchmark.main(arguments) == 0
    assert "2 pairs: vidgen" in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "find_reference", lambda name: WanderingLineOriginal)
    assert benchmark.main(arguments) == 2
    assert "the gradient of shift" in capsys.readouterr().err


def test_takes_the_training_step_out_of_the_script_of_svg(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "lstm.py").write_text(
        "import torch\ndef init_hidden(self):\n    return torch.zeros(self.batch_size, self.hidden_size).cuda()\n"
    )
    weight = torch.zeros(1, dtype=torch.float64)
    network = SimpleNamespace(batch_size=2, hidden_size=3, embed=SimpleNamespace(weight=weight))
    state = official_svg._imported(tmp_path, "models/lstm.py").init_hidden(network)
    assert state.shape == (2, 3) and state.dtype == torch.float64
    (tmp_path / "train_svg_lp.py").write_text(
        "import not_installed\n"
        "def kl_criterion(a):\n"
        "    return a / opt.batch_size\n"
        "not_installed.start()\n"
        "def train(x):\n"
        "    return encoder(x), kl_criterion(x), mse_criterion(x, x), encoder_optimizer\n"
    )
    settings = SimpleNamespace(batch_size=4)
    step = official_svg._training_step(
        tmp_path / "train_svg_lp.py", {"encoder": nn.Identity()}, {"encoder": "adam"}, settings
    )
    assert step(torch.tensor(8.0)) == (8, 2, 0, "adam")


def test_brings_old_code_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "models.py").write_text(
        "import torch\n"
        "T = torch\n"
        "for key, value in {'four': torch.tensor(4.0)}.iteritems():\n"
        "    print '%s is %d' % (key, value.data[0])\n"
        "HALF = T.FloatTensor(6, 1).size(0) / 4\n"
    )
    module: Any = official.import_official(tmp_path, "models", torch.float32)
    assert capsys.readouterr().out == "four is 4\n"
    assert module.HALF == 1
    assert official.import_official(tmp_path, "models", torch.float64).T.FloatTensor is torch.DoubleTensor


def test_chosen_rows_become_videos_and_frames() -> None:
    numbers = torch.arange(3.0)
    motion = torch.stack([10 * numbers, 10 * numbers + 1])[:, :, None]  # (T, N, 1): ten times the video, plus the frame
    draws = LatentDraws(numbers[:, None], torch.tensor([2, 1, 0]), -numbers[:, None], motion)
    chosen, frame = official.chosen_frames(draws, np.array([5, 0, 4]))  # rows of 3 videos of 2 frames
    assert frame.tolist() == [[0], [0], [1]]
    assert chosen.content.flatten().tolist() == [0, 2, 2]
    assert chosen.category is not None
    assert chosen.category.tolist() == [2, 0, 0]
    assert chosen.initial.flatten().tolist() == [0, -2, -2]
    assert chosen.motion[:, :, 0].tolist() == [[0, 20, 20], [1, 21, 21]]


def test_layers_correspond_by_kind_and_order() -> None:
    ours = nn.ModuleDict({"norms": nn.BatchNorm2d(2), "layers": nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1))})
    theirs = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))
    found = official.corresponding("d", ours, theirs)
    assert found.keys() == {f"d.{key}" for key in ours.state_dict()}
    assert found["d.norms.running_var"] is theirs[1].running_var
    assert found["d.layers.1.weight"] is theirs[2].weight


def test_what_is_due_now_and_then_counts_in_whole_periods() -> None:
    stopwatch = benchmark.Stopwatch(warm_up=2, timed=20, clock=lambda: 0.0, period=3)
    assert (stopwatch.timed, stopwatch.total) == (21, 2 + 21 + 6)
    stopwatch.seconds = [1.0, 1.0, 4.0, 1.0, 1.0, 7.0, 1.0, 1.0, 4.0]
    assert stopwatch.seconds_per_iteration == 2.0
    assert benchmark.describe_periods(stopwatch) == "3 times 3"


def test_the_clipping_of_tgan_has_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["resolution=16", "dim_slow=4", "dim_fast=4", "frame_seed_channels=[8,4,4,4]", "generator_width=16"]
    arguments = ["train", "--model", "tgan", "--set", *small, "discriminator_width=4", "--data", "random"]
    assert benchmark.main([*arguments, "--batch-size", "2", "--iterations", "4", "--warm-up", "1"]) == 0
    output = capsys.readouterr().out
    assert "median of 1 times 5)" in output
    assert re.search(r"^  discriminator/svc +\d+\.\d %$", output, re.MULTILINE)
