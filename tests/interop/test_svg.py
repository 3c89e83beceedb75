"""Official SVG files become vidgen checkpoints, and hostile or broken ones a line."""

from __future__ import annotations

import logging
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidgen
from tests.interop.legacy_file import Call, Global, Instance, LegacyFile, Plain, official_generator
from tests.interop.svg_file import States, official_states, official_svg, uncounted
from tests.parity.fixtures import OWN, Reference
from vidgen.cli.main import main
from vidgen.errors import UserError
from vidgen.interop import convert, svg
from vidgen.models.svg import SVG

SIZES: dict[str, Any] = {"widths": (2, 3, 4, 5), "g_dim": 6, "z_dim": 3, "rnn_size": 4}
OPT: dict[str, Any] = {
    "lr": 0.0008,
    "beta1": 0.5,
    "batch_size": 7,
    "log_dir": "logs/lp",
    "niter": 300,
    "dataset": "smmnist",
    "n_past": 3,
    "n_future": 8,
    "n_eval": 30,
    "beta": 1e-6,
    "last_frame_skip": False,
}
PART = "which is not part of the official module"


def with_random_weights(**sizes: Any) -> SVG:
    """A model that has seen something: no entry is 0 or 1."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = SVG(**{**SIZES, **sizes})
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.5 if key.endswith("running_var") else torch.randn(value.shape))
            else:
                value.fill_(7)
    return model.eval()


@pytest.fixture
def model() -> SVG:
    return with_random_weights()


# Official files ------------------------------------------------------------------------------------------------------


class Alive:
    """Makes objects of what stands for them, with classes under the official names, so that pickle can write them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Instance):
            result = self.named(value.cls)()
            result.__dict__.update({key: self(entry) for key, entry in value.state.items() if key != "_backend"})
            return result
        if isinstance(value, Call):
            assert value.function.name in ("Parameter", "Variable")
            return nn.Parameter(value.args[0]) if value.function.name == "Parameter" else value.args[0]
        if isinstance(value, Global):
            return self.named(value)
        if isinstance(value, dict):
            return type(value)((key, self(entry)) for key, entry in value.items())
        if isinstance(value, list | tuple):
            return type(value)(self(entry) for entry in value)
        return value

    def named(self, name: Global) -> Any:
        if name.module.startswith("torch.nn"):  # whose constructor need not run
            return lambda: nn.Module.__new__(getattr(sys.modules[name.module], name.name))
        if not name.module.startswith("models"):
            return getattr(sys.modules[name.module], name.name)
        for package in ("models", name.module):
            self.monkeypatch.setitem(sys.modules, package, sys.modules.get(package) or types.ModuleType(package))
        place = sys.modules[name.module]
        if not hasattr(place, name.name):
            setattr(place, name.name, type(name.name, (nn.Module,), {"__module__": name.module}))
        return getattr(place, name.name)


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Alive:
    return Alive(monkeypatch)


def write_old(path: Path, content: dict[str, Any]) -> Path:
    LegacyFile(python=3).write(path, content)
    return path


def model_file(folder: Path, states: States, **opt: Any) -> Path:
    """``model.pth`` as PyTorch 0.3 wrote it, with other arguments; None leaves one out."""
    given = {key: value for key, value in {**OPT, **opt}.items() if value is not None}
    return write_old(folder / "model.pth", official_svg(uncounted(states), given))


def refusal(source: Path, **options: Any) -> str:
    """The message of the converter, without the name of the file."""
    out = source.with_suffix(".ckpt")
    with pytest.raises(UserError) as caught:
        convert("svg", source, out, options)
    message = str(caught.value)
    assert not out.exists() and "\n" not in message and message.startswith(f"{source}: ")
    return message.removeprefix(f"{source}: ")


def converted(source: Path, **options: Any) -> SVG:
    convert("svg", source, source.with_suffix(".ckpt"), options)
    model = vidgen.load(source.with_suffix(".ckpt"))
    assert isinstance(model, SVG) and not model.training
    return model


def assert_same(found: SVG, expected: SVG, counted: bool = True) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value == 0 if key.endswith("tracked") and not counted else torch.equal(value, theirs[key]), key


