"""File ownership checks on real files of real users."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from fer_edge._utils.ownership import make_private_folder, require_private
from fer_edge.errors import EngineError

STRANGER = 4321  # a user without name or group
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, as only root can")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "above" / "cache" / "x.engine"
    make_private_folder(path.parent)
    path.write_bytes(b"engine")
    path.chmod(0o600)
    return path


def mend(error: EngineError) -> None:
    """Run the command that the message names."""
    found = re.search(r"run (ch\w+ .*?), or ", str(error))
    assert found is not None, error
    subprocess.run(shlex.split(found[1]), check=True)


@pytest.mark.parametrize("where", ["file", "folder", "above"])
@pytest.mark.parametrize("mode", [0o777, 0o722, 0o702])
def test_what_others_can_write_is_refused_until_that_is_mended(file: Path, where: str, mode: int) -> None:
    require_private(file)
    path = {"file": file, "folder": file.parent, "above": file.parent.parent}[where]
    path.chmod(mode)
    with pytest.raises(EngineError, match="can be written by every user") as caught:
        require_private(file)
    assert f"{path} (owner {getpass.getuser()}, mode {mode:04o})" in str(caught.value)
    assert str(caught.value).endswith("or set FER_EDGE_CACHE to a folder of your own")
    mend(caught.value)
    require_private(file)
    assert path.stat().st_mode & 0o022 == 0


@needs_root
@pytest.mark.parametrize("where", ["file", "folder", "above"])
def test_what_belongs_to_another_user_is_refused(file: Path, where: str) -> None:
    path = {"file": file, "folder": file.parent, "above": file.parent.parent}[where]
    os.chown(path, STRANGER, STRANGER)
    with pytest.raises(
        EngineError, match=f"owner {STRANGER}, mode 0...\\) belongs to another user"
    ) as caught:
        require_private(file)
    mend(caught.value)
    require_private(file)


@needs_root
def test_a_group_of_others_is_refused(file: Path) -> None:
    os.chown(file, 0, STRANGER)
    file.chmod(0o660)
    with pytest.raises(EngineError, match=f"can be written by the group {STRANGER}, .* Fix: run chmod go-w"):
        require_private(file)


@needs_root
@pytest.mark.parametrize(("owner", "fine"), [(0, True), (STRANGER, True), (STRANGER + 1, False)])
def test_a_user_without_privileges_trusts_root_and_itself(owner: int, fine: bool) -> None:
    folder = Path(tempfile.mkdtemp())  # below folders that every user may enter
    file = folder / "x.engine"
    file.touch(0o644)
    folder.chmod(0o755)
    os.chown(file, owner, owner)
    os.seteuid(STRANGER)
    try:
        with nullcontext() if fine else pytest.raises(EngineError, match=f"run chown {STRANGER} '{file}'"):
            require_private(file)
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


def test_a_folder_with_the_sticky_bit_may_be_shared(file: Path) -> None:
    """As in /tmp, entries can be replaced only by their owners."""
    file.parent.parent.chmod(0o1777)
    require_private(file)
    file.parent.chmod(0o1777)
    require_private(file)
    with pytest.raises(EngineError, match="every user"):  # a folder that is not above, but asked for
        require_private(file.parent)


def test_of_a_link_the_target_counts(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file.parent)
    require_private(link / file.name)
    file.parent.chmod(0o777)
    with pytest.raises(EngineError, match=re.escape(f"{file.parent} (owner")):
        require_private(link / file.name)


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_what_does_not_exist_is_checked_as_far_as_it_does(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / target)
    require_private(tmp_path / "link")
    require_private(tmp_path / "a" / "b" / "c")
    tmp_path.chmod(0o777)
    with pytest.raises(EngineError, match="every user"):
        require_private(tmp_path / "a" / "b" / "c")


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_new_folders_are_their_users_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_private_folder(tmp_path / "a" / "b")
        make_private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a", "a/b")] == [0o700, 0o700]


@needs_root
def test_the_own_group_of_a_user_is_nobody_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's umask lets a user's own group write; root's group stands in for it, then with a second member."""
    import grp
    import pwd

    others = [user for user in pwd.getpwall() if user.pw_uid == 0 or user.pw_gid != 0]
    monkeypatch.setattr(pwd, "getpwall", lambda: others)
    file.chmod(0o660)
    require_private(file)
    monkeypatch.setattr(
        pwd, "getpwall", lambda: [*others, pwd.struct_passwd(("eve", "x", 7, 0, "", "/", ""))]
    )
    with pytest.raises(EngineError, match="can be written by the group root"):
        require_private(file)
    monkeypatch.setattr(pwd, "getpwall", lambda: others)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("root", "x", 0, ["root", "eve"])))
    with pytest.raises(EngineError, match="can be written by the group root"):
        require_private(file)
