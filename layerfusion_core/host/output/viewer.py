"""Temporary pictures for the viewer on Save Layers."""

from __future__ import annotations

import uuid

from comfy_api.latest import io, ui

from ...method.map_colors import FIGURE_ORDER, heat
from ...method.prior_maps import PriorRecord
from ...method.streams import by_sample

PREFIX = "layerfusion_masks"


def mask_files(record: PriorRecord, samples: int) -> list[dict[str, dict[str, ui.SavedResult] | None]]:
    """Writes the maps of the last blended step into the host's temp folder, a pixel per token, coloured by `heat`.

    Returns per sample {"masks": {structure | content | soft | hard: file}}, several foregrounds side by side; {"masks":
    None} when the run blended nothing. ValueError when the priors are of another number of pictures.
    """
    if not record.maps:
        return [{"masks": None} for _ in range(samples)]
    maps = record.images(-1)
    recorded = len(maps["soft"]) // record.foreground_count
    if recorded != samples:
        raise ValueError(
            f"The priors are of {recorded} picture(s), the layers of {samples}; connect the priors of the same run, or none."
        )
    files = {}
    for name in FIGURE_ORDER:
        tiles = by_sample(maps[name], record.foreground_count)  # (N, K, h, w)
        strips = heat(tiles.permute(0, 2, 1, 3).flatten(2))  # (N, h, K w, 3)
        prefix = f"{PREFIX}_{name}_{uuid.uuid4().hex[:8]}"  # numbers start anew in each session, pages cache by name
        files[name] = ui.ImageSaveHelper.save_images(strips, prefix, io.FolderType.temp, cls=None, compress_level=1)
    return [{"masks": {name: files[name][row] for name in FIGURE_ORDER}} for row in range(samples)]
