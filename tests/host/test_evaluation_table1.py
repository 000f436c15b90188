"""The paper's Table 1 with small or random stand-ins for CLIP and Inception: what it compares, and what it asks for."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from layerfusion_pack.evaluation import methods, results, table1

NOT_THERE = "TORCHMETRICS OR TORCH-FIDELITY IS MISSING: the paper's Table 1 was NOT tested (pip install the extra `evaluate`)"
pytest.importorskip("torchmetrics", reason=NOT_THERE)
inceptionv3 = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason=NOT_THERE)
PAIRS = 6


@pytest.fixture(scope="module")
def metrics(tmp_path_factory, host):
    """A folder with a tiny CLIP and an Inception of random weights, stored as the real ones are."""
    folder = tmp_path_factory.mktemp("metrics")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(text_config=small, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16)
    clip = CLIPModel(config)
    with torch.no_grad():  # positive cosines, which the score keeps
        for layer in (clip.text_model.final_layer_norm, clip.vision_model.post_layernorm):
            layer.bias.fill_(1.0)
        for layer in (clip.text_projection, clip.visual_projection):
            layer.weight.abs_()
    clip.save_pretrained(folder / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "clip")
    CLIPTokenizer.from_pretrained(host / "comfy" / "sd1_tokenizer").save_pretrained(folder / "clip")

    class Random(inceptionv3.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            """Keep the random weights."""

    path = folder / table1.INCEPTION
    torch.save({}, path)
    inception = Random("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    for layer in inception.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)  # else what distinguishes pictures fades from layer to layer
    torch.save(inception.state_dict(), path)
    return folder


@pytest.fixture
def out(tmp_path):
    """Results of PAIRS pairs: `adapt` is `reference` again, `share` has noise for backgrounds."""
    rng = np.random.default_rng(0)
    for index in range(PAIRS):
        layers = [np.repeat(rng.random((8, 8, c)), 8, axis=0).repeat(8, axis=1) for c in (4, 3, 3)]
        for method in (methods.REFERENCE, "adapt", "share"):
            background = rng.random((64, 64, 3)) if method == "share" else layers[1]
            results.save_pictures(tmp_path, method, index, layers[0], background, layers[2])
            results.append(tmp_path, [{"key": "k", "method": method, "index": index, "foreground": "a lizard",
                                       "background": "a stone"}])  # fmt: skip
    return tmp_path


@pytest.mark.slow
def test_equal_sets_have_no_distance_and_others_have(out, metrics):
    assert table1.main([str(out), "--metrics", str(metrics)]) == 0
    lines = (out / "table1.md").read_text().splitlines()
    assert lines[0].startswith(f"| setting (the same {PAIRS} pairs) | FG CLIP | FG KID | FG FID | BG CLIP")
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in lines[2:])}
    assert set(rows) == {"adapt", "share"}
    fid = {name: [abs(float(row[i])) for i in (2, 5)] for name, row in rows.items()}
    assert max(fid["adapt"]) < 0.02 and fid["share"][0] < 0.02
    assert fid["share"][1] > 10 * max(fid["adapt"][1], 0.01)
    assert rows["adapt"][0] == rows["share"][0] != rows["adapt"][3]  # CLIP of the same foregrounds, and of backgrounds


def test_distances_are_the_published_ones():
    """FID of two Gaussians by its formula |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)); KID of one distribution is nil."""
    torch.manual_seed(0)
    a, b = torch.randn(3000, 4), 2 * torch.randn(3000, 4) + 1
    kid, fid = table1.distances(a, b)
    assert float(fid) == pytest.approx(4 * 1 + 4 * (1 + 4 - 2 * 2), rel=0.05)
    assert float(kid.split()[0]) > 0.5
    kid, fid = table1.distances(a, torch.randn(3000, 4))
    assert abs(float(kid.split()[0])) < 0.02 and float(fid) < 0.05


def test_missing_files_are_named_and_not_fetched(out, metrics, tmp_path, capsys):
    folder = tmp_path / "empty"
    with pytest.raises(ValueError, match=r"lacks clip/config.json, clip/model.safetensors.*huggingface.co/openai/clip-vit"):
        table1.require(folder)
    (folder / "clip").mkdir(parents=True)
    for name in table1.CLIP_FILES:
        (folder / "clip" / name).touch()
    with pytest.raises(ValueError, match="weights-inception-2015-12-05-6726825d.pth; put that file"):
        table1.require(folder)
    with pytest.raises(SystemExit):
        table1.main([str(out), "--metrics", str(folder)])
    assert "weights-inception" in capsys.readouterr().err


def test_the_reference_must_be_there(tmp_path, out, metrics):
    rows = [row for row in results.latest(out) if row["method"] != methods.REFERENCE]
    with pytest.raises(ValueError, match="0 pairs with results of adapt, share, reference"):
        table1.table(out, rows, metrics)


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch_fidelity" else object())
    with pytest.raises(ValueError, match="pip install torch-fidelity$"):
        table1._require_packages()
