"""Whether an archive is as it was when it was last read, told from its directory entries alone.

Who is erased, or whose file or label is exchanged, leaves the running studies from the next round
on. Reading an archive again takes minutes; looking at names, sizes, times and inodes takes
seconds for a million files. It is done before every round, and never left out to save time: how
long it takes follows from everybody's files, and who is in a round must not.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from client.data.archive import walk


def entries_of(images: Path, labels: Path) -> str:
    """A hash that changes with any entry of an archive; never leaves the site.

    Args:
        images: the folder.
        labels: the label file.

    Raises:
        DataError: the folder is not there or cannot be listed.
    """
    entries = hashlib.sha256()
    for path in (labels, *(images / each for each in sorted(walk(images)))):
        entries.update(_entry(path).encode("utf-8", "surrogateescape"))
    return entries.hexdigest()


def _entry(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # gone meanwhile, or a link to nothing: whoever reads it says what that means
        return f"{path}\0"
    return f"{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}\0"
