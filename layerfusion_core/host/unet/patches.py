"""LayerFusion inside ComfyUI's UNet: foreground deltas, prior collection and blending as attention patches.

A `BlendRun` holds what lives for one sampling run; a `Forward`, made by a DIFFUSION_MODEL wrapper, what lives for one
call of the UNet. Patches find their `Forward` in `extra_options`, so parallel forwards never share state, and nothing
is left on the model when a run ends or is interrupted: patches are made for each call, by a wrapper on a clone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher

from ...method.blending import blend
from ...method.prior_maps import Block, Grid
from ...method.priors import content_confidence, structure_scores
from ...method.streams import interleave
from .calls import callers, require_whole
from .compiled import uncompiled
from .model_parts import kept_by_guidance
from .patch_state import pair_of, sees_all
from .per_stream import COUPLES, KEY, MERGES, ByStream, StreamRows, attend
from .row_terms import terms_on_modules
from .run import BlendRun
from .text_lengths import TEXT, TextLengths

PRIOR_PASS = "layerfusion_prior_pass"
PART = "layerfusion_part"  # in transformer_options: the `Part` of a lock-step forward
SITES = ("attn1", "attn2")  # self-attention, cross-attention


class _PriorsComplete(Exception):
    """Ends a prior pass after the last block's cross-attention: nothing behind it is needed."""


@dataclass(frozen=True)
class Part:
    """The streams of every sample that one UNet holds when two of them share an evaluation (lock step).

    meet(place, n, blend): hands this UNet's attention outputs n (rows, M, C) of a place (block, site) over and returns
    what is to go on in their stead; `blend` maps the outputs of all streams (G, S, M, C) to the blended ones.
    """

    streams: int
    foregrounds: int
    meet: Callable[[tuple[Block, str], torch.Tensor, Callable], torch.Tensor]


