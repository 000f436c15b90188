"""Finding a ComfyUI and an environment, and remembering that the environment is filled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from layerfusion_pack.devtools import environment, hosts, server
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


def test_a_failed_install_says_why_in_one_line_and_gives_none(home, tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'fatal: could not resolve host'\nexit 1\n")
    python.chmod(0o755)
    if sys.platform == "win32":
        pytest.skip("the stand-in for Python is a shell script")
    assert hosts.install(python) is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "fatal: could not resolve host" in lines[1] and "COMFYUI_PATH" in lines[1]


def test_a_filled_environment_is_not_filled_again(tmp_path, monkeypatch):
    host, python = make_host(tmp_path / "host"), environment.python_in(tmp_path / "venv")
    python.parent.mkdir(parents=True)
    calls = []
    monkeypatch.setattr(environment, "installed", lambda *_: {"torch": "2.11.0+cpu", "torchvision": "0.26.0"})
    monkeypatch.setattr(environment, "_pip", lambda python, arguments, log: calls.append(arguments) or True)
    environment.install(python, tmp_path, host)
    environment.install(python, tmp_path, host)
    assert len(calls) == 1 and f"torchaudio=={environment.TORCH['torchaudio']}" in calls[0]
    assert not any(argument.startswith(("torch=", "torchvision")) for argument in calls[0])
    (host / "requirements.txt").write_text("torch\nnew-thing\n")
    environment.install(python, tmp_path, host)
    assert len(calls) == 2


def test_torch_is_pinned_where_it_is_missing_and_unpinned_where_that_version_is_not_to_be_had(tmp_path, monkeypatch):
    python = environment.python_in(tmp_path / "venv")
    python.parent.mkdir(parents=True)
    calls = []
    monkeypatch.setattr(environment, "installed", lambda *_: {})

    def pip(python, arguments, log):
        calls.append(arguments)
        return "torch==2.11.0" not in arguments

    monkeypatch.setattr(environment, "_pip", pip)
    environment.install(python, tmp_path, None)
    assert calls[:2] == [["torch==2.11.0"], ["torch"]] and "diffusers>=0.31" in calls[2]


def test_a_failing_pip_stops_with_the_end_of_its_output(tmp_path, monkeypatch):
    python = environment.python_in(tmp_path / "venv")
    python.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "installed", lambda *_: {"torch": "2.11.0"})

    def pip(python, arguments, log):
        log.write_text("ERROR: no space left\n")
        return False

    monkeypatch.setattr(environment, "_pip", pip)
    with pytest.raises(Problem, match="no space left"):
        environment.install(python, tmp_path, None)


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
