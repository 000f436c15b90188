"""What /object_info promises: the frozen node table, with a tooltip on everything a user can set."""

from __future__ import annotations

import pytest

from layerfusion_pack.devtools import graph

MODELS = [("base_model", "MODEL"), ("foreground_model", "MODEL"), ("clip", "CLIP"), ("vae", "VAE")]
CONDITIONINGS = ["foreground", "background", "blended", "negative"]
LAYERS = ["foreground", "background", "blended"]
NEGATIVES, SCALES = [f"negative_{layer}" for layer in LAYERS], [f"cfg_{layer}" for layer in LAYERS]
NODES = {
    "LayerFusionLoadModels": (["checkpoint", "foreground_weights", "foreground_checkpoint"], MODELS),
    "LayerFusionApplyForeground": (["model", "foreground_weights", "strength"], [("foreground_model", "MODEL")]),
    "LayerFusionLoadTransparentVAE": (["decoder", "encoder"], [("transparent_vae", "LAYERFUSION_TRANSPARENT_VAE")]),
    "LayerFusionLoadDemo": ([], [*MODELS, ("transparent_vae", "LAYERFUSION_TRANSPARENT_VAE")]),
    "LayerFusionTextEncode": (["clip", *CONDITIONINGS], [(name, "CONDITIONING") for name in CONDITIONINGS]),
    "LayerFusionOptions": (["background_mode", "prior_mode", "hardness", "strength", "start_percent", "end_percent",
                            "noise", "blend_self_attention", "blend_cross_attention", *SCALES],
                           [("options", "LAYERFUSION_OPTIONS")]),
    "LayerFusionKSampler": (["base_model", "foreground_model", *CONDITIONINGS, "latent_image", "seed", "steps", "cfg",
                             "sampler_name", "scheduler", "denoise", "options", *NEGATIVES],
                            [*((name, "LATENT") for name in LAYERS), ("priors", "LAYERFUSION_PRIORS")]),
    "LayerFusionGuider": (["base_model", "foreground_model", *CONDITIONINGS, "cfg", "options", *NEGATIVES, *SCALES],
                          [("guider", "GUIDER")]),
    "LayerFusionLimitPatches": (["model", "patched_model", *LAYERS], [("model", "MODEL")]),
    "LayerFusionStackLatents": (["latent"], [("latent", "LATENT")]),
    "LayerFusionSplitLatents": (["latent"], [(name, "LATENT") for name in LAYERS]),
    "LayerFusionExtractPriors": (["foreground_model", "foreground", "latent_image", "seed", "noise_percent"],
                                 [("structure", "IMAGE"), ("content", "IMAGE"), ("soft", "MASK"), ("hard", "MASK")]),
    "LayerFusionPreviewPriors": (["priors", "block", "step"], [("image", "IMAGE")]),
    "LayerFusionDecode": ([*LAYERS, "vae", "transparent_vae", "ensemble", "tile_size", *(f"given_{name}" for name in LAYERS)],
                          [("foreground", "IMAGE"), ("alpha", "MASK"), ("background", "IMAGE"), ("blended", "IMAGE")]),
    "LayerFusionGivenLayers": ([*(f"keep_{name}" for name in LAYERS), *LAYERS, *(f"mask_{name}" for name in LAYERS)],
                               [("latent", "LATENT")]),
    "LayerFusionPlaceForeground": (["image", "x", "y", "scale", "width", "height", "mask", "effects"],
                                   [("image", "IMAGE"), ("mask", "MASK"), ("effects", "IMAGE")]),
    "LayerFusionEncode": (["image", "vae", "mask", "transparent_vae", "offset_scale"], [("foreground", "LATENT")]),
    "LayerFusionMatchLayers": ([*LAYERS, "cleanliness", "light", "relight"],
                               [("foreground", "IMAGE"), ("effects", "IMAGE"), ("image", "IMAGE"), ("difference", "IMAGE")]),
    "LayerFusionSaveLayers": ([*LAYERS, "filename_prefix", "psd", "ora", "webp", "bit_depth", "priors",
                               "effects"], [("layers", "LAYERS")]),
    "LayerFusionComposite": (["foreground", "background", "light", "blended", "gain"],
                             [("image", "IMAGE"), ("difference", "IMAGE")]),
}
"""Node id -> inputs in order, outputs in order. Saved graphs depend on it: new inputs go to the end."""


@pytest.mark.parametrize("node", NODES)
def test_inputs_and_outputs_are_those_that_saved_graphs_use(node, object_info):
    info = object_info[node]
    inputs, outputs = NODES[node]
    assert [name for name, _, _ in graph.inputs_of(info)] == inputs
    assert list(zip(info["output_name"], info["output"])) == outputs


@pytest.mark.parametrize("node", NODES)
def test_everything_has_a_name_a_description_and_tooltips(node, object_info):
    info = object_info[node]
    assert info["category"] == "LayerFusion" and info["description"]
    assert "LayerFusion" not in info["display_name"][11:] and info["display_name"] != node
    missing = [name for name, _, options in graph.inputs_of(info) if not options.get("tooltip")]
    assert missing == []
    assert [tip for tip in info.get("output_tooltips") or [] if not tip] == []


def test_no_node_of_the_pack_is_missing_from_the_table(object_info):
    assert {name for name in object_info if name.startswith("LayerFusion")} - set(NODES) == set()


def test_options_start_with_the_documented_defaults(object_info):
    found = {name: options.get("default") for name, _, options in graph.inputs_of(object_info["LayerFusionOptions"])}
    assert found == {"background_mode": "share", "prior_mode": "exact", "hardness": 10.0, "strength": 1.0,
                     "start_percent": 0.0, "end_percent": 1.0, "noise": "shared", "blend_self_attention": True,
                     "blend_cross_attention": True, **dict.fromkeys(SCALES, -1.0)}


def test_the_seed_changes_after_each_run_as_in_the_stock_sampler(object_info):
    options = {name: options for name, _, options in graph.inputs_of(object_info["LayerFusionKSampler"])}
    assert options["seed"]["control_after_generate"] is True and options["seed"]["max"] == 2**64 - 1
