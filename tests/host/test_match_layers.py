"""Match Layers, and its effects through Save Layers and Place Foreground, on the host."""

from __future__ import annotations

import json
import os

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image


def pictures(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(batch, 16, 24, channels, generator=generator) for channels in (4, 3, 3))


def match(foreground, background, blended, cleanliness=0.0, light="sRGB", relight=True):
    from layerfusion_pack.nodes.matching import LayerFusionMatchLayers

    return LayerFusionMatchLayers.execute(foreground, background, blended, cleanliness, light, relight).result


def over(*layers: torch.Tensor) -> torch.Tensor:
    picture = layers[0]
    for layer in layers[1:]:
        picture = layer[..., :3] * layer[..., 3:] + picture * (1 - layer[..., 3:])
    return picture


@pytest.fixture
def save(tmp_path, monkeypatch):
    from layerfusion_pack.nodes.save import LayerFusionSaveLayers as Node

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def run(*pictures, **more):
        clone = Node.PREPARE_CLASS_CLONE({"hidden_inputs": {}, "schema": Node.GET_SCHEMA()})
        clone.hidden.prompt = clone.hidden.extra_pnginfo = None
        return clone.execute(*pictures, "set", **more)

    return run


def test_the_outputs_add_up_row_by_row():
    foreground, background, blended = pictures()
    found, effects, image, difference = match(foreground, background, blended)
    torch.testing.assert_close(over(background, effects, found), blended, atol=1e-5, rtol=0)
    torch.testing.assert_close(image, blended, atol=1e-5, rtol=0)
    assert difference.max() < 1e-4 and torch.equal(found[..., 3], foreground[..., 3])
    for row in range(2):
        alone = match(*(picture[row : row + 1] for picture in (foreground, background, blended)), 0.5)
        both = match(foreground, background, blended, 0.5)
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, both, strict=True))


def test_several_foregrounds_add_up_too():
    generator = torch.Generator().manual_seed(1)
    cutouts = torch.rand(4, 16, 24, 4, generator=generator)  # two of each of two pictures
    _, background, blended = pictures()
    found, effects, image, _ = match(cutouts, background, blended)
    assert found.shape == cutouts.shape and torch.equal(found[..., 3], cutouts[..., 3]) and len(effects) == len(image) == 2
    torch.testing.assert_close(over(background, effects, found[0::2], found[1::2]), blended, atol=1e-5, rtol=0)
    torch.testing.assert_close(image, blended, atol=1e-5, rtol=0)


def test_light_and_relight_reach_the_maths():
    layers = pictures()
    assert not torch.allclose(match(*layers)[1], match(*layers, light="linear")[1], atol=0.01)
    kept = match(*layers, relight=False)
    assert torch.equal(kept[0], layers[0]) and kept[3].max() > 0.1


def test_pictures_that_do_not_fit():
    foreground, background, blended = pictures()
    with pytest.raises(ValueError, match="3 channels, so no transparency; connect the RGBA foreground of LayerFusion Decode"):
        match(background, background, blended)
    with pytest.raises(ValueError, match="foreground 2 x 24x16, background 1 x 24x16"):
        match(foreground, background[:1], blended)


def test_effects_are_saved_shown_and_handed_on(tmp_path, save):
    _, background, blended = layers = pictures()
    found, effects, *_ = match(*layers)
    out = save(found, background, blended, effects=effects)
    assert len(os.listdir(tmp_path)) == 8
    with Image.open(tmp_path / "set_00002_effects.png") as picture:
        assert np.array_equal(np.asarray(picture), (effects[1] * 255).round().numpy().astype(np.uint8))
    assert [entry["effects"]["filename"] for entry in map(json.loads, out.ui["layerfusion_layers"])] == [
        "set_00001_effects.png", "set_00002_effects.png",
    ]  # fmt: skip
    assert [image["filename"][10:-4] for image in out.ui["images"][:4]] == ["blended", "foreground", "background", "effects"]
    document = out.result[0]["layers"]
    assert [(layer["name"], layer["visible"]) for layer in document[:4]] == [
        ("Background 1", True), ("Light and shadow 1", True), ("Foreground 1", True), ("Blended 1", False),
    ]  # fmt: skip
    assert torch.equal(document[5]["image"], effects[1:])


def test_effects_that_do_not_fit_are_refused_before_anything_is_saved(tmp_path, save):
    foreground, background, blended = pictures()
    with pytest.raises(ValueError, match="3 channels, .* connect the effects of LayerFusion Match Layers"):
        save(foreground, background, blended, effects=blended)
    with pytest.raises(ValueError, match="effects are 1 x 24x16, the layers 2 x 24x16"):
        save(foreground, background, blended, effects=foreground[:1])
    assert os.listdir(tmp_path) == []


def place(image, *where, **more):
    from layerfusion_pack.nodes.given import LayerFusionPlaceForeground

    return LayerFusionPlaceForeground.execute(image, *where, 0, 0, **more).result


def test_effects_move_and_grow_with_their_object():
    image = torch.zeros(1, 32, 32, 4)
    image[:, 8:16, 8:16] = 1.0
    shadow = torch.zeros(1, 32, 32, 4)
    shadow[:, 14:18, 12:20, 3] = 0.5
    placed, _, effects = place(image, 5, 3, 1.0, effects=shadow)
    assert torch.equal(effects[:, 3:, 5:], shadow[:, :-3, :-5]) and torch.equal(placed[:, 3:, 5:], image[:, :-3, :-5])
    _, _, effects = place(image, 0, 0, 2.0, effects=shadow)  # about the object's centre (12, 12), not the shadow's own
    rows, columns = torch.nonzero(effects[0, ..., 3] > 0.25, as_tuple=True)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (16, 23, 12, 27)


def test_without_effects_there_are_none_at_the_new_place():
    placed, _, effects = place(torch.ones(2, 8, 8, 4), 1, 1, 1.0)
    assert effects.shape == placed.shape and not effects.any()
    with pytest.raises(ValueError, match="effects are 2 x 4x8, the layers 2 x 8x8"):
        place(torch.ones(2, 8, 8, 4), 1, 1, 1.0, effects=torch.ones(2, 8, 4, 4))
    with pytest.raises(ValueError, match="Got 3 foreground.s. for 2 picture.s."):
        place(torch.ones(3, 8, 8, 4), 1, 1, 1.0, effects=torch.ones(2, 8, 8, 4))