# What is read --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")  # of classes that the test invents
@pytest.mark.parametrize("layout", ["torch 0.3", "today", "today, old stream"])
@pytest.mark.parametrize(
    ("backbone", "resolution", "prior", "more"),
    [
        ("dcgan", 64, "learned", {"prior_layers": 2}),
        ("vgg", 64, "fixed", {"channels": 3, "predictor_layers": 3}),
        ("dcgan", 128, "fixed", {"posterior_layers": 2}),
        ("vgg", 128, "learned", {"channels": 3, "predictor_layers": 1}),
        ("dcgan", 16, "learned", {"widths": (2, 3, 3, 3)}),
        ("vgg", 32, "fixed", {"widths": (4, 3, 2, 2)}),
    ],
)
def test_files_of_every_layout(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    alive: Alive,
    layout: str,
    backbone: str,
    resolution: int,
    prior: str,
    more: dict[str, Any],
) -> None:
    model = with_random_weights(backbone=backbone, resolution=resolution, prior=prior, **more)
    args = model.init_args
    opt = {
        "image_width": resolution,
        "model": backbone,
        **{key: args[key] for key in ("channels", "g_dim", "z_dim", "rnn_size")},
        **{f"{key}_rnn_layers": args[f"{key}_layers"] for key in ("predictor", "posterior")},
        **({"prior_rnn_layers": args["prior_layers"]} if prior == "learned" else {}),
    }
    states = official_states(model) if layout != "torch 0.3" else uncounted(official_states(model))
    content = official_svg(states, {**OPT, **opt}, f"{backbone}_{128 if resolution == 128 else 64}")
    source = tmp_path / "model.pth"
    if layout == "torch 0.3":
        write_old(source, content)
    else:
        torch.save(alive(content), source, _use_new_zipfile_serialization=layout == "today")
    found = svg.official_states(source)
    assert [*found] == [*states]
    for network, state in states.items():
        assert found[network].keys() == state.keys()
        assert all(torch.equal(found[network][key], value) for key, value in state.items())
    result = converted(source)
    assert_same(result, model, counted=layout != "torch 0.3")
    sizes = ("channels", "resolution", "prior", "backbone", "widths", "g_dim", "z_dim", "rnn_size")
    layers = ("predictor_layers", "posterior_layers", "prior_layers")
    assert {key: result.init_args[key] for key in (*sizes, *layers)} == {key: args[key] for key in (*sizes, *layers)}
    settings = {"n_past": 3, "num_frames": 11, "beta": 1e-6, "skip_frame": "last_but_one", "sampling_group": 7}
    settings |= {"learning_rate": 0.0008, "beta1": 0.5, "beta2": 0.999, "sampling_statistics": None}
    assert {key: result.init_args[key] for key in settings} == settings
    assert not caplog.records


