"""Files and folders that nobody but the user can have written: to load a compiled program is to run what is in it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotOwn(Exception):
    """Which file or folder somebody else may have written, and what to do."""


def own_folder(path: Path) -> Path:
    """`path` without symbolic links; what is missing of it is made, for the user alone.

    Raises NotOwn if somebody else could have put a file there: the folder must be the user's, writable for nobody else,
    and the folders above it must belong to the user or to the system, and be writable for nobody else unless they are
    sticky, as /tmp is.  Raises OSError if it cannot be made.
    """
    folder = path.resolve()
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for made in reversed(missing):
        made.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "geteuid"):  # Windows has no such owners
        # In a container the system's folders need not belong to user 0, but they belong to whom "/" belongs.
        system = {0, Path("/").stat().st_uid}
        for above in folder.parents:
            _refuse(above, above.stat(), {os.geteuid(), *system}, sticky_will_do=True)
        _refuse(folder, folder.stat(), {os.geteuid()})
    return folder


def own_file(path: Path) -> Path:
    """`path` if it is a file of the user's, which nobody else may write.  Its folder is `own_folder`'s.

    Raises NotOwn if it is not, FileNotFoundError if there is nothing.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise NotOwn(f"{path} is no plain file. Delete it.")
    if hasattr(os, "geteuid"):
        _refuse(path, status, {os.geteuid()})
    return path


def refuse_foreign_content(folder: Path) -> None:
    """Raises NotOwn if anything below `folder`, an `own_folder`, belongs to somebody else."""
    if not hasattr(os, "geteuid"):
        return
    for above, folders, files in os.walk(folder):
        for path in (Path(above, name) for name in (*folders, *files)):
            with suppress(FileNotFoundError):  # another process may tidy up meanwhile
                owner = path.lstat().st_uid
                if owner != os.geteuid():
                    raise NotOwn(f"{path} belongs to {_name(owner)}. Delete {folder}.")


def _refuse(path: Path, status: os.stat_result, owners: set[int], sticky_will_do: bool = False) -> None:
    if status.st_uid not in owners:
        raise NotOwn(
            f"{path} belongs to {_name(status.st_uid)}, who could put code of his own there. "
            "Delete it, or name another folder in XDG_CACHE_HOME."
        )
    if status.st_mode & OTHERS_MAY_WRITE and not (sticky_will_do and status.st_mode & stat.S_ISVTX):
        remedy = f"Run chmod go-w {path}" if sticky_will_do else "Delete it"
        raise NotOwn(
            f"{path} can be written by others (its mode is {stat.S_IMODE(status.st_mode):o}), who could put code of "
            f"their own there. {remedy}, or name another folder in XDG_CACHE_HOME."
        )


def _name(user: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(user).pw_name
    except (ImportError, KeyError):
        return f"user {user}"
