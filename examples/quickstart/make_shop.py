"""Writes a small made-up shop whose users follow a rule that is known beforehand.

The shop sells posters, books and toys. Every item has an image with a look, a text with a theme
and a clip with a motion, drawn independently of one another. Every user likes one look, one theme
and one motion, and chooses posters by their look, books by their theme and toys by their motion.
A recommender that only reads, or only looks, misses the reason of two purchases in three.

    python examples/quickstart/make_shop.py shop

Same arguments, same bytes. The answer lies in truth.json, which the tool never reads.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

DECIDING = {"Posters": "look", "Books": "theme", "Toys": "motion"}  # what decides a purchase
FOLLOWED = 0.9  # share of purchases that follow the preference; the others take any item
FAULTY = 0.03  # share of items without an image or without a video entry
OPENING, DAY = 1_704_067_200, 86_400  # 2024-01-01 in Unix seconds, and the seconds of a day

IMAGE_SIZE, CLIP_SIZE = 224, 96  # pixels
CLIP_FRAMES, FRAME_RATE = 16, 10  # 1.6 seconds
SOUND_RATE, PITCH = 16_000, 300  # samples a second, and Hz where nothing moves
# mb-tree would quantise the first frame by what moves later: a still would tell the motion.
X264 = {"crf": "20", "preset": "veryfast", "x264-params": "threads=1:mbtree=0:bframes=0"}

Grid = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def wave(seconds: float, period: float) -> float:
    """A sine that starts at zero."""
    return math.sin(2 * math.pi * seconds / period)


def words(text: str) -> list[str]:
    """The entries of a pool written with commas."""
    return [entry.strip() for entry in text.split(",")]


# fmt: off
# Two colours, and where (above 0) the second covers the first.
LOOKS: dict[str, tuple[list[int], list[int], Callable[[Grid, Grid], Grid]]] = {
    "orange stripes": ([250, 140, 40], [200, 30, 100], lambda x, y: np.sin(22 * (x + y))),
    "blue waves": ([20, 60, 150], [80, 200, 220], lambda x, y: np.sin(26 * y + 3 * np.sin(9 * x))),
    "green dots": ([60, 150, 60], [245, 225, 80], lambda x, y: np.sin(24*x) * np.sin(24*y) - .3),
    "black checks": ([25, 25, 28], [240, 240, 236], lambda x, y: 9 * np.sin(19*x) * np.sin(19*y)),
}
# Seconds, strength (-1..1) and period (seconds) -> offset to the right, size, whether it is seen.
MOTIONS: dict[str, Callable[[float, float, float], tuple[float, float, bool]]] = {
    "still": lambda time, strength, period: (0.0, 1.0, True),
    "sliding": lambda time, strength, period: (0.28 * strength * wave(time, period), 1.0, True),
    "pulsing": lambda time, strength, period: (0.0, 1 + 0.6 * strength * wave(time, period), True),
    "blinking": lambda time, strength, period: (0.0, 1.0, int(time / (0.17 * period)) % 2 == 0),
}
# Shape, tone and points in a square from -1 to 1, drawn one upon the other.
SILHOUETTES: dict[str, list[tuple[str, str, list[tuple[float, float]]]]] = {
    "Posters": [  # a framed picture on its cord: mountains and a sun
        ("line", "dark", [(-.6, -.7), (0, -1), (.6, -.7)]),
        ("polygon", "light", [(-.7, -.7), (.7, -.7), (.7, 1), (-.7, 1)]),
        ("line", "dark", [(-.55, -.55), (.55, -.55), (.55, .85), (-.55, .85), (-.55, -.55)]),
        ("polygon", "dark", [(-.55, .85), (-.15, 0), (.1, .45), (.25, .2), (.55, .85)]),
        ("ellipse", "dark", [(.1, -.4), (.4, -.1)]),
    ],
    "Books": [  # an open book with lines on both pages
        ("polygon", "light", [(0, -.4), (-1, -.65), (-1, .5), (0, .75), (1, .5), (1, -.65)]),
        ("line", "dark", [(0, -.4), (0, .75)]),
        *[("line", "dark", [(-.85, y - .2), (-.15, y)]) for y in (-.1, .15, .4)],
        *[("line", "dark", [(.85, y - .2), (.15, y)]) for y in (-.1, .15, .4)],
    ],
    "Toys": [  # a tin robot: aerial, head, arms, trunk, legs, eyes, button
        ("line", "light", [(0, -.75), (0, -1)]),
        ("polygon", "light", [(-.45, -.75), (.45, -.75), (.45, -.15), (-.45, -.15)]),
        ("line", "light", [(-.95, .45), (-.6, .05), (.6, .05), (.95, .45)]),
        ("polygon", "light", [(-.6, -.05), (.6, -.05), (.6, .6), (-.6, .6)]),
        *[("polygon", "light", [(x, .6), (x + .35, .6), (x + .35, 1), (x, 1)]) for x in (-.45, .1)],
        *[("ellipse", "dark", [(x, -.62), (x + .24, -.38)]) for x in (-.32, .08)],
        ("ellipse", "dark", [(-.2, .08), (.2, .48)]),
    ],
}
# The words name no colour, no pattern and no movement: those are for the other modalities to tell.
THEMES = {
    "sea voyage": {
        "adjective": words("Salty, Harbour, Ocean, Sailor's, Stormy, Captain's, Tidal"),
        "noun": words("Lighthouse, Schooner, Anchor, Voyage, Whaler, Compass, Sea Chart"),
        "scene": words("a schooner leaving harbour, the captain at the helm, gulls above the mast, "
            "a storm off the cape, whales beside the ship, sailors on deck, an old sea chart"),
    },
    "cooking": {
        "adjective": words("Spicy, Baker's, Savoury, Kitchen, Chef's, Buttery, Simmering"),
        "noun": words("Saucepan, Sourdough, Soup, Pepper Mill, Dumpling, Recipe, Supper"),
        "scene": words("bread fresh from the oven, a pot of soup on the stove, onions in butter, "
            "noodles in hot broth, the chef tasting a sauce, dough in a bowl, an old recipe"),
    },
    "astronomy": {
        "adjective": words("Lunar, Starry, Galactic, Orbital, Cosmic, Stargazer's, Solar"),
        "noun": words("Telescope, Comet, Nebula, Planet, Eclipse, Observatory, Galaxy"),
        "scene": words("a comet near the sun, rings of Saturn, craters of the moon, an eclipse, "
            "a telescope aimed at Jupiter, birth of a star, galaxies at the edge of space"),
    },
    "gardening": {
        "adjective": words("Leafy, Gardener's, Blooming, Orchard, Greenhouse, Mossy, Herbal"),
        "noun": words("Rose Bed, Trowel, Seedling, Hedge, Watering Can, Tulip, Compost"),
        "scene": words("seedlings in the greenhouse, roses along the fence, a spade in fresh soil, "
            "tulip bulbs in autumn, apple trees in the orchard, weeds between beans, a hedge"),
    },
}
PRODUCTS = {
    "Posters": {
        "name": words("Poster, Art Print, Wall Print"),
        "lead": words("A poster for any living room. It shows, An art print on heavy paper of, "
            "A framed wall print. The artist drew, This poster comes in a tube. It depicts"),
    },
    "Books": {
        "name": words("Novel, Paperback, Book"),
        "lead": words("A novel to read in bed. It tells of, A hardback book. The author adores, "
            "This paperback is hard to put down. It speaks of, A new edition of the book about"),
    },
    "Toys": {
        "name": words("Tin Toy, Toy Robot, Clockwork Toy"),
        "lead": words("A tin toy with a key in its back. Children act out, A toy robot to go with, "
            "A clockwork toy for all over six years. It comes with, A toy for games about"),
    },
}
OPINIONS = {
    3: words("It is all right., Decent., Acceptable., Neither good nor bad."),
    4: words("Good. Would buy again., Quite pleased., Nice., Good value."),
    5: words("Excellent!, Wonderful. Very happy., Perfect., I love it."),
}
# fmt: on


@dataclass(frozen=True)
class Truth:
    """What was planted; the attributes, and the preferences for them: "look", "theme", "motion"."""

    deciding: dict[str, str]  # category -> the attribute its buyers choose by
    items: dict[str, dict[str, str]]  # item -> its "category" and attributes
    users: dict[str, dict[str, str]]  # user -> the attributes this user likes
    faults: dict[str, str]  # item -> "no image", "no video", "lost image", "broken video", ...

    def matches(self, user: str, item: str) -> bool:
        """Whether the item's deciding attribute is the one this user likes."""
        attribute = self.deciding[self.items[item]["category"]]
        return self.items[item][attribute] == self.users[user][attribute]