def test_recurrent_networks_compute_what_the_official_cells_do(tmp_path: Path) -> None:
    states = official_states(with_random_weights())
    result, state = converted(model_file(tmp_path, states)), states["frame_predictor"]
    cells = [nn.LSTMCell(4, 4) for _ in range(2)]
    for layer, cell in enumerate(cells):
        cell.load_state_dict({key: state[f"lstm.{layer}.{key}"] for key in cell.state_dict()})
    hidden: list[Any] = [None, None]
    x, expected = torch.randn(2, 3, 9), []
    with torch.no_grad():
        for step in x.unbind(1):
            h = step @ state["embed.weight"].T + state["embed.bias"]
            for layer, cell in enumerate(cells):
                hidden[layer] = cell(h, hidden[layer])
                h = hidden[layer][0]
            expected.append((h @ state["output.0.weight"].T + state["output.0.bias"]).tanh())
        torch.testing.assert_close(result.predictor(x)[0], torch.stack(expected, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_state_dicts(tmp_path: Path, model: SVG, caplog: pytest.LogCaptureFixture, nested: bool, zipped: bool) -> None:
    source, content = tmp_path / "states.pt", dict[str, Any](official_states(model))
    if not nested:
        content = {f"{network}.{key}": value for network in content for key, value in content[network].items()}
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    options: dict[str, Any] = {"n_past": 2, "num_frames": 12, "skip_frame": "previous", "sampling_group": 4}
    options |= {"sampling_statistics": "running", "beta": 0.0, "learning_rate": 1, "beta1": 0.25}
    result = converted(source, **options)
    assert_same(result, model)
    assert {key: result.init_args[key] for key in options} == options and not caplog.records
    torch.save({**content, "opt": {"n_past": 2, "n_future": 2, "last_frame_skip": True}}, source)
    assert converted(source).init_args["num_frames"] == 4 and not caplog.records


def test_a_file_that_does_not_say_what_matters_is_told(
    tmp_path: Path, model: SVG, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "states.pt"
    torch.save(official_states(model), source)
    assert_same(converted(source), model)
    message = f"{source}: does not say n_past, num_frames, skip_frame; taken as 5, 15, last_but_one"
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.WARNING, message)]


def test_options_come_before_what_the_file_says(tmp_path: Path, model: SVG) -> None:
    source = model_file(tmp_path, official_states(model), last_frame_skip=True)
    assert converted(source).init_args["skip_frame"] == "previous"
    args = converted(source, n_past=2, skip_frame="last", beta=0.5, sampling_group=2).init_args
    assert (args["n_past"], args["num_frames"], args["skip_frame"]) == (2, 11, "last")
    assert (args["beta"], args["sampling_group"], args["learning_rate"]) == (0.5, 2, 0.0008)
    damaged = model_file(tmp_path, official_states(model), batch_size="many", lr=float("nan"))
    assert converted(damaged, sampling_group=2, learning_rate=0.1).init_args["learning_rate"] == 0.1


def test_conversion_does_not_touch_the_random_state(tmp_path: Path, model: SVG) -> None:
    source, before = model_file(tmp_path, official_states(model)), torch.get_rng_state()
    convert("svg", source, tmp_path / "x.ckpt")
    assert torch.equal(before, torch.get_rng_state())


# Networks that are not the official ones -----------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["dcgan", "vgg"])
def test_a_missing_entry_is_named(tmp_path: Path, backbone: str) -> None:
    states, block = official_states(with_random_weights(backbone=backbone)), "main" if backbone == "dcgan" else "0.main"
    for path in (
        f"encoder.c1.{block}.0.weight",
        f"encoder.c3.{block}.1.running_var",
        "encoder.c5.0.weight",
        f"decoder.upc2.{block}.0.bias",
        f"decoder.upc5.{int(backbone == 'vgg')}.weight",
        "frame_predictor.embed.weight",
        "frame_predictor.lstm.1.bias_hh",
        "posterior.mu_net.weight",
        "prior.logvar_net.bias",
    ):
        network, _, key = path.partition(".")
        changed = {**states, network: {name: value for name, value in states[network].items() if name != key}}
        assert refusal(model_file(tmp_path, changed)) == f"lacks {path}"
    for network in ("frame_predictor", "posterior", "prior"):
        rest = {key: value for key, value in states[network].items() if not key.startswith("lstm")}
        assert refusal(model_file(tmp_path, {**states, network: rest})) == f"lacks {network}.lstm.0.weight_ih"


def test_a_missing_network_is_named(tmp_path: Path, model: SVG) -> None:
    states = official_states(model)
    for network in ("encoder", "decoder", "frame_predictor", "posterior"):
        rest = {name: state for name, state in states.items() if name != network}
        assert refusal(model_file(tmp_path, rest)) == f"holds no {network}"
        source = model_file(tmp_path, {**states, network: {}})
        assert refusal(source).startswith(f"lacks {network}.")
    without = {name: state for name, state in states.items() if name != "prior"}
    source = model_file(tmp_path, without, prior_rnn_layers=1)
    assert refusal(source) == "opt.prior_rnn_layers is 1, but the file holds no prior"
    assert refusal(model_file(tmp_path, {**states, "prior": {}})) == "lacks prior.lstm.0.weight_ih"
    assert converted(model_file(tmp_path, without)).init_args["prior"] == "fixed"


@pytest.mark.parametrize(
    "path",
    [
        "encoder.c1.main.0.scale",
        "encoder.c4.main.3.weight",
        "encoder.c6.0.weight",
        "decoder.upc5.1.weight",
        "frame_predictor.output.1.weight",
        "frame_predictor.lstm.3.weight_ih",
        "posterior.output.0.weight",
        "prior.weight",
    ],
)
def test_an_extra_entry_is_named(tmp_path: Path, model: SVG, path: str) -> None:
    states = official_states(model)
    network, _, key = path.partition(".")
    states[network][key] = torch.zeros(2, 2)
    assert refusal(model_file(tmp_path, states)) == f"has {path}, {PART}"


def test_an_extra_block_of_vgg_is_named(tmp_path: Path) -> None:
    for key in ("c1.2.main.0.weight", "c1.7.main.0.weight"):
        states = official_states(with_random_weights(backbone="vgg"))
        states["encoder"][key] = torch.zeros(2, 2, 3, 3)
        assert refusal(model_file(tmp_path, states)) == f"has encoder.{key}, {PART}"


def test_a_wrong_shape_is_named(tmp_path: Path, model: SVG) -> None:
    def message(path: str, value: Tensor) -> str:
        network, _, key = path.partition(".")
        states = official_states(model)
        states[network][key] = value
        torch.save(states, tmp_path / "states.pt")
        return refusal(tmp_path / "states.pt")

    path = "encoder.c2.main.0.weight"
    assert message(path, torch.zeros(3, 2, 4, 5)) == f"{path} is (3, 2, 4, 5), expected (3, 2, 4, 4)"
    assert message(path, torch.zeros(3)) == f"{path} is (3,), expected 4 dimensions"
    assert message(path, torch.zeros(0, 2, 4, 4)) == f"{path} is (0, 2, 4, 4), which is empty"
    assert message("prior.embed.weight", torch.zeros(4, 5)) == "prior.embed.weight is (4, 5), expected (4, 6)"
    path = "posterior.lstm.0.weight_hh"
    assert message(path, torch.zeros(16, 5)) == f"{path} is (16, 5), expected (16, 4)"
    path = "decoder.upc1.1.bias"
    assert message(path, torch.zeros(5, dtype=torch.int64)) == f"{path} is torch.int64, expected torch.float32"
    path = "decoder.upc5.0.weight"
    assert message(path, torch.zeros(4, 3, 4, 4)) == f"{path} is (4, 3, 4, 4), expected (4, 1, 4, 4)"


def test_networks_of_different_models_are_named(tmp_path: Path, model: SVG) -> None:
    states = official_states(model)
    for sizes, other in (({"backbone": "vgg"}, "a vgg with 4"), ({"resolution": 128}, "a dcgan with 5")):
        mixed = {**states, "decoder": official_states(with_random_weights(**sizes))["decoder"]}
        assert refusal(model_file(tmp_path, mixed)) == f"its encoder is a dcgan with 4 levels, its decoder {other}"
    for key, reason in (
        ("c7.main.0.weight", "its encoder has a level c7, but none c5"),
        ("c4.0.main.0.weight", "its encoder has levels of dcgan and of vgg"),
    ):
        mixed = {**states, "encoder": {**states["encoder"], key: torch.zeros(1, 1, 1, 1)}}
        torch.save(mixed, tmp_path / "states.pt")
        assert refusal(tmp_path / "states.pt") == reason
    content = official_svg(uncounted(states), OPT)
    content["prior"] = content["frame_predictor"]
    reason = "its prior is a models.lstm.lstm, expected a models.lstm.gaussian_lstm"
    assert refusal(write_old(tmp_path / "model.pth", content)) == reason


def test_levels_of_no_model_are_one_line(tmp_path: Path) -> None:
    states = official_states(with_random_weights(backbone="vgg", resolution=16))
    encoder, decoder = states["encoder"], states["decoder"]
    states["encoder"] = {key: encoder[key] for key in encoder if key.startswith("c1")}
    states["encoder"] |= {key.replace("c3", "c2"): encoder[key] for key in encoder if key.startswith("c3")}
    states["decoder"] = {key: decoder[key] for key in decoder if key.startswith("upc1")}
    states["decoder"] |= {key.replace("upc3", "upc2"): decoder[key] for key in decoder if key.startswith("upc3")}
    reason = "model.resolution 8: must be a power of two, 16 or more"
    assert refusal(model_file(tmp_path, states)) == reason


# opt -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "value", "ours", "right"),
    [
        ("image_width", 128, "resolution", 64),
        ("channels", 3, "channels", 1),
        ("model", "vgg", "backbone", "dcgan"),
        ("g_dim", 128, "g_dim", 6),
        ("z_dim", 10, "z_dim", 3),
        ("rnn_size", 256, "rnn_size", 4),
        ("predictor_rnn_layers", 1, "predictor_layers", 2),
        ("posterior_rnn_layers", 2, "posterior_layers", 1),
        ("prior_rnn_layers", 2, "prior_layers", 1),
        ("channels", True, "channels", 1),
        ("z_dim", 3.0, "z_dim", 3),
    ],
)
def test_opt_and_weights_that_contradict_each_other_are_named(
    tmp_path: Path, model: SVG, theirs: str, value: Any, ours: str, right: Any
) -> None:
    source = model_file(tmp_path, official_states(model), **{theirs: value})
    assert refusal(source) == f"opt.{theirs} is {value!r}, but the weights have {ours} {right}"


