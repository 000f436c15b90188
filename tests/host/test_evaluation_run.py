"""The evaluation as `dev.py evaluate` runs it: a worker on the host, killed and resumed, then the report."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import comfy.supported_models
import comfy.utils
import folder_paths
import pytest
import tiny
import tiny_checkpoint
import torch
from safetensors.torch import save_file
from test_condition_on_layers import differences

from devtools import evaluate
from layerfusion_pack.evaluation import generate, methods, models, prompts, results, run
from layerfusion_pack.layerfusion_core.host.models.demo import MODELS

CHECKOUT = Path(__file__).resolve().parents[2]


def test_run_resume_and_report(host, tmp_path, monkeypatch, caplog):
    """Made in this process, then gone on with by a worker in its own, as `dev.py evaluate` starts it."""
    command = ["--out", str(tmp_path), "--n", "2", "--steps", "2", "--methods", "adapt,sequential",
               "--size", "128", "--ensemble", "1"]  # fmt: skip
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", comfy.utils.PROGRESS_BAR_ENABLED)
    caplog.set_level(logging.INFO)
    assert run.main(command) == 0
    assert "done 6 of 6" in caplog.text
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {(row["method"], row["index"]) for row in rows} == {
        (method, index) for method in ("independent", "adapt", "sequential") for index in (0, 1)
    }
    assert all(row["alpha_iou"] == 1.0 for row in rows if row["method"] != "adapt")
    (tmp_path / "results.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])  # killed while it wrote
    evaluate._work([*evaluate._part(CHECKOUT, "run", host), *command], 1, tmp_path)
    assert evaluate.progress([tmp_path / "worker-1.log"]) == (1, 1)
    evaluate._script(CHECKOUT, "report", str(tmp_path))
    assert (tmp_path / "table.md").read_text().count("(2 pairs)") == 2
    assert (tmp_path / "index.html").read_text().count("<img ") == 6


def test_layerdiffuses_three_runs(tmp_path, caplog):
    """The foreground is that of the unblended run; what is made of it follows it; without the files they are named."""
    caplog.set_level(logging.INFO)
    command = ["--out", str(tmp_path), "--n", "2", "--steps", "2", "--size", "64", "--ensemble", "1"]
    assert run.main([*command, "--methods", "layerdiffuse"]) == 0
    rgba, background, blended = results.load_trios(tmp_path, "layerdiffuse", [0, 1])
    alone, _, unblended = results.load_trios(tmp_path, "independent", [0, 1])
    assert torch.allclose(rgba, alone, atol=0.02) and not torch.allclose(blended, unblended, atol=0.1)
    assert {row["method"] for row in results.read(tmp_path)} == {"independent", "layerdiffuse"}
    elsewhere = tmp_path / "models"
    shutil.copytree(MODELS, elsewhere)
    assert models.steps(str(elsewhere)) == {} and set(models.steps("demo")) == {"fg2ble", "fgble2bg"}
    with pytest.raises(SystemExit):
        run.main([*command, "--methods", "layerdiffuse", "--models", str(elsewhere)])
    assert run.main([*command[:2], "--n", "0", "--methods", "main", "--models", str(elsewhere)]) == 0
    assert "layerdiffuse is left out: it needs layer_xl_fg2ble.safetensors and layer_xl_fgble2bg" in caplog.text


def test_a_pair_is_the_same_in_any_batch():
    settings = models.Settings(size=64, steps=2, cfg=4.5, ensemble=1)
    maker = generate.Generator(models.load("demo"), settings)
    pairs = [pair for pair in prompts.read(prompts.FOLDER / "demo.txt")[:5] if "glass" not in pair.foreground]
    together = maker.trios(methods.ALL["adapt"], pairs[:3])
    alone = maker.trios(methods.ALL["adapt"], pairs[2:3])
    for name in ("foreground", "alpha", "background", "blended"):
        assert torch.allclose(getattr(together, name)[2:], getattr(alone, name), atol=1e-3)


def test_a_folder_with_a_checkpoint_and_layer_models(tmp_path, monkeypatch):
    """The layout for real weights, with a tiny checkpoint and the demo's decoder in their places."""
    places = {name: (list(paths), exts) for name, (paths, exts) in folder_paths.folder_names_and_paths.items()}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", places)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    known = comfy.supported_models.models
    monkeypatch.setattr(comfy.supported_models, "models", [*known, tiny_checkpoint.TinySDXLFile])
    layer_model = tmp_path / "layer_model"
    layer_model.mkdir()
    (tmp_path / "checkpoints").mkdir()
    tiny_checkpoint.write_checkpoint(tmp_path / "checkpoints" / "tiny.safetensors")
    save_file(tiny.foreground_file(tiny.tiny_sdxl()), str(layer_model / "layer_xl_transparent_attn.safetensors"))
    shutil.copy(MODELS / "transparent_decoder.safetensors", layer_model / "vae_transparent_decoder.safetensors")
    for kind in ("fg2ble", "fgble2bg"):
        tensors = {f"{key}::diff::0": value for key, value in differences(kind).items()}
        save_file(tensors, str(layer_model / f"layer_xl_{kind}.safetensors"))
    assert not models.is_demo(str(tmp_path))
    assert len(models.fingerprint(str(tmp_path))) == 16
    found = dataclasses.replace(models.load(str(tmp_path)), vae=models.load("demo").vae)  # the file's has no real weights
    maker = generate.Generator(found, models.Settings(size=64, steps=1, cfg=7.0, ensemble=1))
    pairs = prompts.read(prompts.FOLDER / "real.txt")[:1]
    for method in ("adapt", "layerdiffuse"):
        trios = maker.trios(methods.ALL[method], pairs)
        assert trios.alpha.shape == (1, 64, 64)
        assert trios.blended.shape == trios.background.shape == trios.foreground.shape == (1, 64, 64, 3)


def test_prompts_of_other_lengths_get_batches_of_their_own():
    maker = generate.Generator(models.load("demo"), models.DEMO)
    pairs = prompts.read(prompts.FOLDER / "demo.txt")[:40]
    groups = maker.groups(pairs, 10)
    assert sorted(pair.index for group in groups for pair in group) == list(range(40))
    assert all(len({"glass" in pair.foreground for pair in group}) == 1 for group in groups)
    assert max(map(len, groups)) <= 10
