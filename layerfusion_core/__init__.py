"""LayerFusion for ComfyUI without its nodes: pure rooms below, and in `host` those that meet ComfyUI."""