HOSTILE = [
    ("n_past", 0, "0: must be a whole number from 1 to 1000000"),
    ("n_past", "5", "'5': must be a whole number from 1 to 1000000"),
    ("n_past", True, "True: must be a whole number from 1 to 1000000"),
    ("n_future", 10**5000, "of type int: must be a whole number from 1 to 1000000"),
    ("n_future", [1], "of type list: must be a whole number from 1 to 1000000"),
    ("last_frame_skip", 1, "1: must be True or False"),
    ("batch_size", 1, "1: must be a whole number from 2 to 1000000"),
    ("batch_size", 2.0, "2.0: must be a whole number from 2 to 1000000"),
    ("beta", -1.0, "-1.0: must be a number from 0 to 1e6"),
    ("beta", float("inf"), "inf: must be a number from 0 to 1e6"),
    ("lr", float("nan"), "nan: must be a number above 0, up to 1e3"),
    ("lr", "a\nb" + "c" * 10**6, f"'a\\nb{'c' * 37}': must be a number above 0, up to 1e3"),
    ("beta1", 1, "1: must be a number from 0 to below 1"),
    ("beta1", torch.zeros(2), "of type Tensor: must be a number from 0 to below 1"),
    ("beta1", Global("torch.optim.sgd", "SGD"), "of type type: must be a number from 0 to below 1"),
]


