"""What is fingerprinted: the regular files of a folder, each by its bytes and its lines."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_CHUNK_BYTES: Final = 1 << 18

# Installed packages are not the standard library, and bytecode may be written while we look.
_NOT_OF_THE_LIBRARY: Final = frozenset({"site-packages", "dist-packages", "__pycache__"})


class Unusable(Exception):
    """The folder cannot be worked on. The text is one line that says why."""


def fingerprint(path: Path) -> dict[str, Any]:
    """A file's SHA-256 and its number of lines, as `sha256sum` and `wc -l` have them."""
    digest, lines = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            lines += chunk.count(b"\n")
    return {"sha256": digest.hexdigest(), "lines": lines}


def expected(folder: Path | None) -> dict[str, dict[str, Any]]:
    """The fingerprint of every file below the folder (None: the standard library), by its path.

    Raises:
        Unusable: There is no such folder, or nothing in it, or a file that cannot be read.
    """
    root, skipped = folder, frozenset[str]()
    if root is None:
        root, skipped = Path(sysconfig.get_path("stdlib")), _NOT_OF_THE_LIBRARY
    try:
        prints = {_as_text(path): fingerprint(path) for path in _walk(root.resolve(), skipped)}
    except OSError as error:
        raise Unusable(f"cannot read {error.filename}: {error.strerror}") from error
    if not prints:
        raise Unusable(f"there is no file in {root}")
    return prints


def _walk(root: Path, skipped: frozenset[str]) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        for path in (Path(folder, name) for name in names):
            # Links lead to files that are met anyway, or out of the folder; pipes never end.
            if path.is_file() and not path.is_symlink():
                yield path


def _refuse(error: OSError) -> None:
    raise error


def _as_text(path: Path) -> str:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise Unusable(f"{str(path)!a} is no Unicode name, and JSON knows no other") from None
    return str(path)
