"""The first stage of TATS: sizes, what a code may depend on, the codebook, the losses of both updates, its refusals."""

from __future__ import annotations

import copy
import math
from operator import mul
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.contract.running import train, weights
from tests.models.watching import Step, enliven, parameters, watch
from tests.pair import ProcessPair
from vidgen.data.spec import DataSpec
from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.models.tats.autoencoder import VideoAutoencoder
from vidgen.models.tats.codebook import Codebook
from vidgen.models.tats.discriminators import PatchDiscriminator
from vidgen.models.tats.networks import (
    PADDINGS,
    PaddedConv3d,
    PaddedConvTranspose3d,
    Padding,
    decoder_reach,
    encoder_reach,
    pad_edges,
    strides_of,
)
from vidgen.models.tats.vqgan import TATSVQGAN
from vidgen.seeding import NoiseStream

SMALL = {**TATSVQGAN.small_variants()["default"], "disc_loss": "hinge"}
DOWNSAMPLES = [(1, 2, 2), (2, 1, 2), (2, 2, 2), (4, 2, 2), (2, 4, 4), (4, 8, 8)]


def small(**arguments: Any) -> TATSVQGAN:
    """A tiny model in float64 whose weights matter, the same for the same arguments, in training."""
    torch.manual_seed(0)
    return enliven(TATSVQGAN(**{**SMALL, **arguments}), 1.0).double()


def network(downsample: tuple[int, int, int] = (2, 2, 2), **arguments: Any) -> VideoAutoencoder:
    """The same of an autoencoder alone, in use, with codes among its latents."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": 2, "n_hiddens": 2, "embedding_dim": 3, "n_codes": 50, **arguments}
    return enliven(VideoAutoencoder(downsample=downsample, **sizes), 1.0).double().eval()


def random(*shape: int, seed: int = 5) -> Tensor:
    """N(0, 1) in float64."""
    return NoiseStream(seed, dtype=torch.float64).normal(*shape)


def clips(model: TATSVQGAN, number: int = 3) -> dict[str, Tensor]:
    """Random videos in [-1, 1]."""
    size = (number, model.channels, model.num_frames, *model.size)
    return {"video": NoiseStream(5, dtype=torch.float64).uniform(*size) * 2 - 1}


def draws(seed: int = 7) -> NoiseStream:
    """What a codebook draws from."""
    return NoiseStream(seed, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, message: str = "") -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11, msg=message or None)


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full() -> TATSVQGAN:
    """The paper's, of no weight."""
    with torch.device("meta"):
        return TATSVQGAN()


def test_parameters_of_the_full_model(full: TATSVQGAN) -> None:
    sizes = {"encoder": 7_403_648, "project": 65_792, "unproject": 65_792, "decoder": 16_116_995}
    sizes |= {"image_discriminator": 2_766_529, "video_discriminator": 11_057_857}
    assert {name: parameters(part) for name, part in full.networks().items()} == sizes
    buffers = {name: buffer.numel() for name, buffer in full.autoencoder.codebook.named_buffers()}
    assert sum(buffers.values()) - buffers["initialised"] == 8_404_992
    assert not list(full.autoencoder.codebook.parameters())


def shapes(part: nn.Module, *names: str, of: Tensor) -> list[tuple[int, ...]]:
    """Sizes without the batch that named parts of a network have made."""
    found: list[tuple[int, ...]] = []
    hooks = [
        part.get_submodule(name).register_forward_hook(lambda *made: found.append(tuple(made[2].shape[1:])))
        for name in names
    ]
    part(of)
    for hook in hooks:
        hook.remove()
    return found


def test_maps_of_the_full_model(full: TATSVQGAN) -> None:
    autoencoder = full.autoencoder
    video = torch.empty(1, 3, 16, 128, 128, device="meta")
    downs = [f"levels.{level}.{part}" for level in range(3) for part in ("down", "res")]
    found = shapes(autoencoder.encoder, "first", *downs, "norm", of=video)
    sizes = [(64, 8, 64, 64), (128, 4, 32, 32), (256, 4, 16, 16)]
    assert found == [(32, 16, 128, 128), *(size for size in sizes for _ in range(2)), (256, 4, 16, 16)]
    ups = [f"levels.{level}.{part}" for level in range(3) for part in ("up", "res1", "res2")]
    found = shapes(autoencoder.decoder, "norm", *ups, "last", of=torch.empty(1, 256, 4, 16, 16, device="meta"))
    sizes = [(256, 8, 32, 32), (128, 16, 64, 64), (64, 16, 128, 128)]
    assert found == [(256, 4, 16, 16), *(size for size in sizes for _ in range(3)), (3, 16, 128, 128)]
    assert autoencoder.latent_shape(16, 128, 128) == (4, 16, 16)
    maps = full.image_discriminator(video[:, :, 0])
    assert [tuple(each.shape[1:]) for each in maps] == [
        (64, 65, 65), (128, 33, 33), (256, 17, 17), (512, 18, 18), (1, 19, 19)
    ]  # fmt: skip
    maps = full.video_discriminator(video)
    assert [tuple(each.shape[1:]) for each in maps] == [
        (64, 9, 65, 65), (128, 5, 33, 33), (256, 3, 17, 17), (512, 4, 18, 18), (1, 5, 19, 19)
    ]  # fmt: skip