@pytest.mark.parametrize(
    ("name", "value", "reason"), HOSTILE, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(HOSTILE)]
)
def test_values_of_opt_that_cannot_be_are_named(tmp_path: Path, model: SVG, name: str, value: Any, reason: str) -> None:
    assert refusal(model_file(tmp_path, official_states(model), **{name: value})) == f"opt.{name} {reason}"


def test_an_opt_of_another_kind_is_named(tmp_path: Path, model: SVG) -> None:
    states = official_states(model)
    for opt, reason in (
        ([1, 2], "opt is of type list, expected an argparse.Namespace"),
        (Plain(Global("argparse", "Namespace"), {}).cls, "opt is of type type, expected an argparse.Namespace"),
        (Plain(Global("argparse", "Namespace"), [3]), "opt is of type list, expected an argparse.Namespace"),
        (Plain(Global("models.lstm", "lstm"), {}), "opt is of type models.lstm.lstm, expected an argparse.Namespace"),
    ):
        content = {**official_svg(uncounted(states), OPT), "opt": opt}
        assert refusal(write_old(tmp_path / "model.pth", content)) == reason


def test_one_given_frame_needs_another_skip_frame(tmp_path: Path, model: SVG) -> None:
    source = model_file(tmp_path, official_states(model), n_past=1)
    hint = "set skip_frame to 'last' or 'previous'"
    assert refusal(source) == f"model.n_past 1: there is no last but one given frame; {hint}"
    assert converted(source, skip_frame="last").n_past == 1
    assert (
        converted(model_file(tmp_path, official_states(model), n_past=1, last_frame_skip=True)).skip_frame == "previous"
    )


