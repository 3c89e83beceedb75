"""Configs: compose a file, check every key against the signature that it reaches, build from it, save it.

``compose`` and everything that it reports needs neither torch nor Lightning; ``check`` imports the classes that the
config names.
"""

from vidgen.config.check import check, check_data
from vidgen.config.compose import Config, compose
from vidgen.config.run import RunConfig, bind, build_data, build_dataset, build_model, final_checkpoint, stage_dir
from vidgen.config.save import resolve_run_dir, save_run

__all__ = [
    "Config",
    "RunConfig",
    "bind",
    "build_data",
    "build_dataset",
    "build_model",
    "check",
    "check_data",
    "compose",
    "final_checkpoint",
    "resolve_run_dir",
    "save_run",
    "stage_dir",
]
