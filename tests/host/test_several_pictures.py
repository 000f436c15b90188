"""Pictures of several foregrounds: which row lands where, in every node that takes them, for two unlike pictures of two each."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_match_layers import match, over, place, save
from test_save_layers import composite, record

from layerfusion_pack.layerfusion_core.method.map_colors import heat
from layerfusion_pack.nodes.preview import LayerFusionPreviewLayers

assert save  # a fixture
N, K, H, W = 2, 2, 16, 24


def layers() -> tuple[torch.Tensor, ...]:
    """Foregrounds (4), background, blended (2), effects (2), of values that 8 bits hold."""
    generator = torch.Generator().manual_seed(3)
    return tuple(
        torch.randint(0, 256, (rows, H, W, channels), generator=generator).float() / 255
        for rows, channels in ((N * K, 4), (N, 3), (N, 3), (N, 4))
    )


def stacked(row: int, *, effects: bool = True) -> torch.Tensor:
    """The layers of one picture over each other."""
    cutouts, background, _, light = layers()
    own = cutouts[K * row : K * row + K]
    return over(background[row], *([light[row]] if effects else []), *own)


def test_composite_lays_all_foregrounds_of_a_picture_over_each_other():
    cutouts, background, blended, effects = layers()
    plain = torch.stack([stacked(row, effects=False) for row in range(N)])
    for inputs in ({}, {"blended": blended}, {"foregrounds_per_picture": K}):
        image, difference = composite(cutouts, background, "sRGB", gain=2.0, **inputs)
        torch.testing.assert_close(image, plain)
        wanted = inputs.get("blended", image)
        torch.testing.assert_close(difference, (2 * (image - wanted).abs()).clamp(0, 1))
    image, _ = composite(cutouts, background, "sRGB", effects=effects)
    torch.testing.assert_close(image, torch.stack([stacked(row) for row in range(N)]))
    linear, _ = composite(cutouts, background, "linear", effects=effects)
    assert linear.shape == image.shape and not torch.allclose(linear, image, atol=0.05)
    found, light, flat, _ = match(cutouts, background, blended, light="linear")  # what belongs together adds up in both
    torch.testing.assert_close(composite(found, background, "linear", effects=light)[0], flat, atol=1e-5, rtol=0)


def test_composite_on_one_background():
    """Of a user's own: every foreground alone, unless something says that they are of one picture."""
    cutouts, background, blended, effects = layers()
    scene = background[:1]
    image, _ = composite(cutouts, scene, "sRGB")
    torch.testing.assert_close(image, torch.stack([over(scene[0], cutout) for cutout in cutouts]))
    both = torch.stack([over(scene[0], *cutouts[K * row : K * row + K]) for row in range(N)])
    torch.testing.assert_close(composite(cutouts, scene, "sRGB", foregrounds_per_picture=K)[0], both)
    torch.testing.assert_close(composite(cutouts, scene, "sRGB", blended)[0], both)
    image, _ = composite(cutouts[:2], scene, "sRGB", effects=effects[:1])
    torch.testing.assert_close(image[0], over(scene[0], effects[0], *cutouts[:2]))
    alone = composite(cutouts[:2], background, "sRGB", blended)  # one each, as before there were several
    torch.testing.assert_close(alone[0], torch.stack([over(background[row], cutouts[row]) for row in range(N)]))
    for message, inputs in (
        ("foregrounds_per_picture: got 3, and 4 foreground", {"foregrounds_per_picture": 3}),
        ("Got 4 foreground.s. for 3 picture", {"blended": torch.zeros(3, H, W, 3)}),
        ("effects are 2 x 8x16, the layers 2 x 24x16", {"effects": torch.zeros(2, 16, 8, 4)}),
    ):
        with pytest.raises(ValueError, match=message):
            composite(cutouts, scene, "sRGB", **inputs)


