"""The example graphs with given layers, queued over HTTP: what is kept comes out as it went in, the rest goes with it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from layerfusion_pack.devtools import demo, examples, graph
from layerfusion_pack.devtools.client import Client
from layerfusion_pack.evaluation import measures

CHECKOUT = Path(__file__).resolve().parents[2]
STEPS = 10  # of 20, to be quick


@pytest.fixture(scope="module")
def connection(server):
    with Client(server) as connected:
        yield connected


def api_of(name: str, object_info: dict) -> dict:
    """An example graph in the server's format, with fewer steps."""
    api = graph.to_api(examples.load(CHECKOUT, name), object_info)
    for node in api.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = STEPS
    return api


def inputs_of(api: dict, kind: str) -> dict:
    """Inputs of the only node of a kind."""
    return api[graph.node_id(api, kind)]["inputs"]


def save_given(api: dict) -> None:
    """Add nodes that save the given latents, decoded as the results are; layers not given are the results again."""
    results = inputs_of(api, "LayerFusionSaveLayers")["background"][0]
    given = {name: link for name, link in inputs_of(api, "LayerFusionGivenLayers").items() if name in demo.STREAMS}
    api["decode_given"] = {"class_type": "LayerFusionDecode", "inputs": {**api[results]["inputs"], **given}}
    api["given"] = {"class_type": "LayerFusionSaveLayers", "inputs": {
        "foreground": ["decode_given", 0], "background": ["decode_given", 2], "blended": ["decode_given", 3],
        "filename_prefix": "given"}}  # fmt: skip


def layers_of(connection, api: dict) -> tuple[dict, dict]:
    """Run the graph; (saved layers, given layers) by name as pixels.

    The foreground is saved as it was made: a matched one shows the blended picture, which would be measured as a leak.
    """
    result = graph.node_id(api, "LayerFusionSaveLayers")
    api[result]["inputs"]["foreground"] = inputs_of(api, "LayerFusionMatchLayers")["foreground"]
    save_given(api)
    run = connection.follow(connection.queue(api))
    assert run.status == "success", run.error
    return pictures(connection, run.images(result)), pictures(connection, run.images("given"))


def pictures(connection, images: list[dict]) -> dict[str, numpy.ndarray]:
    found = {}
    for image in images:
        name = Path(image["filename"]).stem.rsplit("_", 1)[-1]
        found[name] = numpy.asarray(Image.open(io.BytesIO(connection.fetch(image))))
    return found


def tensor(picture: numpy.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture / 255.0).float()[None]


def measured(layers: dict[str, numpy.ndarray]) -> dict[str, float]:
    """`measures.layer_measures` of saved layers."""
    foreground, background, blended = (tensor(layers[name]) for name in demo.STREAMS)
    values = measures.layer_measures(foreground[..., :3], foreground[..., 3], background, blended)
    return {name: round(float(value), 3) for name, value in values.items()}


def test_a_scene_around_a_given_foreground(connection, object_info):
    api = api_of("given_foreground", object_info)
    inputs_of(api, "LayerFusionTextEncode")["background"] = "green stripes"  # fine detail, which shows scenes that differ
    found, given = layers_of(connection, api)
    assert numpy.array_equal(found["foreground"], given["foreground"])
    values = measured(found)
    # The blended picture shows that object; without a start of its own (keep_blended 0) it reaches 0.71 and 12.4 dB.
    assert values["shown_share"] > 0.78 and values["inside_psnr"] > 14, values
    assert values["outside_psnr"] > 30 and values["outside_corr"] > 0.9, values
    assert values["leak_share"] < 0.02 and abs(values["leak_corr"]) < 0.1, values


def test_an_object_in_a_given_background(connection, object_info):
    found, given = layers_of(connection, api_of("given_background", object_info))
    assert numpy.array_equal(found["background"], given["background"])
    values = measured(found)
    assert values["outside_psnr"] > 30 and values["outside_corr"] > 0.95, values  # the blended picture shows that scene
    assert values["shown_share"] > 0.85 and values["components"] == 1, values
    assert values["leak_share"] == 0 and abs(values["leak_corr"]) < 0.1, values


def test_without_keep_the_background_is_another_one(connection, object_info):
    """The control of the test above: what is measured there comes from keeping."""
    api = api_of("given_background", object_info)
    inputs_of(api, "LayerFusionGivenLayers").update(keep_background=0.0, keep_blended=0.0)
    inputs_of(api, "LayerFusionKSampler")["seed"] += 1  # with that of the given scene's sampler it would be much the same
    found, given = layers_of(connection, api)
    same = measures.psnr(tensor(found["background"]), tensor(given["background"]))
    assert same < 30, same


def test_a_moved_object_is_harmonised(connection, object_info):
    found, given = layers_of(connection, api_of("harmonise", object_info))
    assert numpy.array_equal(found["background"], given["background"])
    values, pasted = measured(found), measured({**found, "blended": given["blended"]})
    assert values["outside_psnr"] > 30 and values["shown_share"] > 0.75 and values["leak_share"] == 0, values
    assert values["shadow"] > 0.005 > pasted["shadow"], (values, pasted)  # what pasting does not give

    # The saved foreground is the placed picture; through VAE and alpha decoder it would have changed a little.
    alpha, decoded = (tensor(layers["foreground"])[..., 3] for layers in (found, given))
    assert measures.soft_iou(alpha, decoded) > 0.9
    assert not numpy.array_equal(found["foreground"], given["foreground"])
    place = inputs_of(api_of("harmonise", object_info), "LayerFusionPlaceForeground")
    columns = torch.nonzero(alpha[0] > 0.5)[:, 1].float().mean()
    assert abs(columns - 128 - place["x"]) < 12
