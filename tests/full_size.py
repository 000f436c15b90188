"""LayerDiffuse's weight files at full size: how long they take to load and bind, and how much memory. Not a pytest test.

    COMFYUI_PATH=... python tests/full_size.py [attn] [conv] [fg2ble] [fgble2bg] [bgble2fg] [--merge] [--folder DIR]

Each kind also as diffusers-attn, diffusers-fg2ble and so on: the Diffusers packaging.

Writes a full-shape SDXL UNet (fp16, random numbers, 5.1 GB) and the weight files asked for (0.7 to 3.6 GB each; attn
when none is named) into a temporary folder (or DIR, where they are kept and reused), then for each file, in a process
of its own: loads the UNet with the host's loader in fp16 on the CPU, reads the weights, binds them, makes the
LayerFusion KSampler's difference of them (of foreground weights), does it all again at another strength, and with --merge
also merges them as the stock KSampler would. Prints seconds, how many of them a core worked, and memory: `own` is what the process
allocated, `mapped` what it shows of the files (the system may drop that at any time).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from devtools.pack import register_pack, start_host

FILES = ("attn", "conv", "fg2ble", "bg2ble", "fgble2bg", "bgble2fg")
KINDS = (*FILES, *(f"diffusers-{name}" for name in FILES))
RANK = 256
SDXL_UNET = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4],
    transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
    transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], use_linear_in_transformer=True, context_dim=2048,
    num_classes="sequential", adm_in_channels=2816, num_heads=-1, num_head_channels=64, use_spatial_transformer=True,
    legacy=False, use_temporal_attention=False, use_temporal_resblock=False,
)  # fmt: skip


def import_host() -> None:
    """Put the ComfyUI of COMFYUI_PATH (or ~/comfy/ComfyUI) on the path."""
    start_host(Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI"))


def unet_shapes() -> dict[str, tuple[int, ...]]:
    """{parameter name: shape} of SDXL's UNet, from the host's own module without memory behind it."""
    import comfy.ops
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    operations = comfy.ops.disable_weight_init
    unet = UNetModel(**SDXL_UNET, device=torch.device("meta"), dtype=torch.float16, operations=operations)
    return {key: tuple(value.shape) for key, value in unet.state_dict().items()}


def file_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """{tensor name: shape} of a published file ("unet" for the checkpoint)."""
    import comfy.utils

    shapes = unet_shapes()
    if kind == "unet":
        return {f"model.diffusion_model.{key}": shape for key, shape in shapes.items()}
    attention = re.compile(r"\.attn[12]\.to_(q|k|v|out\.0)\.weight$")
    outside_conv = re.compile(r"\.to_[qkv]\.|^time_embed\.|^label_emb\.")
    in_transformer = re.compile(r"\.1\.(norm|proj_in|proj_out|transformer_blocks)\.")
    file = kind.removeprefix("diffusers-")
    if file == "attn":
        chosen = {key: shape for key, shape in shapes.items() if attention.search(key)}
    else:
        chosen = {key: shape for key, shape in shapes.items() if not outside_conv.search(key)}
    if file.endswith(("2ble", "2bg")):
        chosen = {key: shape for key, shape in chosen.items() if not in_transformer.search(key)}
    if channels := conditioned_channels(file):
        out, _, *sides = chosen["input_blocks.0.0.weight"]
        chosen["input_blocks.0.0.weight"] = (out, channels, *sides)
    if kind.startswith("diffusers"):
        theirs = {ours: name for name, ours in comfy.utils.unet_to_diffusers(SDXL_UNET).items()}
        return {theirs[key]: shape for key, shape in chosen.items()}
    if file != "attn":
        return {f"diffusion_model.{key}::diff::0": shape for key, shape in chosen.items()}
    halves = {}
    for key, (out, into) in chosen.items():
        halves[f"diffusion_model.{key}::lora::0"] = (out, RANK)
        halves[f"diffusion_model.{key}::lora::1"] = (RANK, into)
    return halves


def conditioned_channels(kind: str) -> int:
    """Channels of the first convolution of a file that is conditioned on layers, 0 for foreground weights."""
    name = kind.removeprefix("diffusers-")
    return 0 if name in ("attn", "conv") else 12 if "ble2" in name else 8


def write_random(path: Path, shapes: dict[str, tuple[int, ...]], scale: float) -> None:
    """Stream a safetensors file of fp16 numbers N(0, scale^2), drawn from a pool so that the disk sets the pace."""
    import torch

    pool = (torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)) * scale).half().numpy().tobytes()
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for index, entry in enumerate(header.values()):
            left = entry["data_offsets"][1] - entry["data_offsets"][0]
            start = 2 * (7919 * index % (1 << 20))
            while left:
                piece = pool[start : start + left]
                file.write(piece)
                left, start = left - len(piece), 0


class Memory:
    """Peak of the process's own memory and its present share of mapped files, in GB (Linux)."""

    def __init__(self) -> None:
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def now() -> tuple[float, float]:
        status = Path("/proc/self/status").read_text()
        anon, mapped = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1e6 for name in ("RssAnon", "RssFile"))
        return anon, mapped

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self.now()[0])
            time.sleep(0.02)


