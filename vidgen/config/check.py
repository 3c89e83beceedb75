"""Check every key and value of a composed config against the signature that it reaches."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from vidgen.config.compose import CHECKPOINT, MISSING, Config
from vidgen.config.run import LOGGERS, SUPPLIED_BY_FIT, RunConfig
from vidgen.config.signature import Mismatch, Parameter, choices_of, convert, dataclass_of, parameters_of, type_name
from vidgen.errors import UserError, did_you_mean
from vidgen.registry import DATASETS, MODELS, Registry
from vidgen.training.settings import CheckpointSettings, EMASettings, EvaluationSettings, LogSettings

Key = Callable[[str], str]
"""Turns a dotted key of a stage into the key as it stands in the file."""

_COUNTED = "iterations are counted with trainer.max_steps"
_FIXED_BY_FIT = "fixed by vidgen; take it out"
_TRAINER_REFUSED = {
    "max_epochs": _COUNTED,
    "min_epochs": _COUNTED,
    "limit_train_batches": _COUNTED,
    "overfit_batches": _COUNTED,
    "reload_dataloaders_every_n_epochs": _COUNTED,
    "logger": "loggers are listed in the section loggers",
    "callbacks": _FIXED_BY_FIT,
    "plugins": _FIXED_BY_FIT,
    "barebones": _FIXED_BY_FIT,
    "enable_checkpointing": "checkpoints are set in the section checkpoint",
    "default_root_dir": "the run folder is named with --out",
    "log_every_n_steps": "logging is set with log.every",
    "fast_dev_run": "a trial run is vidgen fit --dry-run",
    "use_distributed_sampler": "batches are always split over the processes by vidgen's own sampler",
    "sync_batchnorm": "batch statistics are always those of the global batch",
}
_STRATEGIES = ("auto", "ddp")


def check(config: Config) -> list[RunConfig]:
    """Check each stage and give its values the types that the signatures ask for. No data is opened.

    Args:
        config: from :func:`~vidgen.config.compose.compose`.

    Returns:
        The stages in order. Paths that depend on the run folder are filled in by :func:`~vidgen.config.run.bind`.

    Raises:
        UserError: the first thing that is wrong; the message names its key.
    """
    runs = []
    for light in (True, False):  # what can be said without importing torch is said first, for all stages
        for stage, sections in config.for_stages():

            def key(dotted: str, stage: str | None = stage) -> str:
                return config.key(stage, dotted)

            if light:
                _check_light(sections, key)
            else:
                runs.append(_check_stage(sections, key, stage, config.text))
    _check_same_processes(runs, config)
    return runs


def check_data(config: Config, stage: str | None = None) -> tuple[dict[str, Any], int]:
    """Check the data of one stage alone; nothing else has to be in the config.

    Args:
        config: from :func:`~vidgen.config.compose.compose`.
        stage: whose data; None for the first stage.

    Returns:
        ``name`` and the checked arguments of the data set and of the data module, and the seed.

    Raises:
        UserError: there is no such stage, or the first thing that is wrong; the message names its key.
    """
    stages = dict(config.for_stages())
    name = next(iter(stages)) if stage is None else stage
    if name not in stages:
        known = [known for known in stages if known is not None]
        raise UserError(f"--stage: the config has no stage {name!r}{did_you_mean(str(name), known)}")
    sections = stages[name]

    def key(dotted: str) -> str:
        return config.key(name, dotted)

    from vidgen.data.dataset import VideoDataset

    _mapping(sections.get("data"), key("data"), required=True)
    _check_name(DATASETS, sections["data"], key("data.name"))
    dataset_class = _class_of(DATASETS, sections["data"], VideoDataset, key("data.name"))
    data = _check_data({"batch_size": 1, **sections["data"]}, dataset_class, key)
    seed = _value(sections.get("seed", 0), int, key("seed"))
    return {"name": sections["data"]["name"], **data}, seed


def _check_light(sections: Mapping[str, Any], key: Key) -> None:
    for name in ("model", "data", "trainer"):
        _mapping(sections.get(name), key(name), required=True)
    for name, registry in (("model", MODELS), ("data", DATASETS)):
        _check_name(registry, sections[name], key(f"{name}.name"))
    for name in ("ema", "checkpoint", "log"):
        _mapping(sections.get(name), key(name))
    _settings(sections, key)
    _check_max_steps(sections["trainer"], key)


def _check_stage(sections: Mapping[str, Any], key: Key, stage: str | None, text: str) -> RunConfig:
    from vidgen.data.dataset import VideoDataset
    from vidgen.models.base import VideoModel

    model_class = _class_of(MODELS, sections["model"], VideoModel, key("model.name"))
    model = check_arguments(sections["model"], parameters_of(model_class), key, "model", paths=True)
    dataset_class = _class_of(DATASETS, sections["data"], VideoDataset, key("data.name"))
    data = _check_data(sections["data"], dataset_class, key)
    trainer = _check_trainer(sections["trainer"], key)
    _check_processes(data, trainer, key)
    settings = _settings(sections, key)
    evaluation = _check_evaluation(sections.get("eval"), key)
    _check_monitor(settings["checkpoint"], evaluation, key)
    return RunConfig(
        model={"name": sections["model"]["name"], **model},
        data={"name": sections["data"]["name"], **data},
        trainer=trainer,
        loggers=_check_loggers(sections.get("loggers"), key),
        evaluation=evaluation,
        stage=stage,
        text=text,
        **settings,
    )


def _settings(sections: Mapping[str, Any], key: Key) -> dict[str, Any]:
    ema, checkpoint, log = (
        None if sections.get(name) is None else cls(**check_arguments(sections[name], parameters_of(cls), key, name))
        for name, cls in (("ema", EMASettings), ("checkpoint", CheckpointSettings), ("log", LogSettings))
    )
    seed = _value(sections.get("seed", 0), int, key("seed"))
    if seed < 0:
        raise UserError(f"{key('seed')}: expected 0 or more, got {seed}")
    init_from = _value(sections.get("init_from"), Path | None, key("init_from"))
    _check_paths(init_from, key("init_from"), folder=False)
    return {
        "seed": seed,
        "ema": ema,
        "checkpoint": checkpoint or CheckpointSettings(),
        "log": log or LogSettings(),
        "compile": _value(sections.get("compile", False), bool, key("compile")),
        "init_from": init_from,
    }


def _check_evaluation(section: Any, key: Key) -> EvaluationSettings | None:
    from vidgen.config.metrics import check_metrics

    _mapping(section, key("eval"))
    if section is None:
        return None
    checked = check_arguments(section, parameters_of(EvaluationSettings), key, "eval")
    for name in ("every", "num_videos", "num_real", "batch_size"):
        if (value := checked.get(name)) is not None and value < 1:
            raise UserError(f"{key(f'eval.{name}')}: expected at least 1, got {value}")
    where = key("eval.metrics")
    checked["metrics"] = check_metrics(checked["metrics"], where, lambda dotted: f"{where}: {dotted}")
    return EvaluationSettings(**checked)


def _check_monitor(checkpoint: CheckpointSettings, evaluation: EvaluationSettings | None, key: Key) -> None:
    """What is monitored must be measured at iterations at which there is a checkpoint."""
    if not (checkpoint.monitor or "").startswith("eval/"):
        return
    where = key("checkpoint.monitor")
    if evaluation is None:
        raise UserError(f"{where}: {checkpoint.monitor!r} is not measured; add a section eval")
    if evaluation.every % checkpoint.every:
        raise UserError(
            f"{key('eval.every')}: {evaluation.every} is no multiple of {key('checkpoint.every')} {checkpoint.every};"
            f" then {where} {checkpoint.monitor!r} would have no checkpoint to keep"
        )


def _mapping(value: Any, name: str, required: bool = False) -> None:
    if value is None and not required:
        return
    if value is None:
        raise UserError(f"{name}: missing; the config needs this section")
    if not isinstance(value, dict):
        raise UserError(f"{name}: expected a section with keys, got {_shown(value)}")


def _check_name(registry: Registry, section: Mapping[str, Any], name: str) -> None:
    given = section.get("name")
    if given is None or given == MISSING:
        raise UserError(f"{name}: missing (known: {', '.join(registry.names())})")
    _value(given, str, name)
    if "." not in given and given not in registry.names():
        raise UserError(f"{name}: unknown {registry.kind} {given!r}{did_you_mean(given, registry.names())}")


def _class_of(registry: Registry, section: Mapping[str, Any], base: type, name: str) -> type:
    try:
        cls = registry.get(section["name"])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(f"{name}: {section['name']!r} is not a {base.__name__}")
    return cls


def _check_data(section: Mapping[str, Any], dataset_class: type, key: Key) -> dict[str, Any]:
    from vidgen.data.module import VideoDataModule

    own = parameters_of(dataset_class)
    module = {name: p for name, p in parameters_of(VideoDataModule).items() if name not in SUPPLIED_BY_FIT}
    checked = check_arguments(section, {**module, **own}, key, "data", paths=True)
    for name in own.keys() & module.keys() & checked.keys():
        checked[name] = _value(checked[name], module[name].hint, key(f"data.{name}"))
    return checked


def _check_trainer(section: Mapping[str, Any], key: Key) -> dict[str, Any]:
    import pytorch_lightning as pl
    from pytorch_lightning.accelerators import AcceleratorRegistry

    for name, reason in _TRAINER_REFUSED.items():
        if name in section:
            raise UserError(f"{key(f'trainer.{name}')}: not accepted; {reason}")
    parameters = {name: p for name, p in parameters_of(pl.Trainer).items() if name not in _TRAINER_REFUSED}
    checked = check_arguments(section, parameters, key, "trainer")
    accelerators = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    for name, choices in (("strategy", _STRATEGIES), ("accelerator", accelerators)):
        value = checked.get(name, choices[0])
        if value not in choices:
            listed = ", ".join(dict.fromkeys(choices))
            near = did_you_mean(value, choices)
            raise UserError(f"{key(f'trainer.{name}')}: {value!r} is not supported (known: {listed}){near}")
    return checked


def _check_max_steps(section: Mapping[str, Any], key: Key) -> None:
    name = key("trainer.max_steps")
    steps = section.get("max_steps")
    if steps is None or steps == MISSING:
        reason = "max_epochs is not accepted; " if "max_epochs" in section else ""
        raise UserError(f"{name}: missing; {reason}give the number of iterations to train")
    if _value(steps, int, name) < 1:
        raise UserError(f"{name}: expected at least 1 iteration, got {steps}")


def _check_processes(data: Mapping[str, Any], trainer: Mapping[str, Any], key: Key) -> None:
    devices = trainer.get("devices")
    nodes = trainer.get("num_nodes", 1)
    if not isinstance(devices, int) or devices < 1:
        return
    for name in ("batch_size", "images_per_batch"):
        size = data.get(name)
        if isinstance(size, int) and size % (devices * nodes):
            raise UserError(
                f"{key(f'data.{name}')}: {size} cannot be split evenly over {devices * nodes} processes "
                "(trainer.devices × trainer.num_nodes)"
            )


def _check_same_processes(runs: list[RunConfig], config: Config) -> None:
    """The processes that the first stage starts live until the last one ends."""
    for run in runs[1:]:
        for name in ("accelerator", "devices", "num_nodes"):
            if run.trainer.get(name) != runs[0].trainer.get(name):
                where = config.key(run.stage, f"trainer.{name}")
                raise UserError(f"{where}: differs from stage {runs[0].stage!r}; all stages run on the same processes")


def _check_loggers(value: Any, key: Key) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    from pytorch_lightning.loggers import Logger

    if not isinstance(value, list):
        raise UserError(f"{key('loggers')}: expected a list of loggers, got {_shown(value)}")
    prefix = key("loggers").removesuffix("loggers")
    checked = []
    for number, entry in enumerate(value):
        name = f"loggers.{number}"
        where = prefix + name
        if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
            raise UserError(f"{where}: expected class: and its arguments, got {_shown(entry)}")
        path = entry["class"]
        if "." not in path:
            example = "pytorch_lightning.loggers.WandbLogger"
            raise UserError(f"{where}.class: expected a dotted path like {example}, got {path!r}")
        cls = _class_of(LOGGERS, {"name": path}, Logger, f"{where}.class")
        parameters = parameters_of(cls)
        given = {k: v for k, v in entry.items() if k != "class"}
        if "save_dir" in parameters and given.get("save_dir") is None:
            del parameters["save_dir"]  # the run folder, see bind
            given.pop("save_dir", None)
        arguments = check_arguments(given, parameters, lambda k: prefix + k, name)
        checked.append({"class": path, **arguments})
    return checked


def check_arguments(
    section: Mapping[str, Any], parameters: Mapping[str, Parameter], key: Key, name: str, paths: bool = False
) -> dict[str, Any]:
    """Check one section against a signature.

    Args:
        section: keys and values; ``name`` is passed over in the sections that choose a class.
        parameters: what the signature takes.
        key: names keys for messages.
        name: dotted name of the section.
        paths: whether paths have to exist.

    Returns:
        The values, each of the type that the signature asks for.

    Raises:
        UserError: an unknown key, a wrong type, a missing path or value.
    """
    chooses = name in ("model", "data")
    checked = {}
    for given, value in section.items():
        if given == "name" and chooses:
            continue
        where = key(f"{name}.{given}")
        if given not in parameters:
            known: Collection[str] = [*parameters, "name"] if chooses else parameters
            raise UserError(f"{where}: unknown key{did_you_mean(str(given), known)}")
        parameter = parameters[given]
        if value == MISSING:
            raise UserError(f"{where}: missing; give it in the config or as {where}=VALUE")
        nested = dataclass_of(parameter.hint)
        if nested is not None and isinstance(value, dict):
            checked[given] = nested(**check_arguments(value, parameters_of(nested), key, f"{name}.{given}", paths))
            continue
        checked[given] = _value(value, parameter.hint, where)
        if paths:
            root = given == "root"  # the folder of a data set, also where it is annotated as a str
            if root and isinstance(value, str):
                if not value:
                    raise UserError(f"{where}: empty; give the folder of the data")
                value = os.path.expanduser(value)
                checked[given] = _value(value, parameter.hint, where)
            folder = root or given.endswith(("_root", "_dir", "_folder"))
            _check_paths(Path(value) if root and isinstance(value, str) else checked[given], where, folder)
    for parameter in parameters.values():
        if parameter.required and parameter.name not in checked:
            where = key(f"{name}.{parameter.name}")
            needs = f" ({section['name']} needs it)" if chooses else ""
            raise UserError(f"{where}: missing{needs}; give it in the config or as {where}=VALUE")
    return checked


def _value(value: Any, hint: Any, where: str) -> Any:
    try:
        return convert(value, hint)
    except Mismatch:
        near = did_you_mean(value, choices_of(hint)) if isinstance(value, str) else ""
        raise UserError(f"{where}: expected {type_name(hint)}, got {_shown(value)}{near}") from None


def _shown(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"{str(value).lower()} (bool)"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _check_paths(value: Any, where: str, folder: bool) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _check_paths(item, where, folder)
    if not isinstance(value, Path) or CHECKPOINT.search(str(value)):
        return
    try:
        there = value.exists()
    except OSError:  # a name that no file system takes
        there = False
    if not there:
        raise UserError(f"{where}: no such {'folder' if folder else 'file'}: {value}")
    if folder and not value.is_dir() and not zipfile.is_zipfile(value) and value.suffix.lower() != ".npy":
        raise UserError(f"{where}: not a folder: {value}")
    if folder and not os.access(value, os.R_OK | (os.X_OK if value.is_dir() else 0)):
        raise UserError(f"{where}: no permission to read {value}")
    if folder and value.is_dir() and next(os.scandir(value), None) is None:
        raise UserError(f"{where}: the folder is empty: {value}")