def test_options_are_checked(tmp_path: Path, model: SVG) -> None:
    source = model_file(tmp_path, official_states(model))
    for options, message in (
        ({"past": 3}, "past: not an option of the svg converter; did you mean 'n_past'?"),
        ({"n_past": "x"}, "n_past 'x': must be a whole number from 1 to 1000000"),
        ({"skip_frame": "first"}, "skip_frame 'first': must be one of last_but_one, last, previous"),
        ({"sampling_statistics": 3}, "sampling_statistics 3: must be one of batch, running"),
        ({"num_frames": 1}, "num_frames 1: must be a whole number from 2 to 1000000"),
    ):
        with pytest.raises(UserError) as caught:
            convert("svg", source, tmp_path / "x.ckpt", options)
        assert str(caught.value) == message
    reason = "model.num_frames 3: must be above n_past, 3, to leave a frame to predict"
    assert refusal(source, num_frames=3) == reason


# Files that are not what they seem -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "name"), [("posix", "system"), ("os", "system"), ("builtins", "eval")])
@pytest.mark.parametrize("place", ["optimizer", "hidden", "instead of a network"])
def test_a_hostile_file_is_refused_and_not_executed(
    tmp_path: Path, model: SVG, package: str, name: str, place: str
) -> None:
    mark = tmp_path / "executed"
    command = f"open({str(mark)!r}, 'w')" if name == "eval" else f"touch {mark}"
    content = official_svg(uncounted(official_states(model)), OPT)
    call = Call(Global(package, name), (command,))
    if place == "optimizer":
        content["opt"].state["optimizer"] = call
    elif place == "hidden":
        content["posterior"].state["hidden"] = [call]
    else:
        content["prior"] = call
    source = write_old(tmp_path / "model.pth", content)
    reason = f"names {package}.{name}, which is not allowed in such a file; nothing in it was executed"
    assert refusal(source) == reason and not mark.exists()


def test_a_hostile_zip_is_refused_and_not_executed(tmp_path: Path, model: SVG, alive: Alive) -> None:
    mark = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> Any:
            return eval, (f"open({str(mark)!r}, 'w')",)

    content = alive(official_svg(official_states(model), OPT))
    content["opt"].optimizer = Hostile()
    torch.save(content, tmp_path / "model.pth")
    reason = "names __builtin__.eval, which is not allowed in such a file; nothing in it was executed"
    assert refusal(tmp_path / "model.pth") == reason and not mark.exists()


@pytest.mark.parametrize("name", ["rmsprop.RMSprop", "sgd.SGD"])
def test_the_optimizer_is_a_name_only(tmp_path: Path, model: SVG, name: str) -> None:
    content = official_svg(uncounted(official_states(model)), OPT)
    package, _, cls = f"torch.optim.{name}".rpartition(".")
    for optimizer in (Global(package, cls), Call(Global(package, cls), ("not parameters",))):
        content["opt"].state["optimizer"] = optimizer
        assert_same(converted(write_old(tmp_path / "model.pth", content)), model, counted=False)
    content["opt"].state["optimizer"] = Global("torch.optim.adamw", "AdamW")
    reason = "names torch.optim.adamw.AdamW, which is not allowed in such a file; nothing in it was executed"
    assert refusal(write_old(tmp_path / "other.pth", content)) == reason


