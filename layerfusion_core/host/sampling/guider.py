"""The guider: runs the prior pass before an evaluation and the streams' shared pass in it."""

from __future__ import annotations

from functools import partial

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...layers.keep import paste
from ...method.options import LayerFusionOptions, NoiseMode
from ...method.streams import StreamLayout
from ..models.families import require_sdxl
from ..models.foreground import require_in_order
from ..unet.blocks import transformer_blocks
from ..unet.calls import prior_pass_options, require_cache_of_rows, watched
from ..unet.delta import foreground_delta
from ..unet.lockstep import install_pair
from ..unet.patches import KEY, PRIOR_PASS, install
from ..unet.run import BlendRun
from ..unet.stream_patches import require_own_patches, with_foreground_patches
from .conditioning import check_conditioning, text_columns
from .guidance import LayerGuidance, guide_rows
from .holding import holding, rises, same_noise
from .stacked import unstack_start
from .stacking import StreamStack, stream_negatives
from .step_noise import StepNoise, stream_noise
from .stream_conds import RunRows

_ON_OTHER_GPU = "on_match_multigpu_clones"  # CallbacksMP.ON_MATCH_MULTIGPU_CLONES, which older hosts lack
_STREAM, _NEGATIVE = "layerfusion_stream_{}", "layerfusion_negative_{}"


