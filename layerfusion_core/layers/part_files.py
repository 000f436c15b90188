"""Names of files that are still being written, and tidying up after a process that was killed over them."""

from __future__ import annotations

import logging
import os
import platform
import re
import time
import uuid
import zlib

log = logging.getLogger(__name__)

LEFTOVER = re.compile(r"\.[0-9a-f]{32}(?:\.(?P<machine>[0-9a-f]{8})\.(?P<process>\d+))?\.part|\..*_\d{5,}\.layerfusion")
ABANDONED = 24 * 3600.0
"""Seconds after which a leftover counts as abandoned whose process cannot be asked for (another machine's)."""

CLOCK = 2.0
"""Seconds by which a file system's times may lag behind."""


def part_name() -> str:
    """A new hidden name that says which process of which machine writes the file."""
    return f".{uuid.uuid4().hex}.{_machine()}.{os.getpid()}.part"


def claim_name(stem: str, number: int) -> str:
    """The hidden name that a process holds while it gives its files this number."""
    return f".{stem}_{number:05}.layerfusion"


def remove_abandoned(folder: str) -> None:
    """Removes part files and claims in a folder whose process is gone, and those older than `ABANDONED`."""
    with os.scandir(folder) as entries:
        found = [(entry, match) for entry in entries if (match := LEFTOVER.fullmatch(entry.name))]
    for entry, match in found:
        try:
            changed = entry.stat(follow_symlinks=False).st_mtime
            gone = match["machine"] == _machine() and not _running(int(match["process"]), changed)
            if gone or time.time() - changed > ABANDONED:
                os.remove(entry.path)
        except OSError as error:  # another process was faster, or the file is not ours to remove
            log.debug("Could not remove %s: %s", entry.path, error)


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _running(process: int, since: float) -> bool:
    """Whether the process that wrote at the time `since` still runs; a later one may have got its number."""
    try:
        import psutil  # comes with the host
    except ImportError:
        return True
    try:
        return psutil.Process(process).create_time() <= since + CLOCK
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
