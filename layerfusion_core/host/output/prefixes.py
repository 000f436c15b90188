"""Where Save Layers writes: what is wrong with a filename_prefix, known before anything runs."""

from __future__ import annotations

import os
import re

import folder_paths

LONGEST = "_00001_foreground_10.webp"
"""The longest of what follows a prefix."""
TOKENS = {"%year%": "0000"} | dict.fromkeys(("%month%", "%day%", "%hour%", "%minute%", "%second%"), "00")
TOKENS |= dict.fromkeys(("%width%", "%height%", "%batch_num%"), "0")
"""What the host fills in, and the shortest that it can become."""
FORBIDDEN = re.compile(r'[\x00-\x1f<>:"|?*]' if os.name == "nt" else r"\x00")


def prefix_problem(prefix: str) -> str | None:
    """Why no file whose name begins so can be saved, and what to do about it; None when nothing stands against it."""
    if found := FORBIDDEN.search(prefix):
        return f"filename_prefix: no file name may hold {found.group()!r}; take it out of '{prefix}'."
    name = prefix
    for token, shortest in TOKENS.items():
        name = name.replace(token, shortest)
    output = os.path.abspath(folder_paths.get_output_directory())
    path = os.path.normpath(name)
    folder = os.path.join(output, os.path.dirname(path))
    if not _inside(output, folder):
        return (
            f"filename_prefix: '{prefix}' leads outside the output folder {output}; use a name, with folders below "
            "that one in front of it where you like (cats/red)."
        )
    standing = folder
    while not os.path.lexists(standing):
        standing = os.path.dirname(standing)
    if not os.path.isdir(standing):
        return f"filename_prefix: '{prefix}' needs a folder where there is a file, {standing}; choose another name."
    if not os.access(standing, os.W_OK | os.X_OK):
        return f"filename_prefix: ComfyUI may not write into {standing}; choose another folder, or change its permissions."
    most = os.pathconf(standing, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for part in (*os.path.dirname(path).split(os.sep), os.path.basename(path) + LONGEST):
        if (long := _length(part)) > most:
            return (
                f"filename_prefix: '{part[:40]}...' is a name of {long} characters or bytes, with what Save Layers adds; "
                f"the file system takes {most}. Shorten it by {long - most}."
            )
    return None


def _inside(output: str, folder: str) -> bool:
    """Whether the host would save there; newer hosts follow links, older ones do not."""
    if hasattr(folder_paths, "is_within_directory"):
        return folder_paths.is_within_directory(output, folder)
    try:
        return os.path.commonpath((output, os.path.abspath(folder))) == output
    except ValueError:  # another drive
        return False


def _length(name: str) -> int:
    """Length of a name as the file system counts it."""
    return len(name.encode("utf-16-le", "surrogatepass")) // 2 if os.name == "nt" else len(os.fsencode(name))
