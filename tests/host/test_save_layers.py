"""Save Layers on the host: names, metadata, numbering, the layer document, messages."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from types import SimpleNamespace

import folder_paths
import numpy as np
import pytest
import torch
from comfy_api.internal import lock_class
from PIL import Image


@pytest.fixture
def output(tmp_path, monkeypatch):
    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    return folder


@pytest.fixture
def save(output):
    from layerfusion_pack.nodes.save import LayerFusionSaveLayers as Node

    def run(*pictures, prefix="LayerFusion", prompt=None, **more):
        clone = Node.PREPARE_CLASS_CLONE({"hidden_inputs": {}, "schema": Node.GET_SCHEMA()})
        clone.hidden = SimpleNamespace(prompt=prompt or {"1": {}}, extra_pnginfo={"workflow": {"nodes": []}}, unique_id="1")
        return lock_class(clone).execute(*pictures, prefix, **more)

    return run


def sets_of(out) -> list[dict]:
    """What the viewer gets: as text, which the host's lists of outputs do not count as files."""
    assert all(isinstance(entry, str) for entry in out.ui["layerfusion_layers"])
    return [json.loads(entry) for entry in out.ui["layerfusion_layers"]]


def pictures(batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randint(0, 256, (batch, 16, 24, channels), generator=generator).float() / 255 for channels in (4, 3, 3)
    )


def test_files_metadata_and_what_the_page_shows(output, save):
    layers = pictures(2)
    out = save(*layers, prefix="sets/cat")
    names = [f"cat_0000{n}_{layer}.png" for n in (1, 2) for layer in ("foreground", "background", "blended")]
    assert sorted(os.listdir(output / "sets")) == sorted(names)
    shown = [names[n] for n in (2, 0, 1, 5, 3, 4)]  # the blended picture first: what the node shows without the viewer
    assert out.ui["images"] == [{"filename": name, "subfolder": "sets", "type": "output"} for name in shown]
    assert [entry["blended"]["filename"] for entry in sets_of(out)] == [names[2], names[5]]
    with Image.open(output / "sets" / names[3]) as picture:
        assert picture.mode == "RGBA" and set(picture.text) == {"prompt", "workflow"}
        assert json.loads(picture.text["prompt"]) == {"1": {}}
        assert np.array_equal(np.asarray(picture), (layers[0][1] * 255).round().numpy().astype(np.uint8))


def test_numbers_go_on_and_nothing_is_overwritten(output, save):
    save(*pictures())
    before = {name: (output / name).read_bytes() for name in os.listdir(output)}
    (output / "LayerFusion_00002_blended.png").write_bytes(b"mine")
    save(*pictures())
    assert {name: (output / name).read_bytes() for name in before} == before
    assert (output / "LayerFusion_00002_blended.png").read_bytes() == b"mine"
    assert (output / "LayerFusion_00003_foreground.png").exists() and len(os.listdir(output)) == 7


def test_metadata_can_be_switched_off(output, save, monkeypatch):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)
    save(*pictures())
    with Image.open(output / "LayerFusion_00001_blended.png") as picture:
        assert picture.text == {}


def validate(**values):
    from layerfusion_pack.nodes.save import LayerFusionSaveLayers as Node

    return Node.validate_inputs(**values)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("../escaped", "leads outside the output folder"),
        ("sub/../../escaped/x", "leads outside the output folder"),
        ("/escaped/x", "leads outside the output folder"),
        ("x" * 240, r"of 265 characters or bytes, with what Save Layers adds; the file system takes 255. Shorten it by 10"),
        ("\u00e4" * 120, "Shorten it by 10"),
        ("y" * 300 + "/x", "Shorten it by 45"),
        ("taken.png/x", "needs a folder where there is a file, .*taken.png"),
        ("a\0b", "no file name may hold"),
    ],
)
def test_a_prefix_that_cannot_be_saved_is_refused_before_the_run(output, save, prefix, message):
    (output / "taken.png").touch()
    found = validate(filename_prefix=prefix)
    assert isinstance(found, str) and found.startswith("filename_prefix: ") and re.search(message, found)
    with pytest.raises(ValueError, match=message):  # where another node gives it
        save(*pictures(), prefix=prefix)
    assert os.listdir(output.parent) == ["output"] and os.listdir(output) == ["taken.png"]


