"""Frames of MUGEN's game (CoinRun) from the states of it that a clip of the data set stores.

A clip is a JSON file: the maze as rows of characters, names of themes, and for every frame where the character Mugen,
the monsters and the eaten coins are. A frame is put together of pictures: background, tiles of the maze, monsters,
Mugen, and the bubble around Mugen. Lengths are in tiles until a :class:`Camera` brings them to pixels; y points up in
the maze and down in the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from preparation import DamagedFile

from vidgen.errors import UserError

Frames = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""

EMPTY, COIN = ".", "1"
LAVA = "|^"
TILES = {
    "A": "{ground}Center.png",
    "S": "{ground}Mid.png",
    "a": "{ground}Cliff_left.png",
    "b": "{ground}Cliff_right.png",
    "1": "kenneyLarge/Items/coinGold.png",
    "2": "kenneyLarge/Items/gemRed.png",
    "#": "kenney/Tiles/boxCrate.png",
    "$": "kenney/Tiles/boxCrate_double.png",
    "&": "kenney/Tiles/boxCrate_single.png",
    "%": "kenney/Tiles/boxCrate_warning.png",
    "|": "kenney/Tiles/lava.png",
    "^": "kenney/Tiles/lavaTop_low.png",
    "=": "kenney/Tiles/ladderMid.png",
}
"""Character of the maze -> picture."""
SHIELD = "bubble_shield.png"
CAMERA_HEIGHT = {4.3: 6.5, 5.0: 5.5, 5.5: 5.0, 6.0: 4.5}
"""Zoom -> tiles from the lower end of the maze to the middle of the picture."""
STEP = 5
"""Frames for which Mugen shows one of two pictures of walking or climbing."""
FADING = 30
"""Frames in which Mugen fades away when killed."""
SHRINKING = 3
"""Frames in which a killed monster shrinks."""


@dataclass(frozen=True)
class Clip:
    """A clip of the game.

    Args:
        maze: rows, the lowest first.
        zoom: how many times the whole maze would be larger than the picture.
        background_zoom: how fast the background moves, compared with the maze.
        height: rows of the maze that the background is centred on.
        width: columns of the maze.
        background: picture behind everything.
        ground: pictures of the ground, but for the end of their names.
        mugen: pictures of Mugen, but for the end of their names.
        monsters: names of the kinds of monsters.
        frames: the states, as they are stored.
    """

    maze: tuple[str, ...]
    zoom: float
    background_zoom: float
    height: int
    width: int
    background: str
    ground: str
    mugen: str
    monsters: tuple[str, ...]
    frames: Sequence[Mapping[str, Any]]


def read_clip(path: Path) -> Clip:
    """Read a clip.

    Raises:
        DamagedFile: it cannot be read, or is no clip.
    """
    try:
        game = json.loads(path.read_bytes())
        ground = game["ground_themes"][game["world_theme_n"]]
        mugen = game["agent_themes"][game["agent_theme_n"]]
        kinds = game["monster_names"]
        if game["zoom"] not in CAMERA_HEIGHT:
            raise DamagedFile(f"its zoom is {game['zoom']}; known are {', '.join(map(str, CAMERA_HEIGHT))}")
        if not game["frames"]:
            raise DamagedFile("it has no frame")
        return Clip(
            maze=_with_eaten_coins(game["maze"], game["frames"][-1].get("coins_eaten", [])),
            zoom=float(game["zoom"]),
            background_zoom=float(game.get("bgzoom", 0.4)),
            height=int(game.get("maze_h", 13)),
            width=int(game.get("maze_w", 64)),
            background=str(game["background_themes"][game["world_theme_n"]]),
            ground=f"kenney/Ground/{ground}/{ground.lower()}",
            mugen=f"kenneyLarge/Players/128x256_no_helmet/{mugen}/alien{mugen}",
            monsters=(*kinds["ground"], *kinds["walking"], *kinds["flying"]),
            frames=game["frames"],
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DamagedFile(f"it is no clip of the game ({type(error).__name__}: {error})") from error


def _with_eaten_coins(maze: Sequence[str], eaten: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Mazes may have been stored after the coins were eaten; a frame says itself which are gone by then."""
    rows = [list(row) for row in maze]
    for x, y in eaten:
        if rows[y][x] == EMPTY:
            rows[y][x] = COIN
    return tuple("".join(row) for row in rows)


