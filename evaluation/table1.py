"""The paper's Table 1 for results made with real weights: CLIP score, KID and FID of foregrounds and backgrounds.

    python evaluation table1 DIR --metrics FOLDER        adds table1.md to the results in DIR

LayerDiffuse against LayerFusion, as in the paper, wherever the folder of models has LayerDiffuse's fg2ble and fgble2bg.
Wants the method `reference` among the results: unblended layers from another seed. Its foregrounds are LayerDiffuse's and
its backgrounds the base model's, and KID and FID are distances to these; those of `independent`, the same distribution,
show what N pictures can resolve. Foregrounds are laid on mid grey. Needs the packages of the extra `evaluate`
(torchmetrics, torch-fidelity, transformers); nothing is downloaded, FOLDER holds

    clip/                                           a CLIP model as Hugging Face stores it (openai/clip-vit-large-patch14)
    weights-inception-2015-12-05-6726825d.pth       torch-fidelity's Inception v3
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import methods, results
from .table import MORE_COLUMNS, bootstrap, cell, markdown, present

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
CLIP_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
PACKAGES = ("torchmetrics", "torch-fidelity", "transformers")  # the extra `evaluate` of pyproject.toml
GREY = 0.5
BATCH = 8
WIDTH = 2048  # of Inception's features, as in the original FID
LAYERS = ("foreground", "background")
COSTS = ("seconds", "memory")  # of a trio


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--metrics", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(argv)
    try:
        text = table(options.out, results.latest(options.out), options.metrics)
    except ValueError as error:
        parser.error(str(error))
    (options.out / "table1.md").write_text(text, encoding="utf-8")
    return 0


def require(folder: Path) -> None:
    """ValueError that names each model file which is not there and where it is to be had."""
    missing = [f"clip/{name}" for name in CLIP_FILES if not (folder / "clip" / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}; put the files of huggingface.co/openai/clip-vit-large-patch14 into "
            f"{folder / 'clip'}"
        )
    if not (folder / INCEPTION).is_file():
        raise ValueError(
            f"{folder} lacks {INCEPTION}; put that file of torch-fidelity's release v0.2.0 "
            "(github.com/toshas/torch-fidelity/releases) there"
        )


def _require_packages() -> None:
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name.replace("-", "_")) is None]
    if lacking:
        raise ValueError(f"Table 1 needs {', '.join(lacking)}: pip install {' '.join(lacking)}")


def table(out: Path, rows: list[dict], folder: Path) -> str:
    """Table 1 as Markdown, a row per method; every method over the pairs that all have. ValueError for what is missing."""
    require(folder)
    _require_packages()
    names = [name for name in present(rows) if name != methods.REFERENCE]
    of = {name: {row["index"]: row for row in rows if row["method"] == name} for name in (*names, methods.REFERENCE)}
    pairs = sorted(set.intersection(*(set(found) for found in of.values())))
    if len(pairs) < 4:
        raise ValueError(f"{out} has {len(pairs)} pairs with results of {', '.join(of)}; Table 1 needs them all, at least 4 pairs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer, extractor = _clip(folder / "clip", device), _inception(folder / INCEPTION, device)
    costs = [column for column in MORE_COLUMNS if column.key in COSTS]
    head = [f"setting (the same {len(pairs)} pairs)",
            *(f"{layer[0].upper()}G {name}" for layer in LAYERS for name in ("CLIP", "KID", "FID")),
            *(column.heading for column in costs)]  # fmt: skip
    lines = []
    real = {layer: [_picture(out, methods.REFERENCE, i, layer, device) for i in pairs] for layer in LAYERS}
    features = {layer: _features(extractor, real[layer]) for layer in LAYERS}
    for name in names:
        cells = []
        for layer in LAYERS:
            made = [_picture(out, name, i, layer, device) for i in pairs]
            scores = [scorer(picture, of[name][i][layer]) for picture, i in zip(made, pairs)]
            cells.append(cell(bootstrap(scores)))
            cells += distances(features[layer], _features(extractor, made))
        cells += [cell(bootstrap([of[name][i][c.key] for i in pairs if of[name][i].get(c.key) is not None]), c) for c in costs]
        lines.append([methods.ALL[name].label, *cells])
    return markdown(head, lines)


def distances(real: Tensor, made: Tensor) -> list[str]:
    """KID (± its deviation over subsets) and FID between two sets of features (N, D)."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    plain = _Plain(real.shape[1])
    kid = KernelInceptionDistance(feature=plain, subset_size=min(1000, max(2, len(made) // 2)))
    fid = FrechetInceptionDistance(feature=plain)
    for metric in (kid, fid):
        metric.to(real.device)
        metric.update(real, real=True)
        metric.update(made, real=False)
    torch.manual_seed(0)  # of KID's subsets
    mean, deviation = kid.compute()
    return [f"{mean:.4f} ± {deviation:.4f}", f"{fid.compute():.2f}"]


class _Plain(torch.nn.Module):
    """Stands where the metrics expect a network: the features come through as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        return x


def _picture(out: Path, method: str, index: int, layer: str, device: torch.device) -> Tensor:
    """One layer as uint8 (3, H, W); a foreground on grey."""
    x = torch.from_numpy(results.load_picture(out, method, index, layer))
    if x.shape[-1] == 4:
        x = x[..., :3] * x[..., 3:] + GREY * (1.0 - x[..., 3:])
    return (x * 255).round().to(torch.uint8).permute(2, 0, 1).to(device)


def _features(extractor: Any, pictures: list[Tensor]) -> Tensor:
    """Inception's features of pictures (3, H, W) uint8: (N, D) on their device."""
    with torch.inference_mode():
        parts = [extractor(torch.stack(pictures[i : i + BATCH]))[0] for i in range(0, len(pictures), BATCH)]
    return torch.cat(parts).flatten(1).clone()


def _inception(path: Path, device: torch.device) -> Any:
    """FID's Inception v3 with the weights in `path`."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    model = FeatureExtractorInceptionV3("inception-v3-compat", [str(WIDTH)], feature_extractor_weights_path=str(path))
    return model.eval().to(device)


def _clip(folder: Path, device: torch.device) -> Any:
    """CLIP score 100 max(cos, 0) of a picture (3, H, W) and a text (Hessel et al. 2021), with the model in `folder`."""
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(folder, local_files_only=True).eval().to(device)
    processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)

    def score(picture: Tensor, text: str) -> float:
        inputs = processor(images=[picture.cpu()], text=[text], return_tensors="pt", truncation=True)
        with torch.inference_mode():
            found = model(**inputs.to(device))
        return 100.0 * torch.cosine_similarity(found.image_embeds, found.text_embeds).clamp_min(0).item()

    return score
