"""Node schemas on older and newer hosts."""

from __future__ import annotations

from dataclasses import fields

from comfy_api.latest import io

_FIELDS = {field.name for field in fields(io.Schema)}


def node_schema(**values) -> io.Schema:
    """io.Schema in the pack's one category, without the fields that an older host does not have yet.

    search_aliases: 0.10; has_intermediate_output: later.
    """
    return io.Schema(category="LayerFusion", **{name: value for name, value in values.items() if name in _FIELDS})
