"""Prompts of the three layers."""

from __future__ import annotations

from comfy_api.latest import io

from ..layerfusion_core.host.sampling.conditioning import encode_prompt
from .notices import notice
from .schema import node_schema

NO_OBJECT = (
    "Foreground prompt is empty: nothing says what to cut out. The masks are read from its words, so the model draws something of "
    "its own and the layers may not belong together; describe the object, e.g. 'a glass bottle'."
)


def prompt_input(name: str, tooltip: str, default: str | None = None) -> io.String.Input:
    """A field for a prompt, with the page's {a|b} choices."""
    return io.String.Input(name, multiline=True, dynamic_prompts=True, default=default, tooltip=tooltip)


class LayerFusionTextEncode(io.ComfyNode):
    """Encodes the layers' prompts and remembers where the foreground's ends."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionTextEncode",
            has_intermediate_output=True,  # its notices come again when it is cached
            display_name="LayerFusion Text Encode",
            search_aliases=["layer prompts", "clip text encode", "transparent"],
            description="Encode one prompt per layer for the LayerFusion KSampler.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the SDXL checkpoint."),
                prompt_input(
                    "foreground",
                    "The object alone, e.g. 'a glass bottle'. Do not name a scene here: it would end up in the cut-out.",
                ),
                prompt_input("background", "The scene without the object, e.g. 'a wooden table by a window'."),
                prompt_input("blended", "The whole picture. Leave empty for '{foreground}, {background}'.", ""),
                prompt_input("negative", "What no layer should show.", ""),
            ],
            outputs=[
                io.Conditioning.Output(display_name="foreground", tooltip="For the transparent foreground."),
                io.Conditioning.Output(display_name="background", tooltip="For the clean background."),
                io.Conditioning.Output(display_name="blended", tooltip="For the blended picture."),
                io.Conditioning.Output(display_name="negative", tooltip="For all three."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, foreground: str, background: str, blended: str, negative: str) -> io.NodeOutput:
        blended = blended.strip() or ", ".join(text for text in (foreground, background) if text.strip())
        prompts = (encode_prompt(clip, text) for text in (foreground, background, blended, negative))
        return io.NodeOutput(*prompts, ui=notice(None if foreground.strip() else NO_OBJECT))