def test_what_can_be_saved_is_not_refused(output, save):
    for prefix in ("cats/red", "a/b/c", "x" * 230, "%year%%month%%day%%hour%%minute%%second%" * 14, "..x", "a b", "\u00e4"):
        assert validate(filename_prefix=prefix, psd=False) is True, prefix
        assert not any(output.iterdir())
    save(*pictures(), prefix="x" * 230)
    assert len(os.listdir(output)) == 3
    assert validate() is validate(filename_prefix=None, psd=None) is True  # connected: not known yet


def test_formats_that_this_machine_cannot_write_are_refused_before_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "psd_tools", None)
    assert "pip install -U psd-tools" in validate(filename_prefix="a", psd=True)
    assert validate(filename_prefix="a", psd=False) is True


def test_a_format_that_fails_keeps_the_others_of_every_picture(output, save, monkeypatch):
    from layerfusion_pack.layerfusion_core.layers import export_formats

    monkeypatch.setattr(export_formats, "WEBP_SIDE", 20)
    with pytest.raises(ValueError, match="LayerFusion_00001 as WEBP: .* at most 20 x 20 .*LayerFusion_00002 as WEBP: .*All other"):
        save(*pictures(2), webp=True)
    assert sorted(os.listdir(output)) == [
        f"LayerFusion_0000{n}_{layer}.png" for n in (1, 2) for layer in ("background", "blended", "foreground")
    ]


def test_pictures_that_do_not_fit(save):
    foreground, background, blended = pictures(2)
    with pytest.raises(ValueError, match="foreground 1 x 24x16, background 2 x 24x16"):
        save(foreground[:1], background, blended)
    with pytest.raises(ValueError, match="background 2 x 20x16"):
        save(foreground, background[:, :, :20], blended)
    with pytest.raises(ValueError, match="several foregrounds: as many times that number.; got foreground 3 x 24x16, background 2"):
        save(torch.cat([foreground, foreground[:1]]), background, blended)


def test_an_opaque_foreground_is_saved_as_such(output, save):
    _, background, blended = pictures()
    shown = save(background, background, blended).ui["layerfusion_notices"]
    assert json.loads(shown[0])["line"] == "Foreground is opaque: it has no alpha channel"
    with Image.open(output / "LayerFusion_00001_foreground.png") as picture:
        assert picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255)


def test_a_foreground_that_was_not_cut_out_is_said_to_be(save, caplog):
    foreground, background, blended = pictures()
    assert "layerfusion_notices" not in save(foreground, background, blended).ui
    foreground[..., 3] = 0.99
    shown = json.loads(save(foreground, background, blended).ui["layerfusion_notices"][0])
    assert shown["line"] == "Foreground is opaque: 100.0 % of it" and caplog.messages == [shown["text"]]


@pytest.mark.parametrize(("count", "per_picture", "row", "words"), [
    (2, 1, 1, "picture 2 of 2"), (1, 2, 0, "foreground 1 of 2"), (2, 2, 3, "foreground 2 of picture 2")])  # fmt: skip
def test_one_opaque_foreground_among_others_is_said_to_be(save, count, per_picture, row, words):
    foreground, background, blended = pictures(count * per_picture)
    foreground[row, ..., 3] = 1.0
    shown = json.loads(save(foreground, background[:count], blended[:count]).ui["layerfusion_notices"][0])
    assert shown["line"] == f"Foreground is opaque: {words}, 100.0 % of it"


def test_an_input_of_before_is_said_to_have_no_effect(output, save):
    prompt = {"1": {"class_type": "LayerFusionSaveLayers", "inputs": {"foreground": ["2", 0], "formats": "png, psd"}},
              "2": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}  # fmt: skip
    shown = save(*pictures(), prompt=prompt).ui["layerfusion_notices"]
    assert json.loads(shown[0]) == {
        "line": "Save Layers (PNG, PSD, RGBA) has no input formats",
        "text": "Save Layers (PNG, PSD, RGBA) has no input formats. formats was replaced by the switches psd, ora and webp, and "
        "bit_depth.",
    }
    assert len(os.listdir(output)) == 3  # nothing is lost


def test_layer_document(save):
    layers = pictures(2)
    document = save(*layers).result[0]
    assert document["version"] == 1 and document["canvas"] == (24, 16)
    assert [(item["name"], item["visible"]) for item in document["layers"]] == [
        ("Background 1", True), ("Foreground 1", True), ("Blended 1", False),
        ("Background 2", False), ("Foreground 2", False), ("Blended 2", False),
    ]  # fmt: skip
    assert torch.equal(document["layers"][4]["image"], layers[0][1:])