def run_stage(memory: Memory, name: str, action):
    """What `action` gives; prints its seconds and the memory after it."""
    memory.peak = memory.now()[0]
    start, worked = time.monotonic(), time.process_time()
    result = action()
    seconds, worked = time.monotonic() - start, time.process_time() - worked
    time.sleep(0.05)
    own, mapped = memory.now()
    sizes = f"own {own:5.2f} GB (peak {memory.peak:5.2f})   mapped {mapped:5.2f} GB"
    print(f"  {name:<24}{seconds:7.1f} s ({worked:5.1f} of a core)   {sizes}", flush=True)
    return result


def load_unet(unet: Path):
    """The MODEL of a checkpoint's UNet, in fp16."""
    import comfy.sd
    import torch

    options = {"dtype": torch.float16}
    return comfy.sd.load_checkpoint_guess_config(str(unet), output_vae=False, output_clip=False, model_options=options)[0]


def measure_conditioned(unet: Path, weights: Path, merge: bool, stage) -> None:
    """As `measure`, for a file that is conditioned on layers, which are random latents of 1024 x 1024 pixels."""
    import torch

    from layerfusion_pack.layerfusion_core.host.sampling.on_layers import condition_on_layers, load_conditional_weights

    with torch.inference_mode():
        model = stage("load the SDXL UNet", lambda: load_unet(unet))
        read = stage("read the weights", lambda: load_conditional_weights(str(weights)))
        given = {name: {"samples": torch.randn(1, 4, 128, 128)} for name in read.kind.given}
        conditioned = stage("bind them", lambda: condition_on_layers(model, read, given))
        print(f"  {len(conditioned.patches)} entries bound, none left over ({read.weights.packaging.value}, {read.kind.name})")
        read = conditioned = None  # a changed node's outputs are gone before it runs again
        weaker = stage(
            "again, strength 0.5", lambda: condition_on_layers(model, load_conditional_weights(str(weights)), given, 0.5)
        )
        if merge:
            stage("merge (stock KSampler)", lambda: weaker.patch_model(device_to=torch.device("cpu")))
            stage("take back", lambda: weaker.unpatch_model(device_to=torch.device("cpu")))


def measure(unet: Path, weights: Path, merge: bool) -> None:
    """Load, bind and (with merge) merge one file; print a line per stage."""
    import_host()
    register_pack()
    import torch

    from layerfusion_pack.layerfusion_core.host.models.foreground import apply_foreground, load_foreground_weights
    from layerfusion_pack.layerfusion_core.host.unet.delta import foreground_delta

    memory = Memory()
    stage = partial(run_stage, memory)
    if conditioned_channels(weights.stem):
        measure_conditioned(unet, weights, merge, stage)
        return

    with torch.inference_mode():
        model = stage("load the SDXL UNet", lambda: load_unet(unet))
        read = stage("read the weights", lambda: load_foreground_weights(str(weights)))
        foreground = stage("bind them", lambda: apply_foreground(model, read))
        print(f"  {len(foreground.patches)} entries bound, none left over ({read.packaging.value})")
        stage("make the difference", lambda: foreground_delta(model, foreground))
        read = foreground = None  # a changed node's outputs are gone before it runs again
        weaker = stage("again, strength 0.5", lambda: apply_foreground(model, load_foreground_weights(str(weights)), 0.5))
        stage("its difference", lambda: foreground_delta(model, weaker))
        if merge:
            stage("merge (stock KSampler)", lambda: weaker.patch_model(device_to=torch.device("cpu")))
            stage("take back", lambda: weaker.unpatch_model(device_to=torch.device("cpu")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="|".join(KINDS))
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure, options.merge)
        return
    unknown = set(options.kinds) - set(KINDS)
    if unknown:
        parser.error(f"expected {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    import_host()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ["unet", *(options.kinds or ["attn"])]:
            path = folder / f"{kind}.safetensors"
            if not path.exists():
                write_random(path, file_shapes(kind), 0.02 if kind == "unet" else 0.002)
            print(f"{kind}: {path.stat().st_size:,} bytes", flush=True)
            if kind != "unet":
                command = [sys.executable, __file__, "--measure", str(folder / "unet.safetensors"), str(path)]
                subprocess.run(command + ["--merge"] * options.merge, check=True)
                if options.folder is None:
                    path.unlink()


if __name__ == "__main__":
    main()