def test_discriminators_grow_to_512_channels_and_normalise_all_but_the_first_and_last_stage() -> None:
    with torch.device("meta"):
        found = PatchDiscriminator(2, 3, 64, 5)
    assert [stage.convolution.out_channels for stage in found.stages] == [64, 128, 256, 512, 512, 512, 1]
    assert [stage.convolution.stride[0] for stage in found.stages] == [2, 2, 2, 2, 2, 1, 1]
    assert [hasattr(stage, "norm") for stage in found.stages] == [False, *[True] * 5, False]


@pytest.mark.parametrize(
    ("downsample", "strides"),
    [
        ((4, 8, 8), [(2, 2, 2), (2, 2, 2), (1, 2, 2)]),
        ((1, 2, 4), [(1, 2, 2), (1, 1, 2)]),
        ((8, 1, 2), [(2, 1, 2), (2, 1, 1), (2, 1, 1)]),
    ],
)
def test_an_axis_is_halved_in_the_first_levels(
    downsample: tuple[int, int, int], strides: list[tuple[int, int, int]]
) -> None:
    assert strides_of(downsample) == strides
    found = network(downsample)
    assert [level.down.stride for level in found.encoder.levels] == strides
    assert [level.up.stride for level in found.decoder.levels] == strides, "not mirrored"


