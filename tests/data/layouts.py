"""The same lossless videos in every layout."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.data.strips import random_frames, save_strip
from vidgen.data.packing import pack
from vidgen.registry import DATASETS

LENGTHS = {"run/a": 12, "run/b": 20, "walk/a": 17, "walk/c": 14, "walk/d": 31}
"""Class and name of each video, and its frames."""
SIDE = 16


def save_video(path: Path, frames: np.ndarray) -> None:
    """Write frames ``(T, H, W, 3)`` as FFV1 in RGB, which loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_layouts(root: Path) -> dict[str, dict[str, Any]]:
    """Write the videos in every layout.

    Returns:
        Name of the layout -> the ``data`` section that reads it, without clip settings.
    """
    videos = {name: random_frames(length, SIDE, seed=seed) for seed, (name, length) in enumerate(LENGTHS.items())}
    for name, frames in videos.items():
        save_strip(root / "strips" / f"{name}.png", frames)
        save_video(root / "videos" / f"{name}.mkv", frames)
        for time, frame in enumerate(frames):
            path = root / "frames" / name / f"{time}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(path)
    for kind, with_folders in (("zip", False), ("zip_with_folders", True)):
        with zipfile.ZipFile(root / f"{kind}.zip", "w") as archive:
            for path in sorted((root / "frames").rglob("*")):
                if path.is_file() or with_folders:
                    archive.write(path, f"set/{path.relative_to(root / 'frames')}")
    sections = {
        "frame_strips": {"name": "frame_strips", "root": str(root / "strips")},
        "video_folder": {"name": "video_folder", "root": str(root / "videos")},
        "frame_folder": {"name": "frame_folder", "root": str(root / "frames")},
        "frame_folder.zip": {"name": "frame_folder", "root": str(root / "zip.zip")},
        "frame_folder.zip with folders": {"name": "frame_folder", "root": str(root / "zip_with_folders.zip")},
    }
    settings = sections["frame_strips"]
    dataset = DATASETS.get("frame_strips")(settings["root"], SIDE, 1)
    pack(dataset, settings, root / "pack", shard_bytes=20_000, quiet=True)
    sections["packed"] = {"name": "packed", "root": str(root / "pack")}
    return sections