def pick(rng: np.random.Generator, pool: list[str]) -> str:
    """Draws one entry."""
    return pool[rng.integers(len(pool))]


def evenly(rng: np.random.Generator, pool: Iterable[str], count: int) -> list[str]:
    """Draws each entry about equally often, in random order."""
    entries = list(pool)
    return [entries[i % len(entries)] for i in rng.permutation(count)]


def draw_attributes(rng: np.random.Generator, count: int) -> list[dict[str, str]]:
    """Draws looks, themes and motions, independently of one another."""
    pools: dict[str, list[str]] = {"look": [*LOOKS], "theme": [*THEMES], "motion": [*MOTIONS]}
    drawn = [evenly(rng, pool, count) for pool in pools.values()]
    return [dict(zip(pools, row, strict=True)) for row in zip(*drawn, strict=True)]


def draw_items(rng: np.random.Generator, count: int) -> dict[str, dict[str, str]]:
    """Draws every item's category and, evenly within each category, its attributes."""
    categories = evenly(rng, DECIDING, count)
    drawn = {c: iter(draw_attributes(rng, categories.count(c))) for c in DECIDING}
    return {
        f"item-{number:04d}": {"category": category, **next(drawn[category])}
        for number, category in enumerate(categories, start=1)
    }


def draw_faults(rng: np.random.Generator, items: list[str]) -> dict[str, str]:
    """Chooses the items whose media are absent or broken, one fault each."""
    faults = ["broken image", "broken video", "lost image"]
    faults += evenly(rng, ["no image", "no video"], max(2, round(FAULTY * len(items))))
    return {items[i]: fault for i, fault in zip(rng.permutation(len(items)), faults, strict=False)}


