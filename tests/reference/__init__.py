"""The LayerFusion paper written plainly on diffusers' SDXL UNet: the yardstick for the pack's engine.

Read it next to the paper: `equations` holds every equation once, `walk` one UNet pass that stops at each attention,
`pipeline` the three streams in lock step, `sampling` the schedule and the samplers, `weights` key names and merging,
`demo` the demonstration model. One stream at a time, fp32, whole attention matrices: clarity before speed.
"""

from __future__ import annotations

from .equations import (
    BACKGROUND_MODES,
    Streams,
    blend,
    content_confidence,
    grow,
    hard_mask,
    norm,
    one_scene,
    resize_structure,
    soft_mask,
    structure_prior,
    surround,
)
from .pipeline import Evaluation, Options, Prompt, Prompts, layerfusion
from .sampling import SAMPLERS, Schedule
from .walk import AttentionOutput, walk_unet
from .weights import build_unet, build_unets, merge_deltas, random_deltas, random_state_dict, to_diffusers, to_ldm

__all__ = [
    "BACKGROUND_MODES",
    "SAMPLERS",
    "AttentionOutput",
    "Evaluation",
    "Options",
    "Prompt",
    "Prompts",
    "Schedule",
    "Streams",
    "blend",
    "build_unet",
    "build_unets",
    "content_confidence",
    "grow",
    "hard_mask",
    "layerfusion",
    "merge_deltas",
    "norm",
    "one_scene",
    "random_deltas",
    "random_state_dict",
    "resize_structure",
    "soft_mask",
    "structure_prior",
    "surround",
    "to_diffusers",
    "to_ldm",
    "walk_unet",
]
