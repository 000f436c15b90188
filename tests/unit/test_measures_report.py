"""Prompt lists, result lines, table and page of the evaluation, without a host."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from layerfusion_pack.evaluation import (
    drawings,
    light,
    methods,
    models,
    page,
    plan,
    prompts,
    report,
    results,
    table,
    truth,
)


def rows(count: int = 30) -> list[dict]:
    """Lines of two methods whose outside PSNR differs by 2 dB on every pair."""
    noise = np.random.default_rng(1).normal(size=count)
    made = []
    for name, shift in (("independent", 0.0), ("adapt", 2.0)):
        for index in range(count):
            line = {"key": "k", "method": name, "index": index, "foreground": "a red <circle>", "background": "sky"}
            made.append({**line, "outside_psnr": 20.0 + shift + noise[index], "seconds": 1.0, "flicker": None})
    return made


def test_the_demo_list_is_what_its_script_writes(tmp_path):
    prompts.main(path=tmp_path / "demo.txt")
    assert (tmp_path / "demo.txt").read_text() == (prompts.FOLDER / "demo.txt").read_text()


def test_the_lists_are_long_enough_and_balanced():
    pairs = prompts.read(prompts.FOLDER / "demo.txt")
    assert len(pairs) >= 200
    assert len({(p.foreground, p.background) for p in pairs}) == len(pairs)
    first = pairs[:50]
    for words, least, most in ((prompts.OBJECTS, 3, 4), (prompts.COLOURS, 7, 10)):
        for word in words:
            assert least <= sum(word in p.foreground.split() for p in first) <= most, word
    for place in (*prompts.PLACES, *prompts.PATTERNS):
        assert 3 <= sum(p.background.endswith(place) for p in first) <= 4, place
    assert 9 <= sum("glass" in p.foreground for p in first) <= 16
    assert len(prompts.read(prompts.FOLDER / "real.txt")) >= 60


def test_prompt_lines(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# head\na cat | a sofa # a comment\n\na cat | a sofa | a cat on a sofa\n")
    first, second = prompts.read(path)
    assert (first.index, first.blended_text) == (0, "a cat, a sofa")
    assert (second.index, second.blended_text) == (1, "a cat on a sofa")
    path.write_text("a cat, a sofa\n")
    with pytest.raises(ValueError, match=r'list\.txt, line 1: expected "foreground \| background"'):
        prompts.read(path)


def test_methods_start_with_the_reference_and_refuse_unknown_names():
    assert [m.name for m in methods.select("adapt,literal")] == ["independent", "adapt", "literal"]
    assert [m.name for m in methods.select("main")] == [m.name for m in methods.MAIN]
    assert len(methods.select("all")) == len(methods.ALL)
    others = {methods.SEQUENTIAL, methods.LAYERDIFFUSE}
    assert all(method.options["background_mode"] for method in methods.ALL.values() if method.name not in others)
    with pytest.raises(ValueError, match="unknown method 'adept'; known: main"):
        methods.select("adept")


def test_a_folder_that_holds_no_models(tmp_path):
    with pytest.raises(ValueError, match="one SDXL checkpoint in checkpoints"):
        models.files(str(tmp_path))


def test_lines_survive_a_kill_and_keep_to_their_key(tmp_path):
    results.append(tmp_path, [{"key": "a", "method": "adapt", "index": 0, "x": math.nan}])
    results.append(tmp_path, [{"key": "b", "method": "adapt", "index": 0, "x": 0.123456789}])
    with (tmp_path / results.LINES).open("a") as file:
        file.write('{"key": "b", "meth')
    assert results.read(tmp_path, "a") == [{"key": "a", "method": "adapt", "index": 0, "x": None}]
    assert results.read(tmp_path, "b")[0]["x"] == pytest.approx(0.12346)
    results.append(tmp_path, [{"key": "b", "method": "adapt", "index": 1}])
    assert [row["index"] for row in results.latest(tmp_path)] == [0, 1]


def test_bootstrap_interval_holds_the_mean_of_what_was_drawn():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400).tolist()
    found = table.bootstrap(values)
    assert found.low < 3.0 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert table.bootstrap([]).count == 0


def test_paired_differences_are_sharper_than_means():
    found = table.estimate(rows(), "adapt", "outside_psnr", "independent")
    assert found.mean == pytest.approx(2.0)
    assert found.high - found.low < 1e-6


def test_table_and_csv():
    text = table.of_methods(rows(), ["independent", "adapt"], table.COLUMNS, "setting")
    assert text.count("\n") == 4 and text.splitlines()[1] == "|" + "---|" * (1 + len(table.COLUMNS))
    assert "| adapt | 21.9 ± 0.3 |" in text
    assert "| - |" in text  # no flicker was measured
    assert "adapt,outside_psnr,30,21.9" in table.as_csv(rows())


def test_the_page_holds_its_pictures_and_escapes_prompts(tmp_path):
    trio = np.zeros((16, 16, 4)), np.full((16, 16, 3), 0.5), np.ones((16, 16, 3))
    results.save_pictures(tmp_path, "adapt", 0, *trio)
    text = page.document(tmp_path, "a title", [table.markdown(["<i>"], [[1]])], rows(), ["independent", "adapt"], pairs=2)
    assert text.count("<img ") == 1
    assert "data:image/jpeg;base64," in text
    assert "a red &lt;circle&gt;" in text
    assert "<th>&lt;i&gt;</th>" in text and "http" not in text and "<script" not in text
    assert page.sheet(tmp_path, ["adapt"], [0, 0]).size == (384, 18 + 262)


def test_the_plan_names_what_there_is():
    for question in plan.QUESTIONS:
        assert set(question.methods) <= set(methods.ALL)
        assert set(question.columns) <= set(table.KNOWN)
        assert question.against in ("", question.methods[0])
    counts = plan.counts()
    assert next(iter(counts)) == methods.INDEPENDENT
    assert {counts[name] for name in plan.MODES} == {plan.PAIRS}
    assert min(counts.values()) == plan.TREND
    assert plan.counts(quick=True).keys() == counts.keys()


def test_an_answer_takes_the_pairs_that_all_methods_have():
    lines = [row for row in rows() if (row["method"], row["index"]) != ("adapt", 7)]
    question = plan.Question("q", ("independent", "adapt"), ("outside_psnr",))
    assert "the same 29 pairs" in report.answer(lines, question)
    assert "the same 24 pairs" in report.answer(lines, dataclasses.replace(question, skip=5))
    assert "not made" in report.answer(lines, dataclasses.replace(question, glass=True))
    assert "not made" in report.answer(lines, dataclasses.replace(question, methods=("adapt", "share")))
    text = report.answer(rows(), dataclasses.replace(question, against="independent"))
    assert "; differences to independent" in text
    assert "| adapt | +2.0 ± 0.0 |" in text
    assert "| no blending (strength 0) | 19.9 ± 0.3 |" in text


def test_the_page_has_a_place_for_every_table(tmp_path):
    results.append(tmp_path, rows())
    text = (prompts.FOLDER.parents[1] / "docs" / "evidence.md").read_text(encoding="utf-8")
    tables = report.tables(tmp_path, report.merged(tmp_path))
    assert report.fill(text, tables).count("not made yet") == len(tables)
    with pytest.raises(ValueError, match="the page has places for"):
        report.fill(text, {**tables, "more": ""})


def test_shadow_and_light_are_found_in_drawn_composites_and_not_in_pasted_ones(tmp_path):
    scenes = drawings.scenes_module()
    item = scenes.Item("apple", "red", False, (0.5, 0.5), 0.6, 0.5)
    drawn = scenes.draw(scenes.Scene((item,), "meadow", None, False, (0.1, 0.6, 0.3, 0.8)), 128)
    foreground = np.concatenate([drawn.colour, drawn.alpha], axis=-1)
    pasted = drawn.colour * drawn.alpha + drawn.background * (1 - drawn.alpha)
    row = {"method": "share", "index": 0, "foreground": "a red apple", "background": "a meadow"}
    named = truth.named("a red apple", "a meadow")
    results.save_pictures(tmp_path, "share", 0, foreground, drawn.background, drawn.composite)
    lit = light.judge(tmp_path, row, named)
    assert (lit.found, lit.turned, lit.in_alpha) == (1.0, 0.0, 0.0)
    assert (lit.shift - lit.drawn).abs().max() < 0.005 and lit.drawn.abs().max() > 0.03
    results.save_pictures(tmp_path, "share", 0, foreground, drawn.background, pasted)
    lit = light.judge(tmp_path, row, named)
    assert lit.found == 0.0 and lit.shift.abs().max() < 0.02
