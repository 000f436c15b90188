"""The host adapter: everything in the core that may import ComfyUI."""