def draw_purchases(rng: np.random.Generator, truth: Truth, user: str, count: int) -> list[str]:
    """Draws a user's purchases in order: first the category, then an item not bought before."""
    stock, bought = truth.items, list[str]()
    for _ in range(count):
        category = pick(rng, list(DECIDING))
        left = [i for i in stock if stock[i]["category"] == category and i not in bought]
        liked = [i for i in left if truth.matches(user, i)]
        bought.append(pick(rng, liked if liked and rng.random() < FOLLOWED else left))
    return bought


def write_reviews(path: Path, rng: np.random.Generator, truth: Truth, count: int) -> None:
    """Writes one review a purchase, in order of time as a shop's log would be."""
    rows = []
    for user in truth.users:
        gaps = 60 + rng.lognormal(math.log(5 * DAY), 1.2, size=count)
        times = OPENING + rng.integers(180 * DAY) + np.cumsum(gaps).astype(np.int64)
        for item, time in zip(draw_purchases(rng, truth, user, count), times, strict=True):
            rating = int(rng.choice([3, 4, 5], p=[0.2, 0.4, 0.4]))
            row = {"user": user, "item": item, "timestamp": int(time), "rating": rating}
            rows.append({**row, "text": pick(rng, OPINIONS[rating])})
    write_jsonl(path, sorted(rows, key=lambda row: (row["timestamp"], row["user"])))


