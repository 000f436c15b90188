"""Where the pack's model files live on the host: the `layer_model` folder and plain words for what is missing in it."""

from __future__ import annotations

import os

import folder_paths

LAYER_MODEL = "layer_model"


def layer_model_folder() -> list[str]:
    """Make `models/layer_model` known to the host and return every folder searched, in order.

    Idempotent. Folders a user has set for `layer_model` in extra_model_paths.yaml (or another pack has registered)
    stay first; the default folder is added behind them, because the host lists a folder only once it is named.
    """
    default = os.path.join(folder_paths.models_dir, LAYER_MODEL)
    if LAYER_MODEL in folder_paths.folder_names_and_paths:
        if default not in folder_paths.get_folder_paths(LAYER_MODEL):
            folder_paths.add_model_folder_path(LAYER_MODEL, default)
    else:
        # add_model_folder_path would register an empty extension set, which lists every file, readme and all.
        folder_paths.folder_names_and_paths[LAYER_MODEL] = ([default], set(folder_paths.supported_pt_extensions))
    return folder_paths.get_folder_paths(LAYER_MODEL)


def layer_model_files() -> list[str]:
    """Return the names (relative, sorted) of all model files in the `layer_model` folders; [] when there are none."""
    layer_model_folder()
    extensions = tuple(folder_paths.supported_pt_extensions)
    return [name for name in folder_paths.get_filename_list(LAYER_MODEL) if name.lower().endswith(extensions)]


def file_choices(names: list[str]) -> list[str]:
    """Return combo options for these names: an empty entry when there are none, so that the node still loads."""
    return names or [""]


def missing_layer_model(name: str | None, what: str, file: str, page: str) -> str:
    """Say which `layer_model` file is missing, where to put it and where to get it.

    name: the value the graph holds ("" or None: nothing chosen). what: the plain name ("foreground weights").
    file: the file most people want. page: the download page.
    """
    folder = layer_model_folder()[0]
    came = f"'{name}' is not in the layer_model folder" if name else "none is chosen"
    return (
        f"Missing {what}: {came}. Download {file} from {page} and put it into {folder}, "
        f"then press R (Refresh Node Definitions) and choose it."
    )


def layer_model_path(name: str | None, what: str, file: str, page: str) -> str:
    """Return the full path of a `layer_model` file; ValueError with `missing_layer_model` when it is not there."""
    path = _find(name)
    if path is None:
        raise ValueError(missing_layer_model(name, what, file, page))
    return path


def check_layer_model(name: str | None, what: str, file: str, page: str) -> bool | str:
    """What a node's validate_inputs says of a file input: True, or `missing_layer_model`.

    name None: the file is told by another node, and known only when the run gets there, or the host complains of it.
    """
    return True if name is None or _find(name) else missing_layer_model(name, what, file, page)


def layer_model_identity(name: str | None) -> str:
    """Return `file_identity` of a `layer_model` file."""
    return file_identity(_find(name))


def file_identity(path: str | None) -> str:
    """Return a string that changes when a file is replaced (path, size, time of change); "missing" without a file."""
    if path is None or not os.path.isfile(path):
        return "missing"
    stat = os.stat(path)
    return f"{path}|{stat.st_size}|{stat.st_mtime_ns}"


def _find(name: str | None) -> str | None:
    layer_model_folder()
    return folder_paths.get_full_path(LAYER_MODEL, name) if name and isinstance(name, str) else None
