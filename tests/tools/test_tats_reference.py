"""The official TATS code is brought up to date in memory, and nothing is timed that computes something else."""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from vidgen.interop.tats_names import TRANSFORMER_PART
from vidgen.models.base import Batch, LikelihoodModel, LossTerms, VideoModel
from vidgen.models.tats.gpt import GPT, Cache
from vidgen.models.tats.sampling import Choice, generate_uncached

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import benchmark
import pairing
import tokens
from references import tats, tats_vqgan

SHORT = ["--iterations", "2", "--warm-up", "1", "--batch-size", "2"]


# The checkout ---------------------------------------------------------------------------------------------------------


CHECKOUT = {
    "utils": "import imageio\nimport skvideo.io\ndef twice(x):\n    return 2 * x\n",
    "modules/lpips": (
        "import requests\nfrom tqdm import tqdm\nfrom torchvision import models\nimport torch.nn as nn\n"
        "class LPIPS(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.features = models.vgg16(pretrained=True).features\n"
        "        self.load_from_pretrained()\n"
        "    def load_from_pretrained(self, name='vgg_lpips'):\n"
        '        if name is not "vgg_lpips":\n'
        "            raise NotImplementedError\n"
        "        requests.get(name)\n"
    ),
    "modules/codebook": "from ..utils import twice\n",
    "modules/__init__": "from .lpips import LPIPS\nfrom .codebook import twice\n",
    "modules/gpt": "class GPT:\n    pass\n",
    "modules/encoders": "",
    "tats_vqgan": (
        "import torch\nimport torch.nn as nn\nfrom .modules import LPIPS\n"
        "class VQGAN(nn.Module):\n"
        "    def __init__(self, args):\n"
        "        super().__init__()\n"
        "        self.args, self.perceptual_model = args, LPIPS()\n"
        "        self.save_hyperparameters()\n"
        "    def frames(self, x, B, T):\n"
        "        frame_idx = torch.randint(0, T, [B]).cuda()\n"
        "        self.log('train/frames', frame_idx)\n"
        "        return frame_idx\n"
    ),
    "tats_transformer": (
        "import torch\nfrom .modules.gpt import GPT\n"
        "class Net2NetTransformer:\n"
        "    @torch.no_grad()\n"
        "    def sample(self, x, c, steps, sample=False):\n"
        "        assert self.pkeep == 1.0 and sample and x.shape[1] == 0\n"
        "        return self.transformer(c, steps)\n"
    ),
}


def checkout(folder: Path) -> Path:
    """A few lines with the peculiarities of the official files."""
    for name, source in CHECKOUT.items():
        file = folder / "tats" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return folder


def vqgan_arguments(**more: Any) -> dict[str, Any]:
    return benchmark.completed({"model": "tats_vqgan", "model_args": more})["model_args"]


