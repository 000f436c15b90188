"""LayerFusion runs and their stock runs in a process with the host's launch options: python launch_probe.py HOST OPTIONS...

Prints a line of JSON: what the host made of the options, and how far the layers are from the stock KSampler's.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOST = sys.argv.pop(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[0] = HOST
sys.path += [str(HERE), str(HERE.parents[1])]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

from comfy.cli_args import args  # noqa: E402

args.cpu = True  # set here: the host takes no --cpu beside its options for video memory

import comfy.ldm.modules.attention as attention  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402

from devtools.pack import register_pack  # noqa: E402

register_pack()

import runs  # noqa: E402
import tiny  # noqa: E402
import tiny_checkpoint  # noqa: E402


def offload(share: float) -> None:
    """Let the host keep all but `share` of each model's bytes offloaded, which it does on accelerators only."""
    load = ModelPatcher.load

    def partly(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        return load(self, device_to, max(0.1, share * self.model_size()), force_patch_weights, False)

    ModelPatcher.load = partly
    management.is_device_cpu = lambda device: False


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Deviation as a share of the expected values' own."""
    return float((found - expected).std() / expected.std())


def load(path: Path, seed: int) -> ModelPatcher:
    """A checkpoint of random weights, written and loaded by the host."""
    tiny_checkpoint.write_checkpoint(path, seed=seed, clip=False)
    return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


def measures(base: ModelPatcher, foreground: ModelPatcher) -> dict:
    """How far the layers of a pair of models are from the stock KSampler's, and from each other where they should be."""
    layers, _ = runs.layered((base, foreground), steps=2, strength=0.0)
    blended, record = runs.layered((base, foreground), steps=2)
    alone = [runs.stock(m, p, steps=2) for m, p in zip((foreground, base, base), runs.prompts())]
    return {
        "gaps": [gap(a, b) for a, b in zip(layers, alone)],
        "blended": [gap(a, b) for a, b in zip(blended, layers)],
        "foreground": gap(runs.stock(base, runs.prompts()[0], steps=2), alone[0]),
        "maps": len(record.maps),
        "offloaded": all(
            any(getattr(m, "comfy_cast_weights", False) for m in model.model.modules()) for model in (base, foreground)
        ),
    }


if args.lowvram or args.novram:
    offload(0.0 if args.novram else 0.4)
comfy.supported_models.models.append(tiny_checkpoint.TinySDXLFile)
with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
    base, other = (load(Path(folder) / f"tiny{seed}.safetensors", seed) for seed in (0, 5))
    file = tiny.foreground_file(base)
    report = {
        "dtype": str(base.model_dtype()).removeprefix("torch."),
        "attention": attention.optimized_attention.__name__,
        "one checkpoint": measures(base, tiny.with_foreground(base, file)),
        "two checkpoints": measures(base, tiny.with_foreground(other, file)),
    }
print(json.dumps(report))
