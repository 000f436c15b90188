"""LayerFusion inside ComfyUI's UNet: foreground deltas, prior collection and blending as attention patches.

A `BlendRun` holds what lives for one sampling run; a `Forward`, made by a DIFFUSION_MODEL wrapper, what lives for one
call of the UNet. Patches find their `Forward` in `extra_options`, so parallel forwards never share state, and nothing
is left on the model when a run ends or is interrupted: patches are made for each call, by a wrapper on a clone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher

from ..blending import blend
from ..masks import Masks
from ..options import LayerFusionOptions, PriorMode
from ..prior_maps import Block, Grid, PriorCollector, PriorMaps, PriorRecord
from ..priors import content_confidence, structure_scores
from ..streams import StreamLayout, interleave
from .delta import ForegroundDelta
from .row_terms import add_terms, terms_on_modules, uncompiled

KEY = "layerfusion"  # of our entries in transformer_options and of our wrapper
PRIOR_PASS = "layerfusion_prior_pass"
PART = "layerfusion_part"  # in transformer_options: the `Part` of a lock-step forward
PIXELS = 8  # per latent cell
SITES = ("attn1", "attn2")  # self-attention, cross-attention


class _PriorsComplete(Exception):
    """Ends a prior pass after the last block's cross-attention: nothing behind it is needed."""


def transformer_blocks(model: ModelPatcher) -> list[Block]:
    """The UNet's transformer blocks in execution order, from its module tree."""
    unet = model.model.diffusion_model
    found: list[Block] = []
    for side, modules in (
        ("input", unet.input_blocks),
        ("middle", [unet.middle_block or ()]),  # KOALA 700M has none
        ("output", unet.output_blocks),
    ):
        for number, block in enumerate(modules):
            for layer in block:
                found += [(side, number, i) for i in range(len(getattr(layer, "transformer_blocks", [])))]
    if not found:
        raise ValueError("the model has no transformer blocks with attention: LayerFusion needs an SDXL model")
    return found


@dataclass(frozen=True)
class TextColumns:
    """Which columns of one foreground's prompt make the content confidence: `columns` (C,) long, of the first `tokens`."""

    columns: torch.Tensor
    tokens: int


