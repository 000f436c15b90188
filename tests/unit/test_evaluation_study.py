"""The preference study: pages that give nothing away, and a summary that takes each person once."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from layerfusion_pack.evaluation import results, study


@pytest.fixture
def out(tmp_path):
    """Results of two methods on three pairs."""
    rng = np.random.default_rng(0)
    for method in ("independent", "adapt"):
        for index in range(3):
            results.save_pictures(tmp_path, method, index, *(rng.random((16, 16, c)) for c in (4, 3, 3)))
            results.append(tmp_path, [{"key": "k", "method": method, "index": index, "foreground": "a </script> cat",
                                       "background": "a sofa"}])  # fmt: skip
    return tmp_path


def vote(out, person: str, score, study: str = "") -> object:
    """A file of votes as the page saves it; score: a function of the method."""
    key = json.loads((out / "study-key.json").read_text())
    votes = {name: score(item["method"]) for name, item in key["items"].items()}
    path = out / f"votes-{person}-{len(list(out.glob('votes-*')))}.json"
    path.write_text(json.dumps({"study": study or key["study"], "participant": person, "votes": votes}))
    return path


def test_the_pages_give_nothing_away(out):
    assert study.main([str(out), "--methods", "adapt", "--pairs", "2"]) == 0
    assert sorted(path.name for path in (out / "study").iterdir()) == ["index.html", "rate.html"]
    assert "<b>4</b> sets" in (out / "study" / "index.html").read_text()
    text = (out / "study" / "rate.html").read_text()
    assert "adapt" not in text and "independent" not in text and "http" not in text and "@" not in text
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text)[1])
    assert len(data["items"]) == 4
    assert data["items"][0]["object"] == "a </script> cat"
    assert all(item[layer].startswith("data:image/jpeg") for item in data["items"] for layer in results.STREAMS)
    key = json.loads((out / "study-key.json").read_text())["items"]
    assert {(item["method"], item["index"]) for item in key.values()} == {(m, i) for m in ("independent", "adapt") for i in (0, 1)}
    assert set(key) == {item["id"] for item in data["items"]}


def test_votes_are_summed_up_by_method(out):
    study.main([str(out), "--methods", "adapt", "--pairs", "3"])
    files = [vote(out, "Ann", lambda method: 1), vote(out, "Ann", lambda method: 4 if method == "adapt" else 2),
             vote(out, "Bo", lambda method: 5 if method == "adapt" else 2)]  # fmt: skip
    assert study.main([str(out), "--votes", *map(str, files)]) == 0
    text = (out / "votes.md").read_text()
    assert text.startswith("2 people, 12 votes")
    assert "| no blending (strength 0) | 6 | 2.00 ± 0.00 | 2.00 ± 0.00 |" in text
    assert "| adapt | 6 | 4.50 ± 0.50 | 4.50 ± 0.00 |" in text


def test_files_that_are_no_votes_of_this_study(out, tmp_path):
    with pytest.raises(ValueError, match="study-key.json is missing"):
        study.summary(out, [])
    study.main([str(out), "--methods", "adapt"])
    with pytest.raises(ValueError, match="holds no votes of study"):
        study.summary(out, [vote(out, "Ann", lambda method: 3, "another")])
    with pytest.raises(ValueError, match="expected scores of 1 to 5"):
        study.summary(out, [vote(out, "Ann", lambda method: 6)])
    with pytest.raises(SystemExit):
        study.main([str(out), "--methods", "share"])
