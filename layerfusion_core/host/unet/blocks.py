"""The transformer blocks of a UNet, from its module tree."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from ...method.prior_maps import Block


def block_channels(model: ModelPatcher) -> dict[Block, int]:
    """Channels of every transformer block, in execution order; ValueError for a model without any."""
    unet = model.model.diffusion_model
    found: dict[Block, int] = {}
    for side, modules in (
        ("input", unet.input_blocks),
        ("middle", [unet.middle_block or ()]),  # KOALA 700M has none
        ("output", unet.output_blocks),
    ):
        for number, block in enumerate(modules):
            for layer in block:
                for i, transformer in enumerate(getattr(layer, "transformer_blocks", [])):
                    found[side, number, i] = transformer.attn1.heads * transformer.attn1.dim_head
    if not found:
        raise ValueError("the model has no transformer blocks with attention: LayerFusion needs an SDXL model")
    return found


def transformer_blocks(model: ModelPatcher) -> list[Block]:
    """Names of the transformer blocks, in execution order."""
    return list(block_channels(model))
