"""Draws example graphs: nodes by the names of their inputs and outputs, in groups, as the editor saves them."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .graph import Graph, inputs_of, is_widget

PADDING, GAP = 20, 20  # around the nodes of a group, between groups
TITLE, HEADER = 30, 40  # heights of a node's title bar, which lies above its position, and of a group's title
BELOW = 15  # free pixels under a node, before the title bar of the next
BLUE, GOLD, RED, GREEN, VIOLET = "#3f789e", "#b58b2a", "#A88", "#8A8", "#88A"
ENDS = (-10, -20)
"""Ids of the inner ends of a subgraph's inputs and outputs."""
NOTE = "MarkdownNote"
PICTURES = "$$canvas-image-preview"  # the editor's name for those that a node shows
PREVIEWS = ("PreviewImage", "MaskPreview")  # newer hosts give them an output, older ones none
NOTE_COLORS = {"color": "#432", "bgcolor": "#653"}

PREVIEW = 248  # what the picture of a running sampler takes under its widgets
HEIGHTS = {
    "BasicScheduler": 120,
    "Canny": 100,
    "CheckpointLoaderSimple": 130,
    "ControlNetApplyAdvanced": 210,
    "ControlNetLoader": 90,
    "EmptyLatentImage": 120,
    "ImageBatch": 100,
    "ImageCompositor": 430,
    "KSampler": 270 + PREVIEW,
    "KSamplerAdvanced": 370 + PREVIEW,
    "KSamplerSelect": 70,
    "LatentUpscaleBy": 90,
    "LayerFusionApplyForeground": 140,
    "LayerFusionComposite": 212,
    "LayerFusionConditionOnLayers": 220,
    "LayerFusionDecode": 318,
    "LayerFusionEncode": 150,
    "LayerFusionExtractPriors": 180,
    "LayerFusionGivenLayers": 278,
    "LayerFusionGuider": 375,
    "LayerFusionKSampler": 486 + PREVIEW,
    "LayerFusionLoadDemo": 140,
    "LayerFusionLoadModels": 230,
    "LayerFusionLoadTransparentVAE": 140,
    "LayerFusionMatchLayers": 205,
    "LayerFusionOptions": 400,
    "LayerFusionPlaceForeground": 240,
    "LayerFusionPreviewPriors": 120,
    "LayerFusionSaveLayers": 600,
    "LayerFusionSplitLatents": 100,
    "LayerFusionStackLatents": 120,
    "LayerFusionTextEncode": 390,
    "LayerFusionTextEncodeSeveral": 430,
    "LoadImage": 340,
    "LoraLoader": 165,
    "MaskPreview": 285,
    "PreviewImage": 285,
    "RandomNoise": 90,
    "SamplerCustomAdvanced": 120 + PREVIEW,
    "VAEDecode": 60,
    "VAEEncode": 60,
}
"""Pixels that a node needs in both renderers; measured, and held by tests/server/test_server_examples.py."""


class Output(NamedTuple):
    """What leaves a node."""

    node: Node
    slot: int


@dataclass
class Node:
    """A node of a sheet; ``node["latent"]`` is its output of that name."""

    id: int
    kind: str
    info: dict[str, Any] = field(repr=False)
    inputs: dict[str, Any] = field(repr=False)  # name -> value of a widget, or `Output`
    title: str | None = None
    wide: int | None = None
    high: int | None = None
    after: str = "fixed"  # what happens to a seed after the run
    properties: dict[str, Any] = field(default_factory=dict)
    at: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)

    def __getitem__(self, name: str) -> Output:
        return Output(self, self.info["output_name"].index(name))