@pytest.mark.parametrize(
    ("kernel", "stride", "before", "after"),
    [(4, (1, 2, 1), (2, 1, 2), (1, 1, 1)), (4, (2, 2, 2), (1, 1, 1), (1, 1, 1)), (3, (1, 1, 1), (1, 1, 1), (1, 1, 1))],
)
@pytest.mark.parametrize("mode", ["replicate", "zero", "reflect", "circular"])
def test_padding(
    mode: Any, kernel: int, stride: tuple[int, int, int], before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    x = random(2, 3, 4, 6, 6)
    amounts = [amount for pair in zip(before[::-1], after[::-1], strict=True) for amount in pair]
    padded = F.pad(x, amounts, mode="constant" if mode == "zero" else mode)
    assert torch.equal(pad_edges(x, before, after, mode), padded)
    layer = PaddedConv3d(3, 2, kernel, stride, mode).double()
    assert layer.bias is not None and (layer.before, layer.after) == (before, after)
    close(layer(x), F.conv3d(padded, layer.weight, layer.bias, stride))
    assert layer(x).shape[2:] == tuple(size // s for size, s in zip(x.shape[2:], stride, strict=True))
    up = PaddedConvTranspose3d(3, 2, kernel, stride, mode).double()
    assert up.bias is not None and (up.before, up.after) == (before, after)
    close(up(x), F.conv_transpose3d(padded, up.weight, up.bias, stride, padding=kernel - 1))
    assert up(x).shape[2:] == tuple(size * s for size, s in zip(x.shape[2:], stride, strict=True))


# What a code and a frame may depend on -------------------------------------------------------------------------------


def time_spread(found: VideoAutoencoder, length: int = 8) -> float:
    """How much latents of a clip that stands still differ along time, of their standard deviation."""
    still = random(1, 2, 1, 8, 8).clamp(-0.5, 0.5).expand(-1, -1, length, -1, -1)
    z = found.latents(still)
    return float((z.amax(2) - z.amin(2)).max() / z.std())


@pytest.mark.parametrize("downsample", [(2, 4, 4), (4, 2, 2)])
@pytest.mark.parametrize("norm", ["batch", "group"])
@torch.no_grad()
def test_a_clip_that_stands_still_has_the_same_latents_at_every_time(
    norm: Any, downsample: tuple[int, int, int]
) -> None:
    width = {"n_hiddens": 16} if norm == "group" else {}
    assert time_spread(network(downsample, norm=norm, **width)) < 1e-12
    assert time_spread(network(downsample, norm=norm, padding="circular", padding_scope="all", **width)) < 1e-12
    for scope in ("encoder", "all"):
        leak = time_spread(network(downsample, norm=norm, padding="zero", padding_scope=scope, **width))
        assert 0.2 < leak < 6, scope


@torch.no_grad()
def test_padding_outside_residual_blocks_or_everywhere() -> None:
    for scope, inside in (("encoder", "replicate"), ("all", "zero")):
        found = network(padding="zero", padding_scope=scope)
        modes = {name: layer.mode for name, layer in found.named_modules() if hasattr(layer, "mode")}
        for name, mode in modes.items():
            outside = name.startswith("encoder.") and ".res." not in name
            assert mode == ("zero" if outside else inside), name
        assert len(modes) == 10


@pytest.mark.parametrize("downsample", [(2, 2, 2), (4, 2, 2)])
@torch.no_grad()
def test_real_frames_beside_a_clip_stand_in_for_padding(downsample: tuple[int, int, int]) -> None:
    found = network(downsample)
    found.real_frames = frames = found.halo
    stride = downsample[0]
    longer = random(1, 2, 2 * frames + 4 * stride, 4, 4).clamp(-1, 1)
    clip = longer[:, :, stride:-stride]
    inner = slice(1 + frames // stride, 3 + frames // stride)
    quantised = found.codebook(found._inner(found.latents(clip / 2)))
    made = found(clip / 2)
    assert torch.equal(made.target, clip[:, :, frames:-frames] / 2)
    assert torch.equal(made.quantised.tokens, quantised.tokens) and made.video.shape == made.target.shape
    close(found._inner(found.latents(clip / 2)), found.latents(longer / 2)[:, :, inner])
    assert torch.equal(found.encode_inner(clip), found.encode(longer)[:, inner])
    assert not torch.allclose(found.latents(clip[:, :, frames:-frames] / 2), found.latents(longer / 2)[:, :, inner])


def reached(found: Tensor, given: Tensor) -> list[int]:
    """Times of ``given`` that have a gradient from ``found``."""
    (slope,) = torch.autograd.grad(found.sum(), given, retain_graph=True)
    return slope.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()


@pytest.mark.parametrize("downsample", DOWNSAMPLES)
def test_reach_of_latents_and_frames(downsample: tuple[int, int, int]) -> None:
    found = network(downsample, channels=1, n_hiddens=1, embedding_dim=1)
    stride = downsample[0]
    before, after = found.encoder_reach
    middle = -(-before // stride)
    length = (middle + -(-after // stride) + 2) * stride
    video = random(1, 1, length, downsample[1], downsample[2]).requires_grad_()
    z = found.latents(video)
    assert reached(z[:, :, middle], video) == list(range(middle * stride - before, middle * stride + after + 1))
    low, high = found.decoder_reach
    codes = random(1, 1, low + high + 3, 1, 1).requires_grad_()
    frames = found.frames(codes)
    own = slice((low + 1) * stride, (low + 2) * stride)
    assert reached(frames[:, :, own], codes) == list(range(1, low + high + 2))
    assert found.halo % stride == 0 and found.halo >= before and found.halo > after - stride
    assert found.halo - stride < before or found.halo - stride <= after - stride


def test_reach_of_the_paper() -> None:
    strides = [stride[0] for stride in strides_of((4, 8, 8))]
    assert encoder_reach(strides) == (32, 31), "latent t: frames 4t - 32 to 4t + 31"
    assert decoder_reach(strides) == (6, 6), "frames of latent t: latents t - 6 to t + 6"


@pytest.mark.parametrize("downsample", [(1, 2, 2), (2, 2, 2), (4, 2, 2)])
@pytest.mark.parametrize("padding", ["replicate", "zero", "reflect"])
@torch.no_grad()
def test_parts_with_what_is_beside_them_are_those_of_the_whole(downsample: Any, padding: Any) -> None:
    found = network(downsample, padding=padding, padding_scope="all")
    stride, halo = downsample[0], found.halo
    video = random(1, 2, 3 * halo + 4 * stride, 8, 8).clamp(-1, 1)
    z = found.latents(video / 2)
    found.codebook.embeddings.copy_(z.movedim(1, -1).flatten(0, 3)[:50])
    whole = found.encode(video)
    assert len(whole.unique()) > 40
    for start, stop in ((0, 2 * stride), (halo, halo + 3 * stride), (video.shape[2] - stride, video.shape[2])):
        first = max(0, start - halo)
        part = found.encode(video[:, :, first : stop + halo])[:, (start - first) // stride :]
        assert torch.equal(part[:, : (stop - start) // stride], whole[:, start // stride : stop // stride])
    frames = found.decode(whole)
    assert frames.shape == video.shape
    for start, stop in ((0, 1), (2, 5), (whole.shape[1] - 3, whole.shape[1])):
        part = found.decode_part(whole, start, stop)
        torch.testing.assert_close(part, frames[:, :, start * stride : stop * stride], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("mixing", "arguments"),
    [
        ("group norm", {"norm": "group", "n_hiddens": 16}),
        ("circular padding", {"padding": "circular", "padding_scope": "all"}),
    ],
)
def test_what_ties_all_times_together_has_no_parts(mixing: str, arguments: dict[str, Any]) -> None:
    found = network(**arguments)
    with pytest.raises(ValueError, match=f"^a video cannot be decoded in parts: {mixing} mixes all its time steps$"):
        found.decode_part(torch.zeros(1, 4, 2, 2, dtype=torch.int64), 0, 1)
    assert small(**arguments, downsample=(2, 2, 2)).encoding.halo is None
    assert not network(padding="circular").decoder_mixes, "the decoder repeats the edge"


def test_what_it_says_of_its_tokens() -> None:
    model = small()
    encoding = model.encoding
    assert (encoding.key, encoding.stride, encoding.halo, encoding.num_codes) == ("tokens", 2, 14, 8)
    assert encoding.fingerprint == copy.deepcopy(model).encoding.fingerprint
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.autoencoder.decoder.last.bias.add_(1)
        other.autoencoder.codebook.sums.add_(1)
        other.image_discriminator.stages[0].convolution.bias.add_(1)
    assert other.encoding.fingerprint == encoding.fingerprint, "none of this moves a token"
    with torch.no_grad():
        other.autoencoder.codebook.embeddings[0, 0].add_(1)
    assert other.encoding.fingerprint != encoding.fingerprint


# The codebook --------------------------------------------------------------------------------------------------------


def codebook(number: int = 6, dim: int = 3, started: bool = True, **arguments: Any) -> Codebook:
    """Codes of which some are used more than others."""
    found = Codebook(number, dim, **arguments).double()
    with torch.no_grad():
        found.embeddings.copy_(random(number, dim, seed=1))
        found.sums.copy_(random(number, dim, seed=2))
        found.counts.copy_(random(number, seed=3).abs())
        found.initialised.fill_(started)
    return found


def latents(number: int = 4, dim: int = 3, size: tuple[int, int, int] = (2, 1, 3), seed: int = 4) -> Tensor:
    return random(number, dim, *size, seed=seed)


def rows_of(z: Tensor) -> list[Tensor]:
    """Latents in the order clip, time, row, column."""
    places = torch.cartesian_prod(*(torch.arange(z.shape[axis]) for axis in (0, 2, 3, 4))).tolist()
    return [z[b, :, t, y, x] for b, t, y, x in places]


def test_averages_against_a_plain_loop() -> None:
    found, z = codebook(), latents()
    counts, sums, codes = found.counts.clone(), found.sums.clone(), found.embeddings.clone()
    used, moved = torch.zeros(6, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64)
    tokens = []
    for row in rows_of(z):
        best = min(range(6), key=lambda code: float((row - codes[code]).square().sum()))
        used[best] += 1
        moved[best] += row
        tokens.append(best)
    made = found(z, draws())
    assert made.tokens.flatten().tolist() == tokens and made.tokens.shape == (4, 2, 1, 3)
    counts, sums = 0.99 * counts + 0.01 * used, 0.99 * sums + 0.01 * moved
    total = counts.sum()
    smooth = (counts + 1e-7) / (total + 6 * 1e-7) * total
    close(found.counts, counts)
    close(found.sums, sums)
    close(found.embeddings, sums / smooth[:, None])
    close(made.embeddings, codes[tokens].view(4, 2, 1, 3, 3).movedim(-1, 1), "codes of before the update")
    close(made.commitment, 0.25 * F.mse_loss(z, made.embeddings))
    share = used / used.sum()
    close(made.perplexity, torch.exp(-(share * (share + 1e-10).log()).sum()))
    close(made.usage, (used > 0).double().mean())
    assert torch.equal(found.lookup(made.tokens)[1, :, 1, 0, 2], found.embeddings[made.tokens[1, 1, 0, 2]])


def test_gradient_goes_straight_through() -> None:
    found, z, slope = codebook(), latents().requires_grad_(), latents(seed=8)
    made = found(z, draws())
    (gradient,) = torch.autograd.grad((made.embeddings * slope).sum() + made.commitment, z)
    close(gradient, slope + 0.5 * (z - made.embeddings).detach() / z.numel())


def test_extremes_of_perplexity_and_usage() -> None:
    found = codebook()
    same = found.embeddings[2].view(1, 3, 1, 1, 1).expand(1, 3, 2, 1, 1)
    one = found.eval()(same)
    assert one.perplexity.item() == pytest.approx(1) and one.usage.item() == pytest.approx(1 / 6)
    each = found(found.embeddings.t().view(1, 3, 6, 1, 1))
    assert each.perplexity.item() == pytest.approx(6) and each.usage == 1 and each.commitment == 0


@pytest.mark.parametrize(("number", "few"), [(6, False), (60, True)])
def test_the_first_batch_sets_the_codes(number: int, few: bool) -> None:
    found, z = codebook(number, started=False), latents()
    rows = torch.stack(rows_of(z))
    noise = draws()
    jitter = noise.normal(72, 3) * 0.01 / math.sqrt(3) if few else torch.zeros(24, 3, dtype=torch.float64)
    order = noise.permutation(len(jitter))[:number]
    expected = rows[order % 24] + jitter[order]
    made = found(z, draws())
    close(made.embeddings, expected[made.tokens.flatten()].view(4, 2, 1, 3, 3).movedim(-1, 1))
    used = torch.bincount(made.tokens.flatten(), minlength=number).double()
    close(found.counts, 0.99 + 0.01 * used)
    assert found.initialised and found.is_initialised
    if few:
        assert used.sum() == 24 and len(expected.unique(dim=0)) == number, "copies are told apart"
    again = found.embeddings.clone()
    found(z, draws(9))
    assert (found.embeddings - again).abs().max() < 0.1, "it starts once"


def test_codes_out_of_use_restart_and_come_back() -> None:
    found, z = codebook(random_restart=True, restart_threshold=0.8), latents()
    plain = codebook()
    plain(z, draws())
    found(z, draws())
    unused = found.counts < 0.8
    assert 0 < unused.sum() < 6
    expected = torch.stack(rows_of(z))[draws().permutation(24)[:6]]
    close(found.embeddings, torch.where(unused[:, None], expected, plain.embeddings))
    close(found.counts, plain.counts)
    close(found.sums, plain.sums, "the average is kept")
    found.random_restart = False
    found(z, draws())
    total = found.counts.sum()
    close(found.embeddings, found.sums / ((found.counts + 1e-7) / (total + 6e-7) * total)[:, None], "it comes back")


def test_state_survives_a_round_trip() -> None:
    found, z = codebook(started=False), latents()
    found(z, draws())
    other = Codebook(6, 3).double()
    assert not other.is_initialised, "asked before it is filled"
    other.load_state_dict(found.state_dict())
    assert other.is_initialised
    found(latents(seed=9), draws(1))
    other(latents(seed=9), draws(1))
    for key, value in found.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert set(found.state_dict()) == {"embeddings", "counts", "sums", "initialised"}


def test_nothing_is_learned_in_use_or_without_draws() -> None:
    for started in (True, False):
        for mode, given in ((False, draws()), (True, None)):
            found = codebook(started=started).train(mode)
            before = copy.deepcopy(found.state_dict())
            found(latents(), given)
            assert all(torch.equal(before[key], value) for key, value in found.state_dict().items())


def test_distances_stay_in_float32_under_bfloat16() -> None:
    found = Codebook(512, 8)
    with torch.no_grad():
        found.embeddings.copy_(0.01 * torch.randn(512, 8) + 3)
    z = (0.01 * torch.randn(4, 8, 2, 3, 3) + 3).bfloat16()
    expected = torch.cdist(z.double().movedim(1, -1).flatten(0, 3), found.embeddings.double()).argmin(1)
    found.initialised.fill_(True)
    with torch.autocast("cpu", torch.bfloat16):
        made = found(z, NoiseStream(0))
    assert (made.tokens.flatten() == expected).float().mean() > 0.95, "float32 loses a few that are nearly as near"
    assert made.embeddings.dtype == made.commitment.dtype == torch.float32
    distance = F.mse_loss(z.double(), made.embeddings.double())
    assert made.commitment.item() == pytest.approx(0.25 * distance.item(), rel=1e-3)
    assert found.counts.dtype == found.embeddings.dtype == torch.float32


def test_long_videos_are_compared_with_the_codes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    found, z = codebook(), latents()
    whole = found.nearest(z)
    monkeypatch.setattr("vidgen.models.tats.codebook.MOST_ROWS", 7)
    sizes: list[int] = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda a, b, c, **more: sizes.append(len(b)) or addmm(a, b, c, **more))
    assert torch.equal(found.nearest(z), whole)
    assert max(sizes) == 7 and sum(sizes) == whole.numel() > 7


def test_half_precision_leaves_the_codebook_alone() -> None:
    model = TATSVQGAN(**SMALL).to(torch.bfloat16).train()
    found = model.autoencoder.codebook
    assert model.autoencoder.project.weight.dtype == torch.bfloat16
    assert found.embeddings.dtype == found.counts.dtype == found.sums.dtype == torch.float32
    z = model.autoencoder.latents(clips(model)["video"].to(torch.bfloat16) / 2)
    found(z, NoiseStream(0))
    found(z, NoiseStream(1))
    assert z.dtype == torch.bfloat16
    expected = 0.99**2 * len(found.counts) + (1 - 0.99**2) * z[:, 0].numel()
    assert found.counts.sum().item() == pytest.approx(expected, rel=1e-5), "half precision would lose the small steps"


def learned_on_rank(z: Tensor, number: int) -> dict[str, Tensor]:
    """Codes after a first batch and two more, of which a rank sees its clips, and what was measured of the last."""
    rank, size = world()
    found = codebook(number, started=False, random_restart=True)
    for seed in range(3):
        made = found(z[seed, rank::size], draws(seed))
    return {**found.state_dict(), "perplexity": made.perplexity, "usage": made.usage}


@pytest.mark.parametrize("number", [6, 40])
def test_two_processes_learn_what_one_does(number: int, pair: ProcessPair) -> None:
    z = torch.stack([latents(seed=seed) for seed in range(3)])
    single = learned_on_rank(z, number)
    for found in pair.run(learned_on_rank, z=z, number=number):
        for key, value in single.items():
            close(found[key].double(), value.double(), key)


# Losses --------------------------------------------------------------------------------------------------------------


def at(model: TATSVQGAN, iteration: int, monkeypatch: pytest.MonkeyPatch) -> TATSVQGAN:
    monkeypatch.setattr(TATSVQGAN, "iteration_number", property(lambda self: iteration))
    return model


def shown(model: TATSVQGAN, update: str) -> Any:
    """What a twin of the model sees of the clips in an update."""
    return copy.deepcopy(model)._show(clips(model), update)


class SquaredDistance(nn.Module):
    """Stands for LPIPS."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).square().mean((1, 2, 3))


def test_autoencoder_loss_is_what_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    weighted = {"l1_weight": 3.0, "gan_feat_weight": 2.0, "image_gan_weight": 0.5, "video_gan_weight": 0.7}
    model = at(small(**weighted, disc_start=5), 5, monkeypatch)
    model.perceptual, model.perceptual_weight = SquaredDistance(), 1.5
    seen = shown(model, "autoencoder")
    critics = copy.deepcopy(model)
    terms = model.autoencoder_loss([clips(model)])
    target, video = seen.clips.target, seen.clips.video
    assert torch.equal(target, clips(model)["video"] / 2)
    adversarial, matching = 0.0, 0.0
    for network_, weight, fake, real in (
        (critics.image_discriminator, 0.5, seen.made, seen.frames),
        (critics.video_discriminator, 0.7, video, target),
    ):
        made = network_(fake)
        adversarial -= weight * made[-1].mean()
        for one, other in list(zip(made, network_(real), strict=True))[:-1]:
            matching += 2.0 * (one - other).abs().mean()
    assert list(terms) == ["reconstruction", "commitment", "perceptual", "adversarial", "feature_matching"]
    close(terms["reconstruction"], 3 * (video - target).abs().mean())
    close(terms["commitment"], seen.clips.quantised.commitment)
    close(terms["perceptual"], 1.5 * (seen.frames - seen.made).square().mean())
    close(terms["adversarial"], adversarial)
    close(terms["feature_matching"], matching)
    logged = model.meter.flush()
    assert logged["codebook/perplexity"] == pytest.approx(seen.clips.quantised.perplexity.item())
    assert logged["codebook/usage"] == pytest.approx(seen.clips.quantised.usage.item())


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_discriminator_loss_is_what_the_specification_says(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = at(small(disc_loss=kind, image_gan_weight=0.5, video_gan_weight=2.0), 0, monkeypatch)
    seen = shown(model, "discriminator")
    critics = copy.deepcopy(model)
    terms = model.discriminator_loss([clips(model)])
    for name, weight, real, fake in (
        ("image", 0.5, seen.frames, seen.made),
        ("video", 2.0, seen.clips.target, seen.clips.video),
    ):
        judge = critics.get_submodule(f"{name}_discriminator")
        a, b = judge(real)[-1], judge(fake)[-1]
        one, other = (F.relu(1 - a), F.relu(1 + b)) if kind == "hinge" else (F.softplus(-a), F.softplus(b))
        close(terms[name], weight * (one.mean() + other.mean()) / 2)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in model.autoencoder.parameters())


def test_before_their_start_critics_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = at(small(disc_start=3), 2, monkeypatch)
    assert list(model.autoencoder_loss([clips(model)])) == ["reconstruction", "commitment"]
    terms = model.discriminator_loss([clips(model)])
    assert all(term == 0 for term in terms.values())
    sum(terms.values()).backward()
    for part in (model.image_discriminator, model.video_discriminator):
        assert all(p.grad is not None and not p.grad.any() for p in part.parameters())
    assert model.meter.flush().keys() >= {"discriminator/image", "logits/video_real", "generator/video"}


@pytest.mark.parametrize(("image", "video"), [(0, 1), (1, 0), (0, 0)])
def test_a_critic_without_weight_counts_nowhere(image: float, video: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = at(small(image_gan_weight=image, video_gan_weight=video), 0, monkeypatch)
    seen, critics = shown(model, "autoencoder"), copy.deepcopy(model)
    terms = model.autoencoder_loss([clips(model)])
    expected = 0.0
    for judge, weight, fake, real in (
        (critics.image_discriminator, image, seen.made, seen.frames),
        (critics.video_discriminator, video, seen.clips.video, seen.clips.target),
    ):
        if weight:
            pairs = list(zip(judge(fake), judge(real), strict=True))[:-1]
            expected += 4 * sum((one - other).abs().mean() for one, other in pairs)
    if image or video:
        close(terms["feature_matching"], expected)
    else:
        assert "feature_matching" not in terms and terms["adversarial"] == 0
    terms = model.discriminator_loss([clips(model)])
    assert [term.item() != 0 for term in terms.values()] == [bool(image), bool(video)]


def stepped(model: TATSVQGAN, iterations: int, **arguments: Any) -> list[Step]:
    """The steps of training."""
    steps = watch(model)
    train(model, iterations, precision="64-true", **arguments)
    return steps


def test_start_is_counted_in_iterations_and_only_weights_wait_for_it() -> None:
    model = small(disc_start=2, resolution=8)
    start = weights(model)
    steps = stepped(model, 3, accumulate_grad_batches=2)
    assert [step.name for step in steps] == ["autoencoder", "discriminator"] * 3
    names = {name for name, _ in model.named_parameters() if "discriminator" in name}
    for number, step in enumerate(steps[1::2]):
        assert set(step.gradients) == names
        assert any(value.any() for value in step.gradients.values()) == (number == 2)
        assert all(torch.equal(step.before[name], start[name]) for name in names), "weights do not move before"
    end = weights(model)
    assert not torch.equal(*(each["video_discriminator.stages.0.convolution.weight"] for each in (end, start)))
    adam = model.trainer.strategy.optimizers[1].state.values()
    assert all(state["step"] == 3 for state in adam), "Adam counts all of them"
    # of each micro-batch both updates show real clips and made ones
    batches = [step.before["video_discriminator.stages.1.norm.num_batches_tracked"] for step in steps]
    counted = [int(value) - int(batches[0]) for value in batches]
    assert counted == [0, 4, 8, 12, 16, 20]


def test_reconstructions_are_made_twice_or_shared() -> None:
    found: dict[bool, list[Step]] = {}
    passes: dict[bool, int] = {}
    for shared in (False, True):
        model = small(shared_forward=shared, random_restart=True, resolution=8)
        found[shared] = stepped(model, 2)
        passes[shared] = int(model.autoencoder.encoder.norm.num_batches_tracked)
        assert not model._kept
    assert passes == {False: 4, True: 2}
    one, other = (found[shared][0].gradients for shared in (False, True))
    for name, gradient in one.items():
        close(gradient, other[name], name)
    one, other = (found[shared][1].gradients for shared in (False, True))
    assert any(not torch.equal(gradient, other[name]) for name, gradient in one.items()), "another frame"
    codes = "autoencoder.codebook.counts"
    assert torch.equal(found[False][0].before[codes], found[True][0].before[codes])


def test_shared_reconstructions_are_those_of_each_micro_batch() -> None:
    model = small(shared_forward=True, resolution=8)
    seen: dict[str, list[Tensor]] = {"autoencoder": [], "discriminator": []}
    image = model.image_discriminator.forward
    running: list[str] = []
    update = model.update

    def noted(name: str, *arguments: Any, **options: Any) -> None:
        running[:] = [name]
        update(name, *arguments, **options)

    model.update = noted
    model.image_discriminator.forward = lambda x: seen[running[0]].append(x.detach().clone()) or image(x)
    train(model, 1, precision="64-true", accumulate_grad_batches=2)
    (made, real), (made_2, real_2) = (seen["autoencoder"][n : n + 2] for n in (0, 2))
    expected = [real, made, real_2, made_2]
    assert all(torch.equal(a, b) for a, b in zip(seen["discriminator"], expected, strict=True))
    assert not torch.equal(real, real_2)


def test_one_frame_of_each_clip_is_chosen() -> None:
    model = small(resolution=8)
    batch = {"video": torch.arange(8.0, dtype=torch.float64).view(1, 1, 8, 1, 1).expand(64, 3, 8, 8, 8) / 8}
    batch["video"] = batch["video"] + torch.arange(64.0).view(64, 1, 1, 1, 1)
    times = {}
    for update in ("autoencoder", "discriminator"):
        seen = model._show(batch, update)
        chosen = (seen.frames[:, 0, 0, 0] - batch["video"][:, 0, 0, 0, 0] / 2) * 16
        times[update] = chosen.long().tolist()
        rows = torch.arange(64)
        assert torch.equal(seen.made, seen.clips.video[rows, :, chosen.long()])
        assert set(times[update]) == set(range(8)), "uniform over time"
        assert torch.equal(seen.clips.target[rows, :, chosen.long()], seen.frames)
    assert times["autoencoder"] != times["discriminator"]


def test_resumed_training_goes_on_with_its_codes(tmp_path: Path) -> None:
    model = small(resolution=8)
    train(model, 2, folder=tmp_path, precision="64-true")
    other = small(resolution=8)
    train(other, 3, resume=tmp_path / "iteration_00000002.ckpt", precision="64-true")
    whole = small(resolution=8)
    train(whole, 3, precision="64-true")
    for key, value in whole.autoencoder.codebook.state_dict().items():
        assert torch.equal(other.autoencoder.codebook.state_dict()[key], value), key


# Use and refusals ----------------------------------------------------------------------------------------------------


def test_reconstructions_do_not_depend_on_the_mode_and_leave_no_trace() -> None:
    model = small()
    batch = clips(model)
    before = weights(model)
    made = model.sample(3, batch=batch)
    assert model.training and made.shape == batch["video"].shape and made.abs().max() <= 1
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(model.eval().sample(3, batch=batch), made)
    assert torch.equal(model.sample(3, batch=batch, num_frames=3), made[:, :, :3])
    assert torch.equal(model.decode(model.encode(batch["video"])), made)
    assert model.given_frames_for({}) == 0 and model.context_frames == 8


FEW = "{} {}: too small for {} padding, which takes {} or more"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n_codes": 0}, "model.n_codes 0: must be at least 1"),
    ({"width": 0}, "model.width 0: must be at least 1"),
    ({"padding": "same"}, "model.padding 'same': must be one of replicate, zero, reflect, circular, real"),
    ({"norm": "layer"}, "model.norm 'layer': must be one of batch, group"),
    ({"disc_loss": "wasserstein"}, "model.disc_loss 'wasserstein': must be one of hinge, vanilla"),
    ({"disc_start": -1}, "model.disc_start -1: cannot be negative"),
    ({"beta2": 1.0}, "model.beta2 1: must be at least 0 and below 1"),
    ({"learning_rate": 0.0}, "model.learning_rate 0: must be above 0, and finite"),
    ({"downsample": (1, 1, 1)}, "model.downsample [1, 1, 1]: must be powers of two, one of them at least 2"),
    ({"downsample": (3, 4, 4)}, "model.downsample [3, 4, 4]: must be powers of two, one of them at least 2"),
    ({"downsample": (2, 4)}, "model.downsample [2, 4]: must be three numbers, for time, height and width"),
    ({"padding": "reflect", "num_frames": 2, "padding_scope": "all"}, FEW.format("num_frames", 2, "reflect", 6)),
    ({"padding": "reflect", "downsample": (1, 4, 4), "num_frames": 2}, FEW.format("num_frames", 2, "reflect", 3)),
    (
        {"padding": "circular", "downsample": (4, 1, 4), "resolution": 1, "width": 8},
        FEW.format("height", 1, "circular", 2),
    ),
    ({"num_frames": 7}, "model.num_frames 7: must be a multiple of downsample, 2"),
    ({"width": 10}, "model.width 10: must be a multiple of downsample, 4"),
    ({"norm": "group", "n_hiddens": 8}, "model.n_hiddens 8: group norm needs a multiple of 16"),
    ({"padding": "real"}, "model.real_frames 0: must be at least 1 with padding 'real'"),
    ({"real_frames": 2}, "model.real_frames 2: must be 0 with any padding but 'real'"),
    (
        {"padding": "real", "real_frames": 4},
        "model.real_frames 4: must be a multiple of downsample, 2, and leave some of the 8 frames between both sides",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        TATSVQGAN(**{**SMALL, **arguments})
    assert str(error.value) == message


ROUND = {"padding": "reflect", "padding_scope": "all"}


@pytest.mark.parametrize("downsample", [(2, 4, 4), (4, 2, 1), (1, 2, 4), (8, 1, 2)])
@pytest.mark.parametrize("scope", ["encoder", "all"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_smallest_clips_are_those_that_can_be_padded(
    padding: Padding, scope: str, downsample: tuple[int, int, int]
) -> None:
    found = network(padding=padding, padding_scope=scope, downsample=downsample)
    for axis in range(3):
        for fewest, run in (
            (found.fewest_encoded, lambda size: found.encode(torch.zeros(1, 2, *map(mul, size, downsample)))),
            (found.fewest_decoded, lambda size: found.decode(torch.zeros(1, *size, dtype=torch.int64))),
        ):
            run(fewest)
            if fewest[axis] > 1:
                size = [*fewest[:axis], fewest[axis] - 1, *fewest[axis + 1 :]]
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(found, "_check_latents", lambda *_: None)
                    with pytest.raises(RuntimeError, match=r"^(Argument #\d: )?Padding "):
                        run(size)


def test_what_cannot_be_coded_is_refused() -> None:
    model = small()
    for what, message in (
        (lambda: model.sample(1), "tats_vqgan: reconstructs clips; give a batch with 'video'"),
        (
            lambda: model.sample(2, batch=clips(model)),
            "tats_vqgan: the given clips are (3, 3, 8, 16, 16); they must be (2, 3, 8, 16, 16)",
        ),
        (
            lambda: model.sample(3, batch=clips(model), num_frames=9),
            "num_frames 9: tats_vqgan makes videos of 1 to 8 frames as it is configured",
        ),
        (
            lambda: model.encode(torch.zeros(1, 3, 5, 16, 16)),
            "tats_vqgan: encodes videos (N, C, T, H, W) of multiples of 2 x 4 x 4, not (1, 3, 5, 16, 16)",
        ),
        (
            lambda: small(**ROUND).encode(torch.zeros(1, 3, 2, 16, 16)),
            "num_frames 2: too small for reflect padding, which takes 6 or more",
        ),
        (
            lambda: small(**ROUND).decode(torch.zeros(1, 2, 1, 4, dtype=torch.int64)),
            "height 4: too small for reflect padding, which takes 8 or more",
        ),
    ):
        with pytest.raises(UserError) as error:
            what()
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 1}, "model.channels: is 3, but the data has channels 1; make them equal"),
        ({"resolution": 8}, "model.resolution: is 16, but the data has resolution 8; make them equal"),
        ({"width": 24}, "model.width: is 16, but the data has width 24; make them equal"),
        ({"num_frames": 16}, "model.num_frames: is 8, but the data has num_frames 16; make them equal"),
    ],
)
def test_other_data_are_refused(change: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {"channels": 3, "resolution": 16, "num_frames": 8, "fps": None, "num_videos": 9}
    fitting |= {"min_length": 10, "max_length": 20}
    small().check_data(DataSpec(**fitting))
    small(width=24).check_data(DataSpec(**fitting, width=24))
    with pytest.raises(UserError) as error:
        small().check_data(DataSpec(**{**fitting, **change}))
    assert str(error.value) == message


def test_lpips_needs_weights_and_fitting_frames() -> None:
    for arguments, message in (
        (
            {"perceptual_weights": "none.pth"},
            "none.pth: no such weight file; vgg16-397923af.pth (https://download.pytorch.org/models/vgg16-397923af.pth)"
            " is needed: take model.perceptual_weights=auto, name it with model.perceptual_weights=FILE, or set"
            " model.perceptual_weight=0",
        ),
        (
            {"resolution": 8},
            "model.perceptual_weight 4: LPIPS takes frames of 1 or 3 channels and at least 16 x 16 pixels; set it to 0",
        ),
        (
            {"channels": 2},
            "model.perceptual_weight 4: LPIPS takes frames of 1 or 3 channels and at least 16 x 16 pixels; set it to 0",
        ),
    ):
        model = TATSVQGAN(**{**SMALL, "perceptual_weight": 4.0, **arguments})
        model.setup("test")
        with pytest.raises(UserError) as error:
            model.setup("fit")
        assert str(error.value) == message
    with pytest.raises(UserError) as error:
        model.autoencoder_loss([model.example_batch(2)])
    assert str(error.value) == "model.perceptual_weight: LPIPS has no weights yet; training loads them"
    small().setup("fit")
