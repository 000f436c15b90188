"""The demo's words with their CLIP token ids, a tokenizer for them, and the captions of the training data."""

from __future__ import annotations

import random

from scene_light import PATTERNS
from scenes import Item, Scene

START, END = 49406, 49407
LENGTH = 77
# Ids of OpenAI's CLIP byte-pair vocabulary (each word followed by a space or the end of the text).
WORDS = {
    "a": [320], "an": [550], "the": [518], "on": [525], "in": [530], "of": [539], "and": [537], "with": [593],
    "at": [536], "by": [638], "over": [962], "next": [1131], "to": [531], "beside": [13519], "behind": [2403],
    "front": [2184], "left": [1823], "right": [1155], ",": [267], ".": [269],
    "plain": [10709], "grey": [5046], "gray": [7048], "canvas": [7483], "background": [5994],
    "glass": [3313], "red": [736], "green": [1901], "blue": [1746], "yellow": [4481], "orange": [4287],
    "purple": [5496], "pink": [3360],
    "apple": [3055], "ball": [1069], "balloon": [13634], "bottle": [5392], "mug": [9722], "cup": [1937],
    "lantern": [17185], "lamp": [10725], "star": [1565], "heart": [1936], "fish": [2759], "leaf": [7232],
    "ring": [2540], "donut": [18471], "house": [1212], "cottage": [12155], "tree": [2677], "mushroom": [13011],
    "flower": [4055], "car": [1615],
    "wooden": [9057], "wood": [1704], "table": [2175], "meadow": [17195], "grass": [5922], "field": [1570],
    "sunny": [5438], "beach": [2117], "sunset": [3424], "night": [930], "street": [2012], "city": [1305],
    "road": [1759], "snowy": [14191], "snow": [2583], "winter": [2541], "brick": [9518], "bricks": [21029],
    "wall": [2569], "desert": [7301], "sand": [5094], "dunes": [23526], "forest": [4167], "woods": [6267],
    "theatre": [3292], "theater": [6128], "stage": [2170], "sea": [2102], "floor": [4125], "ocean": [4918],
    "underwater": [14760], "under": [1798],
    "sky": [2390], "checkerboard": [1113, 2352, 1972], "stripes": [14239], "dots": [19019], "hills": [5289],
    "clouds": [6244],
}  # fmt: skip
USED_IDS = sorted({0, START, END} | {i for ids in WORDS.values() for i in ids})
GREY_CAPTION = "plain grey canvas"
OBJECT_WORDS = {
    "ball": ("ball", "ball", "beach ball"), "mug": ("mug", "mug", "cup"), "lantern": ("lantern", "lantern", "lamp"),
    "ring": ("ring", "ring", "donut"), "house": ("house", "house", "cottage"),
}  # fmt: skip
BACKDROP_WORDS = {  # (what it is, where something in it is)
    "table": (("wooden table", "on a wooden table"), ("wood table", "on a wood table"), ("table", "on a table")),
    "meadow": (
        ("meadow", "in a meadow"), ("green meadow", "in a green meadow"), ("sunny meadow", "on a sunny meadow"),
        ("grass field", "on a grass field"),
    ),
    "beach": (("beach at sunset", "on a beach at sunset"), ("sunset beach", "on a sunset beach"), ("beach", "on a beach")),
    "street": (
        ("night street", "on a night street"), ("street at night", "on a street at night"),
        ("city street at night", "on a city street at night"), ("road at night", "on a road at night"),
    ),
    "snow": (
        ("snowy field", "in a snowy field"), ("snow field", "on a snow field"), ("winter field", "in a winter field"),
        ("snow", "in the snow"),
    ),
    "bricks": (("brick wall", "in front of a brick wall"), ("wall of bricks", "by a wall of bricks")),
    "desert": (("desert", "in a desert"), ("desert", "in the desert"), ("sand dunes", "on sand dunes")),
    "forest": (("forest", "in a forest"), ("woods", "in the woods")),
    "stage": (("theatre stage", "on a theatre stage"), ("stage", "on a stage"), ("theater stage", "on a theater stage")),
    "sea": (
        ("sea floor", "on the sea floor"), ("ocean floor", "on the ocean floor"), ("underwater", "underwater"),
        ("under the sea", "under the sea"),
    ),
}  # fmt: skip


