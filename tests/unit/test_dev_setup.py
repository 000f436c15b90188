"""Finding a ComfyUI and an environment, and remembering that the environment is filled."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pytest

import dev
from layerfusion_pack.devtools import demo, environment, hosts, packages, pins, server
from layerfusion_pack.devtools.console import Problem


def make_host(folder: Path, version: str = "1.2.3") -> Path:
    (folder / "comfy_execution").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "requirements.txt").write_text("torch\n")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_hosts_are_tried_in_the_documented_order(home, tmp_path, monkeypatch):
    elsewhere = tmp_path / "checkout"
    assert hosts.find(elsewhere) is None
    plain = make_host(home / "ComfyUI")
    assert hosts.find(elsewhere) == plain
    default = make_host(home / "comfy" / "ComfyUI")
    assert hosts.find(elsewhere) == default
    around = make_host(tmp_path / "mine")
    assert hosts.find(around / "custom_nodes" / "any name") == around
    chosen = make_host(tmp_path / "chosen")
    monkeypatch.setenv("COMFYUI_PATH", str(chosen))
    assert hosts.find(around / "custom_nodes" / "any name") == chosen


def test_a_wrong_comfyui_path_is_not_passed_over(home, tmp_path, monkeypatch):
    make_host(home / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nothing here"))
    with pytest.raises(Problem, match="nothing here, but there is no ComfyUI"):
        hosts.find(tmp_path)


def test_the_version_is_read_from_the_files(tmp_path):
    assert hosts.version(make_host(tmp_path / "a", "0.3.64")) == "0.3.64"
    assert hosts.version(tmp_path) == "unknown"


def script(path: Path, text: str) -> Path:
    """A program of the tests' own."""
    if sys.platform == "win32":
        pytest.skip("the stand-ins for programs are shell scripts")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Replaces git by a shell script."""

    def say(text: str) -> None:
        script(tmp_path / "bin" / "git", text)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    return say


def test_without_a_way_to_comfyui_nothing_is_begun_and_one_line_says_why(home, git, capsys):
    git("echo 'fatal: could not resolve host' >&2; exit 128")
    assert hosts.install() is None and not home.exists()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "fatal: could not resolve host" in lines[0] and "COMFYUI_PATH" in lines[0]


@pytest.fixture
def installer(tmp_path, git, monkeypatch):
    """Replaces comfy-cli by a shell script, which sees the home that it is given and --workspace as $4."""
    git("echo 0123 HEAD")
    monkeypatch.setattr(packages, "make", lambda venv: None)
    monkeypatch.setattr(packages, "install", lambda python, arguments, log: log.touch() or arguments == ["comfy-cli"])

    def say(text: str) -> None:
        program = script(tmp_path / "comfy", f"shift; {text}")
        monkeypatch.setattr(packages, "python_in", lambda venv: program)

    return say


SETTINGS = 'echo set > "$HOME/settings"; echo "$DO_NOT_TRACK $VIRTUAL_ENV" > "{told}"; mkdir -p "$4/part"; '


def test_a_failed_install_leaves_nothing(home, installer, tmp_path, capsys):
    home.mkdir()
    installer(SETTINGS.format(told=tmp_path / "told") + "echo 'fatal: early EOF'; exit 1")
    assert hosts.install() is None
    assert list(home.iterdir()) == [] and re.fullmatch("1 .+/venv\n", (tmp_path / "told").read_text())
    assert "early EOF" in capsys.readouterr().out.splitlines()[-1]


def test_an_install_leaves_comfyui_alone_and_what_is_in_the_way_stays(home, installer, tmp_path, capsys):
    (home / "comfy" / "notes").mkdir(parents=True)
    installer(SETTINGS.format(told=tmp_path / "told") + 'touch "$4/main.py"; mkdir "$4/comfy_execution"')
    target = home / "comfy" / "ComfyUI"
    assert hosts.install() == target
    assert sorted(path.name for path in home.rglob("*")) == ["ComfyUI", "comfy", "comfy_execution", "main.py", "notes", "part"]
    (target / "main.py").unlink()
    assert hosts.install() is None and (target / "part").is_dir()
    assert "holds no ComfyUI" in capsys.readouterr().out.splitlines()[-1]


@pytest.fixture
def environment_of(tmp_path, monkeypatch):
    """An environment that exists on paper: what it holds, what is asked for, what can be had, what cannot be imported."""

    class Paper:
        python = packages.python_in(tmp_path / ".venv")
        have: dict[str, str] = {"python": "3.11.7"}
        broken: list[dict[str, str]] = []
        calls: list[list[str]] = []
        removed: list[str] = []

        @staticmethod
        def refuses(arguments: list[str], lines: list[str]) -> bool:
            return False

    paper = Paper()
    paper.have, paper.broken, paper.calls, paper.removed = dict(Paper.have), [], [], []

    def install(python, arguments, log):
        lines = Path(arguments[1]).read_text().splitlines() if arguments[0] == "-c" else []
        paper.calls.append([*lines, *arguments])
        log.write_text("ERROR: no space left\n")
        return not paper.refuses(arguments, lines)

    paper.python.parent.mkdir(parents=True)
    monkeypatch.setattr(packages, "install", install)
    monkeypatch.setattr(packages, "find_uv", lambda python: Path("uv"))
    monkeypatch.setattr(packages, "remove", lambda python, names, log: paper.removed.extend(names))
    monkeypatch.setattr(environment, "installed", lambda python: paper.have)
    monkeypatch.setattr(environment, "imports", lambda python, names: paper.broken.pop(0) if paper.broken else {})
    monkeypatch.delenv("LAYERFUSION_VENV", raising=False)
    return paper


def test_a_filled_environment_is_not_filled_again(tmp_path, environment_of):
    host, paper = make_host(tmp_path / "host"), environment_of
    environment.install(paper.python, tmp_path, host, evaluation=True)
    assert len(paper.calls) == 1 and "torchaudio" in paper.calls[0] and "torchmetrics>=1.4" in paper.calls[0]
    environment.install(paper.python, tmp_path, host)
    environment.install(paper.python, tmp_path, None, evaluation=True)
    assert len(paper.calls) == 1
    (host / "requirements.txt").write_text("torch\nnew-thing\n")
    environment.install(paper.python, tmp_path, host)
    assert len(paper.calls) == 2 and "torchmetrics>=1.4" not in paper.calls[1]


def test_torch_and_torchvision_come_as_a_pair_also_where_the_versions_run_together_are_not_to_be_had(
        tmp_path, environment_of):
    paper = environment_of
    paper.refuses = lambda arguments, lines: any(line.startswith("torch==") for line in lines)
    environment.install(paper.python, tmp_path, None)
    first, second, third = paper.calls
    assert {"torch==2.11.0", "torchvision==0.26.0", "numpy==2.4.6; python_version >= \"3.11\""} <= {*first}
    assert {"torch==2.11.0", "torchvision==0.26.0"} <= {*second} and not any(line.startswith("numpy==") for line in second)
    assert not any("==" in line for line in third) and {"torch", "torchvision"} <= {*third}


@pytest.mark.parametrize(("have", "want"), [
    ({}, {}),
    ({"torch": "2.9.1+cu128"}, {"torch": "==2.9.1+cu128", "torchvision": "==0.24.*", "torchaudio": "==2.9.*"}),
    ({"torch": "2.11.0", "torchvision": "0.29.1"}, {"torch": "==2.11.0", "torchvision": "==0.26.*", "torchaudio": "==2.11.*"}),
    ({"torchvision": "0.26.0"}, {"torch": "==2.11.*", "torchvision": "==0.26.0", "torchaudio": "==2.11.*"}),
    ({"torch": "2.14.1", "torchaudio": "2.11.0"}, {"torch": "==2.14.1", "torchvision": "==0.29.*", "torchaudio": "==2.11.0"}),
    ({"torch": "2.1.2", "torchvision": "0.16.2"}, {"torch": "==2.1.2", "torchvision": "==0.16.2", "torchaudio": "==2.1.*"}),
    ({"torch": "1.13.1"}, {}),
], ids=str)  # fmt: skip
def test_what_is_missing_beside_a_torch_belongs_to_it(have, want):
    assert pins.torch_family(have) == want
    lines = pins.constraints(have, pins.TORCH)
    assert want.items() <= {name: version for name, version in (re.split("(?===)", line) for line in lines)}.items()


def test_an_environment_of_the_users_keeps_what_it_holds_and_is_named_before_it_is_filled(
        tmp_path, environment_of, monkeypatch, capsys):
    paper, yours = environment_of, tmp_path / "yours"
    monkeypatch.setenv("LAYERFUSION_VENV", str(yours))
    paper.have.update({"torch": "2.9.1", "torchvision": "0.20.0", "numpy": "1.26.4"})
    python = packages.python_in(yours)
    python.parent.mkdir(parents=True)
    environment.install(python, tmp_path, None)
    assert {"torch==2.9.1", "torchvision==0.24.*", "numpy==1.26.4"} <= {*paper.calls[0]}
    lines = capsys.readouterr().out.splitlines()
    assert str(yours) in lines[0] and "holds 3 packages" in lines[0]
    assert "torchvision 0.20.0 belongs to another torch" in lines[1] and "diffusers" in lines[2]


def test_the_torchvision_of_another_build_is_asked_for_where_that_build_came_from(tmp_path, environment_of):
    environment_of.have["torch"] = "2.13.0+cpu"
    environment.install(environment_of.python, tmp_path, None)
    assert environment_of.calls[0][-2:] == ["https://download.pytorch.org/whl/cpu", "torchvision==0.28.*"]


def test_a_package_that_single_tests_use_and_that_is_not_to_be_had_stops_nothing(tmp_path, environment_of, capsys):
    paper = environment_of
    paper.refuses = lambda arguments, lines: "psd-tools>=1.26" in arguments
    environment.install(paper.python, tmp_path, None)
    assert "psd-tools>=1.26 could not be installed" in capsys.readouterr().out
    assert any("ruff>=0.6" in call and "torch" not in call for call in paper.calls)
    paper.have["python"] = "3.10.13"
    paper.calls.clear()
    (tmp_path / ".venv" / environment.STAMP).unlink()
    environment.install(paper.python, tmp_path, None)
    assert len(paper.calls) == 1  # not even asked for


def test_a_failing_installer_stops_with_the_end_of_its_output(tmp_path, environment_of):
    environment_of.refuses = lambda arguments, lines: True
    with pytest.raises(Problem, match="no space left"):
        environment.install(environment_of.python, tmp_path, None)


def test_a_package_that_cannot_be_imported_is_named_with_what_to_do(tmp_path, environment_of, monkeypatch):
    paper = environment_of
    paper.broken = [{"transformers": "ValueError: no", "diffusers": "because of that"}] * 2
    with pytest.raises(Problem, match=r"transformers .* cannot be imported: ValueError: no. With it: diffusers.\n.*delete"):
        environment.install(paper.python, tmp_path, None)
    monkeypatch.setenv("LAYERFUSION_VENV", str(tmp_path / "yours"))
    with pytest.raises(Problem, match="--force-reinstall transformers.*unset LAYERFUSION_VENV"):
        environment.install(paper.python, tmp_path / "elsewhere", None)


def test_a_torchvision_that_does_not_work_is_taken_out_again(tmp_path, environment_of, monkeypatch, capsys):
    paper = environment_of
    have = [paper.have, paper.have, {**paper.have, "torch": "2.13.0+cpu", "torchvision": "0.28.0"}, paper.have]
    monkeypatch.setattr(environment, "installed", lambda python: have.pop(0))
    paper.broken = [{"torchvision": "RuntimeError: operator torchvision::nms does not exist", "diffusers": "x"}, {}]
    environment.install(paper.python, tmp_path, None)
    assert paper.removed == ["torchvision"] and "going on without it" in capsys.readouterr().out


def test_imports_are_tried_in_a_process_and_the_cause_comes_first(monkeypatch):
    monkeypatch.setattr(environment, "IMPORTS", {"a": "import json", "b": "raise RuntimeError('no\\nway')", "c": "import nope_"})
    assert environment.imports(Path(sys.executable), ["c", "b", "a"]) == {
        "b": "RuntimeError: no way", "c": "ModuleNotFoundError: No module named 'nope_'"}  # fmt: skip
    monkeypatch.setattr(environment, "IMPORTS", {"a": "import json", "b": "import os; os._exit(3)"})
    assert "code 3" in environment.imports(Path(sys.executable), ["a", "b"])["b"]


def test_the_versions_run_together_hold_all_that_is_asked_for_and_the_projects_extras():
    asked = [packages.key(re.split("[<>=]", name)[0])
             for name in [*environment.NEEDED, *environment.HELPFUL, *environment.EVALUATION, "torchaudio"]]  # fmt: skip
    lines = [line for line in pins.CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    assert {*asked} <= {packages.key(line.split("==")[0]) for line in lines}
    extras = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    extras = extras[extras.index("[project.optional-dependencies]"):extras.index("[build-system]")]
    assert {packages.key(name) for name in re.findall(r'"([\w-]+)', extras)} <= {*asked}


@pytest.mark.parametrize("uv_works", [True, False])
def test_uv_is_told_what_pip_is_told_and_pip_follows_where_it_fails(tmp_path, monkeypatch, uv_works):
    python = script(tmp_path / "bin" / "python", f"""
        if [ "$3" = config ]; then echo "global.index-url='https://a'"; echo "install.index-url='https://b'"
        echo ":env:.find-links='/one /two'"; else echo "pip $*" >> {tmp_path}/calls; fi""")
    script(tmp_path / "bin" / "uv", f'echo "uv $*" >> {tmp_path}/calls; exit {0 if uv_works else 2}')
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    assert packages.install(python, ["thing"], tmp_path / "log")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "--default-index https://b --find-links /one --find-links /two thing" in calls[0]
    assert [call.split()[0] for call in calls] == ["uv"] + ([] if uv_works else ["pip"])


@pytest.mark.parametrize(("command", "with_host", "wanted"), [
    (["demo"], True, False), (["test"], True, True), (["test"], False, False), (["evaluate"], True, False),
    (["evaluate", "--metrics", "folder"], True, True),
], ids=str)  # fmt: skip
def test_what_only_the_evaluation_needs_is_installed_when_it_is_asked_for(monkeypatch, tmp_path, command, with_host, wanted):
    asked = []
    monkeypatch.setattr(dev.environment, "find_or_make", lambda checkout: Path("python"))
    monkeypatch.setattr(dev.hosts, "find", lambda checkout: tmp_path if with_host else None)
    monkeypatch.setattr(dev.hosts, "install", lambda: None)
    monkeypatch.setattr(dev.environment, "install", lambda *args, evaluation: asked.append(evaluation))
    dev.prepare(dev.parse(command)[0])
    assert asked == [wanted]


@pytest.mark.parametrize(("engine", "what"), [(None, "set COMFYUI_PATH"), ("reference", "leave out --engine reference")])
def test_the_reference_engines_demo_ends_with_the_word_that_comfyui_was_not_used(tmp_path, monkeypatch, capsys, engine, what):
    record = {"settings": dict(foreground="a", background="b", seed=1, steps=2), "seconds": {}}
    monkeypatch.setattr(demo, "_reference", lambda *args: record)
    options = argparse.Namespace(engine=engine, out=tmp_path)
    assert demo.run(Path(__file__).resolve().parents[2], None, options) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("ComfyUI was not used") and what in last


def test_half_of_an_environment_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.sys, "executable", str(script(tmp_path / "python", 'mkdir -p "$3/bin"; echo why; exit 1')))
    with pytest.raises(Problem, match="why"):
        packages.make(tmp_path / "venv")
    assert not (tmp_path / "venv").exists()


def test_a_wrong_layerfusion_venv_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERFUSION_VENV", str(tmp_path))
    with pytest.raises(Problem, match="LAYERFUSION_VENV"):
        environment.find_or_make(tmp_path)


def test_a_linked_folder_shows_the_files_of_the_checkout(tmp_path):
    (tmp_path / "some other name").mkdir()
    (tmp_path / "some other name" / "file").write_text("content")
    server.link(tmp_path / "some other name", tmp_path / "layerfusion")
    assert (tmp_path / "layerfusion" / "file").read_text() == "content"


def test_a_port_in_use_is_replaced_by_a_free_one():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert server.free_port(port) not in (0, port)
