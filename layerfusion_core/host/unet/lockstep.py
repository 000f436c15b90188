"""Two models that do not share their weights, in lock step: they exchange their attention outputs and blend them.

The host evaluates the base model on the rows of all streams. Where it would call the UNet for a chunk of them, the
foreground rows go through the foreground model in a thread instead, the others through the base model, and the two
forwards meet at every attention output. So both sides run the same chunk, whatever the host's memory makes of it, and
each model keeps its own patches, wrappers, prediction type and number format.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import comfy.model_patcher
import comfy.model_sampling
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP, merge_nested_dicts

from ...method.prior_maps import Block
from ..models.families import family_name
from .blocks import block_channels
from .compiled import uncompiled
from .forward import PART, Part
from .handover import Walk
from .install import install
from .per_stream import KEY
from .row_terms import require_understood
from .run import pass_of

log = logging.getLogger(__name__)

READY = "layerfusion_foreground_model"  # in transformer_options: the `Ready` foreground model
_OWN = ("patches", "patches_replace", "wrappers", "callbacks")  # transformer_options that each model has of its own


@dataclass(frozen=True)
class Ready:
    """The foreground model while a sampler runs; travels in transformer_options.

    options: its model_options; replace: the base model's patches_replace, which the host may have moved for this run.
    """

    options: dict
    replace: dict
    threads: ThreadPoolExecutor


class LockStep:
    """The foreground model beside a base model, for the runs of one guider."""

    def __init__(self, base: ModelPatcher, foreground_model: ModelPatcher):
        self.foreground_model = install(foreground_model)
        self._base = base.model_options

    def sample(self, executor, guider, sigmas: torch.Tensor, extra_args: dict, *args, **kwargs):
        """SAMPLER_SAMPLE wrapper: the foreground model is ready for as long as the sampler runs."""
        self._check_start(float(sigmas[0]))
        model, call = self.foreground_model, extra_args["model_options"]["transformer_options"]  # the host's copy for this run
        options = comfy.model_patcher.create_model_options_clone(model.model_options)
        comfy.sampler_helpers.prepare_model_patcher(model, {}, options)
        comfy.samplers.cast_to_load_options(options, device=model.load_device, dtype=model.model_dtype())
        # One thread for the whole run: libraries keep plans and buffers per thread.
        threads = ThreadPoolExecutor(1, thread_name_prefix="layerfusion")
        call[READY] = Ready(options, call.get("patches_replace", {}), threads)
        try:
            model.pre_run()
            return uncompiled(executor, guider, sigmas, extra_args, *args, **kwargs)
        except BaseException:
            model.cleanup()  # the host's own clean-up of additional models is for runs that end well
            raise
        finally:
            threads.shutdown()
            comfy.samplers.cast_to_load_options(options, device=model.offload_device)

    def denoise(self, apply_model: Callable, args: dict) -> torch.Tensor:
        """model_function_wrapper: denoise one chunk of rows, those of the foregrounds by the foreground model."""
        this = pass_of(args["c"]["transformer_options"])
        if this.prior:
            return self._by_foreground_model(args)
        layout = this.settings.layout
        streams = range(layout.foreground_count), range(layout.foreground_count, layout.count)
        counts = [len(own) for own in streams]
        theirs, ours = (_rows_of(args, own, layout.count) for own in streams)

        def forward(stop: Callable) -> torch.Tensor:
            return self._by_foreground_model(theirs, Part(streams[0], lambda place, n, blend: stop((place, n))))

        with Walk(args["c"]["transformer_options"][READY].threads, args["input"].device, forward) as walk:
            at = walk.advance()

            def meet(place: tuple[Block, str], n: torch.Tensor, blend: Callable) -> torch.Tensor:
                nonlocal at
                if walk.ended or at[0] != place:
                    raise _out_of_step(place, "its end" if walk.ended else at[0])
                a = at[1]
                groups = [x.unflatten(0, (-1, count)) for x, count in zip((a, n), counts)]
                foregrounds, others = blend(torch.cat(groups, dim=1)).split(counts, dim=1)  # cat promotes unlike dtypes
                at = walk.advance(foregrounds.flatten(0, 1).to(a.dtype))
                return others.flatten(0, 1).to(n.dtype)

            call = ours["c"]["transformer_options"]
            ours["c"]["transformer_options"] = {**call, PART: Part(streams[1], meet)}
            base = _apply(apply_model, self._base.get("model_function_wrapper"), ours)
            if not walk.ended:
                raise _out_of_step("its end", at[0])
        groups = [x.unflatten(0, (-1, count)) for x, count in zip((at, base), counts)]
        return torch.cat(groups, dim=1).flatten(0, 1)

    def _by_foreground_model(self, args: dict, part: Part | None = None) -> torch.Tensor:
        """The foreground model's own call for rows that are all its own."""
        call = args["c"]["transformer_options"]
        ready: Ready = call[READY]
        options = self._transformer_options(call, ready)
        if part is not None:
            options[PART] = part
        args = {**args, "c": {**args["c"], "transformer_options": options}}
        return _apply(self.foreground_model.model.apply_model, ready.options.get("model_function_wrapper"), args)

    def _transformer_options(self, call: dict, ready: Ready) -> dict:
        """The foreground model's transformer_options, with what the base model's have for this very call.

        That is the host's account of the call (sigmas, conditionings), and attention that a guidance node of the base
        model swaps in for a second call: guidance is for all streams.
        """
        base, hooked = self._base["transformer_options"], self.foreground_model.apply_hooks(hooks=None)
        options = merge_nested_dicts(hooked, ready.options["transformer_options"], copy_dict1=False)
        options.update({key: value for key, value in call.items() if key not in _OWN and key not in base})
        replace = dict(options.get("patches_replace", {}))
        for site, patches in call.get("patches_replace", {}).items():
            known = ready.replace.get(site, {})
            swapped = {place: p for place, p in patches.items() if known.get(place) is not p}
            replace[site] = {**replace.get(site, {}), **swapped}
        return {**options, "patches_replace": replace}

    def _check_start(self, sigma: float) -> None:
        highest = float(self.foreground_model.get_model_object("model_sampling").sigma_max)
        if sigma > 1.01 * highest:
            raise ValueError(
                f"sampling starts at sigma {sigma:.1f}, but foreground_model knows noise up to {highest:.1f} only: put "
                "Model Sampling Discrete with zsnr off on base_model, or give both models the same noise schedule"
            )


