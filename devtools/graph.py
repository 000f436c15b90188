"""ComfyUI graphs: from the format the editor saves to the one the server runs, and small edits to the former."""

from __future__ import annotations

import copy
from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
FRONTEND_ONLY = {"Note", "MarkdownNote"}
"""Nodes that exist in the editor only."""
ALWAYS, MUTED, BYPASSED = 0, 2, 4

Graph = dict[str, Any]


def inputs_of(info: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    """Inputs of a node as /object_info describes it, in order: (name, type, options)."""
    found = []
    for group in ("required", "optional"):
        specs = info["input"].get(group) or {}
        for name in info.get("input_order", {}).get(group) or specs:
            spec = specs[name]
            found.append((name, spec[0], spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}))
    return found


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    """Whether the editor shows an input as a widget (its value is in ``widgets_values``) instead of a socket only."""
    known = isinstance(kind, list) or kind in WIDGET_TYPES or options.get("socketless")
    return bool(known) and not options.get("forceInput")


def widgets_of(info: dict[str, Any]) -> list[tuple[str | None, Any]]:
    """(name, default) for the entries of a node's ``widgets_values``; the name is None for the editor's own entries.

    The editor adds an entry after a seed (what happens to it after a run) and after an upload.
    """
    widgets: list[tuple[str | None, Any]] = []
    for name, kind, options in inputs_of(info):
        if is_widget(kind, options):
            choices = kind if isinstance(kind, list) else options.get("options")
            widgets.append((name, options.get("default", choices[0] if choices else None)))
            if options.get("control_after_generate") or options.get("image_upload"):
                widgets.append((None, None))
    return widgets


def to_api(graph: Graph, object_info: dict[str, Any]) -> Graph:
    """Convert an editor graph (``nodes``, ``links``) to the server's format, {id: {class_type, inputs, _meta}}.

    Widgets that the node got after the graph was saved take their defaults, as in the editor. Raises ValueError for
    nodes the server does not know, for muted or bypassed nodes (which none of our graphs has), and when a node has
    fewer widgets than the graph has values for it.
    """
    links = {link[0]: link for link in graph["links"]}
    api: Graph = {}
    for node in graph["nodes"]:
        kind = node["type"]
        if kind in FRONTEND_ONLY:
            continue
        label = f"node {node['id']} ({kind})"
        if kind not in object_info:
            raise ValueError(f"{label} is not a node of this server")
        if node.get("mode", ALWAYS) != ALWAYS:
            raise ValueError(f"{label} is muted or bypassed; that is not supported here, set it to Always")
        widgets = widgets_of(object_info[kind])
        values = node.get("widgets_values") or []
        if len(values) > len(widgets):
            listed = ", ".join(name or "(editor's own)" for name, _ in widgets)
            raise ValueError(f"{label}: expected {len(widgets)} widget values ({listed}), got {len(values)}")
        values = [*values, *(default for _, default in widgets[len(values):])]
        inputs = {name: value for (name, _), value in zip(widgets, values) if name is not None}
        for socket in node.get("inputs", []):
            if socket.get("link") is not None:
                _, origin, slot, *_ = links[socket["link"]]
                inputs[socket["name"]] = [str(origin), slot]
        title = node.get("title") or object_info[kind].get("display_name") or kind
        api[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    return api


def node_id(api: Graph, class_type: str) -> str:
    """Id of the only node of a type; raises ValueError when there is none or more than one."""
    found = [key for key, node in api.items() if node["class_type"] == class_type]
    if len(found) != 1:
        raise ValueError(f"expected one {class_type} in the graph, found {len(found)}")
    return found[0]


def with_widgets(graph: Graph, object_info: dict[str, Any], class_type: str, **values: Any) -> Graph:
    """A copy of an editor graph with widgets of its only node of a type set; values of None change nothing.

    The editor's graph is changed, not the server's, because it is what saved pictures carry. Raises ValueError for
    names that are no widgets of the node, and when there is not exactly one such node.
    """
    changed = copy.deepcopy(graph)
    found = [node for node in changed["nodes"] if node["type"] == class_type]
    if len(found) != 1:
        raise ValueError(f"expected one {class_type} in the graph, found {len(found)}")
    names = [name for name, _ in widgets_of(object_info[class_type])]
    for name, value in values.items():
        if value is None:
            continue
        if name not in names:
            raise ValueError(f"{class_type} has no widget {name}; it has {', '.join(filter(None, names))}")
        found[0]["widgets_values"][names.index(name)] = value
    return changed