class LayerFusionGuider(comfy.samplers.CFGGuider):
    """Guides a latent batch of interleaved streams (N * S, 4, h, w); conditioning in, blended denoised prediction out.

    base: the model of blended and background; foreground: the same with foreground weights on top; streams: S
    conditionings in layout order; negative: one conditioning for all streams; negatives: each stream's own in layout
    order, None for `negative`. ValueError for anything that cannot work, before sampling starts.
    """

    def __init__(
        self,
        base: ModelPatcher,
        foreground: ModelPatcher,
        streams: list[list],
        negative: list,
        cfg: float,
        options: LayerFusionOptions,
        layout: StreamLayout,
        negatives: list[list | None] | None = None,
    ):
        require_sdxl(base, "base_model")
        require_sdxl(foreground, "foreground_model")
        require_in_order(base, foreground)
        require_cache_of_rows(base)
        shared = foreground.is_clone(base)
        delta = foreground_delta(base, foreground) if shared else None
        if not shared:
            require_own_patches(base, foreground)
        own = negatives or [None] * layout.count
        for name, conditioning in zip((*layout.names, "negative"), (*streams, negative)):
            check_conditioning(base, conditioning, name)
        for name, conditioning in zip(layout.names, own):
            if conditioning is not None:
                check_conditioning(base, conditioning, f"negative of {name}")
        self.run = BlendRun(layout, options, transformer_blocks(base), delta.model if shared else None)
        sampling = base.get_model_object("model_sampling")
        self.run.sigma_start = sampling.percent_to_sigma(options.start_percent)
        self.run.sigma_end = sampling.percent_to_sigma(options.end_percent)

        if shared:
            model = install(with_foreground_patches(base, foreground), self.run)
            model.set_additional_models(KEY, [delta])
            model.add_callback_with_key(_ON_OTHER_GPU, KEY, partial(_take_delta, self.run))
        else:
            model = install_pair(base, foreground, self.run)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY + "_conds", _with_own_conds)
        super().__init__(model)
        self.set_cfg(cfg)
        self._stacks: dict[str, StreamStack] = {}
        self._guidance = LayerGuidance(layout)
        self.keep: torch.Tensor | None = None
        self._step_noise = StepNoise(layout)
        self._rises = False
        self.inner_set_conds(
            {_STREAM.format(i): c for i, c in enumerate(streams)}
            | {_NEGATIVE.format(i): c for i, c in enumerate(own) if c is not None}
            | {"negative": negative}
        )

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback=None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> torch.Tensor:
        """Sample the streams of N pictures: (N * S, 4, h, w). The run's maps are dropped however it ends.

        latent_image: (N, 4, h, w) and denoise_mask from `stack_latent`, or the rows of a run before; noise: for N or
        for the rows, see `stream_noise`. What a given layer holds to the end comes back bit for bit; a run that ends
        early leaves noise in all layers, also in those that are held.
        """
        layout, options = self.run.layout, self.run.options
        start = unstack_start(latent_image, denoise_mask, layout)
        noise = stream_noise(noise, start.latent.shape[0], seed, options.noise, layout)
        sampler = sampler if start.keep is None else same_noise(sampler)
        if options.noise is NoiseMode.SHARED:
            sampler = self._step_noise.shared(sampler)
        ends = bool((sigmas[-1:] == 0).all())  # read now: uni_pc writes into it
        self._rises = rises(sigmas)
        self.keep = None if self._rises else start.keep
        self.run.start(noise.shape)
        try:
            with holding(self, start, noise, sigmas) as (noise, latent, mask):
                rows = super().sample(noise, latent, sampler, sigmas, mask, callback, disable_pbar, seed)
        finally:
            self.run.release()
            self._stacks, self._guidance, self.keep = {}, LayerGuidance(layout), None
        held = start.keep is not None and ends and not self._rises
        return paste(rows, start.clean, start.keep) if held else rows

    def __call__(self, *args, **kwargs) -> torch.Tensor:
        with self._step_noise.paused():
            return super().__call__(*args, **kwargs)

    def predict_noise(
        self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict | None = None, seed: int | None = None
    ):
        """One evaluation: (prior pass), shared pass of all streams with CFG. x: (N * S, 4, h, w)."""
        run = self.run
        sigma = float(timestep[0])  # one read per evaluation, before anything is queued
        self._stack_conds(sigma, x.device)
        if run.begin_evaluation(sigma):
            self._prior_pass(x, timestep, model_options)
        run.begin_blended_pass(sigma)
        with watched(run.called, run.callers, self.conds["positive"], model_options["transformer_options"]):
            out = self._guided(x, timestep, model_options, seed)
        if not self._rises:  # one prediction for two layers is a way to one scene, not back to the noise of each
            out = run.one_scene(out)
        run.end_evaluation()
        return out

    def _guided(self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict, seed: int | None) -> torch.Tensor:
        """The host's guidance, with a scale per row where the streams' scales differ."""
        layout = self.run.layout
        scales = self.run.options.cfg_of_streams(self.cfg, layout.foregrounds)
        model_options = self._guidance.options(model_options, scales)
        if len(set(scales)) == 1:
            positive, negative = self.conds["positive"], self.conds["negative"]
            return comfy.samplers.sampling_function(
                self.inner_model, x, timestep, negative, positive, scales[0], model_options=model_options, seed=seed
            )
        rows = x.new_tensor(scales).repeat(x.shape[0] // layout.count)[:, None, None, None]
        return guide_rows(self.inner_model, x, timestep, self.conds, rows, model_options)

    def _stack_conds(self, sigma: float, device: torch.device) -> None:
        """Merge the streams' conds, processed by the host one by one, into those of this evaluation's passes."""
        layout, run = self.run.layout, self.run
        for name, stack in self._stacks.items():
            self.conds[name] = stack.at(sigma)
        prior = self.conds[PRIOR_PASS]
        for entry in (*prior, *self.conds["positive"][: len(prior)]):
            if entry["uuid"] not in run.text:
                run.text[entry["uuid"]] = [text_columns(part, device) for part in entry["parts"][: layout.foregrounds]]

    def make_stacks(self, rows: RunRows) -> None:
        """Make what each stream's conds are stacked from in this run, from the stream's own rows."""
        layout, names, model = self.run.layout, self.run.layout.names, self.inner_model
        lengths = self.run.lengths
        shared = self.conds["negative"]
        streams = [rows.encode(model, self.conds[_STREAM.format(i)], i, "positive") for i in range(layout.count)]
        own = [self.conds.get(_NEGATIVE.format(i)) for i in range(layout.count)]
        negatives = [
            rows.encode(model, shared if entries is None else entries, i, "negative") for i, entries in enumerate(own)
        ]
        controls: dict = {}  # one for both: with equal controls, positive and negative run in one forward
        self._stacks = {
            "positive": StreamStack(names, streams, lengths, controls),
            PRIOR_PASS: StreamStack(names[: layout.foregrounds], streams[: layout.foregrounds], lengths),
        }
        negatives = stream_negatives(streams, negatives, [entries is None for entries in own], shared)
        if negatives is not None:
            self._stacks["negative"] = StreamStack(
                tuple(f"negative of {n}" for n in names), negatives, lengths, controls
            )

    def _prior_pass(self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict) -> None:
        """Run eps_FG alone on the foreground rows with their positive prompts, collecting the priors."""
        run = self.run
        rows = run.layout.grouped(x)[:, : run.layout.foregrounds].flatten(0, 1)
        sigmas = timestep[: rows.shape[0]]
        own = prior_pass_options(model_options["transformer_options"])
        options = {**model_options, "transformer_options": {**own, PRIOR_PASS: True}}
        run.begin_prior_pass()
        with watched(run.called, run.callers, self.conds[PRIOR_PASS], own):
            comfy.samplers.calc_cond_batch(self.inner_model, [self.conds[PRIOR_PASS]], rows, sigmas, options)
        run.end_prior_pass()


def _take_delta(run: BlendRun, model: ModelPatcher, clone: ModelPatcher) -> None:
    """Callback: the host has made a copy of the model, and of the foreground's difference, for another GPU."""
    run.deltas[clone.load_device] = clone.additional_models[KEY][0].model


def _with_own_conds(executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs):
    """SAMPLER_SAMPLE wrapper: a LayerFusionGuider makes its streams' conds, now that the host has made its own."""
    if isinstance(guider, LayerFusionGuider):
        layout, seed = guider.run.layout, extra_args.get("seed")
        guider.make_stacks(RunRows(noise, latent_image, denoise_mask, guider.keep, seed, layout.count))
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)
