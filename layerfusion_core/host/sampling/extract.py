"""The priors of one picture at one noise level (the paper's Fig. 2), from a foreground MODEL alone."""

from __future__ import annotations

from functools import partial

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ...method.blending import Blending
from ...method.options import LayerFusionOptions
from ...method.prior_maps import PriorRecord
from ...method.streams import StreamLayout
from ..models.families import require_sdxl
from ..unet.calls import options_in, watched
from ..unet.install import install, settings_for
from ..unet.run import Pass, Run
from .conditioning import check_conditioning, text_columns
from .evaluate import evaluate
from .foregrounds import require_one
from .ksampler import check_latent
from .stacked import require_layer


class _OneEvaluation(comfy.samplers.Sampler):
    """Evaluates the model once, on the latent noised to the first sigma."""

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        sampling = model_wrap.inner_model.model_sampling
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas))
        return model_wrap(x, sigmas[0].expand(x.shape[0]), **extra_args)


class _PriorGuider(comfy.samplers.CFGGuider):
    """Evaluates the foreground's prior pass alone."""

    def __init__(self, model: ModelPatcher, run: Run, conditioning: list):
        super().__init__(install(model))
        self.run = run
        self.inner_set_conds({"positive": conditioning})

    def predict_noise(self, x, timestep, model_options, seed=None):
        prompts = self.conds["positive"]
        self.run.columns = {prompt["uuid"]: (text_columns(prompt, x.device),) for prompt in prompts}
        prior_pass = partial(self._prior_pass, prompts, timestep, model_options)
        return evaluate(self.run, x, float(timestep[0]), prior_pass, lambda x, this: x)

    def _prior_pass(self, prompts: list, timestep, model_options: dict, x: torch.Tensor, this: Pass) -> None:
        model_options = options_in(model_options, this)
        with watched(this, prompts, model_options["transformer_options"]):
            comfy.samplers.calc_cond_batch(self.inner_model, [prompts], x, timestep, model_options)


def extract_priors(
    foreground_model: ModelPatcher, conditioning: list, latent: dict, seed: int, noise_percent: float, hardness: float = 10.0
) -> PriorRecord:
    """Noise a foreground latent to timestep noise_percent * T and return the priors of one evaluation of eps_FG.

    foreground_model: patched the ordinary way; noise_percent in (0, 1], 0.8 = the paper's Fig. 2.
    """
    require_sdxl(foreground_model, "foreground_model")
    check_conditioning(foreground_model, conditioning, "foreground")
    if not 0 < noise_percent <= 1:
        raise ValueError(f"noise_percent: expected above 0 and up to 1 (0.8 = the paper's figure), got {noise_percent}")
    require_one("latent_image", latent)
    require_layer("latent_image", latent)
    samples = check_latent(foreground_model, latent)
    sampling = foreground_model.get_model_object("model_sampling")
    timestep = torch.tensor(noise_percent * (len(sampling.sigmas) - 1))
    sigmas = torch.stack([sampling.sigma(timestep).cpu().float(), torch.tensor(0.0)])

    blending = Blending(StreamLayout(), LayerFusionOptions(hardness=hardness))
    run = Run(settings_for(blending, foreground_model), samples.shape)
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    _PriorGuider(foreground_model, run, conditioning).sample(
        noise, samples, _OneEvaluation(), sigmas, disable_pbar=True, seed=seed
    )
    return run.record.finish()