@dataclass(frozen=True)
class Camera:
    """From the maze to the picture: it follows Mugen to the sides, and stays at one height.

    Args:
        clip: the clip.
        size: width and height of the picture, pixels.
        x: where Mugen is.
    """

    clip: Clip
    size: int
    x: float

    @property
    def tile(self) -> float:
        """Pixels of a tile."""
        return self.clip.zoom * self.size / self.clip.width

    @property
    def middle(self) -> int:
        """The middle pixel."""
        return (self.size - 1) // 2

    @property
    def right(self) -> float:
        """Pixels by which the maze is moved to the right."""
        return -self.x * self.tile + self.middle - 0.5 * self.tile

    @property
    def down(self) -> float:
        """Pixels by which the maze is moved down."""
        return -self.middle + CAMERA_HEIGHT[self.clip.zoom] * self.tile

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Left and top of a tile, pixels."""
        return self.tile * x + self.right, self.size - self.tile * y + self.down

    def sees(self, box: Box) -> bool:
        """Whether a box touches the picture."""
        left, top, width, height = box
        return left + width >= 0 and top + height >= 0 and left <= self.size and top <= self.size


@dataclass
class Pictures:
    """Pictures by name and size, read once.

    Args:
        folder: of all pictures.
    """

    folder: Path
    _kept: dict[tuple[Any, ...], Image.Image] = field(default_factory=dict)

    def get(self, name: str, size: tuple[int, int] | None = None, mirrored: bool = False) -> Image.Image:
        """A picture; whatever is not quite transparent in it becomes opaque.

        Args:
            name: path below the folder. Where a picture of a pose is missing, that without a pose is taken.
            size: width and height; None as it is stored.
            mirrored: from left to right.

        Raises:
            UserError: there is no such picture, or it cannot be read.
        """
        key = name, size, mirrored
        if key not in self._kept:
            image = self._read(name)
            image = image if size is None else image.resize(size)
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
            self._kept[key] = _opaque(image)
        return self._kept[key]

    def aspect(self, name: str) -> float:
        """Height of a stored picture divided by its width."""
        key = name, "aspect"
        if key not in self._kept:
            self._kept[key] = self._read(name)
        return self._kept[key].height / self._kept[key].width

    def _read(self, name: str) -> Image.Image:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise DamagedFile(f"it names the picture {name!r}, which is none of the game")
        plain = path.with_name(path.stem.rpartition("_")[0] + path.suffix)
        found = next((file for file in (self.folder / path, self.folder / plain) if file.is_file()), None)
        if found is None:
            raise UserError(f"{str(self.folder / path)!r} does not exist; it should be a picture of the game")
        try:
            with Image.open(found) as image:
                return image.convert("RGBA") if image.mode not in ("RGB", "RGBA") else image.copy()
        except OSError as error:
            raise UserError(f"{str(found)!r} cannot be read as a picture; get it anew") from error


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    pixels = np.array(image)
    pixels[..., 3] = np.where(pixels[..., 3] > 0, 255, 0)
    return Image.fromarray(pixels)


@dataclass
class Renderer:
    """Draws the frames of a clip.

    Args:
        clip: the clip.
        pictures: of the game.
        size: width and height of the frames, pixels.
    """

    clip: Clip
    pictures: Pictures
    size: int

    def frames(self) -> Iterator[Frames]:
        """All frames, uint8 ``(size, size, 3)``.

        Raises:
            DamagedFile: a frame makes no sense.
            UserError: a picture is missing.
        """
        for number, frame in enumerate(self.clip.frames):
            try:
                yield self.frame(frame)
            except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                raise DamagedFile(f"its frame {number} makes no sense ({type(error).__name__}: {error})") from error

    def frame(self, frame: Mapping[str, Any]) -> Frames:
        """One frame of a stored state."""
        image = Image.new("RGB", (self.size, self.size))
        camera = Camera(self.clip, self.size, frame["agent"]["x"])
        self._draw_background(image, camera)
        self._draw_maze(image, camera, frame)
        for monster in frame.get("monsters", ()):
            self._draw_monster(image, camera, monster)
        self._draw_mugen(image, camera, frame["agent"])
        return np.array(image)

    @cached_property
    def _visible(self) -> int:
        """Tiles around Mugen that may be seen."""
        return int(1 + self.clip.width / self.clip.zoom)

    def _draw_background(self, image: Image.Image, camera: Camera) -> None:
        """As large as the whole maze would be, repeated, and moving more slowly than the maze."""
        side = self.size * self.clip.zoom
        height = camera.tile * self.clip.height / 2
        right = self.clip.background_zoom * (camera.right + height)
        down = self.clip.background_zoom * (camera.down - height)
        picture = self.pictures.get(self.clip.background, (math.ceil(side), math.ceil(side)))
        for column in range(-1, 3):
            for row in range(-1, 2):
                left = side * column + camera.middle + right - side * 0.5
                top = side * row + camera.middle + down - side * 0.5
                box = (left, top, side, side)
                if camera.sees(box):
                    image.paste(picture, (math.floor(box[0]), math.floor(box[1])))

    def _draw_maze(self, image: Image.Image, camera: Camera, frame: Mapping[str, Any]) -> None:
        agent = frame["agent"]
        eaten = {(x, y) for x, y in frame.get("coins_eaten", ())}
        columns = _around(agent["x"], self._visible, self.clip.width)
        for y in _around(agent["y"], self._visible, self.clip.height):
            for x in columns:
                tile = self.clip.maze[y][x]
                if tile == EMPTY or (x, y) in eaten:
                    continue
                left, top = camera.place(x, y)
                side = camera.tile + 0.5 + 0.2  # wider than the tile, so that no gap shows
                box = (left - 0.1, top - 0.1, side, side)
                if not camera.sees(box):
                    continue
                if tile in LAVA:
                    self._draw_lava(image, box, tile, frame.get("state_time", 0))
                else:
                    stored = math.ceil(camera.tile + 0.5)
                    _paste(image, self.pictures.get(self._tile(tile), (stored, stored)), box)

    def _tile(self, tile: str) -> str:
        return TILES[tile].format(ground=self.clip.ground)

    def _draw_lava(self, image: Image.Image, box: Box, tile: str, time: float) -> None:
        """Lava flows to the left: a tile shows the end of its picture, and behind it the beginning."""
        picture = self.pictures.get(self._tile(tile))
        flowed = time * 0.1 - int(time * 0.1)
        whole = (0.0, 0.0, float(picture.width), float(picture.height))
        for half in (0, 1):
            target = _overlap((box[0] + (half * box[2] - flowed * box[2]), *box[1:]), box)
            source = _overlap((flowed * picture.width - half * picture.width, *whole[1:]), whole)
            if target is None or source is None:
                continue
            overhang = 0.5 * half  # towards the other half, so that no gap shows between them
            target = (target[0] - overhang, target[1], target[2] + 0.5, target[3])
            left, top, width, height = source
            part = (math.floor(left), math.floor(top), math.ceil(left + width), math.ceil(top + height))
            _paste(image, picture.crop(part), target)

    def _draw_monster(self, image: Image.Image, camera: Camera, monster: Mapping[str, Any]) -> None:
        left, top = camera.place(monster["x"], monster["y"])
        shrunk = 0.0
        if dead := monster.get("is_dead", False):
            count = max(0, monster.get("monster_dying_frame_cnt", 0))
            shrunk = (SHRINKING - count) * 0.8 / SHRINKING
        pose = "_dead" if dead else "" if _first_step(monster) else "_move"
        name = f"kenneyLarge/Enemies/{self.clip.monsters[monster.get('theme', 0)]}{pose}.png"
        side = math.ceil(camera.tile)
        picture = self.pictures.get(name, (side, side), mirrored=monster.get("vx", 0) > 0)
        _paste(image, picture, (left, top + camera.tile * shrunk, camera.tile, camera.tile * (1 - shrunk)))

    def _draw_mugen(self, image: Image.Image, camera: Camera, agent: Mapping[str, Any]) -> None:
        pose = pose_of(agent)
        name = f"{self.clip.mugen}_{pose}.png"
        aspect = self.pictures.aspect(name)
        size = math.ceil(camera.tile), math.ceil(aspect * camera.tile)
        picture = self.pictures.get(name, size, mirrored=agent.get("vx", 0) < 0)
        if agent.get("is_killed", False):
            picture = _faded(picture, (FADING + 1 - agent.get("killed_animation_frame_cnt", 0)) * 12)
        left, top = camera.place(agent["x"], agent["y"] + aspect - 1)
        _paste(image, picture, (left, top, *size))
        if agent.get("power_up_mode", False):
            left, top = camera.place(agent["x"], agent["y"] + 1)
            unit = self.size / 1024  # the bubble is placed by pixels of the game's own window
            lower = math.floor(8 * unit) if pose == "duck" else 0
            size = math.ceil(camera.tile * 1.15), math.ceil(camera.tile * 2.1)
            box = (left - 7 * unit, math.floor(top + 8 * unit) + lower, *size)
            _paste(image, self.pictures.get(SHIELD, size), box)


def pose_of(agent: Mapping[str, Any]) -> str:
    """Which picture shows Mugen."""
    first = "1" if (agent.get("time_alive", 0) // STEP) % 2 == 0 else "2"
    if agent.get("is_killed", False):
        return "hit"
    if agent.get("ladder", False):
        return f"climb{first}"
    if agent.get("vy", 0) != 0:
        return "jump"
    if agent.get("spring", 0) != 0:
        return "duck"
    return "stand" if agent.get("vx", 0) == 0 else f"walk{first}"


def _first_step(monster: Mapping[str, Any]) -> bool:
    """Which of its two pictures shows a living monster: one that jumps shows the second in the air."""
    if monster.get("is_jumping", False):
        return bool(monster.get("vy", 0) == 0)
    return bool((monster.get("time", 0) // monster.get("anim_freq", 1)) % 2 == 0)


def _around(place: float, radius: int, length: int) -> range:
    nearest = int(place + 0.5)
    return range(max(nearest - radius, 0), min(nearest + radius + 1, length))


def _overlap(one: Box, other: Box) -> Box | None:
    left, top = max(one[0], other[0]), max(one[1], other[1])
    width = min(one[0] + one[2], other[0] + other[2]) - left
    height = min(one[1] + one[3], other[1] + other[3]) - top
    return (left, top, width, height) if width > 0 and height > 0 else None


def _faded(picture: Image.Image, by: int) -> Image.Image:
    """A picture with less alpha."""
    pixels = np.array(picture.convert("RGBA")).astype(np.int16)
    pixels[..., 3] = (pixels[..., 3] - by).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _paste(image: Image.Image, picture: Image.Image, box: Box) -> None:
    """Put a picture into a box, whose corner is rounded down and whose size is rounded up."""
    left, top = math.floor(box[0]), math.floor(box[1])
    size = math.ceil(box[2]), math.ceil(box[3])
    if picture.size != size:
        picture = picture.resize(size)
    image.paste(picture, (left, top), picture if picture.mode == "RGBA" else None)