def test_every_cut_of_a_file_is_one_line(tmp_path: Path, model: SVG, alive: Alive) -> None:
    old = model_file(tmp_path, official_states(model)).read_bytes()
    torch.save(alive(official_svg(official_states(model), OPT)), tmp_path / "model.pth")
    source = tmp_path / "cut.pth"
    for whole in (old, (tmp_path / "model.pth").read_bytes()):
        for length in (0, 1, 40, 200, len(whole) // 3, len(whole) // 2, len(whole) - 5):
            source.write_bytes(whole[:length])
            assert refusal(source).startswith("is "), length
    source.write_bytes(old[:-1])
    assert refusal(source) == "is damaged or cut short"


def test_files_of_other_models_are_one_line(tmp_path: Path, model: SVG) -> None:
    generator = Reference(OWN / "mocogan" / "generator.pt", 1e-4)
    source = write_old(tmp_path / "x.pth", official_generator(generator.state, generator.config))
    reason = "names models.VideoGenerator, which is not allowed in such a file; nothing in it was executed"
    assert refusal(source) == reason
    torch.save(generator.state, source)
    assert refusal(source) == "holds no encoder"
    torch.save(OrderedDict(official_states(model)["encoder"]), source)
    assert refusal(source) == "holds no encoder"
    torch.save(nn.Linear(2, 1), source)
    assert (
        refusal(source) == "holds a torch.nn.modules.linear.Linear; an official file is a dict of the networks and opt"
    )
    torch.save([1, 2], source)
    assert refusal(source) == "holds a list, neither a dict of modules nor a state dict"
    torch.save({"encoder": nn.Linear(2, 1)}, source)
    found = refusal(source)
    assert found.startswith("its encoder is a torch.nn.modules.linear.Linear, expected a models.dcgan_64.encoder or a ")
    torch.save({"encoder": 3}, source)
    assert refusal(source) == "its encoder is a int, neither a module nor a state dict"
    torch.save({"encoder": {"c1": 3}}, source)
    assert refusal(source) == "entry 'encoder.c1' is not a tensor; a state dict with official names was expected"
    torch.save({**official_states(model), "epoch": 3}, source)
    known = "encoder, decoder, frame_predictor, posterior, prior"
    assert refusal(source) == f"has an entry 'epoch', which is none of {known}, opt"
    torch.save({"encoder.c1": torch.zeros(1), "netD": torch.zeros(1)}, source)
    assert refusal(source) == f"has netD, which belongs to none of {known}"
    source.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert refusal(source) == "is not a file written by torch.save"
    assert refusal(tmp_path / "none") == "cannot be read (No such file or directory)"


def test_a_file_cannot_ask_for_a_model_larger_than_itself(tmp_path: Path, model: SVG) -> None:
    source = tmp_path / "states.pt"
    states = official_states(model)
    states["encoder"]["c1.main.0.weight"] = torch.zeros(1).expand(2**20, 2**20, 4, 4)
    torch.save(states, source)
    assert refusal(source) == "is damaged or cut short (a tensor has more elements than its storage)"
    one = torch.zeros(64)
    states = {
        name: {
            key: one[: entry.numel()].view(entry.shape) if entry.numel() <= 64 else entry
            for key, entry in state.items()
        }
        for name, state in official_states(model).items()
    }
    torch.save(states, source)
    assert refusal(source) == "its networks have more elements than the file holds"
    states = official_states(model)
    states["frame_predictor"]["embed.weight"] = torch.zeros(10**6, 1)
    torch.save(states, source)
    assert refusal(source) == "frame_predictor.embed.weight is (1000000, 1), expected (1000000, 9)"


def test_modules_within_themselves_are_refused(tmp_path: Path, model: SVG, alive: Alive) -> None:
    content = alive(official_svg(official_states(model), OPT))
    encoder = content["encoder"]
    encoder._modules["c4"]._modules["again"] = encoder
    torch.save(content, tmp_path / "model.pth")
    assert refusal(tmp_path / "model.pth") == "encoder.c4.again is the same module as another one"


def test_command(tmp_path: Path, model: SVG, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = model_file(tmp_path, official_states(model)), tmp_path / "svg.ckpt"
    words = ["convert", "--model", "svg", "--from", str(source), "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out == f"wrote {out}\n" and printed.err == ""
    loaded = vidgen.load(out)
    assert_same(loaded, model, counted=False)
    given = {"video": torch.rand(2, 1, 3, 64, 64) * 2 - 1}
    expected = with_random_weights(n_past=3).sample(2, num_frames=5, seed=5, batch=given)
    assert expected.shape == (2, 1, 5, 64, 64) and expected.isfinite().all()
    assert torch.equal(loaded.sample(2, num_frames=5, seed=5, batch=given), expected)
    assert main([*words, "n_past=2", "skip_frame=last", "beta=1e-3"]) == 0
    args = vidgen.load(out).init_args
    assert (args["n_past"], args["skip_frame"], args["beta"]) == (2, "last", 1e-3)
    capsys.readouterr()
    source.write_bytes(source.read_bytes()[:-30])
    assert main(words) == 2
    assert capsys.readouterr().err == f"vidgen: error: {source}: is damaged or cut short\n"
    assert main([*words, "past=2"]) == 2
    line = "past: not an option of the svg converter; did you mean 'n_past'?"
    assert capsys.readouterr().err == f"vidgen: error: {line}\n"
