"""LayerFusion inside ComfyUI's UNet: foreground deltas, reading of priors and blending as attention patches.

A DIFFUSION_MODEL wrapper on a clone of the model makes a `Forward` for each call of the UNet, and the patches of that call.
Patches find their `Forward` in `extra_options`, so parallel forwards share nothing, and nothing is left on the model when
a run ends or is interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher

from ...method.blending import Blending
from ...method.prior_maps import Block, Grid
from ...method.priors import content_confidence, structure_scores
from ...method.streams import interleave
from .blocks import transformer_blocks
from .calls import callers, require_whole
from .compiled import uncompiled
from .delta import ForegroundDelta
from .forward import Forward
from .model_parts import kept_by_guidance
from .patch_state import pair_of, sees_all
from .per_stream import COUPLES, KEY, MERGES, ByStream, attend
from .row_terms import terms_on_modules
from .run import Run, Settings
from .text_lengths import TextLengths

Deltas = dict[torch.device | None, ForegroundDelta]  # by device of a copy of the model; None: the model's own
_ON_OTHER_GPU = "on_match_multigpu_clones"  # CallbacksMP.ON_MATCH_MULTIGPU_CLONES, which older hosts lack
SITES = ("attn1", "attn2")  # self-attention, cross-attention


class _PriorsComplete(Exception):
    """Ends a prior pass after the last block's cross-attention: nothing behind it is needed."""


def _block(extra_options: dict) -> Block:
    """Name of the transformer block under way."""
    return (*extra_options["block"], extra_options["block_index"])


def _grid(extra_options: dict) -> Grid:
    """Token rows and columns of the block under way."""
    height, width = extra_options["activations_shape"][-2:]
    return height, width


def _require_all_tokens(forward: Forward, n: torch.Tensor, extra_options: dict) -> None:
    height, width = _grid(extra_options)
    rows, tokens = n.shape[:2]
    if (rows, tokens) != (forward.rows, height * width):
        raise ValueError(
            f"an attention got {rows} x {tokens} tokens where {forward.rows} pictures of {height} x {width} = "
            f"{height * width} tokens were expected: {COUPLES if tokens == height * width else MERGES}"
        )


def _input_patch():
    """attn1_patch / attn2_patch: keep the inputs for the delta of q, k, v."""

    def patch(n, context, value, extra_options):
        forward: Forward = extra_options[KEY]
        _require_all_tokens(forward, n, extra_options)
        if forward.delta is not None:
            forward.inputs = {"to_q": n, "to_k": context, "to_v": value}
        return n, context, value

    return patch


def _attention_patch(block: Block, site: str, attention: Callable):
    """Replace patch: add the delta to q, k, v, read the priors from them, then attend by `attention`."""

    def patch(q, k, v, extra_options):
        forward: Forward = extra_options[KEY]
        delta = forward.delta
        if delta is not None:  # in place: the projections are fresh and ours alone
            delta.add_to_attention(block, site, {"to_q": q, "to_k": k, "to_v": v}, forward.inputs, forward.foreground_rows)
        _read_priors(forward, block, site, q, k, extra_options)
        out = attention(q, k, v, extra_options)
        if delta is not None:
            forward.inputs = {"to_out": out}
        return out

    return patch


def _read_priors(forward: Forward, block: Block, site: str, q: torch.Tensor, k: torch.Tensor, extra_options: dict) -> None:
    """Read the priors of the foreground rows from one attention's queries and keys, of those conditionings that want it."""
    is_last, heads = block == forward.of_pass.settings.last, extra_options["n_heads"]
    if site == "attn1" and not is_last:
        return
    for chunk, columns, priors in forward.reads:
        queries, keys = (forward.foreground_rows_of(chunk, x) for x in (q, k))  # (N, K, M | L, C)
        grid = _grid(extra_options)
        if site == "attn1":
            priors.add_structure(structure_scores(queries.flatten(0, 1), keys.flatten(0, 1), heads), grid)
        else:
            shown = [forward.text.shown(prompt.tokens, k.shape[1]) for prompt in columns]
            confidence = [
                content_confidence(queries[:, i], keys[:, i], heads, prompt.of(n), n)
                for i, (prompt, n) in enumerate(zip(columns, shown))
            ]
            priors.add_content(block, interleave(confidence), grid)
    if forward.ends_early and site == "attn2" and is_last and forward.reads:
        raise _PriorsComplete


def _delta_output_patch(site: str):
    """attn1_output_patch / attn2_output_patch, first in line: complete eps_FG's attention with the delta of to_out."""

    def patch(n, extra_options):
        forward: Forward = extra_options[KEY]
        if forward.delta is not None:  # in place: nobody has seen the projection's output yet
            outs, block = {"to_out": n}, _block(extra_options)
            forward.delta.add_to_attention(block, site, outs, forward.inputs, forward.foreground_rows)
            forward.inputs = {}
        return n

    return patch


def _blend_patch(site: str):
    """attn1_output_patch / attn2_output_patch, last in line: blend what all other patches have made of the outputs."""

    def patch(n, extra_options):
        forward: Forward = extra_options[KEY]
        this, block, grid = forward.of_pass, _block(extra_options), _grid(extra_options)
        if not this.blends(site, grid):
            return n

        def blended(a: torch.Tensor) -> torch.Tensor:
            return this.settings.blending.attention(a, this.masks(block, grid, a), site)

        if forward.part is not None:
            return forward.part.meet((block, site), n, blended)
        return blended(this.settings.layout.grouped(n)).flatten(0, 1)

    return patch


def _with_patches(run: Run, options: dict) -> dict:
    """transformer_options with the run's patches around those that are there for this very call.

    Other nodes' patches are found here rather than at install, so that those which come and go (perturbed attention
    guidance swaps attention for a second call within a step) are chained to as well.
    """
    theirs, replace = options.get("patches", {}), dict(options.get("patches_replace", {}))
    patches = {name: [_by_stream(run, theirs, name, p) for p in listed] for name, listed in theirs.items()}
    for site in SITES:
        first, last, inputs = run.patch(site, lambda s=site: (_delta_output_patch(s), _blend_patch(s), _input_patch()))
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
            return _attention_patch(block, site, attend if site == "attn1" else _attend_to_own_text)
        shown = None if site == "attn1" else _own_text
        return _attention_patch(block, site, ByStream(f"{site} at {block}", other, sees_all(run.settings.guidance), attend, shown))

    return run.patch((block, site, id(other)), make)


def _attend_to_own_text(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
    return extra_options[KEY].text.attend(attend, q, k, v, extra_options)


def _own_text(args: list, streams: list[int], extra_options: dict) -> list:
    """A replace patch's arguments (q, k, v, options) for some of the streams, with nothing but their texts in k and v."""
    q, k, v, options = args
    text: TextLengths = extra_options[KEY].text
    return [q, text.of(k, streams), text.of(v, streams), options]


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
        run, this = forward.of_pass.run, forward.of_pass
        if this.maps is not None or forward.reads:
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
        except _PriorsComplete:
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