def test_cut_outs_of_a_picture_move_and_grow_as_one_with_their_effects():
    """So that, over each other, they are the picture moved: at scale 2 about the centre of both."""
    cutouts, _, _, effects = layers()
    cutouts[..., 3] = 0.0
    cutouts[0, 4:8, 4:8, 3] = cutouts[1, 8:12, 12:20, 3] = 1.0  # both: rows 4 to 12, columns 4 to 20
    cutouts[2, 0:4, 0:4, 3] = cutouts[3, 0:4, 8:12, 3] = 1.0
    moved, hidden, light = place(cutouts, 3, 2, 1.0, effects=effects)
    assert torch.equal(moved[:, 2:, 3:], cutouts[:, :-2, :-3]) and torch.equal(light[:, 2:, 3:], effects[:, :-2, :-3])
    assert torch.equal(hidden, 1.0 - moved[..., 3]) and len(light) == N
    grown, _, light = place(cutouts[:2], 0, 0, 2.0, effects=effects[:1])
    rows, columns = torch.nonzero(grown[..., 3].amax(dim=0) > 0.5, as_tuple=True)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (0, 15, 0, 23)
    together, _, _ = place(torch.cat([cutouts[:1].amax(dim=0, keepdim=True)]), 0, 0, 2.0)
    assert not torch.allclose(grown[:1], together)  # alone it grows about its own centre
    apart, _, _ = place(cutouts[:2], 0, 0, 2.0)
    assert torch.equal(apart[:1], together)


def test_every_file_holds_its_own_layer(tmp_path, save):
    cutouts, background, blended, effects = layers()
    out = save(cutouts, background, blended, psd=True, ora=True, effects=effects)
    shown = [json.loads(text) for text in out.ui["layerfusion_layers"]]
    for row in range(N):
        expected = {"background": background[row], "effects": effects[row], "blended": blended[row]}
        expected |= {f"foreground_{k + 1}": cutouts[K * row + k] for k in range(K)}
        for name, picture in expected.items():
            assert shown[row][name]["filename"] == f"set_{row + 1:05}_{name}.png"
            with Image.open(tmp_path / shown[row][name]["filename"]) as saved:
                assert np.array_equal(np.asarray(saved), (picture * 255).round().numpy().astype(np.uint8)), (row, name)
        with Image.open(tmp_path / f"set_{row + 1:05}_layers.psd") as flat:
            assert np.abs(np.asarray(flat.convert("RGB")) / 255 - stacked(row).numpy()).max() <= 2 / 255
    document = out.result[0]["layers"]
    names = ["Background", "Light and shadow", "Foreground 1", "Foreground 2", "Blended"]
    assert [layer["name"] for layer in document] == [f"{name}, picture {row + 1}" for row in range(N) for name in names]
    for row in range(N):
        own = [layer["image"][0] for layer in document[5 * row : 5 * row + 5]]
        wanted = background[row], effects[row], *cutouts[K * row : K * row + K], blended[row]
        assert all(torch.equal(a, b) for a, b in zip(own, wanted, strict=True))


def test_a_preview_shows_the_same_rows_and_their_masks(tmp_path, monkeypatch):
    """Of the masks, those of a picture's foregrounds side by side, the rearmost on the left."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    cutouts, background, blended, effects = layers()
    priors = record(N, foregrounds=K)
    out = LayerFusionPreviewLayers.execute(cutouts, background, blended, priors, effects)
    for row, text in enumerate(out.ui["layerfusion_layers"]):
        with Image.open(tmp_path / json.loads(text)["masks"]["soft"]["filename"]) as saved:
            wanted = torch.cat([*heat(priors.images(-1)["soft"][K * row : K * row + K])], dim=1)  # (3, 2 K, 3)
            assert np.abs(np.asarray(saved) / 255 - wanted.numpy()).max() <= 1 / 255
        for k in range(K):
            with Image.open(tmp_path / json.loads(text)[f"foreground_{k + 1}"]["filename"]) as saved:
                wanted = (cutouts[K * row + k] * 255).round().numpy().astype(np.uint8)
                assert np.array_equal(np.asarray(saved), wanted)