@dataclass
class BlendRun:
    """One sampling run: settings, the foreground's delta, and the masks of the evaluation under way."""

    layout: StreamLayout
    options: LayerFusionOptions
    blocks: list[Block]
    delta: ForegroundDelta | None = None
    text: dict[object, list[TextColumns]] = field(default_factory=dict)  # K each, by uuid of the conditioning entry
    sigma_start: float = float("inf")
    sigma_end: float = 0.0
    maps: PriorMaps | None = None
    record: PriorRecord | None = None
    active: bool = False
    _masks: dict[Block, Masks] = field(default_factory=dict)
    _patches: dict = field(default_factory=dict)
    _collector: PriorCollector | None = None
    _collected: set[object] = field(default_factory=set)

    @property
    def last(self) -> Block:
        """The block of the last self-attention, whose map is the structure prior."""
        return self.blocks[-1]

    def start(self, latent_shape: torch.Size) -> None:
        """Start a run on latents (rows, 4, h, w) with an empty record."""
        size = (latent_shape[-2] * PIXELS, latent_shape[-1] * PIXELS)
        self.record = PriorRecord(self.options.hardness, self.layout.foregrounds, size, self.last)

    def begin_evaluation(self, sigma: float) -> bool:
        """Start one model evaluation; returns whether it needs a prior pass first."""
        self.active = self.options.blends and self.sigma_end < sigma <= self.sigma_start
        previous = self.options.prior_mode is PriorMode.PREVIOUS_STEP
        self._collected = set()
        self._collector = PriorCollector(self.last) if self.active and previous else None
        return self.active and (self.maps is None or not previous)

    def begin_prior_pass(self) -> None:
        """Collect from the prior pass that follows; what the blended pass will collect starts afresh after it."""
        self._collector = PriorCollector(self.last)

    def end_prior_pass(self) -> None:
        """Take the maps of the prior pass as this evaluation's."""
        collector = self._collector
        self._collector = PriorCollector(self.last) if self.options.prior_mode is PriorMode.PREVIOUS_STEP else None
        self._collected = set()
        self._use(collector.finish())

    def begin_blended_pass(self, sigma: float) -> None:
        """Note in the record which maps this evaluation blends with."""
        if self.active and self.maps is not None:
            self.record.add(sigma, self.maps)

    def end_evaluation(self) -> None:
        """Hand the maps collected in the blended pass on to the next evaluation (previous_step)."""
        if self._collector is not None:
            self._use(self._collector.finish() or self.maps)
            self._collector = None

    def release(self) -> None:
        """Drop every tensor and patch of the run; called when it ends, however it ends."""
        self.maps, self._collector, self._masks, self.text, self._patches = None, None, {}, {}, {}

    def attention_patch(self, block: Block, site: str, foreign: Callable | None) -> Callable:
        """The replace patch of one attention, chained to `foreign`; the same object for every step."""
        key = (block, site, foreign)
        if key not in self._patches:
            self._patches[key] = _attention_patch(block, site, foreign)
        return self._patches[key]

    def site_patches(self, site: str) -> tuple[Callable, Callable, Callable]:
        """(first output patch, last output patch, input patch) of a site; the same objects for every step."""
        if site not in self._patches:
            self._patches[site] = _delta_output_patch(site), _blend_patch(site), _input_patch()
        return self._patches[site]

    def _use(self, maps: PriorMaps | None) -> None:
        self.maps, self._masks = maps, {}

    def masks(self, block: Block) -> Masks:
        """The masks of a block for N samples, made once per evaluation."""
        if block not in self._masks:
            self._masks[block] = self.maps.masks(block, self.options.hardness, self.layout.foregrounds)
        return self._masks[block]

    def collect_from(self, uuid: object) -> PriorCollector | None:
        """The collector, if the positive chunk `uuid` is to be collected; a chunk run again by other nodes is not."""
        if self._collector is None or uuid in self._collected:
            return None
        self._collected.add(uuid)
        return self._collector


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
    """One call of the UNet: which rows are what, and the block inputs that one patch keeps for the next."""

    def __init__(self, run: BlendRun, rows: int, transformer_options: dict):
        self.run = run
        self.prior_pass = bool(transformer_options.get(PRIOR_PASS))
        self.layout = run.layout
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
        self.collect = [
            (i, run.text[uuid], collector)
            for i, (cond, uuid) in enumerate(zip(chunks, uuids))
            if self.foregrounds and cond == 0 and uuid in run.text and (collector := run.collect_from(uuid)) is not None
        ]
        self.blends = run.active and not self.prior_pass and run.maps is not None
        self.inputs: dict[str, torch.Tensor] = {}

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
    if n.shape[:2] != (forward.rows, height * width):
        raise ValueError(
            f"an attention got {n.shape[0]} x {n.shape[1]} tokens where {forward.rows} pictures of {height} x {width} = "
            f"{height * width} tokens were expected: a node that merges tokens or tiles attention (HyperTile, token "
            "merging) is on base_model; remove it for LayerFusion"
        )


def _input_patch():
    """attn1_patch / attn2_patch: keep the foreground rows' inputs for the delta of q, k, v."""

    def patch(n, context, value, extra_options):
        forward: Forward | None = extra_options.get(KEY)
        if forward is not None:
            _require_all_tokens(forward, n, extra_options)
        if forward is not None and forward.run.delta is not None:
            forward.inputs = {
                "to_q": forward.foreground(n),
                "to_k": forward.foreground(context),
                "to_v": forward.foreground(value),
            }
        return n, context, value

    return patch