def test_the_hosts_own_layer_nodes_take_the_document(host, save):
    if not (host / "comfy_extras" / "nodes_compositor.py").exists():
        pytest.skip("this ComfyUI has no layer nodes yet (0.31 and later do)")
    from comfy_extras.nodes_compositor import document_canvas, document_items, expand_item_frames, frame_alpha

    layers = pictures()
    document = save(*layers).result[0]
    frames = expand_item_frames(document_items(document))
    assert document_canvas(document) == (24, 16)
    assert [frame["name"] for frame in frames] == ["Background", "Foreground", "Blended"]
    assert torch.equal(frame_alpha(frames[1]["tensor"], frames[1]["mask"]), layers[0][..., 3])
    assert frame_alpha(frames[0]["tensor"], frames[0]["mask"]) is None


def test_several_foregrounds_are_numbered_from_the_rear(output, save):
    """Of two pictures, three foregrounds each, sample by sample as Decode gives them."""
    from layerfusion_pack.layerfusion_core.host.output.psd_route import layered

    cutouts, scenes = pictures(6)[0], pictures(2)[1:]
    out = save(cutouts, *scenes, psd=True, ora=True, webp=True)
    layers = [f"foreground_{k}" for k in (1, 2, 3)]
    assert [entry["filename"] for entry in out.ui["images"][5:]] == [
        f"LayerFusion_00002_{name}.png" for name in ("blended", *layers, "background")
    ]
    files = json.loads(out.ui["layerfusion_layers"][1])
    assert list(files) == [*layers, "background", "blended"]
    for k, name in enumerate(layers):
        with Image.open(output / f"LayerFusion_00002_{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), (cutouts[3 + k] * 255).round().numpy().astype(np.uint8))
    assert (output / "LayerFusion_00001_foreground_3.webp").exists()
    document = out.result[0]["layers"]
    titles = ["Background", "Foreground 1", "Foreground 2", "Foreground 3", "Blended"]
    assert [item["name"] for item in document] == [f"{title}, picture {n}" for n in (1, 2) for title in titles]
    assert torch.equal(document[8]["image"], cutouts[5:])
    with zipfile.ZipFile(output / "LayerFusion_00002_layers.ora") as archive:
        stack = archive.read("stack.xml").decode()
        assert re.findall('name="(.*?)"', stack) == titles[::-1]
        with Image.open(archive.open("mergedimage.png")) as picture:
            seen = scenes[0][1]
            for cutout in cutouts[3:]:
                seen = cutout[..., :3] * cutout[..., 3:] + seen * (1 - cutout[..., 3:])
            assert np.abs(np.asarray(picture) - (seen * 255).numpy()).max() <= 1
    psd_tools = pytest.importorskip("psd_tools", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    name, of_the_viewer = layered(files)
    assert name == "LayerFusion_00002_layers.psd"
    for psd in (output / "LayerFusion_00001_layers.psd", io.BytesIO(of_the_viewer)):
        assert [layer.name for layer in psd_tools.PSDImage.open(psd)] == titles
    del files["foreground_2"]
    with pytest.raises(ValueError, match="A PSD needs foreground, background and blended"):
        layered(files)


def test_formats_share_the_number(output, save):
    out = save(*pictures(2), ora=True)
    assert sorted(name for name in os.listdir(output) if name.endswith("ora")) == [
        "LayerFusion_00001_layers.ora",
        "LayerFusion_00002_layers.ora",
    ]
    assert len(out.ui["images"]) == 6 and len(os.listdir(output)) == 8


def record(samples: int, foregrounds: int = 1, steps: int = 2):
    """Priors as a run would record them, on a 3 x 2 grid."""
    from layerfusion_pack.layerfusion_core.method.prior_maps import PriorMaps, PriorRecord

    generator = torch.Generator().manual_seed(1)
    block = ("output", 5, 0)
    found = PriorRecord(10.0, foregrounds, (24, 16), block)
    for step in range(steps):
        structure, content = torch.rand(2, samples * foregrounds, 6, generator=generator)
        found.add(1.0 - step, PriorMaps(structure, (3, 2), {(3, 2): content[None]}, {block: (3, 2)}))
    return found


@pytest.fixture
def temp(tmp_path, monkeypatch):
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "temp_directory", str(folder))
    return folder


def test_masks_for_the_viewer_are_temporary_files(output, temp, save):
    from layerfusion_pack.layerfusion_core.method.map_colors import heat

    priors = record(2)
    out = save(*pictures(2), priors=priors)
    assert len(os.listdir(output)) == 6 and len(os.listdir(temp)) == 8
    for row, entry in enumerate(sets_of(out)):
        assert list(entry["masks"]) == ["structure", "content", "soft", "hard"]
        assert {file["type"] for file in entry["masks"].values()} == {"temp"}
        with Image.open(temp / entry["masks"]["hard"]["filename"]) as picture:
            assert picture.size == (2, 3) and picture.text == {}
            expected = (heat(priors.images(-1)["hard"][row]) * 255).numpy().astype(np.uint8)
            assert np.array_equal(np.asarray(picture), expected)
    again = sets_of(save(*pictures(2), priors=priors))[0]["masks"]
    assert again["hard"] != sets_of(out)[0]["masks"]["hard"]


def test_masks_of_several_foregrounds_lie_side_by_side(temp, save):
    priors = record(2, foregrounds=2)
    masks = sets_of(save(*pictures(2), priors=priors))[1]["masks"]
    with Image.open(temp / masks["structure"]["filename"]) as picture:
        assert picture.size == (4, 3)


def test_without_recorded_masks_everything_is_saved_all_the_same(output, temp, save):
    sets = sets_of(save(*pictures(2), priors=record(2, steps=0)))
    assert [entry["masks"] for entry in sets] == [None, None]
    assert len(os.listdir(output)) == 6 and os.listdir(temp) == []


def test_priors_of_another_run_are_refused_before_anything_is_saved(output, temp, save):
    with pytest.raises(ValueError, match=r"priors are of 1 picture.s., the layers of 2"):
        save(*pictures(2), priors=record(1))
    assert os.listdir(output) == os.listdir(temp) == []


def composite(*args, **kwargs):
    from layerfusion_pack.nodes.save import LayerFusionComposite

    return LayerFusionComposite.execute(*args, **kwargs).result


def test_composite():
    foreground, background, blended = pictures(2)
    image, difference = composite(foreground, background, "sRGB", blended, 2.0)
    alpha = foreground[..., 3:]
    torch.testing.assert_close(image, foreground[..., :3] * alpha + background * (1 - alpha))
    torch.testing.assert_close(difference, (2 * (image - blended).abs()).clamp(0, 1))
    linear, nothing = composite(foreground, background[:1, :8, :12], "linear")
    assert linear.shape == image.shape and nothing.max() == 0 and not torch.allclose(linear, image)
    with pytest.raises(ValueError, match="3 channels, so no transparency"):
        composite(background, background, "sRGB")
    with pytest.raises(ValueError, match="2 foreground.s. for 3 picture"):
        composite(foreground, torch.zeros(3, 16, 24, 3), "sRGB")


def test_a_preview_keeps_nothing_but_shows_the_same(output, temp):
    from layerfusion_pack.nodes.preview import LayerFusionPreviewLayers

    layers, effects = pictures(2), pictures(2)[0]
    first, second = (LayerFusionPreviewLayers.execute(*layers, priors=record(2), effects=effects) for _ in range(2))
    assert os.listdir(output) == []
    for out in (first, second):
        for row, entry in enumerate(sets_of(out)):
            assert set(entry) == {"foreground", "background", "blended", "effects", "masks"}
            for layer, picture in zip(("foreground", "background", "blended", "effects"), (*layers, effects)):
                assert entry[layer]["type"] == "temp"
                with Image.open(temp / entry[layer]["filename"]) as file:
                    assert np.array_equal(np.asarray(file), (picture[row] * 255).round().numpy().astype(np.uint8))
    assert first.ui["images"] != second.ui["images"]  # a page that has cached the first shows the second
    assert [layer["name"] for layer in first.result[0]["layers"]][:3] == ["Background 1", "Light and shadow 1", "Foreground 1"]


def test_a_preview_refuses_what_save_layers_refuses(output, temp):
    from layerfusion_pack.nodes.preview import LayerFusionPreviewLayers

    foreground, background, _ = pictures()
    with pytest.raises(ValueError, match="same number of pictures and the same size"):
        LayerFusionPreviewLayers.execute(foreground, background, pictures(2)[2])
