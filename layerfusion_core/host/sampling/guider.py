"""The guider: what the host needs to sample all layers in one batch, and the two passes of each evaluation."""

from __future__ import annotations

from functools import partial

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...layers.keep import paste
from ...method.blending import Blending
from ...method.options import LayerFusionOptions, NoiseMode
from ...method.prior_maps import PriorRecord
from ...method.streams import Layers
from ..models.families import require_sdxl
from ..models.foreground import require_in_order, require_unconditioned
from ..unet.calls import options_in, require_cache_of_rows, watched
from ..unet.delta import foreground_delta
from ..unet.install import install, settings_for
from ..unet.lockstep import install_pair
from ..unet.per_stream import KEY
from ..unet.run import Pass, Run, Settings
from ..unet.stream_patches import require_own_patches, with_foreground_patches
from .conditioning import check_conditioning, text_columns
from .evaluate import evaluate
from .guidance import LayerGuidance, guide_rows
from .holding import holding, rises, same_noise
from .stacked import StackedStart, require_noise_outside, unstack_start
from .stacking import StreamStack, stream_negatives
from .step_noise import StepNoise, stream_noise
from .stream_conds import RunRows

_STREAM, _NEGATIVE, _PRIOR = "layerfusion_stream_{}", "layerfusion_negative_{}", "layerfusion_prior"  # of conditionings
_OF_A_RUN = ("run", "conds", "inner_model", "loaded_models")  # attributes; the host leaves its own when a run fails


class _GuiderRun(Run):
    """A run with what else its guider needs for it.

    keep: of the rows (R, 1, h, w), None without given layers; stacks: of the conditionings, once the host has made its own.
    """

    def __init__(self, settings: Settings, shape: torch.Size, sigmas: torch.Tensor, start: StackedStart):
        super().__init__(settings, shape, rises(sigmas), start.region)
        self.keep = None if self.rises else start.keep
        self.guidance = LayerGuidance(settings.layout)
        self.stacks: dict[str, StreamStack] = {}


