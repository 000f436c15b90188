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


FORMER = {"formats": "the switches psd, ora and webp, and bit_depth"}
"""Inputs of before the first release, which prompts may still have: what is there in their place."""


def unknown_inputs(node: type[io.ComfyNode]) -> str | None:
    """What to say of inputs that a prompt gives to a kind of node that has none such: the host drops values. None for none.

    The node must have the hidden input prompt. (Its unique_id would bind the host's cache to the number of the node.)
    """
    prompt = node.hidden.prompt if node.hidden is not None else None  # called without a host
    schema = node.define_schema()  # GET_SCHEMA writes to the class, which the host has locked
    known = {item.id for item in schema.inputs}
    given = [one.get("inputs", {}) for one in (prompt or {}).values() if one.get("class_type") == schema.node_id]
    names = dict.fromkeys(name for inputs in given for name in inputs if name not in known)
    if not names:
        return None
    replaced = [f"{name} was replaced by {FORMER[name]}" for name in names if name in FORMER]
    return f"{schema.display_name} has no input {', '.join(names)}. " + "; ".join(replaced or ["Take it out of the prompt"]) + "."