def describe(rng: np.random.Generator, item: dict[str, str]) -> tuple[str, str]:
    """Makes up a title and a description that tell the category and the theme."""
    theme, product = THEMES[item["theme"]], PRODUCTS[item["category"]]
    title = [pick(rng, pool) for pool in (theme["adjective"], theme["noun"], product["name"])]
    one, two, three = (theme["scene"][i] for i in rng.permutation(len(theme["scene"]))[:3])
    return " ".join(title), f"{pick(rng, product['lead'])} {one}, {two} and {three}."


def write_items(path: Path, rng: np.random.Generator, truth: Truth) -> None:
    """Writes the catalogue: no text twice; an item without image or video lacks that field."""
    known: set[tuple[str, str]] = set()
    rows = []
    for name, item in truth.items.items():
        while (text := describe(rng, item)) in known:
            pass
        known.add(text)
        row = {"item": name, "title": text[0], "description": text[1]}
        media = {"image": f"images/{name}.jpg", "video": f"videos/{name}.mp4"}
        media.pop(truth.faults.get(name, "").removeprefix("no "), None)
        rows.append({**row, "categories": [item["category"]], **media})
    write_jsonl(path, rows)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes one JSON object a line."""
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())


def draw_silhouette(
    image: Image.Image, category: str, centre: tuple[float, float], half: float, light: int = 0
) -> None:
    """Draws the category's silhouette in greys; `half` is half its size; both in pixels."""
    draw = ImageDraw.Draw(image)
    for shape, tone, points in SILHOUETTES[category]:
        xy = [(centre[0] + half * x, centre[1] + half * y) for x, y in points]
        grey = (light + (225 if tone == "light" else 40),) * 3
        if shape == "line":
            draw.line(xy, fill=grey, width=max(2, round(half * 0.1)))
        else:
            (draw.polygon if shape == "polygon" else draw.ellipse)(xy, fill=grey)


def write_image(path: Path, rng: np.random.Generator, item: dict[str, str]) -> None:
    """Paints the look all over the picture and the category's silhouette on top."""
    first, second, pattern = LOOKS[item["look"]]
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] / IMAGE_SIZE * rng.uniform(0.85, 1.15)
    cover = np.clip(4 * pattern(x + rng.uniform(), y + rng.uniform()) + 0.5, 0, 1)[..., None]
    colours = np.array([first, second]) + rng.normal(0, 8, size=(2, 3))
    pixels = np.clip(colours[0] * (1 - cover) + colours[1] * cover, 0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    centre = (IMAGE_SIZE * rng.uniform(0.46, 0.54), IMAGE_SIZE * rng.uniform(0.46, 0.54))
    draw_silhouette(image, item["category"], centre, IMAGE_SIZE * rng.uniform(0.27, 0.32))
    image.save(path, quality=88)


def draw_moves(rng: np.random.Generator, motion: str) -> list[tuple[float, float, bool]]:
    """Draws how a motion goes, frame by frame: offset to the right, size, whether it is seen."""
    strength, period = rng.uniform(0.8, 1.0) * rng.choice([-1, 1]), rng.uniform(1.2, 1.7)
    times = np.arange(CLIP_FRAMES) / FRAME_RATE
    return [MOTIONS[motion](seconds, strength, period) for seconds in times]


def paint_clip(
    rng: np.random.Generator, category: str, moves: list[tuple[float, float, bool]]
) -> list[Image.Image]:
    """Paints a clip's frames in greys; all clips of a category begin with the same frame."""
    glimmer, pace = rng.uniform(3, 6), rng.uniform(0.5, 2.0)  # the light is never quite steady
    frames = []
    for number, (offset, size, seen) in enumerate(moves):
        light = round(glimmer * wave(number / FRAME_RATE, pace))
        frame = Image.new("RGB", (2 * CLIP_SIZE, 2 * CLIP_SIZE), (110 + light,) * 3)
        if seen:
            centre, half = (CLIP_SIZE * (1 + 2 * offset), CLIP_SIZE), 0.5 * CLIP_SIZE * size
            draw_silhouette(frame, category, centre, half, light)
        frames.append(frame.reduce(2))
    return frames


def play_clip(moves: list[tuple[float, float, bool]]) -> Grid:
    """Hums as the thing moves: higher to the right, louder as it grows, silent while unseen."""
    by_sample = np.repeat(np.array(moves, dtype=float), SOUND_RATE // FRAME_RATE, axis=0)
    offset, size, seen = by_sample.T
    turns = np.cumsum(PITCH * 4**offset) / SOUND_RATE
    return 0.3 * size * seen * np.sin(2 * np.pi * turns)


def write_clip(path: Path, rng: np.random.Generator, item: dict[str, str]) -> None:
    """Writes a clip as H.264 and AAC in MP4, the same bytes every time."""
    moves = draw_moves(rng, item["motion"])
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options=X264)
        video.width, video.height, video.pix_fmt = CLIP_SIZE, CLIP_SIZE, "yuv420p"
        sound = container.add_stream("aac", rate=SOUND_RATE, layout="mono", bit_rate=24_000)
        for frame in paint_clip(rng, item["category"], moves):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(frame), "rgb24")))
        container.mux(video.encode())
        heard = av.AudioFrame.from_ndarray(
            play_clip(moves).astype(np.float32)[None], "fltp", "mono"
        )
        heard.sample_rate = SOUND_RATE
        container.mux(sound.encode(heard))
        container.mux(sound.encode())


