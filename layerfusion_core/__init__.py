"""LayerFusion: the method in pure torch, and in `host` the few files that meet ComfyUI."""