class Forward:
    """One call of the UNet on x (rows, ...) with a text (rows, L, C): which rows are what, and what patches keep for the next."""

    def __init__(self, run: BlendRun, x: torch.Tensor, text: torch.Tensor, transformer_options: dict):
        rows = x.shape[0]
        self.run = run
        self.prior_pass = bool(transformer_options.get(PRIOR_PASS))
        self.layout = run.layout
        self.delta = run.deltas.get(transformer_options.get("multigpu_thread_device"), run.delta)
        self.part: Part | None = transformer_options.get(PART)
        self.streams = self.foregrounds = self.layout.foregrounds
        if self.part is not None:
            self.streams, self.foregrounds = self.part.streams, self.part.foregrounds
        elif not self.prior_pass:
            self.streams = self.layout.count
        chunks = transformer_options["cond_or_uncond"]
        if rows % (len(chunks) * self.streams):
            raise ValueError(
                f"the model got {rows} rows for {len(chunks)} conditionings of {self.streams} streams each; another node "
                "changes the batch inside the model and cannot be combined with LayerFusion"
            )
        self.rows, self.chunks = rows, len(chunks)
        self.samples = rows // (self.chunks * self.streams)
        uuids = transformer_options["uuids"]
        run.called.update(uuids)
        self.collect = [
            (i, run.text[uuid], collector)
            for i, (cond, uuid) in enumerate(zip(chunks, uuids))
            if self.foregrounds and cond == 0 and uuid in run.text and (collector := run.collect_from(uuid)) is not None
        ]
        first = self.layout.foregrounds - self.foregrounds
        lengths = [run.lengths.get(uuid, {}).get(TEXT) for uuid in uuids]
        self.text = TextLengths(lengths, range(first, first + self.streams), rows, text.shape[1], x.device)
        self.blends = run.active and not self.prior_pass and run.maps is not None
        self.ends_early = self.prior_pass
        self.inputs: dict[str, torch.Tensor] = {}
        self.by_stream = StreamRows(self.names, rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the streams that each group of rows holds, in order."""
        first = self.layout.foregrounds - self.foregrounds
        return self.layout.names[first : first + self.streams]

    def foreground(self, x: torch.Tensor) -> torch.Tensor:
        """The foreground rows of x: (rows, ...) -> (G, K, ...), a view."""
        return x.unflatten(0, (-1, self.streams))[:, : self.foregrounds]

    def positive(self, x: torch.Tensor, chunk: int) -> torch.Tensor:
        """The foreground rows of one chunk: (rows, ...) -> (N, K, ...), a view."""
        return self.foreground(x)[chunk * self.samples : (chunk + 1) * self.samples]


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
            delta.add_at(block, site, {"to_q": q, "to_k": k, "to_v": v}, forward.inputs, forward.foreground)
        _collect(forward, block, site, q, k, extra_options)
        out = attention(q, k, v, extra_options)
        if delta is not None:
            forward.inputs = {"to_out": out}
        return out

    return patch


def _collect(forward: Forward, block: Block, site: str, q, k, extra_options) -> None:
    run, heads = forward.run, extra_options["n_heads"]
    wanted = site == "attn2" or block == run.last
    if not wanted:
        return
    for chunk, text, collector in forward.collect:
        queries, keys = forward.positive(q, chunk), forward.positive(k, chunk)
        grid = _grid(extra_options)
        if site == "attn1":
            collector.add_structure(structure_scores(queries.flatten(0, 1), keys.flatten(0, 1), heads), grid)
        else:
            shown = [forward.text.shown(prompt.tokens, k.shape[1]) for prompt in text]
            confidence = [
                content_confidence(queries[:, i], keys[:, i], heads, prompt.of(n), n)
                for i, (prompt, n) in enumerate(zip(text, shown))
            ]
            collector.add_content(block, interleave(confidence), grid)
    if forward.ends_early and site == "attn2" and block == run.last and forward.collect:
        raise _PriorsComplete


def _delta_output_patch(site: str):
    """attn1_output_patch / attn2_output_patch, first in line: complete eps_FG's attention with the delta of to_out."""

    def patch(n, extra_options):
        forward: Forward = extra_options[KEY]
        if forward.delta is not None:  # in place: nobody has seen the projection's output yet
            forward.delta.add_at(_block(extra_options), site, {"to_out": n}, forward.inputs, forward.foreground)
            forward.inputs = {}
        return n

    return patch


def _blend_patch(site: str):
    """attn1_output_patch / attn2_output_patch, last in line: blend what all other patches have made of the outputs."""

    def patch(n, extra_options):
        forward: Forward = extra_options[KEY]
        if not forward.blends or not forward.run.options.blends_site(site):
            return n
        run, block = forward.run, _block(extra_options)

        def blended(a: torch.Tensor) -> torch.Tensor:
            masks = run.masks(block, _grid(extra_options), a)
            return blend(a, masks, run.layout, run.options.background_mode, site, run.options.strength)

        if forward.part is not None:
            return forward.part.meet((block, site), n, blended)
        return blended(run.layout.grouped(n)).flatten(0, 1)

    return patch


def _with_patches(run: BlendRun, options: dict) -> dict:
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
        ours = {block: _own_patch(run, block, site, foreign) for block in run.blocks}
        replace[site] = {**foreign, **ours}
    return {**options, "patches": patches, "patches_replace": replace}


def _own_patch(run: BlendRun, block: Block, site: str, foreign: dict) -> Callable:
    """The replace patch of one attention, chained to the `foreign` one that the host would have called."""
    other = foreign.get(block, foreign.get(block[:2]))

    def make() -> Callable:
        if other is None:
            return _attention_patch(block, site, attend if site == "attn1" else _attend_to_own_text)
        shown = None if site == "attn1" else _own_text
        return _attention_patch(block, site, ByStream(f"{site} at {block}", other, sees_all(run.guidance), attend, shown))

    return run.patch((block, site, id(other)), make)


def _attend_to_own_text(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
    return extra_options[KEY].text.attend(attend, q, k, v, extra_options)


def _own_text(args: list, streams: list[int], extra_options: dict) -> list:
    """A replace patch's arguments (q, k, v, options) for some of the streams, with nothing but their texts in k and v."""
    q, k, v, options = args
    text: TextLengths = extra_options[KEY].text
    return [q, text.of(k, streams), text.of(v, streams), options]


def _by_stream(run: BlendRun, patches: dict, name: str, patch: object) -> object:
    """A patch of another node's out of the list `name`, called stream by stream."""
    if not callable(patch):
        return patch
    return run.patch((name, id(patch)), lambda: ByStream(name, patch, sees_all(run.guidance, patches.get(pair_of(name), []))))


def _forward_wrapper(run: BlendRun):
    def wrapper(executor, *args, **kwargs):
        args = list(args)
        at = 5  # UNetModel.forward(x, timesteps, context, y, control, transformer_options)
        options = args[at] if len(args) > at else kwargs["transformer_options"]
        x = args[0]
        forward = Forward(run, x, args[2] if len(args) > 2 else kwargs["context"], options)
        if forward.blends or forward.collect:
            require_whole(x.shape, run.cells, run.callers)
        if "_forward" in vars(executor.class_obj):  # a cache of blocks (WaveSpeed's) may keep what comes at the end
            forward.ends_early = False
        options = {**_with_patches(run, options), KEY: forward}
        if len(args) > at:
            args[at] = options
        else:
            kwargs["transformer_options"] = options
        terms = forward.delta.modules_at if forward.delta is not None else {}
        try:
            with terms_on_modules(executor.class_obj, terms, x.shape[0], forward.foreground):
                return executor(*args, **kwargs)
        except _PriorsComplete:
            return x.new_zeros((x.shape[0], executor.class_obj.out_channels, *x.shape[2:]))

    return wrapper


def install(model: ModelPatcher, run: BlendRun) -> ModelPatcher:
    """Return a clone of `model` whose UNet runs `run`; patches on the model, now or later, are chained to and still act."""
    model = model.clone()
    run.guidance |= kept_by_guidance(model)
    run.callers = ", ".join(filter(None, (run.callers, callers(model))))
    wrappers = comfy.patcher_extension.WrappersMP
    model.add_wrapper_with_key(wrappers.DIFFUSION_MODEL, KEY, _forward_wrapper(run))
    # Code that newer hosts' TorchCompileModel makes never looks at patches again: it would run with another call's.
    compiled = "torch.compile" in model.wrappers.get(wrappers.APPLY_MODEL, {})
    if compiled or (run.delta is not None and run.delta.modules_at):
        model.add_wrapper_with_key(wrappers.APPLY_MODEL, KEY, uncompiled)
    return model
