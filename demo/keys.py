"""Key table between the LDM names of the shipped U-Net and the names of diffusers' UNet2DConditionModel.

The network is SDXL's with three levels: two residual blocks per level, transformers of depth 1 and 2 on the second and
third level, so the table is written out from that structure and is one to one.
"""

from __future__ import annotations

PREFIX = "diffusion_model."
MODEL_CHANNELS = 48
CHANNEL_MULT = (1, 2, 3)
BLOCKS_PER_LEVEL = 2
DEPTH = (0, 1, 2)  # transformer blocks per level
CONTEXT_DIM = 128
POOLED_DIM = 64
ADM_CHANNELS = POOLED_DIM + 6 * 256
HEAD_CHANNELS = 16
GROUPS = 8

# Arguments of the host's UNetModel; `transformer_depth_output` is in the host's order (it is consumed from the end, so
# the first output block has depth 2).
HOST_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": MODEL_CHANNELS,
    "channel_mult": list(CHANNEL_MULT), "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "transformer_depth_middle": 2,
    "use_spatial_transformer": True, "use_linear_in_transformer": True, "use_temporal_attention": False,
    "legacy": False, "context_dim": CONTEXT_DIM, "adm_in_channels": ADM_CHANNELS, "num_classes": "sequential",
    "num_heads": -1, "num_head_channels": HEAD_CHANNELS, "dropout": 0,
}  # fmt: skip
# Arguments of diffusers' UNet2DConditionModel (its `attention_head_dim` is the number of heads of a level).
DIFFUSERS_CONFIG = {
    "sample_size": 32, "in_channels": 4, "out_channels": 4, "layers_per_block": BLOCKS_PER_LEVEL,
    "block_out_channels": [MODEL_CHANNELS * m for m in CHANNEL_MULT],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 1, 2],
    "attention_head_dim": [MODEL_CHANNELS * m // HEAD_CHANNELS for m in CHANNEL_MULT],
    "use_linear_projection": True, "cross_attention_dim": CONTEXT_DIM, "norm_num_groups": GROUPS,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": ADM_CHANNELS,
}  # fmt: skip

_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}  # fmt: skip
_TRANSFORMER = ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def _modules() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Modules with weight and bias, LDM name to diffusers name; and the transformer blocks as pairs of prefixes."""
    names = {
        "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
    }  # fmt: skip
    blocks: list[tuple[str, str]] = []

    def resnet(ldm: str, diffusers: str, skip: bool) -> None:
        names.update({f"{ldm}.{a}": f"{diffusers}.{b}" for a, b in _RESNET.items()})
        if skip:
            names[f"{ldm}.skip_connection"] = f"{diffusers}.conv_shortcut"

    def transformer(ldm: str, diffusers: str, depth: int) -> None:
        names.update({f"{ldm}.{a}": f"{diffusers}.{a}" for a in ("norm", "proj_in", "proj_out")})
        blocks.extend((f"{ldm}.transformer_blocks.{d}", f"{diffusers}.transformer_blocks.{d}") for d in range(depth))

    levels = len(CHANNEL_MULT)
    index = 1
    for level in range(levels):
        for block in range(BLOCKS_PER_LEVEL):
            resnet(f"input_blocks.{index}.0", f"down_blocks.{level}.resnets.{block}", level > 0 and block == 0)
            if DEPTH[level]:
                transformer(f"input_blocks.{index}.1", f"down_blocks.{level}.attentions.{block}", DEPTH[level])
            index += 1
        if level < levels - 1:
            names[f"input_blocks.{index}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            index += 1
    resnet("middle_block.0", "mid_block.resnets.0", False)
    transformer("middle_block.1", "mid_block.attentions.0", DEPTH[-1])
    resnet("middle_block.2", "mid_block.resnets.1", False)
    index = 0
    for step, level in enumerate(reversed(range(levels))):
        for block in range(BLOCKS_PER_LEVEL + 1):
            resnet(f"output_blocks.{index}.0", f"up_blocks.{step}.resnets.{block}", True)
            if DEPTH[level]:
                transformer(f"output_blocks.{index}.1", f"up_blocks.{step}.attentions.{block}", DEPTH[level])
            if block == BLOCKS_PER_LEVEL and level > 0:
                slot = 2 if DEPTH[level] else 1
                names[f"output_blocks.{index}.{slot}.conv"] = f"up_blocks.{step}.upsamplers.0.conv"
            index += 1
    return names, blocks


def ldm_to_diffusers() -> dict[str, str]:
    """Every parameter of the U-Net: LDM key (without `diffusion_model.`) to diffusers key."""
    names, blocks = _modules()
    for ldm, diffusers in blocks:
        names.update({f"{ldm}.{part}": f"{diffusers}.{part}" for part in _TRANSFORMER})
    table = {f"{a}.{end}": f"{b}.{end}" for a, b in names.items() for end in ("weight", "bias")}
    for ldm, diffusers in blocks:
        for attention in ("attn1", "attn2"):
            for projection in _PROJECTIONS[:3]:  # to_q, to_k, to_v have no bias
                table[f"{ldm}.{attention}.{projection}.weight"] = f"{diffusers}.{attention}.{projection}.weight"
    return table


def diffusers_to_ldm() -> dict[str, str]:
    """The inverse of `ldm_to_diffusers`."""
    return {b: a for a, b in ldm_to_diffusers().items()}


def attention_projections() -> dict[str, str]:
    """Module names of every attention projection, LDM to diffusers: what the foreground weights change."""
    return {
        f"{ldm}.{attention}.{projection}": f"{diffusers}.{attention}.{projection}"
        for ldm, diffusers in _modules()[1]
        for attention in ("attn1", "attn2")
        for projection in _PROJECTIONS
    }
