"""Says loudly when the host tier could not run."""

from __future__ import annotations

import pytest


def test_comfyui_is_present(host):
    if host is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to a checkout to run the host tests")
    assert (host / "main.py").is_file()
