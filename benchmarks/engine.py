"""Seconds per step of LayerFusion beside the stock sampler on a batch of as many layers, in one process, side by side.

    python benchmarks/engine.py --host DIR [--shape demo|sdxl | --depth [CHANNELS]] [--size PIXELS ...] [--batch N ...]
                                [--foregrounds K] [--steps N] [--repeats N] [--dtype fp16] [--two-checkpoints]
                                [--clock wall|cpu] [--profile] [--count | --setup]

`python dev.py bench` finds the host and the environment. The stock run denoises a row for each layer (K foregrounds, blended,
background) with the base model, which is the least that as many pictures can cost; stock runs of one picture each, one after
another, are the least that making the layers in sequence can cost. Every repeat runs all settings in turn, so that ratios hold
when the machine's speed drifts; medians are printed. `sdxl` is SDXL's
shape with random weights and rank-256 foreground weights,
--depth its 70 blocks at fewer channels and rank 4. --count counts the kernels of an evaluation and the bytes they move
(`counting.py`) instead of measuring time, --setup measures what comes before a queue's first evaluation. Several sizes
and batches make a table.
With --two-checkpoints the same foreground model is also run as a checkpoint of its own, in lock step with the base.
--clock cpu counts processor time, which other programs on a busy machine disturb less. --profile adds, on a GPU, the
kernels of two evaluations of each setting: how many are launched, and how long the GPU works.
"""

from __future__ import annotations

import argparse
import copy
import math
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from devtools.pack import register_pack, start_host

SDXL_UNET = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4],
    transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
    transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], use_linear_in_transformer=True, context_dim=2048,
    num_classes="sequential", adm_in_channels=2816, use_spatial_transformer=True, legacy=False,
    use_temporal_attention=False, use_temporal_resblock=False,
)  # fmt: skip
STOCK, SEQUENCE = "stock, one batch", "stock, in sequence"
SETTINGS = {
    "strength 0": {"strength": 0.0},
    "previous_step": {"prior_mode": "previous_step"},
    "exact": {"prior_mode": "exact"},
}


