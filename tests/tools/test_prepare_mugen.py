"""MUGEN's states of the game, to videos and captions; pictures are drawn here."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import mugen
import prepare_mugen as tool
from mugen import Pictures, Renderer, pose_of, read_clip
from preparation import DamagedFile, main

from vidgen.data.annotations import Labels
from vidgen.data.request import ClipRequest
from vidgen.data.texts import read_captions
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError

BACKGROUND = (10, 20, 30)
COLOURS = {
    "kenney/Ground/Snow/snowCenter.png": (200, 0, 0),
    "kenney/Ground/Snow/snowMid.png": (0, 200, 0),
    "kenneyLarge/Items/coinGold.png": (250, 250, 0),
    "kenneyLarge/Items/gemRed.png": (250, 0, 100),
    "kenneyLarge/Enemies/bee.png": (90, 90, 0),
    "kenneyLarge/Enemies/bee_move.png": (90, 90, 90),
    "kenneyLarge/Enemies/snail.png": (0, 90, 90),
    "kenneyLarge/Enemies/snail_dead.png": (0, 0, 90),
    "kenneyLarge/Players/128x256_no_helmet/Yellow/alienYellow_stand.png": (255, 255, 255),
    "kenneyLarge/Players/128x256_no_helmet/Yellow/alienYellow_walk1.png": (254, 255, 255),
    "kenneyLarge/Players/128x256_no_helmet/Yellow/alienYellow_hit.png": (253, 255, 255),
    "kenney/Tiles/lava.png": (255, 120, 0),
}
SIZE = 64
MIDDLE = 31
"""Of the picture."""
TILE = 5.5
ROWS = ["A" * 64, "S" * 64, "." * 64, "." * 40 + "12" + "." * 22, *["." * 64] * 9]


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "assets"
    for name, colour in COLOURS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (8, 16 if "alien" in name else 8), (*colour, 255)).save(folder / name)
    Image.new("RGB", (32, 18), BACKGROUND).save(folder / "sky.png")
    return folder


def agent(**state: Any) -> dict[str, Any]:
    return {"x": 40.0, "y": 2.0, "vx": 0.0, "vy": 0.0, "time_alive": 0, "ladder": False, "spring": 0, **state}


def game(*frames: dict[str, Any], **changes: Any) -> dict[str, Any]:
    frames = frames or ({"agent": agent()},)
    return {
        "zoom": 5.5,
        "bgzoom": 0.4,
        "world_theme_n": 0,
        "agent_theme_n": 0,
        "background_themes": ["sky.png"],
        "ground_themes": ["Snow"],
        "agent_themes": ["Yellow"],
        "monster_names": {"ground": [], "walking": ["snail"], "flying": ["bee"]},
        "maze_w": 64,
        "maze_h": 13,
        "maze": ROWS,
        "frames": [{"state_time": 0, "coins_eaten": [], "monsters": [], **frame} for frame in frames],
        **changes,
    }


def draw(tmp_path: Path, assets: Path, state: dict[str, Any], size: int = SIZE) -> np.ndarray:
    """Frames of a clip, ``(T, H, W, 3)``."""
    (tmp_path / "clip.json").write_text(json.dumps(state))
    return np.stack(list(Renderer(read_clip(tmp_path / "clip.json"), Pictures(assets), size).frames()))


def columns(frame: np.ndarray, colour: tuple[int, ...]) -> list[int]:
    return sorted({int(x) for x in np.argwhere((frame == colour).all(-1))[:, 1]})


def rows(frame: np.ndarray, colour: tuple[int, ...]) -> list[int]:
    return sorted({int(y) for y in np.argwhere((frame == colour).all(-1))[:, 0]})


def test_mugen_stands_in_the_middle_on_the_ground(tmp_path, assets):
    [frame] = draw(tmp_path, assets, game())
    mugen_at = columns(frame, COLOURS["kenneyLarge/Players/128x256_no_helmet/Yellow/alienYellow_stand.png"])
    assert mugen_at == list(range(28, 34))  # a tile of 5.5 pixels, half a tile left of the middle
    feet = rows(frame, (255, 255, 255))
    assert len(feet) == 11  # two tiles
    ground = rows(frame, COLOURS["kenney/Ground/Snow/snowMid.png"])
    assert feet[-1] + 1 >= ground[0] and rows(frame, COLOURS["kenney/Ground/Snow/snowCenter.png"])[0] > ground[0]
    assert tuple(frame[0, 0]) == BACKGROUND


def test_coins_vanish_when_eaten_and_a_maze_stored_without_them_gets_them_back(tmp_path, assets):
    without = [*ROWS[:3], "." * 64, *ROWS[4:]]
    for maze in (ROWS, without):
        frames = draw(
            tmp_path, assets, game({"agent": agent(x=37)}, {"agent": agent(x=37), "coins_eaten": [[40, 3]]}, maze=maze)
        )
        coin = COLOURS["kenneyLarge/Items/coinGold.png"]
        assert len(columns(frames[0], coin)) >= 5 and columns(frames[1], coin) == []
        assert bool(columns(frames[1], COLOURS["kenneyLarge/Items/gemRed.png"])) == (maze is ROWS)


def test_the_maze_moves_with_mugen_and_the_background_more_slowly(tmp_path, assets):
    darker = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (18, 256, 3))
    Image.fromarray(darker).save(assets / "sky.png")
    frames = draw(tmp_path, assets, game({"agent": agent(x=30)}, {"agent": agent(x=34)}))
    moved = 4 * TILE * 0.4  # pixels, of the 352 that the picture is wide
    change = frames[1][0].astype(int) - frames[0][0]
    assert np.median(change) == pytest.approx(moved * 256 / 352, abs=1)
    coins = [columns(frame, COLOURS["kenneyLarge/Items/coinGold.png"]) for frame in frames]
    assert coins[0] == [] and coins[1] and min(coins[1]) == MIDDLE + 6 * TILE - 3  # 6 tiles to the right of Mugen


def test_monsters_walk_die_and_are_in_front_of_the_maze(tmp_path, assets):
    def monster(**state: Any) -> dict[str, Any]:
        return {"m_id": 0, "x": 43.0, "y": 2.0, "vx": -1, "theme": 1, "time": 0, "anim_freq": 2, **state}

    states = [
        monster(),
        monster(time=2),
        monster(is_jumping=True, vy=0.1),
        monster(is_jumping=True, time=2),
        monster(theme=0, is_dead=True, monster_dying_frame_cnt=3),
        monster(theme=0, is_dead=True, monster_dying_frame_cnt=0),
    ]
    frames = draw(tmp_path, assets, game(*({"agent": agent(), "monsters": [state]} for state in states)))
    assert all(len(columns(frames[n], COLOURS["kenneyLarge/Enemies/bee.png"])) == 6 for n in (0, 3))
    assert all(columns(frame, COLOURS["kenneyLarge/Enemies/bee_move.png"]) for frame in frames[1:3])
    heights = [len(rows(frame, COLOURS["kenneyLarge/Enemies/snail_dead.png"])) for frame in frames[4:]]
    assert heights == [6, 2]  # it shrinks to a fifth


def test_killed_mugen_fades(tmp_path, assets):
    states = [agent(is_killed=True, killed_animation_frame_cnt=left) for left in (30, 20, 0)]
    frames = draw(tmp_path, assets, game(*({"agent": state} for state in states)))
    blue = [int(frame[:, MIDDLE, 2].max()) for frame in frames]
    assert blue[0] > 240 > blue[1] > 100 > blue[2] == BACKGROUND[2]


def test_lava_flows_to_the_left(tmp_path, assets):
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[..., 3] = 255
    picture[:, 0, 0] = 255  # a red line at the beginning
    Image.fromarray(picture).save(assets / "kenney/Tiles/lava.png")
    maze = [*ROWS[:4], "." * 43 + "|" + "." * 20, *ROWS[5:]]
    frames = draw(tmp_path, assets, game(*({"agent": agent(), "state_time": t} for t in (0, 3, 9)), maze=maze), 256)
    lines = [np.flatnonzero(frame[160, 181:204, 0] > 200).min() for frame in frames]  # of 22 pixels
    assert lines[0] == 0 and lines[1:] == [16, 2]  # the beginning comes in again from the right


def test_the_bubble_is_needed_only_where_it_shows(tmp_path, assets):
    state = game({"agent": agent(power_up_mode=True)})
    with pytest.raises(UserError) as caught:
        draw(tmp_path, assets, state)
    assert (
        str(caught.value) == f"{str(assets / 'bubble_shield.png')!r} does not exist; it should be a picture of the game"
    )
    Image.new("RGBA", (8, 8), (0, 0, 255, 40)).save(assets / "bubble_shield.png")
    [frame] = draw(tmp_path, assets, state)
    assert len(columns(frame, (0, 0, 255))) == 7  # wider than Mugen, and opaque


POSES = {
    "hit": {"is_killed": True, "ladder": True},
    "climb1": {"ladder": True, "vy": 1},
    "climb2": {"ladder": True, "time_alive": 5},
    "jump": {"vy": 0.5, "spring": 1},
    "duck": {"spring": 2, "vx": 1},
    "stand": {"time_alive": 7},
    "walk1": {"vx": -0.1, "time_alive": 14},
    "walk2": {"vx": 0.1, "time_alive": 9},
}


@pytest.mark.parametrize("pose", POSES)
def test_poses(pose):
    assert pose_of(agent(**POSES[pose])) == pose


def test_a_picture_of_a_pose_that_is_missing_is_that_without_a_pose(assets):
    Image.new("RGB", (4, 4), (1, 2, 3)).save(assets / "robot.png")
    assert Pictures(assets).get("robot_walk1.png").getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(DamagedFile, match="none of the game"):
        Pictures(assets).get("../secret.png")


BROKEN = {
    "{": "it is no clip of the game (JSONDecodeError: ",
    json.dumps(game(zoom=7)): "its zoom is 7; known are 4.3, 5.0, 5.5, 6.0",
    json.dumps(game(frames=[])): "it has no frame",
    json.dumps(game(monster_names={})): "it is no clip of the game (KeyError: 'ground')",
}


@pytest.mark.parametrize("text", BROKEN)
def test_files_that_are_no_clips(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFile) as caught:
        read_clip(tmp_path / "a.json")
    assert str(caught.value).startswith(BROKEN[text])


# The tool ----------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return main(tool.build_parser(), tool.prepare, [str(argument) for argument in arguments])


@pytest.fixture
def raw(tmp_path: Path, assets: Path) -> Path:
    folder = tmp_path / "raw"
    (folder / "clips").mkdir(parents=True)
    assets.rename(folder / "assets")
    lists: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for number, part in enumerate(["train", "train", "train", "test"]):
        walk = [{"agent": agent(x=30 + number + 0.1 * step, vx=1, time_alive=0)} for step in range(5)]
        (folder / "clips" / f"c{number}.json").write_text(json.dumps(game(*walk)))
        notes = [{"type": "auto", "text": f"Mugen walks {number}"}]
        manual = [{"type": "manual", "text": f"He goes {number}"}, {"type": "manual", "text": "He walks"}]
        notes += manual[: max(0, 2 - number)]
        lists[part].append({"video": {"json_file": f"c{number}.json", "num_frames": 5}, "annotations": notes})
    lists["test"][0]["annotations"].append({"type": "manual", "text": "She goes"})
    for part, data in lists.items():
        (folder / f"{part}.json").write_text(json.dumps({"metadata": {"data_folder": "clips"}, "data": data}))
    return folder


def test_clips_become_lossless_videos_with_captions(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--raw", raw, "--out", out, "--size", SIZE) == 0
    assert capsys.readouterr() == (
        f"wrote {out}: 2 in train, 1 in test\na config reads it with\n  name: video_folder\n  root: {out}\n"
        f'  split: {{by: folder, folder: train}}\n  texts: {{file: "{out}/texts.jsonl"}}\n',
        "left out 1 clip without a caption (--text manual)\n",
    )
    assert read_captions(out / "texts.jsonl") == {
        "train/c0": ["He goes 0", "He walks"],
        "train/c1": ["He goes 1"],
        "test/c3": ["She goes"],
    }
    dataset = VideoFolder(str(out), SIZE, 5, labels=Labels(by="none"))
    assert list(dataset.names) == ["test/c3.mp4", "train/c0.mp4", "train/c1.mp4"] and dataset.spec.fps == 30
    drawn = list(Renderer(read_clip(raw / "clips/c1.json"), Pictures(raw / "assets"), SIZE).frames())
    stored = dataset.read_levels(ClipRequest(2, (4, 0, 1, 2, 3), SIZE))["video"].permute(1, 2, 3, 0).numpy()
    assert np.array_equal(stored, np.stack(drawn)[[4, 0, 1, 2, 3]])


def test_other_kinds_of_captions(raw, tmp_path, capsys):
    assert run("--raw", raw, "--out", tmp_path / "a", "--size", 16, "--text", "auto", "--parts", "train") == 0
    assert read_captions(tmp_path / "a/texts.jsonl") == {f"train/c{n}": [f"Mugen walks {n}"] for n in range(3)}
    assert run("--raw", raw, "--out", tmp_path / "b", "--size", 16, "--text", "both", "--parts", "train") == 0
    assert read_captions(tmp_path / "b/texts.jsonl")["train/c0"] == ["Mugen walks 0", "He goes 0", "He walks"]
    assert run("--raw", raw, "--out", tmp_path / "c", "--size", 16, "--text", "none") == 0
    assert not (tmp_path / "c/texts.jsonl").exists() and "texts" not in capsys.readouterr().out.split("/c:")[1]
    assert run("--raw", raw, "--out", tmp_path / "a", "--size", 32, "--text", "auto") == 2
    assert capsys.readouterr().err == (
        f"prepare_mugen: error: '{tmp_path}/a' was begun with size: 16, this run has 32; use the same or"
        " another --out\n"
    )


def test_shares_are_the_whole_together(raw, tmp_path):
    for share in ("1/2", "2/2"):
        assert run("--raw", raw, "--out", tmp_path / "out", "--size", 16, "--text", "auto", "--share", share) == 0
        found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.mp4"))
        assert found == (["train/c0.mp4", "train/c2.mp4"] if share == "1/2" else [*sorted(FOUR)])
    assert len(read_captions(tmp_path / "out/texts.jsonl")) == 4


FOUR = {"test/c3.mp4", "train/c0.mp4", "train/c1.mp4", "train/c2.mp4"}


def test_folders_of_clips_take_captions_from_a_file(raw, tmp_path, capsys):
    (raw / "train.json").unlink()
    (raw / "test.json").unlink()
    (raw / "clips").rename(raw / "val")
    assert run("--raw", raw, "--out", tmp_path / "out", "--size", 16) == 2
    assert capsys.readouterr().err == (
        f"prepare_mugen: error: '{raw}/val' is a folder of clips without captions; give --captions JSON, or"
        " --text none\n"
    )
    (tmp_path / "captions.json").write_text(json.dumps({"c1": ["one"], "c3": ["three", " "]}))
    assert run("--raw", raw, "--out", tmp_path / "out", "--size", 16, "--captions", tmp_path / "captions.json") == 0
    assert read_captions(tmp_path / "out/texts.jsonl") == {"val/c1": ["one"], "val/c3": ["three"]}
    (tmp_path / "captions.json").write_text(json.dumps({"c1": "one"}))
    assert run("--raw", raw, "--out", tmp_path / "out", "--captions", tmp_path / "captions.json") == 2
    assert "'c1': the captions must be a list of texts" in capsys.readouterr().err


def test_what_cannot_be_rendered_is_skipped_and_left_for_the_next_run(raw, tmp_path, capsys):
    out = tmp_path / "out"
    (raw / "clips/c0.json").write_text(json.dumps(game({"agent": agent()}, {"agent": {"y": 1}})))
    (raw / "clips/c1.json").rename(tmp_path / "c1.json")
    assert run("--raw", raw, "--out", out, "--size", 16) == 0
    assert capsys.readouterr().err == (
        f"skipped {raw}/clips/c0.json: its frame 1 makes no sense (KeyError: 'x')\n"
        "skipped c1.json: train.json names it, but it is not there\n"
        "left out 1 clip without a caption (--text manual)\n"
    )
    assert [path.name for path in out.rglob("*.mp4")] == ["c3.mp4"]
    (raw / "deeper").mkdir()
    (tmp_path / "c1.json").rename(raw / "deeper/c1.json")
    assert run("--raw", raw, "--out", out, "--size", 16) == 0
    assert sorted(path.name for path in out.rglob("*.mp4")) == ["c1.mp4", "c3.mp4"]


MISTAKES = {
    ("--size", "8"): "--size is 8; it must be at least 16 and at most 1024",
    ("--share", "3/2"): "--share is '3/2'; it must be like 1/4, the first of four shares",
    ("--assets", "nowhere"): "'nowhere' does not exist; it should be the folder of the game's pictures. " + tool.OBTAIN,
    ("--parts", "val"): "'{raw}' holds neither train.json nor val.json nor test.json. " + tool.OBTAIN,
}


@pytest.mark.parametrize("options", MISTAKES)
def test_mistakes_are_told_in_one_line(options, raw, tmp_path, capsys):
    assert run("--raw", raw, "--out", tmp_path / "out", *options) == 2
    assert capsys.readouterr() == ("", f"prepare_mugen: error: {MISTAKES[options].replace('{raw}', str(raw))}\n")
    assert not (tmp_path / "out").exists()


def test_a_list_that_is_another_file_is_refused(raw, tmp_path, capsys):
    (raw / "train.json").write_text('{"data": [{"clip": 1}]}')
    assert run("--raw", raw, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"prepare_mugen: error: '{raw}/train.json': entry 0 is not as in MUGEN's lists; get it anew\n"
    )


def test_every_tile_has_a_picture(tmp_path, assets):
    for name in mugen.TILES.values():
        path = assets / name.format(ground="kenney/Ground/Snow/snow")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(path)
    rng = random.Random(0)
    maze = ["".join(rng.choice([*mugen.TILES, "."]) for _ in range(64)) for _ in range(13)]
    assert draw(tmp_path, assets, game(maze=maze)).shape == (1, SIZE, SIZE, 3)
