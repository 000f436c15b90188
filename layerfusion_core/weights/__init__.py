"""Foreground weight files: their formats and headers."""
