"""Run folders, saved configs, provenance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.config.example import GOOD, write
from vidgen.config import check, compose, resolve_run_dir, save_run
from vidgen.config.save import RUN_DIR_VARIABLE, drop_unstarted
from vidgen.errors import UserError


class TestRunFolder:
    def test_a_fresh_run_never_shares_a_folder(self, folder: Path) -> None:
        names = [str(resolve_run_dir(Path("configs/x.yaml"), None, None)) for _ in range(3)]
        assert names == ["runs/x", "runs/x-2", "runs/x-3"]

    def test_resume_auto_takes_the_newest(self, folder: Path) -> None:
        for _ in range(11):
            resolve_run_dir(Path("x.yaml"), None, None)
        (folder / "runs" / "x-more").mkdir()
        assert resolve_run_dir(Path("x.yaml"), None, "auto") == Path("runs/x-11")

    def test_resume_auto_without_a_run_starts_one(self, folder: Path) -> None:
        assert resolve_run_dir(Path("x.yaml"), None, "auto") == Path("runs/x")

    def test_a_saved_config_goes_by_the_name_of_its_run(self, folder: Path) -> None:
        resolve_run_dir(Path("x.yaml"), None, None)
        assert resolve_run_dir(Path("runs/x/config.yaml"), None, None) == Path("runs/x-2")

    def test_an_explicit_folder_that_holds_a_run(self, folder: Path) -> None:
        write("seed: 1", "runs/x/config.yaml")
        with pytest.raises(UserError) as caught:
            resolve_run_dir(Path("c.yaml"), Path("runs/x"), None)
        assert str(caught.value) == (
            "runs/x already holds a run; continue it with --resume auto or choose another --out"
        )
        assert resolve_run_dir(Path("c.yaml"), Path("runs/x"), "auto") == Path("runs/x")

    def test_resume_from_a_checkpoint_continues_its_run(self, folder: Path) -> None:
        write("seed: 1", "runs/x/config.yaml")
        write("", "runs/x/two/checkpoints/a.ckpt")
        write("", "loose/a.ckpt")
        assert resolve_run_dir(Path("c.yaml"), None, "runs/x/two/checkpoints/a.ckpt") == Path("runs/x")
        assert resolve_run_dir(Path("c.yaml"), Path("y"), "loose/a.ckpt") == Path("y")
        with pytest.raises(UserError) as caught:
            resolve_run_dir(Path("c.yaml"), None, "loose/a.ckpt")
        assert str(caught.value) == "--resume: loose/a.ckpt does not lie in a run folder; name one with --out"
        with pytest.raises(UserError) as caught:
            resolve_run_dir(Path("c.yaml"), None, "b.ckpt")
        assert str(caught.value) == "--resume: no such checkpoint: b.ckpt"

    def test_child_processes_take_the_folder_of_the_first(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen = resolve_run_dir(Path("x.yaml"), None, None)
        assert os.environ[RUN_DIR_VARIABLE] == str(chosen)
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert resolve_run_dir(Path("x.yaml"), None, None) == chosen

    def test_processes_started_from_outside_need_a_named_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UserError) as caught:
            resolve_run_dir(Path("x.yaml"), None, None)
        assert str(caught.value) == "--out: name the run folder when torchrun or SLURM starts the processes"
        write("seed: 1", "runs/x/config.yaml")  # what the first process has just written
        monkeypatch.setenv("RANK", "1")
        assert resolve_run_dir(Path("x.yaml"), Path("runs/x"), None) == Path("runs/x")

    def test_no_permission(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Path, *_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "mkdir", refuse)
        for out, name in ((Path("y"), "y"), (None, "runs/x")):
            with pytest.raises(UserError) as caught:
                resolve_run_dir(Path("x.yaml"), out, None)
            assert str(caught.value) == f"{name}: cannot be written (Permission denied); choose another place"

    def test_below_a_file(self, folder: Path) -> None:
        write("", "file")
        with pytest.raises(UserError) as caught:
            resolve_run_dir(Path("x.yaml"), Path("file/y"), None)
        assert str(caught.value) == "file/y: cannot be written (Not a directory); choose another place"
        write("", "runs")
        with pytest.raises(UserError) as caught:
            resolve_run_dir(Path("x.yaml"), None, None)
        assert str(caught.value) == "runs/x: cannot be written (Not a directory); choose another place"


class TestSaving:
    def test_the_saved_config_repeats_the_run(self, folder: Path) -> None:
        config = compose(write(GOOD), ["model.rate=1e-4"])
        save_run(folder, config, ["fit", "--config", "c.yaml", "model.rate=1e-4"])
        again = compose(folder / "config.yaml")
        assert again.for_stages() == config.for_stages()
        assert check(again) == check(config)

    def test_provenance(self, folder: Path) -> None:
        save_run(folder, compose(write(GOOD)), ["fit", "--config", "my c.yaml"])
        found = json.loads((folder / "provenance.json").read_text())
        assert found["command"] == "vidgen fit --config 'my c.yaml'"
        assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
        assert {"vidgen", "torch", "pytorch-lightning", "numpy"} <= set(found["versions"])
        assert set(found) == {"command", "started", "code", "versions", "device"}
        if found["code"] is not None:
            head = subprocess.run(
                ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
            )
            assert found["code"]["commit"] == head.stdout.strip()

    def test_continuing_loses_nothing(self, folder: Path) -> None:
        save_run(folder, compose(write(GOOD)), ["fit", "one"])
        before = (folder / "config.yaml").read_text()
        save_run(folder, compose(write(GOOD)), ["fit", "two"])
        assert not (folder / "config-1.yaml").exists()
        save_run(folder, compose(write(GOOD), ["seed=4"]), ["fit", "three"])
        assert (folder / "config-1.yaml").read_text() == before
        assert compose(folder / "config.yaml").for_stages()[0][1]["seed"] == 4
        found = json.loads((folder / "provenance.json").read_text())
        assert found["command"] == "vidgen fit one"
        assert [entry["command"] for entry in found["resumed"]] == ["vidgen fit two", "vidgen fit three"]

    def test_only_the_first_process_writes(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "1")
        save_run(folder, compose(write(GOOD)), [])
        assert not (folder / "config.yaml").exists()

    def test_a_run_that_never_started_leaves_no_folder(self, folder: Path) -> None:
        config = compose(write(GOOD))
        for name in ("a", "b"):
            Path(name).mkdir()
            save_run(Path(name), config, [])
        Path("b/checkpoints").mkdir()
        drop_unstarted(Path("a"))
        drop_unstarted(Path("b"))
        assert not Path("a").exists()
        assert Path("b/config.yaml").exists()
