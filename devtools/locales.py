"""The English texts of the nodes in the form the page translates from.

``python -m devtools.locales URL`` writes locales/en/nodeDefs.json from a running server, for example
http://127.0.0.1:8188 of ``dev.py serve``; translators start from that file.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from .graph import inputs_of

FILE = Path(__file__).resolve().parents[1] / "locales" / "en" / "nodeDefs.json"


def english(object_info: dict[str, Any]) -> dict[str, Any]:
    """nodeDefs.json for the pack's nodes, from what /object_info says of them."""
    texts = {}
    for node in sorted(name for name in object_info if name.startswith("LayerFusion")):
        info = object_info[node]
        texts[node] = {"display_name": info["display_name"], "description": info["description"]}
        inputs = {name: {"name": name, "tooltip": options["tooltip"]} for name, _, options in inputs_of(info)}
        if inputs:
            texts[node]["inputs"] = inputs
        tips = info.get("output_tooltips") or [None] * len(info["output_name"])
        texts[node]["outputs"] = {str(slot): {"name": name, **({"tooltip": tip} if tip else {})}
                                  for slot, (name, tip) in enumerate(zip(info["output_name"], tips, strict=True))}
    return texts


if __name__ == "__main__":
    with urllib.request.urlopen(sys.argv[1].rstrip("/") + "/object_info") as answer:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(english(json.load(answer)), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