def write_media(out: Path, truth: Truth, seed: int) -> None:
    """Writes every item's image and clip, then breaks those that are to be faulty."""
    for number, (name, item) in enumerate(truth.items.items()):
        write_image(out / f"images/{name}.jpg", np.random.default_rng([seed, number, 0]), item)
        write_clip(out / f"videos/{name}.mp4", np.random.default_rng([seed, number, 1]), item)
    for name, fault in truth.faults.items():
        kind, medium = fault.split()
        path = out / (f"images/{name}.jpg" if medium == "image" else f"videos/{name}.mp4")
        if kind in ("no", "lost"):
            path.unlink()
        else:
            path.write_bytes(b"404 Not Found\n" if medium == "image" else path.read_bytes()[:1000])


def make_shop(
    out: Path, items: int = 360, users: int = 600, events_per_user: int = 12, seed: int = 0
) -> Truth:
    """Writes the shop into the folder `out` and returns what was planted in it.

    Raises:
        ValueError: too few items for the faults or the purchases, or no user, or no event.
    """
    if items < 12 or users < 1 or not 1 <= events_per_user <= items // 3:
        raise ValueError("at least 12 items and 1 user; 1 to a third of `items` events per user")
    rng = np.random.default_rng(seed)
    catalogue = draw_items(rng, items)
    likes = {f"user-{n:04d}": row for n, row in enumerate(draw_attributes(rng, users), start=1)}
    truth = Truth(DECIDING, catalogue, likes, draw_faults(rng, list(catalogue)))
    for folder in ("images", "videos"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_items(out / "items.jsonl", rng, truth)
    write_reviews(out / "reviews.jsonl", rng, truth, events_per_user)
    write_media(out, truth, seed)
    write_jsonl(out / "truth.json", [asdict(truth)])
    return truth


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a small made-up shop as raw files.")
    parser.add_argument("out", type=Path, help="folder to write into")
    for name, value in {"items": 360, "users": 600, "events-per-user": 12, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="(default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="write into a non-empty folder")
    args = parser.parse_args()
    try:
        if not args.force and any(args.out.glob("*")):
            raise FileExistsError(f"{args.out} is not empty: name another folder, or add --force")
        make_shop(args.out, args.items, args.users, args.events_per_user, args.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(args.out)


if __name__ == "__main__":
    main()