def random_sdxl(dtype, channels: int = 320, context: int = 2048, pooled: int = 1280, rank: int = 256):
    """(base, foreground) MODELs of SDXL's blocks, random weights."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch
    from comfy.weight_adapter import LoRAAdapter

    device = comfy.model_management.get_torch_device()
    shape = {**SDXL_UNET, "model_channels": channels, "context_dim": context, "adm_in_channels": pooled + 1536}
    config = comfy.supported_models.SDXL(shape)
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device))
    model = config.get_model({}, device="cpu")
    noise = torch.randn(2**22, generator=torch.Generator().manual_seed(0))
    for name, p in model.diffusion_model.named_parameters():  # one block of noise, repeated: drawing 2.6 G values is slow
        values = noise.repeat(-(-p.numel() // noise.numel()))[: p.numel()].view(p.shape)
        if p.ndim > 1:
            p.data.copy_(values / math.sqrt(p[0].numel()))
        else:
            p.data.copy_(1 + 0.1 * values if name.endswith("weight") else 0.1 * values)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    base = patcher(model.eval(), load_device=device, offload_device=comfy.model_management.unet_offload_device())
    patches = {}
    for name, weight in model.named_parameters():
        if name.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight")):
            out, into = weight.shape
            up, down = noise[: out * rank].view(out, rank) * 0.01, noise[: rank * into].view(rank, into) / math.sqrt(into)
            patches[name] = LoRAAdapter(set(), (up.to(torch.float16), down.to(torch.float16), None, None, None, None))
    foreground = base.clone()
    foreground.add_patches(patches, 1.0)
    return base, foreground


def second_checkpoint(base, foreground):
    """The foreground MODEL with weights of its own: a copy of the base's, and the foreground's patches on it."""
    network = copy.deepcopy(base.model)
    model = type(base)(network, load_device=base.load_device, offload_device=base.offload_device)
    for key, entries in foreground.patches.items():
        for strength, patch, *_ in entries:
            model.add_patches({key: patch}, strength)
    return model


def print_counts(title: str, runs: dict, options: argparse.Namespace, run) -> None:
    """Print what one evaluation of each setting launches and moves, in multiples of the stock run."""
    from counting import per_evaluation

    def sample(chosen, steps: int) -> None:
        options.steps = steps
        run(chosen)

    sys.stdout.write(f"\n{title}, per evaluation\n")
    plain = None
    for name, chosen in runs.items():
        launches, moved = per_evaluation(lambda steps, chosen=chosen: sample(chosen, steps))
        plain = plain or (launches, moved)
        sys.stdout.write(
            f"{name:22s} {launches:7d} launches {launches / plain[0]:5.2f} x stock   "
            f"{moved / 2**20:8.0f} MiB {moved / plain[1]:5.2f} x stock\n"
        )


def print_setup(title: str, runs: dict, options: argparse.Namespace, run, models: list) -> None:
    """Print what a queue does before its first evaluation, the first and the later ones: milliseconds, weights touched."""
    from comfy.model_patcher import ModelPatcher

    started: list[float] = []
    touched: list[str] = []
    hooks = [
        model.model.diffusion_model.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
        for model in {id(model.model): model for model in models}.values()
    ]
    patch = ModelPatcher.patch_weight_to_device

    def patched(self, key, *more, **named):
        touched.append(key)
        return patch(self, key, *more, **named)

    ModelPatcher.patch_weight_to_device = patched
    options.steps = 1
    sys.stdout.write(f"\n{title}, before the first evaluation\n")
    try:
        for name, chosen in runs.items():
            if name == SEQUENCE:
                continue
            found = []
            for _ in range(options.repeats + 1):
                started.clear(), touched.clear()
                begin = time.perf_counter()
                run(chosen)
                found.append(((started[0] - begin) * 1000, len(touched)))
            later = statistics.median(milliseconds for milliseconds, _ in found[1:])
            sys.stdout.write(
                f"{name:22s} first queue {found[0][0]:7.1f} ms, {found[0][1]} weights patched   "
                f"later {later:7.1f} ms, {max(count for _, count in found[1:])} weights patched\n"
            )
    finally:
        ModelPatcher.patch_weight_to_device = patch
        for hook in hooks:
            hook.remove()


def profile(name: str, run) -> None:
    """Print the GPU kernels of one run: how many, how long, and the ten that take longest."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CUDA]) as found:
        run()
    kernels = found.key_averages()
    count = sum(k.count for k in kernels)
    total = sum(k.self_device_time_total for k in kernels) / 1000
    sys.stdout.write(f"\n{name}: {count} kernels and copies, {total:.1f} ms of GPU time\n")
    for k in sorted(kernels, key=lambda k: -k.self_device_time_total)[:10]:
        sys.stdout.write(f"  {k.self_device_time_total / 1000:9.2f} ms  {k.count:6d} x  {k.key[:90]}\n")


