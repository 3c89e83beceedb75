"""The device that a command runs on."""

from __future__ import annotations

import os

from vidgen.errors import UserError


def choose_device(name: str | None) -> str:
    """The device that the user named, or the best there is; several processes on one machine take one GPU each.

    Raises:
        UserError: there is no such device.
    """
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: unknown device; use cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA device here; use cpu")
    if name == "cuda":
        local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        return f"cuda:{local % torch.cuda.device_count()}"
    return name
