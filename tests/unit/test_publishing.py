"""What a visitor and the registry meet: one repository in all files, one version, tests before publishing, pictures that fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from layerfusion_pack.devtools import hosts, owner
from layerfusion_pack.devtools.console import Problem

CHECKOUT = Path(__file__).resolve().parents[2]
GITHUB = CHECKOUT / ".github"
ADDRESSES = re.compile(r"https://(?:github|raw\.githubusercontent)\.com/([\w-]+/[\w.-]+?)(?=\.git\b|[/\s)\"'`>]|$)")
OTHERS = {"citation-file-format", "comfyanonymous", "Comfy-Org", "huchenlei", "lllyasviel", "QwenLM", "toshas"}
"""Owners of other repositories that the texts may link to."""


def text(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def yaml_file(path: Path):
    return pytest.importorskip("yaml", reason="PYYAML IS MISSING: the hosted CI files were NOT tested").safe_load(
        path.read_text(encoding="utf-8")
    )


def linked(folder: Path) -> dict[str, set[str]]:
    """The repositories of ours that each file names."""
    found = {name: set(ADDRESSES.findall((folder / name).read_text(encoding="utf-8"))) for name in owner.FILES}
    return {name: {one for one in links if one.split("/")[0] not in OTHERS} for name, links in found.items()}


def test_all_files_name_one_repository():
    assert linked(CHECKOUT) == dict.fromkeys(owner.FILES, {owner.repository(CHECKOUT)})
    named = [path for path in CHECKOUT.rglob("*") if path.suffix in {".md", ".cff", ".yml", ".toml", ".json"}
             and not {".git", ".venv", "node_modules"} & set(path.parts) and path.is_file()]  # fmt: skip
    ours = {path.relative_to(CHECKOUT).as_posix() for path in named
            if any(one.split("/")[0] not in OTHERS for one in ADDRESSES.findall(path.read_text(encoding="utf-8")))}  # fmt: skip
    assert ours == {*owner.FILES}


def test_the_readme_clones_into_the_folder_that_the_registry_makes():
    command = f"git clone https://github.com/{owner.repository(CHECKOUT)} {owner.value(CHECKOUT, 'name')}"
    assert command in text("README.md")


def test_the_readme_is_short_before_its_reference_part():
    first, ruled, _ = text("README.md").partition("\n---\n")
    assert ruled and len(first.split()) < 900
    headings = re.findall(r"^## (.+)$", first, re.MULTILINE)
    assert headings == ["Install", "Which checkpoints", "Memory and time", "First run", "Your own layers", "Limits"]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_link_between_our_texts_leads_somewhere():
    files = [*CHECKOUT.glob("*.md"), *(path for folder in ("docs", "demo", "benchmarks", "evaluation", "tests")
                                       for path in (CHECKOUT / folder).rglob("*.md"))]  # fmt: skip
    lost = []
    for file in files:
        for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
            name, _, anchor = link.partition("#")
            target = file.parent / name if name else file
            if link.startswith("https://"):
                continue
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            if not target.exists() or anchor and anchor not in map(slug, headings):
                lost.append((file.name, link))
    assert lost == []


def test_one_command_sets_the_owner(tmp_path):
    for name in owner.FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, tmp_path / name)
    assert owner.set_owner(tmp_path, "https://github.com/some-one/their.layers", "someone") == list(owner.FILES)
    assert linked(tmp_path) == dict.fromkeys(owner.FILES, {"some-one/their.layers"})
    assert owner.problems(tmp_path, "https://github.com/Some-One/their.layers", f"v{owner.value(CHECKOUT, 'version')}") == []
    assert owner.set_owner(tmp_path, "https://github.com/some-one/their.layers.git", "someone") == []
    for address, publisher in (("github.com/a/b", "a"), ("https://github.com/a", "a"), ("https://github.com/a/b", "@a")):
        with pytest.raises(Problem, match="wanted"):
            owner.set_owner(tmp_path, address, publisher)


def test_nothing_is_published_for_nobody_from_elsewhere_or_under_another_version(tmp_path, capsys, monkeypatch):
    shutil.copyfile(CHECKOUT / "pyproject.toml", tmp_path / "pyproject.toml")
    toml = tmp_path / "pyproject.toml"
    monkeypatch.setattr(owner, "CHECKOUT", tmp_path)

    def check(*arguments: str) -> tuple[int, str]:
        return owner.main(["--check", *arguments]), capsys.readouterr().out

    toml.write_text(re.sub("OWNER/", "someone/", text("pyproject.toml")).replace('"OWNER"', '"someone"'), encoding="utf-8")
    repository, version = owner.repository(tmp_path), owner.value(tmp_path, "version")
    assert check("--here", f"https://github.com/{repository}", "--tag", f"v{version}") == (0, "")
    assert check("--here", "https://github.com/fork/layerfusion") == (
        1, f"this is https://github.com/fork/layerfusion, pyproject.toml says {repository}\n")  # fmt: skip
    code, said = check("--tag", "v9.9.9")
    assert code == 1 and f"whose tag is v{version}" in said
    toml.write_text(re.sub(f"{repository.split('/')[0]}/", "OWNER/", toml.read_text(encoding="utf-8")), encoding="utf-8")
    code, said = check()
    assert code == 1 and "not set" in said


def test_one_version():
    version = owner.value(CHECKOUT, "version")
    assert re.search(r"^version: (\S+)$", text("CITATION.cff"), re.MULTILINE)[1] == version
    assert re.search(r"^## (\d\S*)$", text("CHANGELOG.md"), re.MULTILINE)[1] == version


def test_the_citation_is_the_readmes():
    citation = yaml_file(CHECKOUT / "CITATION.cff")
    paper = citation["preferred-citation"]
    readme = re.sub(r"\s+", " ", text("README.md"))
    names = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    assert f"author = {{{names}}}" in readme and f"title = {{{paper['title']}}}" in readme
    assert f"journal = {{{paper['journal']}}}" in readme and f"year = {{{paper['year']}}}" in readme
    assert citation["repository-code"] == owner.value(CHECKOUT, "Repository") and citation["references"][0] == paper
    assert citation["license"] == "GPL-3.0-or-later"


def test_icon_and_banner_are_what_the_registry_takes():
    """A square of at most 400 pixels, and 21:9; the drawing beside each has its shape."""
    raw = f"https://raw.githubusercontent.com/{owner.repository(CHECKOUT)}/main/"
    shapes = {}
    for name in ("Icon", "Banner"):
        file = owner.value(CHECKOUT, name).removeprefix(raw)
        assert file == f"docs/{name.lower()}.png"
        with Image.open(CHECKOUT / file) as picture:
            shapes[name] = picture.size
            corner = picture.convert("RGBA").getpixel((0, 0))
        width, height = shapes[name]
        assert f'width="{width}" height="{height}"' in text(f"docs/{name.lower()}.svg").splitlines()[0]
        assert (corner[3] == 0) == (name == "Icon")  # round corners let the page through
        assert (CHECKOUT / file).stat().st_size < 500_000
    assert shapes["Icon"][0] == shapes["Icon"][1] <= 400
    assert shapes["Banner"][0] * 9 == shapes["Banner"][1] * 21


def test_publishing_waits_for_all_tests_and_for_the_owner():
    publish = yaml_file(GITHUB / "workflows/publish.yml")
    assert publish[True] == {"push": {"tags": ["v*"]}}  # YAML reads "on" as true
    jobs = publish["jobs"]
    assert jobs["tests"] == {"uses": "./.github/workflows/tests.yml"} and jobs["publish"]["needs"] == "tests"
    steps = [step.get("run") or step["uses"] for step in jobs["publish"]["steps"]]
    check, send = (next(i for i, step in enumerate(steps) if part in step) for part in ("devtools.owner --check", "publish-node"))
    assert check < send == len(steps) - 1


def test_hosted_tests_are_of_two_tiers_and_the_hosts_of_the_oldest_and_the_newest():
    tests = yaml_file(GITHUB / "workflows/tests.yml")
    assert "workflow_call" in tests[True] and tests["permissions"] == {"contents": "read"}
    jobs = tests["jobs"]
    assert jobs["with-host"]["needs"] == ["style", "without-host"]
    oldest = owner.value(CHECKOUT, "requires-comfyui").removeprefix(">=")
    assert [one["comfyui"] for one in jobs["with-host"]["strategy"]["matrix"]["include"]] == [f"v{oldest}", "newest"]
    assert jobs["with-host"]["env"]["UPSTREAM"] == hosts.REPOSITORY
    runs = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert runs["style"][-2:] == ["ruff check .", "basedpyright"]
    assert any("pytest" in run and "tests/unit tests/reference" in run for run in runs["without-host"])
    assert any(run.startswith("node --test tests/web/") for run in runs["without-host"])
    assert runs["with-host"][-2:-1] == ["python dev.py test"]


def test_a_report_asks_for_versions_and_the_record_of_a_run():
    form = yaml_file(GITHUB / "ISSUE_TEMPLATE/bug_report.yml")
    fields = {one["id"]: one for one in form["body"] if one["type"] != "markdown"}
    assert len(fields) == len(form["body"]) - 1
    asked = {name for name, one in fields.items() if one.get("validations", {}).get("required")}
    assert {"what", "log", "versions"} <= asked
    for word in ("ComfyUI:", "Frontend:", "LayerFusion", "GPU", "Nodes 2.0"):
        assert word in fields["versions"]["attributes"]["value"]
    assert "run.json" in fields["run"]["attributes"]["description"] and "docs/compatibility.md" in text(
        ".github/ISSUE_TEMPLATE/idea.yml"
    )


def test_the_readme_tells_a_newcomer_what_there_is_in_short():
    """What comes before the line above the nodes: under 900 words, pictures and links that are there."""
    readme = text("README.md")
    first, _, rest = readme.partition("\n---\n")
    words = re.sub(r"\]\([^)]*\)|[|*#`!\[\]-]", " ", first).split()
    assert 300 < len(words) < 900
    headings = re.findall(r"^## (.+)$", first, re.MULTILINE)
    assert headings == ["Install", "Which checkpoints", "Memory and time", "First run", "Your own layers", "Limits"]
    assert re.findall(r"^## (.+)$", rest, re.MULTILINE)[0] == "Nodes"
    links = [bracketed or plain for bracketed, plain in re.findall(r"\]\((?:<([^>]+)>|([^)\s]+))\)", readme)]
    local = [link for link in links if "://" not in link]
    places = {f"#{heading.lower().replace(' ', '-')}" for heading in re.findall(r"^## (.+)$", readme, re.MULTILINE)}
    assert [link for link in local if link not in places and not (CHECKOUT / link.split("#")[0]).is_file()] == []


def test_the_readme_lists_every_node_by_the_name_it_is_shown_with():
    nodes = text("README.md").split("\n## Nodes\n")[1].split("\n## ")[0]
    listed = ", ".join(re.findall(r"^\| ([^|]+) \|", nodes, re.MULTILINE)).replace("LayerFusion ", "").split(", ")
    names = [node["display_name"] for node in json.loads(text("locales/en/nodeDefs.json")).values()]
    shown = [part for name in names for part in name.replace("LayerFusion ", "").split(", ")]
    assert len(names) >= 24 and sorted(set(shown) - set(listed)) == []