def print_times(title: str, runs: dict, options: argparse.Namespace, run) -> None:
    """Print seconds a step of each setting beside the stock run, and its peak of GPU memory."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, float] = {}
    with torch.inference_mode():
        for repeat in range(options.repeats + 1):
            for name, chosen in runs.items():
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                seconds = run(chosen)
                if torch.cuda.is_available():
                    peaks[name] = torch.cuda.max_memory_allocated() / 2**30
                if repeat or options.repeats == 0:  # the first round warms up
                    times[name].append(seconds)
    plain = times[STOCK]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    sys.stdout.write(f"\n{title}, {torch.get_num_threads()} threads, {device}\n")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, plain))
        peak = f"   {peaks[name]:6.2f} GiB" if name in peaks else ""
        sys.stdout.write(f"{name:22s} {statistics.median(seconds):8.4f} s a step   {ratio:5.2f} x stock{peak}\n")
    if options.profile and torch.cuda.is_available():
        options.steps = 2  # the last thing that is done
        with torch.inference_mode():
            for name, chosen in runs.items():
                profile(name, lambda chosen=chosen: run(chosen))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=Path, required=True)
    parser.add_argument("--shape", choices=["demo", "sdxl"], default="demo")
    parser.add_argument("--depth", type=int, nargs="?", const=64)
    parser.add_argument("--size", type=int, nargs="+")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--foregrounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--two-checkpoints", action="store_true")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--setup", action="store_true")
    options = parser.parse_args()
    start_host(options.host)
    register_pack()
    import comfy.sample
    import comfy.utils
    import torch

    from layerfusion_pack.layerfusion_core.host.models.demo import load_demo
    from layerfusion_pack.layerfusion_core.host.sampling.ksampler import sample_layers
    from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
    from layerfusion_pack.layerfusion_core.method.streams import Layers

    comfy.utils.set_progress_bar_enabled(False)
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[options.dtype]
    if options.depth:
        (base, foreground), sizes = random_sdxl(dtype, options.depth, 64, 32, 4), options.size or [256]
    elif options.shape == "demo":
        demo = load_demo()
        base, foreground, sizes = demo.base, demo.foreground_model, options.size or [256]
    else:
        (base, foreground), sizes = random_sdxl(dtype), options.size or [1024]
    name = f"70 blocks at {options.depth} channels" if options.depth else options.shape
    count = options.foregrounds + 2
    runs: dict[str, tuple | int] = {STOCK: 1, SEQUENCE: count}  # stock: runs, together of as many pictures as there are layers
    runs.update({name: (foreground, choice) for name, choice in SETTINGS.items()})
    if options.two_checkpoints:
        other = second_checkpoint(base, foreground)
        runs.update({f"two, {name}": (other, choice) for name, choice in SETTINGS.items()})
    width, pooled = base.model.model_config.unet_config["context_dim"], base.model.adm_channels - 1536
    prompts = [
        [[text, {"pooled_output": torch.zeros(1, pooled), "layerfusion_eos": [9]}]]
        for text in torch.randn(4, 1, 77, width, generator=torch.Generator().manual_seed(0))
    ]
    streams = Layers((prompts[0],) * options.foregrounds, *prompts[1:3])
    latent = torch.zeros(0)  # that of the size and batch under way

    def stock(pictures: int) -> torch.Tensor:
        pictures = latent.repeat(pictures, 1, 1, 1)
        return comfy.sample.sample(
            base, comfy.sample.prepare_noise(pictures, 1), options.steps, 7.0, "euler", "normal", prompts[1], prompts[3],
            pictures, seed=1, disable_pbar=True,
        )  # fmt: skip

    def run(chosen: tuple | int) -> float:
        start = clock()
        if isinstance(chosen, int):
            found = [stock(count // chosen) for _ in range(chosen)]
        else:
            model, choice = chosen
            layers, _ = sample_layers(
                base, model, streams, prompts[3], {"samples": latent}, 1, options.steps, 7.0, "euler", "normal", 1.0,
                LayerFusionOptions(**choice),
            )  # fmt: skip
            found = [layer["samples"] for layer in layers.streams]
        seconds = clock() - start  # the results are in main memory: nothing is under way any more
        if not all(torch.isfinite(x).all() for x in found):
            sys.exit(f"{chosen}: the result is not finite")
        return seconds / options.steps

    for size in sizes:
        for batch in options.batch:
            latent = torch.zeros(batch, 4, size // 8, size // 8)
            title = f"{name}, {size} x {size}, batch {batch} of {count} layers, {options.dtype}"
            if options.count:
                print_counts(title, runs, options, run)
            elif options.setup:
                print_setup(title, runs, options, run, [base, foreground])
            else:
                print_times(title, runs, options, run)
    sys.stdout.write(f"peak process memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
