"""The demo's words with their CLIP token ids, a tokenizer for them, and the caption set of the training data."""

from __future__ import annotations

import scenes

START, END = 49406, 49407
LENGTH = 77
# Ids of OpenAI's CLIP byte-pair vocabulary (each word followed by a space or the end of the text).
WORDS = {
    "a": [320], "an": [550], "the": [518], "on": [525], "in": [530], "of": [539], "and": [537], "with": [593],
    "over": [962], ",": [267], ".": [269], "plain": [10709], "grey": [5046], "gray": [7048],
    "canvas": [7483], "background": [5994],
    "glass": [3313], "red": [736], "green": [1901], "blue": [1746], "yellow": [4481], "orange": [4287],
    "purple": [5496], "pink": [3360], "circle": [7117], "square": [3999], "triangle": [14615],
    "star": [1565], "ring": [2540],
    "heart": [1936], "sky": [2390], "checkerboard": [1113, 2352, 1972], "stripes": [14239], "dots": [19019],
    "hills": [5289], "clouds": [6244],
}  # fmt: skip
USED_IDS = sorted({0, START, END} | {i for ids in WORDS.values() for i in ids})
GREY_CAPTION = "plain grey canvas"


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


def foreground_captions(scene: scenes.Scene) -> tuple[str, ...]:
    return scene.foreground_caption, scene.foreground_caption.removeprefix("a ")


def background_captions(scene: scenes.Scene) -> tuple[str, ...]:
    return scene.background_caption, f"a {scene.background_caption}"


def composite_captions(scene: scenes.Scene) -> tuple[str, ...]:
    front, back = scene.foreground_caption, scene.background_caption
    return f"{front} on a {back}", f"{front}, {back}"