def test_brings_the_official_code_up_to_date(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    before = set(sys.modules)
    official = tats.Official(checkout(tmp_path))
    assert official.title == "songweige/TATS (no commit)"
    network = official.vqgan(vqgan_arguments(n_codes=7, disc_start=3, random_restart=True, downsample=[2, 4, 4]))
    assert not {name for name in set(sys.modules) - before if "tats" in name or name in tats.LEFT_OUT}
    assert network.args.n_codes == 7 and network.args.discriminator_iter_start == 3 and network.global_step == 0
    assert not network.args.no_random_restart and network.args.downsample == (2, 4, 4)
    weights = [layer.weight for layer in network.perceptual_model.features if isinstance(layer, nn.Conv2d)]
    assert [len(weight) for weight in weights] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert network.frames(torch.zeros(1), 5, 2).shape == (5,)
    prefix = torch.zeros(1, 1)
    assert official.sample_uncached(lambda x, steps: (x, steps), prefix, 4) == (prefix, 4)  # type: ignore[arg-type]
    assert not recwarn.list


def test_weights_of_the_random_vgg_keep_the_size_of_the_input() -> None:
    torch.manual_seed(0)
    made = tats.random_vgg()(torch.randn(1, 3, 32, 32))
    assert made.shape == (1, 512, 1, 1) and 0.1 < made.std() < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "tats_vqgan", "--reference", "/nowhere"],
         "/nowhere: has no tats/utils.py; give a checkout of github.com/songweige/TATS"),
        (["--model", "tats_vqgan", "--set", "padding=zero", "--reference", "CHECKOUT"],
         "model.padding: is 'zero', but the official code is compared at 'replicate' only"),
        (["--model", "tats", "--set", "first_stage={model: tats_vqgan, model_args: {n_cods: 4}}"],
         "--set n_cods: tats_vqgan has no such argument; did you mean 'n_codes'?"),
        (["--model", "tats", "--set", "FIRST", "reads=tokens", "--reference", "/nowhere"],
         "model.reads: is 'tokens', but the official code is compared at 'video' only"),
        (["--model", "tats", "--set", "FIRST", "condition=text", "text_length=2", "--reference", "/nowhere"],
         "model.condition: is 'text', but the official code is compared with none or a label only"),
    ],
)  # fmt: skip
def test_says_what_cannot_be_compared(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "{resolution: 16, num_frames: 4, n_hiddens: 2, downsample: [2, 4, 4], embedding_dim: 2, n_codes: 4}"
    named = {
        "CHECKOUT": str(checkout(tmp_path)),
        "FIRST": f"first_stage={{model: tats_vqgan, model_args: {small}}}",
    }
    sizes = ["--set", "resolution=16", "num_frames=4"]
    sizes += ["n_layer=1", "n_head=1", "n_embd=4"] if "tats" in arguments else ["n_hiddens=2", "disc_channels=2"]
    given = [named.get(argument, argument) for argument in arguments]
    sizes += ["downsample=[2, 4, 4]"] if "tats" not in arguments else []
    assert benchmark.main(["train", *given, *sizes, *SHORT]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"


def test_hands_out_what_was_drawn_in_its_order() -> None:
    drawn = tats_vqgan.Drawn()
    drawn.normals += [torch.ones(2, 3), torch.zeros(2, 3)]
    drawn.permutations.append(torch.tensor([1, 0]))
    drawn.frames.append(torch.tensor([3, 1, 2]))
    assert drawn.shared().normal(2, 3).sum() == 6 and drawn.normal(2, 3).sum() == 0
    assert drawn.permutation(2).tolist() == [1, 0] and drawn.integers(4, 3).tolist() == [3, 1, 2]
    drawn.permutations.append(torch.tensor([1, 0]))
    with pytest.raises(AssertionError):
        drawn.permutation(3)


# Pairing --------------------------------------------------------------------------------------------------------------


class Joined(LikelihoodModel):
    """One layer for what the original has two of."""

    def __init__(self, resolution: int = 1, num_frames: int = 2, channels: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4, bias=False)

    def loss(self, batch: Batch) -> LossTerms:
        return {"error": self.layer(batch["video"].flatten(1)).square().sum()}

    def build_optimizer(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.01)


class JoinedOriginal(pairing.Reference):
    """Two layers, clipped as the trainer clips."""

    title = "the original of two"
    swapped = False
    clips = True

    def __init__(self, path: Path, model: VideoModel) -> None:
        self.model = model
        self.halves = [torch.zeros(2, 2, dtype=model.dtype, requires_grad=True) for _ in range(2)]
        self.state = {"layer.weight": self.halves[::-1] if self.swapped else self.halves}
        self.optimizers = {"all": SGD(self.halves, lr=0.01)}

    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        video = batches[0]["video"].to(self.halves[0].dtype).flatten(1)
        first, second = ((video @ half.T).square().sum() for half in self.halves)
        loss = first + 1 * second
        self.optimizers["all"].zero_grad()
        loss.backward()
        if self.clips:
            tats.clip(self.optimizers["all"], self.model.trainer.gradient_clip_val)
        self.optimizers["all"].step()
        return {"error": loss}

    def recorded(self) -> AbstractContextManager[None]:
        return nullcontext()

    def replayed(self, draws: None) -> AbstractContextManager[None]:
        return nullcontext()


class Unclipped(JoinedOriginal):
    """Steps as far as the gradient says."""

    clips = False


class PartlyCompared(Unclipped):
    """Leaves out what it does otherwise."""

    compared_iterations = 1

    def compares(self, name: str) -> bool:
        return name == "error"


class OtherHalf(JoinedOriginal):
    """Its second half weighs more."""

    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        with torch.no_grad():
            self.halves[1] *= 1.5
        return super().iteration(batches)


def run_joined(monkeypatch: pytest.MonkeyPatch, original: type[JoinedOriginal]) -> int:
    monkeypatch.setattr(benchmark, "find_reference", lambda name: original)
    arguments = ["train", "--model", f"{__name__}.Joined", "--clip", "0.5", "--reference", ".", *SHORT]
    return benchmark.main(arguments)


def test_compares_joined_tensors_part_by_part_and_what_is_clipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_joined(monkeypatch, JoinedOriginal) == 0
    assert "largest differences over 2 iterations" in capsys.readouterr().out
    assert run_joined(monkeypatch, Unclipped) == 2
    assert "the gradient of layer.weight[0] is" in capsys.readouterr().err
    assert run_joined(monkeypatch, OtherHalf) == 2
    assert "the loss of error" in capsys.readouterr().err


def test_leaves_out_what_is_known_to_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_joined(monkeypatch, PartlyCompared) == 0
    out = capsys.readouterr().out
    assert re.search(r"over 1 iterations in float64: losses \S+, gradients 0.0e\+00, weights 0.0e\+00", out)


def test_copies_each_part_to_where_it_belongs() -> None:
    model = Joined()
    reference = JoinedOriginal(Path(), model)
    pairing.copy_weights(model, reference)
    assert torch.equal(torch.cat(reference.halves), model.layer.weight)
    assert list(reference.tensors) == ["layer.weight[0]", "layer.weight[1]"]


# Tokens ---------------------------------------------------------------------------------------------------------------


def official_twin(other: int = 0) -> Any:
    """Stands for the official code: our own transformer and its loop without a cache."""

    def build(_: None, vocabulary: int, block: int, n_layer: int, n_head: int, n_embd: int) -> GPT:
        return GPT(vocabulary, block, n_layer, n_head, n_embd)

    def sample(prefix: Tensor, gpt: GPT, steps: int) -> Tensor:
        def pick(probabilities: Tensor) -> Tensor:
            return torch.multinomial(probabilities, num_samples=1)[:, 0]

        made = generate_uncached(gpt, prefix, steps, Choice(), pick)
        made[:, :other] += 1
        return made

    return SimpleNamespace(
        title="a twin",
        gpt=SimpleNamespace(GPT=build, sample_with_past=sample),
        sample_uncached=lambda gpt, prefix, steps: sample(prefix, gpt, steps),
    )


ARGUMENTS = ["tokens", "--reference", ".", "--turns", "2", "--uncached-turns", "1"]
ARGUMENTS += [item for name in ("layers", "heads", "batch") for item in (f"--{name}", "2")]
ARGUMENTS += ["--width", "8", "--vocabulary", "30", "--tokens", "6"]


def twin_tensors(theirs: nn.Module, ours: nn.Module, part: Any) -> dict[str, Any]:
    assert part is TRANSFORMER_PART
    found = theirs.state_dict(keep_vars=True)
    return {f"transformer.{key}": list(found[key].chunk(3)) if ".qkv." in key else found[key] for key in found}


def test_times_sampling_of_the_same_tokens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tokens, "Official", lambda path: official_twin())
    monkeypatch.setattr(tokens, "corresponding", twin_tensors)
    assert benchmark.main(ARGUMENTS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "reference: a twin"
    assert re.fullmatch(r"in float64 all three sample the same 12 tokens, \d+ different ones", lines[2])
    assert re.fullmatch(r"2 pairs: vidgen \S+ s, official loop with its cache \S+ s per 6 tokens \(medians\)", lines[3])
    speed = r"speed beside the official loop with its cache: \S+ times; other tokens in float32: 0"
    assert re.fullmatch(speed, lines[6])
    assert re.fullmatch(r"1 pairs: vidgen \S+ s, official loop without one \S+ s per 6 tokens \(medians\)", lines[7])


def test_refuses_a_loop_that_samples_other_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tokens, "Official", lambda path: official_twin(2))
    monkeypatch.setattr(tokens, "corresponding", twin_tensors)
    assert benchmark.main(ARGUMENTS) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: official loop with its cache: 4 of 12 tokens are others, in float64, with the same draws"
    )


