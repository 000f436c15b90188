"""Inside ComfyUI's UNet: patches, the foreground's terms, what other packs bring."""