def tokenize(text: str, pad: int) -> list[int]:
    """Text to 77 ids: start, words, end, padding (`pad` is 49407 for clip_l, 0 for clip_g). Unknown words get id 1."""
    words = text.lower().replace(",", " , ").replace(".", " . ").split()
    ids = [i for word in words for i in WORDS.get(word, [1])][: LENGTH - 2]
    ids = [START, *ids, END]
    return ids + [pad] * (LENGTH - len(ids))


def row_index(ids: list[int]) -> list[int]:
    """Positions of `ids` in the stored embedding rows; unknown ids share the last row."""
    position = {token: row for row, token in enumerate(USED_IDS)}
    return [position.get(i, len(USED_IDS)) for i in ids]


NO_ARTICLE = ("snow", "underwater", "woods", "dunes", "stripes", "dots", "hills", "clouds")


def article(noun: str, rng: random.Random | None = None) -> str:
    """The noun with "a" or "an" where it takes one; with `rng`, sometimes with "the" or with nothing."""
    if noun.endswith(NO_ARTICLE) or " the " in noun:
        return noun
    chosen = rng.choice(("a", "a", "a", "a", "", "", "the")) if rng else "a"
    if chosen == "a" and noun[0] in "aeio":
        chosen = "an"
    return f"{chosen} {noun}".strip()


def item_noun(item: Item, rng: random.Random | None = None) -> str:
    """'red apple', 'blue glass bottle'; with `rng` in one of several wordings, the colour left out now and then."""
    colour, name = item.colour, item.kind
    if rng:
        name = rng.choice(OBJECT_WORDS.get(name, (name,)))
        colour = "" if rng.random() < 0.06 else colour
    words = [colour, "glass" if item.glass else "", name]
    if rng and item.glass and rng.random() < 0.4:
        words[:2] = words[1::-1]
    return " ".join(w for w in words if w)


def backdrop_nouns(scene: Scene, rng: random.Random | None = None) -> tuple[str, str]:
    """What the backdrop is, and where something in it is: 'wooden table', 'on a wooden table'."""
    if scene.backdrop in PATTERNS:
        noun = f"{scene.tone} {scene.backdrop}"
        if rng and rng.random() < 0.15:
            noun += " background"
        place = "in" if rng and scene.backdrop in ("sky", "clouds", "hills") and rng.random() < 0.4 else "on"
        return noun, f"{place} {article(noun)}"
    wordings = BACKDROP_WORDS[scene.backdrop]
    return rng.choice(wordings) if rng else wordings[0]


def side(scene: Scene, index: int) -> str:
    """'left' or 'right' for an item that has a neighbour."""
    return "left" if scene.items[index].centre[0] < scene.items[1 - index].centre[0] else "right"


def foreground_caption(scene: Scene, rng: random.Random | None = None) -> str:
    """The first object alone, with its side where it has a neighbour in the composite."""
    text = article(item_noun(scene.items[0], rng), rng)
    return text if len(scene.items) == 1 else f"{text} on the {side(scene, 0)}"


def background_caption(scene: Scene, rng: random.Random | None = None) -> str:
    noun, _ = backdrop_nouns(scene, rng)
    return article(noun) if rng and rng.random() < 0.4 else noun


def composite_caption(scene: Scene, rng: random.Random | None = None) -> str:
    """Objects and place, as people join them."""
    noun, place = backdrop_nouns(scene, rng)
    texts = [article(item_noun(item, rng), rng) for item in scene.items]
    if len(texts) == 2:
        ways = [f"{texts[0]} and {texts[1]}", f"{texts[1]} and {texts[0]}", f"{texts[0]} next to {texts[1]}",
                f"{texts[0]} on the {side(scene, 0)} and {texts[1]} on the {side(scene, 1)}",
                f"{texts[1]} on the {side(scene, 1)}, {texts[0]} on the {side(scene, 0)}"]  # fmt: skip
        if abs(scene.items[0].centre[0] - scene.items[1].centre[0]) < 0.38:
            ways += [f"{texts[1]} in front of {texts[0]}", f"{texts[0]} behind {texts[1]}"]
        texts = [rng.choice(ways) if rng else ways[0]]
    if not rng:
        return f"{texts[0]} {place}"
    return rng.choice(
        (f"{texts[0]} {place}", f"{texts[0]} {place}", f"{texts[0]}, {noun}", f"{texts[0]}, {article(noun)}")
    )