def _attention_patch(block: Block, site: str, foreign):
    """Replace patch: add the delta to q, k, v, read the priors from them, then attend as the host (or `foreign`) does."""

    def patch(q, k, v, extra_options):
        forward: Forward | None = extra_options.get(KEY)
        if forward is not None:
            run = forward.run
            if run.delta is not None:
                terms = run.delta.at(block, site)
                for name, projected in (("to_q", q), ("to_k", k), ("to_v", v)):
                    if name in terms:  # in place: the projections are fresh and ours alone
                        add_terms(terms[name], forward.foreground(projected), forward.inputs[name])
            _collect(forward, block, site, q, k, extra_options)
        if foreign is not None:
            out = foreign(q, k, v, extra_options)
        else:
            out = optimized_attention(
                q,
                k,
                v,
                extra_options["n_heads"],
                attn_precision=extra_options["attn_precision"],
                transformer_options=extra_options,
            )
        if forward is not None and forward.run.delta is not None:
            forward.inputs = {"to_out": forward.foreground(out)}
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
            confidence = [
                content_confidence(queries[:, i], keys[:, i], heads, prompt.columns.to(q.device), prompt.tokens)
                for i, prompt in enumerate(text)
            ]
            collector.add_content(block, interleave(confidence), grid)
    if forward.prior_pass and site == "attn2" and block == run.last and forward.collect:
        raise _PriorsComplete


def _delta_output_patch(site: str):
    """attn1_output_patch / attn2_output_patch, first in line: complete eps_FG's attention with the delta of to_out."""

    def patch(n, extra_options):
        forward: Forward | None = extra_options.get(KEY)
        if forward is not None and forward.run.delta is not None:
            terms = forward.run.delta.at(_block(extra_options), site)
            if "to_out" in terms:  # in place: nobody has seen the projection's output yet
                add_terms(terms["to_out"], forward.foreground(n), forward.inputs["to_out"])
            forward.inputs = {}
        return n

    return patch


def _blend_patch(site: str):
    """attn1_output_patch / attn2_output_patch, last in line: blend what all other patches have made of the outputs."""

    def patch(n, extra_options):
        forward: Forward | None = extra_options.get(KEY)
        if forward is None or not forward.blends or not forward.run.options.blends_site(site):
            return n
        run, block = forward.run, _block(extra_options)

        def blended(a: torch.Tensor) -> torch.Tensor:
            masks = run.masks(block).repeat(forward.chunks, a.device)
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
    patches, replace = dict(options.get("patches", {})), dict(options.get("patches_replace", {}))
    for site in SITES:
        first, last, inputs = run.site_patches(site)
        outputs = patches.get(f"{site}_output_patch", [])
        patches[f"{site}_patch"] = [*patches.get(f"{site}_patch", []), inputs]
        # First, so that other patches see the foreground's whole attention, as they would with merged weights.
        patches[f"{site}_output_patch"] = [first, *outputs, last]
        foreign = replace.get(site, {})
        ours = {
            block: run.attention_patch(block, site, foreign.get(block, foreign.get(block[:2]))) for block in run.blocks
        }
        replace[site] = {**foreign, **ours}
    return {**options, "patches": patches, "patches_replace": replace}


def _forward_wrapper(run: BlendRun):
    def wrapper(executor, *args, **kwargs):
        args = list(args)
        at = 5  # UNetModel.forward(x, timesteps, context, y, control, transformer_options)
        options = args[at] if len(args) > at else kwargs["transformer_options"]
        x = args[0]
        forward = Forward(run, x.shape[0], options)
        options = {**_with_patches(run, options), KEY: forward}
        if len(args) > at:
            args[at] = options
        else:
            kwargs["transformer_options"] = options
        terms = run.delta.modules_at if run.delta is not None else {}
        try:
            with terms_on_modules(executor.class_obj, terms, x.shape[0], forward.foreground):
                return executor(*args, **kwargs)
        except _PriorsComplete:
            return x.new_zeros((x.shape[0], executor.class_obj.out_channels, *x.shape[2:]))

    return wrapper


def install(model: ModelPatcher, run: BlendRun) -> ModelPatcher:
    """Return a clone of `model` whose UNet runs `run`; patches on the model, now or later, are chained to and still act."""
    model = model.clone()
    wrappers = comfy.patcher_extension.WrappersMP
    model.add_wrapper_with_key(wrappers.DIFFUSION_MODEL, KEY, _forward_wrapper(run))
    if run.delta is not None and run.delta.modules_at:
        model.add_wrapper_with_key(wrappers.APPLY_MODEL, KEY, uncompiled)
    return model
