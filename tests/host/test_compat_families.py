"""SDXL's relatives run as it does; other families are refused by name."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import pytest
import runs
import tiny
import torch
from compat import blends, pair_of, streams_equal_stock
from runs import layered, models, prompts

# Blocks as the host knows them of each: depth of input, middle (-1: no attention, -2: no block), output; residual blocks.
RELATIVES = {
    "SSD1B": ([0, 0, 2, 2, 4, 4], -1, [0, 0, 0, 1, 1, 2, 10, 4, 4], [2, 2, 2]),
    "Segmind_Vega": ([0, 0, 1, 1, 2, 2], -1, [0, 0, 0, 1, 1, 1, 2, 2, 2], [2, 2, 2]),
    "KOALA_700M": ([0, 2, 5], -2, [0, 0, 2, 2, 5, 5], [1, 1, 1]),
    "KOALA_1B": ([0, 2, 6], 6, [0, 0, 2, 2, 6, 6], [1, 1, 1]),
}


def model_of(family: str, config: dict, state_dict: dict):
    """A tiny MODEL of the host's config class `family`."""
    cls = getattr(comfy.supported_models, family)
    config = type(family, (cls,), {"unet_extra_config": tiny.TinySDXL.unet_extra_config})(config)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(state_dict, device="cpu")
    tiny.randomize(model.diffusion_model, 0)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model.eval(), load_device=comfy.model_management.get_torch_device(), offload_device=torch.device("cpu"))


@pytest.mark.parametrize("family", RELATIVES)
def test_relatives_with_other_blocks(family):
    """The last self-attention, whose map is the structure prior, is found in the module tree."""
    depth, middle, output, residual = RELATIVES[family]
    base = model_of(family, {**tiny.unet_config((depth, middle, output)), "num_res_blocks": residual}, {})
    pair = pair_of(base)
    streams_equal_stock(pair)
    blends(pair)
    _, record = layered(pair, steps=1)
    number, layers = max((i, d) for i, d in enumerate(reversed(output)) if d)
    assert record.last == ("output", number, layers - 1)
    assert len(record.blocks) == sum(depth) + max(0, middle) + sum(output)


@pytest.mark.parametrize("keys", [("v_pred",), ("v_pred", "ztsnr")], ids="+".join)
def test_v_prediction_checkpoints(keys):
    """NoobAI and its like: the host reads the prediction from keys in the file."""
    base = model_of("SDXL", tiny.unet_config(), {key: torch.zeros(0) for key in keys})
    assert "V_PREDICTION" in str(base.model.model_type)
    streams_equal_stock(pair_of(base), tolerance=2e-3)  # zsnr's sigmas reach 4500


@pytest.mark.parametrize(("sampler", "scheduler", "steps"), [("euler", "sgm_uniform", 1), ("lcm", "sgm_uniform", 4)])
def test_few_steps_without_guidance(sampler, scheduler, steps):
    """How Turbo, Lightning and LCM models are run."""
    run = {"sampler": sampler, "scheduler": scheduler, "steps": steps, "cfg": 1.0}
    streams_equal_stock(**run)
    blends(**run)


REFUSED = {
    "SD15": "Stable Diffusion 1.5", "SD20": "Stable Diffusion 2", "SD3": "Stable Diffusion 3", "Flux": "Flux",
    "SDXLRefiner": "the SDXL refiner", "Stable_Cascade_C": "Stable Cascade", "PixArtAlpha": "PixArt",
    "Lumina2": "Lumina 2", "HunyuanDiT": "Hunyuan DiT", "QwenImage": "Qwen-Image", "WAN21_T2V": "Wan",
}  # fmt: skip


@pytest.mark.parametrize("family", REFUSED)
def test_other_families_are_refused_by_name(family):
    class Other:
        """Stands for a MODEL of another family."""

        class model:
            model_config = getattr(comfy.supported_models, family)({})

    expected = f"base_model is {REFUSED[family]}. Expected an SDXL checkpoint"
    with pytest.raises(ValueError, match=expected):
        runs.sample_layers(
            Other(), models()[1], runs.Layers.of(prompts()), runs.NEGATIVE, runs.empty_latent(), 0, 1, 1.0, "euler", "normal",
            1.0, runs.LayerFusionOptions(),
        )  # fmt: skip
