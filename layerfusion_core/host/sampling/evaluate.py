"""One evaluation of the model by a sampler: the paper's sections 2.1 to 2.3 from top to bottom."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..unet.calls import not_called
from ..unet.run import Pass, Run


def evaluate(
    run: Run,
    x: torch.Tensor,
    sigma: float,
    prior_pass: Callable[[torch.Tensor, Pass], object],
    shared_pass: Callable[[torch.Tensor, Pass], torch.Tensor],
) -> torch.Tensor:
    """The denoised prediction x0 (N * S, 4, h, w) of noisy latents x (N * S, 4, h, w) at noise level sigma.

    Rows are the streams of N samples, S = K foregrounds + blended + background. prior_pass: shows eps_FG the foreground
    rows of x (N * K, 4, h, w) with their prompts alone; shared_pass: all rows, by eps_FG or eps, positive and negative,
    guided. Maps are s' (N * K, M) and c^l (N * K, M_l) of every block l of M_l tokens.
    """
    blending = run.settings.blending
    if not run.settings.blends_at(sigma):
        return shared_pass(x, Pass(run))  # S pictures that do not know of each other

    # 2.1 Structure and content confidence priors: of x itself, or those that the evaluation before has read in passing.
    maps = run.maps
    if blending.reads_priors(len(run.record.maps)):
        prior = Pass(run, prior=True, reads=True)
        prior_pass(x, prior)
        maps = prior.maps_read() or run.maps  # a cache of blocks (WaveSpeed's) may spare them: the last ones stay
    if maps is None:
        raise not_called(run.settings.callers)

    # 2.2 Masks (N, K, M_l) from the maps, and 2.3 blending with them: in the UNet, after each attention of each block.
    shared = Pass(run, maps=maps, reads=blending.hands_priors_on)
    denoised = shared_pass(x, shared)

    run.remember(sigma, maps, shared.maps_read())
    if run.rises:  # one prediction for two layers is a way to one scene, not back to the noise of each
        return denoised
    return blending.predictions(denoised, maps)