class Area(NamedTuple):
    """A rectangle that is taken."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> tuple[int, int]:
        """The place beside it."""
        return self.x + self.width + GAP, self.y

    @property
    def below(self) -> tuple[int, int]:
        """The place under it."""
        return self.x, self.y + self.height + GAP


class Sheet:
    """A graph in the making. Raises ValueError for nodes, inputs and outputs that the server does not have."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self.object_info = object_info
        self.nodes: list[Node] = []
        self.groups: list[dict[str, Any]] = []

    def add(self, kind: str, *, title: str | None = None, wide: int | None = None, high: int | None = None,
            after: str = "fixed", models: list[dict[str, str]] | None = None, **inputs: Any) -> Node:
        """A node with its widgets and links by name; widgets left out have their defaults."""
        if kind not in self.object_info:
            raise ValueError(f"{kind} is not a node of this server")
        info = self.object_info[kind]
        unknown = set(inputs) - {name for name, _, _ in inputs_of(info)}
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}")
        pack = "layerfusion" if kind.startswith("LayerFusion") else "comfy-core"
        properties = {"cnr_id": pack, "Node name for S&R": kind, **({"models": models} if models else {})}
        return self._added(Node(len(self.nodes) + 1, kind, info, inputs, title, wide, high, after, properties))

    def note(self, text: str, *, title: str = "Read me", high: int) -> Node:
        """A text for the reader, in Markdown; its lines run on up to an empty line or an item of a list."""
        text = re.sub(r"(?<!\n)\n(?!\n|- )", " ", text)
        info = {"input": {"required": {"text": ["STRING", {}]}}, "output": [], "output_name": []}
        return self._added(Node(len(self.nodes) + 1, NOTE, info, {"text": text}, title, high=high))

    def place(self, at: tuple[int, int], *columns: list[Node], width: int, title: str = "", color: str = BLUE) -> Area:
        """Lay out nodes in columns of one width from a place on; with a title, in a group of their own.

        A node's own size goes before the column's and those of `HEIGHTS`.
        """
        edge = PADDING if title else 0
        left, top = at[0] + edge, at[1] + (HEADER if title else 0) + TITLE
        right = bottom = 0
        for column in columns:
            y = top
            for node in column:
                node.at, node.size = (left, y), (node.wide or width, node.high or HEIGHTS[node.kind])
                y += node.size[1] + BELOW + TITLE
            right, bottom = left + max(node.size[0] for node in column), max(bottom, y - BELOW - TITLE)
            left = right + PADDING
        area = Area(*at, right + edge - at[0], bottom + edge - at[1])
        if title:
            self.groups.append({"id": len(self.groups) + 1, "title": title, "bounding": list(area), "color": color,
                                "font_size": 22, "flags": {}})
        return area

    def graph(self) -> Graph:
        """The graph as the editor saves it."""
        links = self._links()
        return {"last_node_id": len(self.nodes), "last_link_id": len(links), "nodes": self._nodes(links), "links": links,
                "groups": self.groups, "config": {}, "extra": {}, "version": 0.4}

    def blueprint(self, name: str, description: str, words: list[str], inputs: dict[str, tuple[Node, str]],
                  outputs: dict[str, Output], shown: list[Node]) -> Graph:
        """The sheet as one node, as newer hosts publish subgraphs.

        ``inputs`` are widgets of nodes in it, ``shown`` nodes whose pictures it shows; ``words`` find it in the search besides
        its name. Newer hosts read ``previewExposures``, older ones ``proxyWidgets`` for what is inside.
        """
        links = self._links()
        ports: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        for slot, (label, (node, widget)) in enumerate(inputs.items()):
            place = [entry for entry, _, _ in inputs_of(node.info)].index(widget)
            kind = _kind(inputs_of(node.info)[place][1])
            links.append([len(links) + 1, ENDS[0], slot, node.id, place, kind])
            ports["inputs"].append(_port(name, "in", label, kind, len(links)))
        for slot, (label, output) in enumerate(outputs.items()):
            kind = output.node.info["output"][output.slot]
            links.append([len(links) + 1, output.node.id, output.slot, ENDS[1], slot, kind])
            ports["outputs"].append(_port(name, "out", label, kind, len(links)))
        right = max(node.at[0] + node.size[0] for node in self.nodes) + 100
        ends = {"inputNode": {"id": ENDS[0], "bounding": [-220, 0, 160, 20 * len(inputs) + 40]},
                "outputNode": {"id": ENDS[1], "bounding": [right, 0, 160, 20 * len(outputs) + 40]}}
        state = {"lastGroupId": len(self.groups), "lastNodeId": len(self.nodes), "lastLinkId": len(links), "lastRerouteId": 0}
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        inside = {"id": _identity(name), "version": 1, "state": state, "revision": 0, "config": {}, "name": name, **ends, **ports,
                  "widgets": [], "nodes": self._nodes(links), "groups": self.groups,
                  "links": [dict(zip(keys, link)) for link in links], "extra": {}, "category": "LayerFusion",
                  "description": description}
        sockets = [{"name": port["name"], "type": port["type"], "widget": {"name": port["name"]}, "link": None}
                   for port in ports["inputs"]]
        one = {"id": 1, "type": inside["id"], "pos": [0, 0], "size": [420, 900], "flags": {}, "order": 0, "mode": 0,
               "inputs": sockets, "outputs": [{"name": x["name"], "type": x["type"], "links": None} for x in ports["outputs"]],
               "title": name, "widgets_values": [], "properties": {
                   "cnr_id": "layerfusion",
                   "proxyWidgets": [*([str(node.id), widget] for node, widget in inputs.values()),
                                    *([str(node.id), PICTURES] for node in shown)],
                   "previewExposures": [{"name": PICTURES, "sourceNodeId": str(node.id), "sourcePreviewName": PICTURES}
                                        for node in shown]}}
        return {"revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [one], "links": [], "groups": [], "config": {},
                "extra": {"BlueprintDescription": description, "BlueprintSearchAliases": words}, "version": 0.4,
                "definitions": {"subgraphs": [inside]}}

    def _added(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def _links(self) -> list[list[Any]]:
        """[id, origin node, origin slot, target node, target slot, type] of each link."""
        found: list[list[Any]] = []
        for node in self.nodes:
            for slot, (name, _, _) in enumerate(inputs_of(node.info)):
                if isinstance(origin := node.inputs.get(name), Output):
                    kind = origin.node.info["output"][origin.slot]
                    found.append([len(found) + 1, origin.node.id, origin.slot, node.id, slot, kind])
        return found

    def _nodes(self, links: list[list[Any]]) -> list[dict[str, Any]]:
        entering = {(link[3], link[4]): link[0] for link in links}
        saved = []
        for order, node in enumerate(self.nodes):
            optional = node.info["input"].get("optional") or {}
            inputs = []
            for slot, (name, kind, options) in enumerate(inputs_of(node.info)):
                widget = {"widget": {"name": name}} if is_widget(kind, options) else {}
                shape = {"shape": 7} if name in optional else {}
                inputs.append({"name": name, "type": _kind(kind), **widget, **shape, "link": entering.get((node.id, slot))})
            outputs = [{"name": name, "type": kind, "links": [x[0] for x in links if x[1:3] == [node.id, slot]]}
                       for slot, (name, kind) in enumerate(zip(node.info["output_name"], node.info["output"]))
                       if node.kind not in PREVIEWS]
            saved.append({"id": node.id, "type": node.kind, "pos": list(node.at), "size": list(node.size), "flags": {},
                          "order": order, "mode": 0, "inputs": [] if node.kind == NOTE else inputs, "outputs": outputs,
                          **({"title": node.title} if node.title else {}), "properties": node.properties,
                          "widgets_values": _values(node), **(NOTE_COLORS if node.kind == NOTE else {})})
        return saved


def _kind(kind: Any) -> str:
    """The socket type of an input; choices are listed in its place by older descriptions of a node."""
    return "COMBO" if isinstance(kind, list) else kind


def _port(name: str, side: str, label: str, kind: str, link: int) -> dict[str, Any]:
    """An input or output of a subgraph."""
    return {"id": _identity(f"{name} {side} {label}"), "name": label, "type": kind, "linkIds": [link], "pos": [0, 0]}


def _identity(text: str) -> str:
    """A UUID that stays the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"layerfusion/{text}"))


def _values(node: Node) -> list[Any]:
    """What ``widgets_values`` holds: defaults where nothing is set, also of widgets that a link feeds."""
    values: list[Any] = []
    for name, kind, options in inputs_of(node.info):
        if not is_widget(kind, options):
            continue
        value = node.inputs.get(name)
        choices = kind if isinstance(kind, list) else options.get("options")
        default = options.get("default", choices[0] if choices else None)
        values.append(default if value is None or isinstance(value, Output) else value)
        if options.get("control_after_generate"):
            values.append(node.after)
        if options.get("image_upload"):
            values.append("image")
    return values