def test_draws_as_torch_does() -> None:
    torch.manual_seed(0)
    probabilities = torch.rand(5, 40).softmax(-1)
    state = torch.get_rng_state()
    drawn = torch.multinomial(probabilities, num_samples=1)
    torch.set_rng_state(state)
    slab = torch.empty_like(probabilities).exponential_()
    with tokens.Given(slab[None]).instead():
        assert torch.equal(torch.multinomial(probabilities, num_samples=1), drawn)


def test_speed_is_the_median_of_the_pairs() -> None:
    assert tokens._speed([(1.0, 2.0), (1.0, 4.0), (2.0, 6.0)]) == 3
    assert tokens._speed([(1.0, 2.0), (1.0, 4.0)]) == 3


def test_a_cache_of_weights_by_columns_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    gpt = GPT(11, 4, 2, 2, 8).double().eval()
    wide = [gpt.head.weight, *(w for block in gpt.blocks for w in (block.qkv.weight, block.expand.weight))]
    assert all(weight.t().is_contiguous() and isinstance(weight, nn.Parameter) for weight in wide)
    given = torch.randint(11, (3, 4))
    rows = GPT(11, 4, 2, 2, 8).double().eval()
    rows.load_state_dict(gpt.state_dict())
    assert rows.head.weight.t().is_contiguous()
    with torch.no_grad():
        expected = rows(given)
        cache = Cache(gpt, 3, 4)
        steps = torch.stack([gpt.advance(token[:, None], cache) for token in given.unbind(1)], 1)
    torch.testing.assert_close(steps, expected, rtol=0, atol=1e-12)
