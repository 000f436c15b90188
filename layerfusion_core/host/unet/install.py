"""A run's patches around those of other nodes, for every call of the UNet, by a wrapper on a clone of the model.

Nothing is left on the model when a run ends or is interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher

from ...method.blending import Blending
from ...method.prior_maps import Block
from .blocks import transformer_blocks
from .calls import callers, require_whole
from .compiled import uncompiled
from .delta import ForegroundDelta
from .forward import Forward
from .model_parts import kept_by_guidance
from .patch_state import pair_of, sees_all
from .patches import (
    SITES,
    PriorsComplete,
    attend_to_own_text,
    attention_patch,
    blend_patch,
    delta_output_patch,
    input_patch,
    own_text,
)
from .per_stream import KEY, ByStream, attend
from .row_terms import terms_on_modules
from .run import Run, Settings

Deltas = dict[torch.device | None, ForegroundDelta]  # by device of a copy of the model; None: the model's own
_ON_OTHER_GPU = "on_match_multigpu_clones"  # CallbacksMP.ON_MATCH_MULTIGPU_CLONES, which older hosts lack


def _with_patches(run: Run, options: dict) -> dict:
    """transformer_options with the run's patches around those that are there for this very call.

    Other nodes' patches are found here rather than at install, so that those which come and go (perturbed attention
    guidance swaps attention for a second call within a step) are chained to as well.
    """
    theirs, replace = options.get("patches", {}), dict(options.get("patches_replace", {}))
    patches = {name: [_by_stream(run, theirs, name, p) for p in listed] for name, listed in theirs.items()}
    for site in SITES:
        first, last, inputs = run.patch(site, lambda s=site: (delta_output_patch(s), blend_patch(s), input_patch()))
        outputs = patches.get(f"{site}_output_patch", [])
        patches[f"{site}_patch"] = [*patches.get(f"{site}_patch", []), inputs]
        # First, so that other patches see the foreground's whole attention, as they would with merged weights.
        patches[f"{site}_output_patch"] = [first, *outputs, last]
        foreign = replace.get(site, {})
        ours = {block: _own_patch(run, block, site, foreign) for block in run.settings.blocks}
        replace[site] = {**foreign, **ours}
    return {**options, "patches": patches, "patches_replace": replace}


def _own_patch(run: Run, block: Block, site: str, foreign: dict) -> Callable:
    """The replace patch of one attention, chained to the `foreign` one that the host would have called."""
    other = foreign.get(block, foreign.get(block[:2]))

    def make() -> Callable:
        if other is None:
            return attention_patch(block, site, attend if site == "attn1" else attend_to_own_text)
        shown = None if site == "attn1" else own_text
        return attention_patch(block, site, ByStream(f"{site} at {block}", other, sees_all(run.settings.guidance), attend, shown))

    return run.patch((block, site, id(other)), make)


def _by_stream(run: Run, patches: dict, name: str, patch: object) -> object:
    """A patch of another node's out of the list `name`, called stream by stream."""
    if not callable(patch):
        return patch
    pair = patches.get(pair_of(name), [])
    return run.patch((name, id(patch)), lambda: ByStream(name, patch, sees_all(run.settings.guidance, pair)))


def _forward_wrapper(deltas: Deltas) -> Callable:
    def wrapper(executor, *args, **kwargs):
        args = list(args)
        at = 5  # UNetModel.forward(x, timesteps, context, y, control, transformer_options)
        options = args[at] if len(args) > at else kwargs["transformer_options"]
        x, text = args[0], args[2] if len(args) > 2 else kwargs["context"]
        delta = deltas.get(options.get("multigpu_thread_device"), deltas.get(None))
        forward = Forward(x, text, delta, options)
        run = forward.of_pass.run
        if forward.of_pass.maps is not None or forward.reads:
            require_whole(x.shape, run.cells, run.settings.callers)
        if "_forward" in vars(executor.class_obj):  # a cache of blocks (WaveSpeed's) may keep what comes at the end
            forward.ends_early = False
        options = {**_with_patches(run, options), KEY: forward}
        if len(args) > at:
            args[at] = options
        else:
            kwargs["transformer_options"] = options
        terms = delta.module_terms if delta is not None else {}
        try:
            with terms_on_modules(executor.class_obj, terms, x.shape[0], forward.foreground_rows):
                return executor(*args, **kwargs)
        except PriorsComplete:
            return x.new_zeros((x.shape[0], executor.class_obj.out_channels, *x.shape[2:]))

    return wrapper


def install(model: ModelPatcher, delta: ModelPatcher | None = None) -> ModelPatcher:
    """Return a clone of `model` whose UNet takes part in a `Run`; patches on the model, now or later, still act.

    delta: the patcher of a `ForegroundDelta`, which the host loads with the model, for the foreground rows.
    """
    model = model.clone()
    wrappers = comfy.patcher_extension.WrappersMP
    deltas: Deltas = {}
    if delta is not None:
        deltas[None] = delta.model
        model.set_additional_models(KEY, [delta])
        model.add_callback_with_key(_ON_OTHER_GPU, KEY, partial(_take_delta, deltas))
    model.add_wrapper_with_key(wrappers.DIFFUSION_MODEL, KEY, _forward_wrapper(deltas))
    # Code that newer hosts' TorchCompileModel makes never looks at patches again: it would run with another call's.
    compiled = "torch.compile" in model.wrappers.get(wrappers.APPLY_MODEL, {})
    if compiled or (delta is not None and delta.model.module_terms):
        model.add_wrapper_with_key(wrappers.APPLY_MODEL, KEY, uncompiled)
    return model


def settings_for(blending: Blending, base: ModelPatcher, *others: ModelPatcher) -> Settings:
    """The settings of runs of a base model, and of the `others` that take part in them."""
    models, sampling, options = (*others, base), base.get_model_object("model_sampling"), blending.options
    return Settings(
        blending,
        tuple(transformer_blocks(base)),
        sampling.percent_to_sigma(options.start_percent),
        sampling.percent_to_sigma(options.end_percent),
        frozenset().union(*map(kept_by_guidance, models)),
        ", ".join(filter(None, map(callers, models))),
    )


def _take_delta(deltas: Deltas, model: ModelPatcher, clone: ModelPatcher) -> None:
    """Callback: the host has made a copy of the model, and of the foreground's difference, for another GPU."""
    deltas[clone.load_device] = clone.additional_models[KEY][0].model