class LayerFusionGuider(comfy.samplers.CFGGuider):
    """Guides a latent batch of interleaved streams (N * S, 4, h, w); conditioning in, blended denoised prediction out.

    base: the model of blended and background; foreground_model: the same with foreground weights on top; streams: each
    layer's conditioning; negative: one for all; negatives: each layer's own, None for `negative`; blending: the method.
    ValueError for anything that cannot work, before sampling starts.
    """

    run: _GuiderRun  # under way; there is none outside of `sample`
    record: PriorRecord  # of the last run that came to its end, in main memory

    def __init__(
        self,
        base: ModelPatcher,
        foreground_model: ModelPatcher,
        streams: Layers,
        negative: list,
        cfg: float,
        options: LayerFusionOptions,
        negatives: Layers | None = None,
        blending: type[Blending] = Blending,
    ):
        require_sdxl(base, "base_model")
        require_sdxl(foreground_model, "foreground_model")
        require_unconditioned(base, "base_model")
        require_unconditioned(foreground_model, "foreground_model")
        require_in_order(base, foreground_model)
        require_cache_of_rows(base)
        shared = foreground_model.is_clone(base)
        delta = foreground_delta(base, foreground_model) if shared else None
        if not shared:
            require_own_patches(base, foreground_model)
        layout = streams.layout
        own = streams.map(lambda _: None) if negatives is None else negatives
        for name, conditioning in zip((*layout.names, "negative"), (*streams.streams, negative)):
            check_conditioning(base, conditioning, name)
        for name, conditioning in zip(layout.names, own.streams):
            if conditioning is not None:
                check_conditioning(base, conditioning, f"negative of {name}")

        if shared:
            both = with_foreground_patches(base, foreground_model)
            self.settings, model = settings_for(blending(layout, options), both), install(both, delta)
        else:
            self.settings = settings_for(blending(layout, options), base, foreground_model)
            model = install_pair(base, foreground_model)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY + "_conds", _with_own_conds)
        super().__init__(model)
        self.set_cfg(cfg)
        self._step_noise = StepNoise(layout)
        self.inner_set_conds(
            {_STREAM.format(i): c for i, c in enumerate(streams.streams)}
            | {_NEGATIVE.format(i): c for i, c in enumerate(own.streams) if c is not None}
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
        """Sample the streams of N pictures: (N * S, 4, h, w). What the run holds on its device is dropped however it ends.

        latent_image: (N, 4, h, w) and denoise_mask from `stack_latent`, or the rows of a run before; noise: for N or
        for the rows, see `stream_noise`. What a given layer holds to the end comes back bit for bit; a run that ends
        early leaves noise in all layers, also in those that are held.
        """
        layout, noise_mode = self.settings.layout, self.settings.options.noise
        start = unstack_start(latent_image, denoise_mask, layout)
        if not noise.any() and len(latent_image) < len(start.latent):
            require_noise_outside(start, layout)
        noise = stream_noise(noise, start.latent.shape[0], seed, noise_mode, layout)
        sampler = sampler if start.keep is None else same_noise(sampler)
        if noise_mode is NoiseMode.SHARED:
            sampler = self._step_noise.shared(sampler)
        ends = bool((sigmas[-1:] == 0).all())  # read now: uni_pc writes into it
        run = self.run = _GuiderRun(self.settings, noise.shape, sigmas, start)
        try:
            with holding(self, start, noise, sigmas) as (noise, latent, mask):
                rows = super().sample(noise, latent, sampler, sigmas, mask, callback, disable_pbar, seed)
            self.record = run.record.finish()
        finally:
            for name in _OF_A_RUN:
                self.__dict__.pop(name, None)
        if start.keep is None or start.clean is None or run.rises or not ends:
            return rows
        return paste(rows, start.clean, start.keep)

    def __call__(self, *args, **kwargs) -> torch.Tensor:
        with self._step_noise.paused():
            return super().__call__(*args, **kwargs)

    def predict_noise(self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict, seed: int | None = None):
        """One evaluation of all streams, guided. x: (N * S, 4, h, w)."""
        sigma = float(timestep[0])  # one read per evaluation, before anything is queued
        self._stack_conds(sigma, x.device)
        prior_pass = partial(self._prior_pass, timestep, model_options)
        return evaluate(self.run, x, sigma, prior_pass, partial(self._shared_pass, timestep, model_options, seed))

    def _prior_pass(self, timestep: torch.Tensor, model_options: dict, x: torch.Tensor, this: Pass) -> None:
        """Run eps_FG alone on the foreground rows of x with their positive prompts."""
        layout, prompts = this.settings.layout, self.conds[_PRIOR]
        rows = layout.grouped(x)[:, : layout.foreground_count].flatten(0, 1)
        model_options = options_in(model_options, this)
        with watched(this, prompts, model_options["transformer_options"]):
            comfy.samplers.calc_cond_batch(self.inner_model, [prompts], rows, timestep[: rows.shape[0]], model_options)

    def _shared_pass(
        self, timestep: torch.Tensor, model_options: dict, seed: int | None, x: torch.Tensor, this: Pass
    ) -> torch.Tensor:
        """The host's guided prediction for all rows, with a scale per row where the layers' scales differ."""
        scales = this.settings.options.cfg_of_layers(self.cfg, this.settings.layout).streams
        positive, negative = self.conds["positive"], self.conds["negative"]
        model_options = self.run.guidance.options(options_in(model_options, this), scales)
        with watched(this, positive, model_options["transformer_options"]):
            if len(set(scales)) == 1:
                return comfy.samplers.sampling_function(
                    self.inner_model, x, timestep, negative, positive, scales[0], model_options=model_options, seed=seed
                )
            rows = x.new_tensor(scales).repeat(x.shape[0] // len(scales))[:, None, None, None]
            return guide_rows(self.inner_model, x, timestep, self.conds, rows, model_options)

    def _stack_conds(self, sigma: float, device: torch.device) -> None:
        """Merge the streams' conds, processed by the host one by one, into those of this evaluation's passes."""
        run, stacks = self.run, {name: stack.at(sigma) for name, stack in self.run.stacks.items()}
        self.conds.update({name: [entry.rows for entry in stacked] for name, stacked in stacks.items()})
        prior = stacks[_PRIOR]
        for entry in (*prior, *stacks["positive"][: len(prior)]):
            if entry.rows["uuid"] not in run.columns:
                prompts = entry.parts[: run.settings.layout.foreground_count]
                run.columns[entry.rows["uuid"]] = tuple(text_columns(prompt, device) for prompt in prompts)

    def make_stacks(self, rows: RunRows) -> None:
        """Make what each stream's conds are stacked from in this run, from the stream's own rows."""
        layout, model, lengths = self.settings.layout, self.inner_model, self.run.lengths
        names, count = layout.names, layout.foreground_count
        shared = self.conds["negative"]
        streams = [rows.encode(model, self.conds[_STREAM.format(i)], i, "positive") for i in range(layout.count)]
        own = [self.conds.get(_NEGATIVE.format(i)) for i in range(layout.count)]
        negatives = [
            rows.encode(model, shared if entries is None else entries, i, "negative") for i, entries in enumerate(own)
        ]
        controls: dict = {}  # one for both: with equal controls, positive and negative run in one forward
        self.run.stacks = {
            "positive": StreamStack(names, streams, lengths, controls),
            _PRIOR: StreamStack(names[:count], streams[:count], lengths),
        }
        negatives = stream_negatives(streams, negatives, [entries is None for entries in own], shared)
        if negatives is not None:
            self.run.stacks["negative"] = StreamStack(
                tuple(f"negative of {n}" for n in names), negatives, lengths, controls
            )


def _with_own_conds(executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs):
    """SAMPLER_SAMPLE wrapper: a LayerFusionGuider makes its streams' conds, now that the host has made its own."""
    if isinstance(guider, LayerFusionGuider):
        count, seed = guider.settings.layout.count, extra_args.get("seed")
        guider.make_stacks(RunRows(noise, latent_image, denoise_mask, guider.run.keep, seed, count))
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)


def run_record(guider) -> PriorRecord:
    """The priors of a GUIDER's last run; ValueError for another pack's guider, and before its first run."""
    if not isinstance(guider, LayerFusionGuider):
        raise ValueError(
            f"guider: expected a LayerFusion Guider, got {type(guider).__name__}; connect the one that the sampler has"
        )
    record = getattr(guider, "record", None)
    if record is None:
        raise ValueError("guider: it has made no run yet; connect the LayerFusion Guider of the sampler that gave the latent")
    return record
