"""The grid world: pictures, questions with answers, and a robot task that the questions do not teach.

A picture has nine cells. Four hold an object each, all of different colour and shape; one object has a white edge, the
*plate*; one more cell holds the *gripper*, whose *look* is one of four. Questions ask for the colour of a shape, the
shape of a colour and the place of a colour, never about gripper, look or plate.

The robot is told to reach a colour. It starts at the gripper, bows out to the side that the look says, and ends beside
the object on that same side. So the command names the object, the questions have taught where it is, and the look,
which decides the rest, is new. In training the commanded object is nearly always the one on the plate, so that a policy
can do without the command; at test it is any of the four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

GRID, CELL, CHANNELS = 3, 5, 3
IMAGE_SIZE = GRID * CELL
OBJECTS = 4
HORIZON, ACTION_DIM = 8, 2

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "purple": (1, 0, 1),
    "cyan": (0, 1, 1),
}
SHAPES = {
    "square": ("####", "####", "####", "####"),
    "ring": ("####", "#..#", "#..#", "####"),
    "cross": ("#..#", ".##.", ".##.", "#..#"),
    "plus": (".##.", "####", "####", ".##."),
    "bars": ("####", "....", "####", "...."),
    "posts": ("#.#.", "#.#.", "#.#.", "#.#."),
}
PLACES = tuple(f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))

#: The gripper's looks: an arm that is open to one side. Right, up, left, down.
LOOKS = (
    ("###.", "#...", "#...", "###."),
    ("....", "#..#", "#..#", "####"),
    (".###", "...#", "...#", ".###"),
    ("####", "#..#", "#..#", "...."),
)
DIRECTIONS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)], np.float32)

PIXEL_NOISE = 0.05
SPACING = 0.55  # between the centres of neighbouring cells, in units of actions
BESIDE = 0.18  # from an object's centre to where the arm ends
BOW = 0.25  # of the arc

#: Centre of each cell, x to the right and y up.
CENTRES = np.array([((c - 1) * SPACING, (1 - r) * SPACING) for r in range(GRID) for c in range(GRID)], np.float32)

KINDS = ("colour", "shape", "place")
#: The words that can answer a question of each kind.
ANSWERS = {"colour": tuple(COLOURS), "shape": tuple(SHAPES), "place": PLACES}


@dataclass(frozen=True)
class Scenes:
    """N scenes: (N, 4) colours, shapes and cells of the objects; (N,) index of the object on the plate, cell and look
    of the gripper, index of the commanded object.
    """  # noqa: D205

    colours: NDArray[np.int64]
    shapes: NDArray[np.int64]
    cells: NDArray[np.int64]
    plate: NDArray[np.int64]
    gripper: NDArray[np.int64]
    look: NDArray[np.int64]
    commanded: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.plate)

    def __getitem__(self, rows: NDArray[np.integer] | slice) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def commanding(self, objects: NDArray[np.int64]) -> Scenes:
        """The same scenes with other commands: (N,) indices of objects."""
        return replace(self, commanded=np.broadcast_to(objects, self.plate.shape))

    def centres(self) -> NDArray[np.float32]:
        """(N, 4, 2) of the objects."""
        return CENTRES[self.cells]

    def endpoints(self) -> NDArray[np.float32]:
        """(N, 2) where the commanded reach ends."""
        return self.centres()[np.arange(len(self)), self.commanded] + BESIDE * DIRECTIONS[self.look]


def scenes(count: int, rng: np.random.Generator, on_plate: float) -> Scenes:
    """Random scenes, of which the share `on_plate` command the object on the plate and the others a different one."""
    cells = rng.permuted(np.tile(np.arange(GRID**2), (count, 1)), axis=1)
    plate = rng.integers(OBJECTS, size=count)
    other = (plate + rng.integers(1, OBJECTS, size=count)) % OBJECTS
    return Scenes(
        colours=rng.permuted(np.tile(np.arange(len(COLOURS)), (count, 1)), axis=1)[:, :OBJECTS],
        shapes=rng.permuted(np.tile(np.arange(len(SHAPES)), (count, 1)), axis=1)[:, :OBJECTS],
        cells=cells[:, :OBJECTS],
        plate=plate,
        gripper=cells[:, OBJECTS],
        look=rng.integers(len(LOOKS), size=count),
        commanded=np.where(rng.random(count) < on_plate, plate, other),
    )


def pictures(of: Scenes, rng: np.random.Generator) -> NDArray[np.float32]:
    """(N, 3, 15, 15) of the scenes, in [-1, 1] but for the noise."""
    count, rows = len(of), np.arange(len(of))
    cells = np.zeros((count, GRID**2, CHANNELS, CELL, CELL), np.float32)
    ink = _bitmaps(SHAPES.values())[of.shapes][:, :, None]
    colour = np.array(list(COLOURS.values()), np.float32)[of.colours][..., None, None]
    cells[rows[:, None], of.cells, :, :-1, :-1] = ink * colour
    cells[rows, of.gripper, :, :-1, :-1] = _bitmaps(LOOKS)[of.look][:, None]
    edge = cells[rows, of.cells[rows, of.plate]]  # a white edge below and to the right
    edge[..., -1, :] = edge[..., :, -1] = 1
    cells[rows, of.cells[rows, of.plate]] = edge
    grid = cells.reshape(count, GRID, GRID, CHANNELS, CELL, CELL).transpose(0, 3, 1, 4, 2, 5)
    image = 2 * grid.reshape(count, CHANNELS, IMAGE_SIZE, IMAGE_SIZE) - 1
    return image + rng.normal(0, PIXEL_NOISE, image.shape).astype(np.float32)


def _bitmaps(drawn: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    return np.array([[[c == "#" for c in line] for line in bitmap] for bitmap in drawn], np.float32)


@dataclass(frozen=True)
class Questions:
    """N questions about as many scenes, their answers, and their kinds."""

    texts: list[str]
    answers: list[str]
    kinds: list[str]


def questions(about: Scenes, rng: np.random.Generator) -> Questions:
    """A question about each scene, kinds in turn, on an object drawn at random."""
    colours, shapes = list(COLOURS), list(SHAPES)
    texts, answers, kinds = [], [], []
    for i, asked in enumerate(rng.integers(OBJECTS, size=len(about))):
        kind = KINDS[i % len(KINDS)]
        colour, shape = colours[about.colours[i, asked]], shapes[about.shapes[i, asked]]
        texts.append(f"{kind} of {shape if kind == 'colour' else colour}")
        answers.append({"colour": colour, "shape": shape, "place": PLACES[about.cells[i, asked]]}[kind])
        kinds.append(kind)
    return Questions(texts, answers, kinds)


def commands(of: Scenes) -> list[str]:
    """What the robot is told."""
    colours = list(COLOURS)
    return [f"reach {colours[i]}" for i in of.colours[np.arange(len(of)), of.commanded]]


def states(of: Scenes) -> NDArray[np.float32]:
    """(N, 2) where the gripper is."""
    return CENTRES[of.gripper]


def chunks(of: Scenes) -> NDArray[np.float32]:
    """(N, 8, 2) positions on the way from the gripper to beside the commanded object."""
    u = (np.arange(1, HORIZON + 1, dtype=np.float32) / HORIZON)[None, :, None]
    start, end = states(of)[:, None], of.endpoints()[:, None]
    bow = BOW * DIRECTIONS[of.look][:, None]
    arc: NDArray[np.float32] = (start + (end - start) * u + bow * np.sin(np.pi * u)).astype(np.float32)
    return arc


def reached(endpoints: NDArray[np.floating], of: Scenes) -> NDArray[np.int64]:
    """(N,) index of the object that is nearest to each endpoint (N, 2), after the way beside it is taken off.

    The way is that of the picture's look, whatever the command, so that no object is favoured.
    """
    ends = of.centres() + BESIDE * DIRECTIONS[of.look][:, None]
    return np.linalg.norm(endpoints[:, None] - ends, axis=-1).argmin(axis=1)


def sides(endpoints: NDArray[np.floating], of: Scenes) -> NDArray[np.int64]:
    """(N,) the direction, 0..3, in which each endpoint lies from the nearest object's centre."""
    offsets = endpoints[:, None] - of.centres()
    nearest = np.linalg.norm(offsets, axis=-1).argmin(axis=1)
    return (offsets[np.arange(len(of)), nearest] @ DIRECTIONS.T).argmax(axis=1)
