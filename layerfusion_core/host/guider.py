"""The guider: runs the prior pass before an evaluation and the streams' shared pass in it."""

from __future__ import annotations

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ..options import LayerFusionOptions, NoiseMode
from ..streams import StreamLayout
from .conditioning import check_conditioning, stack_streams, text_columns
from .delta import foreground_delta
from .engine import PRIOR_PASS, BlendRun, install, transformer_blocks
from .families import require_sdxl
from .step_noise import share_step_noise

_STREAM = "layerfusion_stream_{}"


class LayerFusionGuider(comfy.samplers.CFGGuider):
    """Guides a latent batch of interleaved streams (N * S, 4, h, w); conditioning in, blended denoised prediction out.

    base: the model of blended and background; foreground: the same with foreground weights on top; streams: S
    conditionings in layout order; negative: one conditioning for all streams. ValueError for anything that cannot work,
    before sampling starts.
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
    ):
        require_sdxl(base, "base_model")
        require_sdxl(foreground, "foreground_model")
        delta = foreground_delta(base, foreground)
        for name, conditioning in zip((*layout.names, "negative"), (*streams, negative)):
            check_conditioning(base, conditioning, name)
        self.run = BlendRun(layout, options, transformer_blocks(base), delta.model)
        sampling = base.get_model_object("model_sampling")
        self.run.sigma_start = sampling.percent_to_sigma(options.start_percent)
        self.run.sigma_end = sampling.percent_to_sigma(options.end_percent)

        model = install(base, self.run)
        model.set_additional_models("layerfusion", [delta])
        super().__init__(model)
        self.set_cfg(cfg)
        self.inner_set_conds({_STREAM.format(i): c for i, c in enumerate(streams)} | {"negative": negative})

    def sample(self, noise: torch.Tensor, latent_image: torch.Tensor, sampler, *args, **kwargs) -> torch.Tensor:
        """Sample as any guider does, noise and latent (N * S, 4, h, w); the run's maps are dropped however it ends."""
        layout, options = self.run.layout, self.run.options
        if noise.ndim != 4 or noise.shape[0] % layout.count:
            raise ValueError(
                f"expected a latent batch of {layout.count} streams per picture, got shape {tuple(noise.shape)}; put "
                "LayerFusion Stack Latents between the latent and the sampler"
            )
        if options.noise is NoiseMode.SHARED:
            sampler = share_step_noise(sampler, layout)
        self.run.start(noise.shape)
        try:
            return super().sample(noise, latent_image, sampler, *args, **kwargs)
        finally:
            self.run.release()

    def predict_noise(
        self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict | None = None, seed: int | None = None
    ):
        """One evaluation: (prior pass), shared pass of all streams with CFG. x: (N * S, 4, h, w)."""
        run = self.run
        if "positive" not in self.conds:
            self._stack_conds(x.device)
        sigma = float(timestep[0])  # one read per evaluation, before anything is queued
        if run.begin_evaluation(sigma):
            self._prior_pass(x, timestep, model_options)
        run.begin_blended_pass(sigma)
        out = super().predict_noise(x, timestep, model_options=model_options, seed=seed)
        run.end_evaluation()
        return out

    def _stack_conds(self, device: torch.device) -> None:
        """Merge the streams' conds, processed by the host one by one, into those of the shared pass and the prior pass."""
        layout, run = self.run.layout, self.run
        streams = [self.conds[_STREAM.format(i)] for i in range(layout.count)]
        foregrounds, names = streams[: layout.foregrounds], layout.names
        self.conds["positive"] = stack_streams(names, streams)
        self.conds[PRIOR_PASS] = stack_streams(names[: layout.foregrounds], foregrounds)
        for conds in (self.conds["positive"], self.conds[PRIOR_PASS]):
            for i, entry in enumerate(conds):
                run.text[entry["uuid"]] = [text_columns(stream[i % len(stream)], device) for stream in foregrounds]

    def _prior_pass(self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict) -> None:
        """Run eps_FG alone on the foreground rows with their positive prompts, collecting the priors."""
        run = self.run
        rows = run.layout.grouped(x)[:, : run.layout.foregrounds].flatten(0, 1)
        sigmas = timestep[: rows.shape[0]]
        options = {**model_options, "transformer_options": {**model_options["transformer_options"], PRIOR_PASS: True}}
        run.begin_prior_pass()
        comfy.samplers.calc_cond_batch(self.inner_model, [self.conds[PRIOR_PASS]], rows, sigmas, options)
        run.end_prior_pass()
