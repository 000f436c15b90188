"""LayerFusion for ComfyUI: transparent foreground, clean background and blended picture in one SDXL sampling run.

Registration only. Nothing is imported from the host, patched or loaded until ComfyUI calls `comfy_entrypoint`.
"""

from __future__ import annotations

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the pack's V3 extension (called once by ComfyUI after importing this module)."""
    from .nodes import LayerFusionExtension

    return LayerFusionExtension()
