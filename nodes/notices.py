"""What a run has to say about its result: a line in the log and on the node."""

from __future__ import annotations

import json
import logging

log = logging.getLogger(__name__)


def notice(*texts: str | None) -> dict | None:
    """Log the texts, and the `ui` of a node that shows them (None for no text): the first sentence of each, the whole on hover.

    The page (web/notices.js) keeps it until the node runs again, and gets it again when a run takes the node's result from
    the host's cache.
    """
    found = [text for text in texts if text]
    for text in found:
        log.warning(text)
    # As text: some hosts count the entries of lists as outputs.
    entries = [json.dumps({"line": text.split(". ", 1)[0].rstrip("."), "text": text}) for text in found]
    return {"layerfusion_notices": entries} if entries else None
