"""Pictures of layers and their files: given layers, placing, compositing, matching, export."""