def install_pair(base: ModelPatcher, foreground_model: ModelPatcher) -> ModelPatcher:
    """Return a clone of `base` that runs the foreground streams through `foreground_model`, in lock step with its own.

    Both are loaded by the host together. ValueError when the two cannot meet at every attention.
    """
    check_pair(base, foreground_model)
    if not foreground_model.patches:
        log.info("foreground_model carries no patches: taking its checkpoint for one with foreground weights merged in")
    step = LockStep(base, foreground_model)
    model = install(base)
    # Functions, not methods: hosts before 0.14 copy bound methods, with all they hold, when a model is cloned.
    model.set_model_unet_function_wrapper(lambda apply_model, args: step.denoise(apply_model, args))
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, lambda *args, **kwargs: step.sample(*args, **kwargs))
    model.add_callback_with_key(
        CallbacksMP.ON_PREPARE_STATE, KEY, lambda patcher, *args: step.foreground_model.prepare_state(*args)
    )
    model.set_additional_models(KEY, [step.foreground_model])
    return model


def check_pair(base: ModelPatcher, foreground_model: ModelPatcher) -> None:
    """ValueError unless two SDXL models with weights of their own can run in lock step."""
    ours, theirs = (block_channels(model) for model in (base, foreground_model))
    if ours != theirs:
        raise ValueError(
            f"base_model ({family_name(base)}, {len(ours)} attention blocks) and foreground_model "
            f"({family_name(foreground_model)}, {len(theirs)} attention blocks) differ in their structure: expected two "
            "checkpoints of the same layout, for example two SDXL ones"
        )
    channels = [model.model.diffusion_model.in_channels for model in (base, foreground_model)]
    formats = [type(model.get_model_object("latent_format")).__name__ for model in (base, foreground_model)]
    flows = [
        isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST) for model in (base, foreground_model)
    ]
    devices = [model.load_device for model in (base, foreground_model)]
    for what, (one, other) in (
        ("input channels of the UNet", channels),
        ("latent format", formats),
        ("flow sampling", flows),
        ("device", devices),
    ):
        if one != other:
            raise ValueError(
                f"base_model and foreground_model differ in their {what} ({one} and {other}): two checkpoints can work "
                "on one picture only if it is the same for both"
            )
    for key, entries in foreground_model.patches.items():
        for entry in entries:
            require_understood(key, entry[1], "foreground_model")
    after = base.model_options.get("sampler_post_cfg_function", [])
    if any(getattr(function, "__module__", "").endswith("nodes_sag") for function in after):
        raise ValueError(
            "Self-Attention Guidance is on base_model, and foreground_model is another checkpoint: it needs one network "
            "that sees all layers. Use Perturbed-Attention Guidance, or one checkpoint for both"
        )
    if base.additional_models.get("multigpu"):
        raise ValueError(
            "base_model is spread over several GPUs, and foreground_model is another checkpoint: use one GPU, or one "
            "checkpoint for both (foreground_checkpoint 'same as base')"
        )


def _apply(apply_model: Callable, wrapper: Callable | None, args: dict) -> torch.Tensor:
    """Call a model as the host does, through the model's own model_function_wrapper if it has one."""
    if wrapper is not None:
        return wrapper(apply_model, args)
    return apply_model(args["input"], args["timestep"], **args["c"])


def _rows_of(args: dict, own: range, count: int) -> dict:
    """A call's arguments for some of the `count` streams of every sample."""
    rows = args["input"].shape[0]

    def take(value):
        if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == rows:
            return value.unflatten(0, (-1, count))[:, own.start : own.stop].flatten(0, 1)
        if isinstance(value, dict):
            return {key: take(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(take(item) for item in value)
        return value

    given = {key: value if key == "transformer_options" else take(value) for key, value in args["c"].items()}
    sigmas = args["c"]["transformer_options"]["sigmas"]
    given["transformer_options"] = {
        **args["c"]["transformer_options"],
        "sigmas": sigmas[: sigmas.shape[0] // count * len(own)],
    }
    return {**args, "input": take(args["input"]), "timestep": take(args["timestep"]), "c": given}


def _out_of_step(ours: object, theirs: object) -> ValueError:
    return ValueError(
        f"base_model came to {ours} when foreground_model came to {theirs}: a node on one of them skips or repeats "
        "blocks of the UNet, which two checkpoints in lock step cannot do; remove it"
    )
