"""The demonstration models, shipped with the pack."""

from __future__ import annotations

from comfy_api.latest import io

from ..layerfusion_core.host.models.demo import load_demo
from .schema import node_schema
from .transparent import TransparentVae


class LayerFusionLoadDemo(io.ComfyNode):
    """Loads a miniature SDXL that runs anywhere, for trying the pack and its workflows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionLoadDemo",
            display_name="Load Demo Models",
            search_aliases=["layer", "transparent", "example", "test models", "no download"],
            description="A miniature SDXL with everything LayerFusion needs, shipped with the pack: everyday things in drawn "
            "places at 256 x 256, e.g. 'a red apple' on 'a wooden table'. Nothing is downloaded.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="base_model", tooltip="Draws backgrounds and blended pictures."),
                io.Model.Output(
                    display_name="foreground_model", tooltip="The base model with the demo's foreground weights."
                ),
                io.Clip.Output(display_name="clip", tooltip="Two tiny text encoders that know the demo's words."),
                io.Vae.Output(display_name="vae", tooltip="The demo's picture autoencoder."),
                TransparentVae.Output(display_name="transparent_vae", tooltip="The demo's alpha decoder."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        demo = load_demo()
        return io.NodeOutput(demo.base, demo.foreground_model, demo.clip, demo.vae, demo.transparent_vae)
