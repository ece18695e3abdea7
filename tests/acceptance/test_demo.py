"""`python -m examples.demo`: right about what is right, and about what is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.acceptance

FILES: Final = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some files, one of them without a line."""
    for number in range(FILES):
        (tmp_path / f"file-{number}.txt").write_text("line\n" * number)
    return tmp_path


def test_every_file_is_done_once(folder: Path) -> None:
    with _demo(folder) as (process, lines):
        said = "".join(lines)
    assert process.returncode == 0, said
    assert f"{FILES} of {FILES} verified" in said
    assert f"{FILES} files, each done exactly once, and right." in said


def test_wrong_digest_is_found(folder: Path) -> None:
    victim = folder / "file-7.txt"
    with _demo(folder) as (process, lines):
        # It knows by now what should come out. What the workers find is something else.
        next(line for line in lines if f"has {FILES} files" in line)
        victim.write_text("tampered with")
        said = "".join(lines)
    assert process.returncode == 1, said
    assert f"{FILES - 1} of {FILES} verified" in said
    assert f"{victim}: the worker says" in said


def test_folder_without_files_is_refused(tmp_path: Path) -> None:
    with _demo(tmp_path) as (process, lines):
        said = list(lines)
    assert process.returncode == 1
    assert f"demo: there is no file in {tmp_path}\n" in said


@contextmanager
def _demo(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """The demo on a folder, and the lines it says. It has ended when the block is left."""
    with subprocess.Popen(
        [sys.executable, "-m", "examples.demo", folder],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, iter(process.stdout)
        except BaseException:
            process.terminate()  # So that it takes down what it has started.
            raise
