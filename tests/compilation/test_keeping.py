"""Where programs are kept, which files are never run, and what is done where they cannot be kept or are damaged."""

from __future__ import annotations

import errno
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from torch._inductor import codecache
from torch._inductor.exc import InvalidCxxCompiler
from torch._inductor.runtime.cache_dir_utils import cache_dir

from manual_bp.compilation import aoti, cache, inductor, program
from manual_bp.compilation.choice import Choice
from manual_bp.compilation.inductor import NoCompiler, NotCompiled, in_own_folder, said_in_words
from manual_bp.compilation.measured import onednn_is_faster
from manual_bp.compilation.ownership import NotOwn, own_file, own_folder, refuse_foreign_content
from manual_bp.compilation.products import Product

ON_ONE_THREAD = Choice("aoti", threads=1)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The cache of a user who has named no folder for inductor."""
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(inductor, "HEADERS", tmp_path / "headers")
    return tmp_path / "cache" / "manual_bp"


def as_another_user(monkeypatch):
    """What lies here already is then somebody else's, as a file of root's is for whoever is not root."""
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)


# Where programs are kept.


def test_the_folder_that_torch_names_is_nobody_s_choice(home):
    torch_s = Path(cache_dir())  # sets the variable
    assert os.environ[cache.VARIABLE] == str(torch_s)
    assert cache.folder() == home


def test_the_folder_that_the_user_names_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "named"))
    assert cache.folder() == tmp_path / "named" / "manual_bp"


@pytest.mark.parametrize("named", ["", "not/absolute"])
def test_the_cache_is_in_the_home_folder(named, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert cache.folder() == Path.home() / ".cache" / "manual_bp"


# Which files are run.


def test_what_is_missing_is_made_for_the_user_alone(tmp_path):
    made = own_folder(tmp_path / "one" / "two")
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent)] == [0o700, 0o700]


WRITABLE = {"group": 0o770, "others": 0o707, "others, sticky": 0o1777}


@pytest.mark.parametrize("mode", WRITABLE.values(), ids=WRITABLE)
def test_a_folder_that_others_can_write_is_refused(mode, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    for path in (tmp_path / "open", tmp_path / "link"):
        with pytest.raises(NotOwn, match=rf"open can be written by others \(its mode is {mode:o}\).* Delete it"):
            own_folder(path)


@pytest.mark.parametrize(("mode", "refused"), [(0o770, True), (0o707, True), (0o1777, False)])
def test_so_is_one_below_a_folder_where_others_could_exchange_it(mode, refused, tmp_path):
    (tmp_path / "open" / "own").mkdir(parents=True, mode=0o700)
    (tmp_path / "open").chmod(mode)
    if refused:
        with pytest.raises(NotOwn, match=r"open can be written by others .* chmod go-w"):
            own_folder(tmp_path / "open" / "own")
    else:
        own_folder(tmp_path / "open" / "own")


def test_what_belongs_to_somebody_else_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    as_another_user(monkeypatch)
    for refuse in (own_folder, refuse_foreign_content):
        with pytest.raises(NotOwn, match=r"belongs to .* Delete"):
            refuse(tmp_path)
    with pytest.raises(NotOwn, match=r"file belongs to .* who could put code of his own there"):
        own_file(tmp_path / "file")


def test_a_file_that_others_can_write_and_a_link_are_refused(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch(mode=0o600)
    assert own_file(file) == file
    link.symlink_to(file)
    with pytest.raises(NotOwn, match="link is no plain file"):
        own_file(link)
    file.chmod(0o660)
    with pytest.raises(NotOwn, match="can be written by others"):
        own_file(file)


def test_inductor_s_own_files_are_kept_there_too_and_nowhere_else_afterwards(home, tmp_path):
    def now():
        return os.environ.get(cache.VARIABLE), os.environ.get("TRITON_CACHE_DIR"), codecache._HEADER_DIR

    before = now()
    inside = in_own_folder(lambda folder: (folder, *now()))
    assert inside == (home, str(home / "inductor"), str(home / "inductor" / "triton"), str(tmp_path / "headers"))
    assert now() == before


# Where programs cannot be kept, and where they are damaged.


def full_there(folder):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_where_the_cache_is_full_a_temporary_folder_serves(home):
    with pytest.warns(RuntimeWarning, match="not kept for other processes: .*No space left"):
        folder = in_own_folder(lambda folder: full_there(folder) if folder == home else folder)
    assert home not in (folder, *folder.parents)


def open_to_all(home):
    own_folder(home).chmod(0o777)


def a_file_in_place_of_it(home):
    home.parent.parent.mkdir(exist_ok=True)
    home.parent.touch()


@pytest.mark.parametrize(
    ("spoil", "words"), [(open_to_all, "can be written by others"), (a_file_in_place_of_it, "Not a directory|exists")]
)
def test_where_the_cache_is_no_use_a_temporary_folder_serves(spoil, words, home):
    spoil(home)
    with pytest.warns(RuntimeWarning, match=words):
        folder = in_own_folder(lambda folder: folder)
    assert home not in (folder, *folder.parents)
    assert cache.kept("anything") is None
    cache.keep_text("anything", "")
    assert cache.kept_text("anything") is None


def test_files_of_inductor_that_do_harm_are_deleted(home):
    harm = own_folder(home / "inductor") / "harm"
    harm.touch()

    def compile_in(folder):
        if (folder / "inductor" / "harm").exists():
            raise EOFError("unexpected end")

    with pytest.warns(RuntimeWarning, match="EOFError: unexpected end"):
        in_own_folder(compile_in)
    in_own_folder(compile_in)


def test_a_missing_compiler_is_missing_everywhere():
    def compile_in(folder):
        raise NoCompiler

    with pytest.raises(NoCompiler, match=r"no C.. compiler"):
        in_own_folder(compile_in)


@pytest.mark.parametrize("error", [InvalidCxxCompiler(), RuntimeError("InvalidCxxCompiler: no working compiler")])
def test_that_there_is_no_compiler_is_said_in_words(error):
    with pytest.raises(NoCompiler, match=r"Install g.. or clang"), said_in_words():
        raise error


def test_without_any_folder_it_runs_uncompiled(home, monkeypatch):
    def no_temporary():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory")

    a_file_in_place_of_it(home)
    monkeypatch.setattr(inductor, "_temporary", no_temporary)
    x = torch.ones(2)
    with pytest.warns(RuntimeWarning, match="not compiled, so slower: .*No usable temporary directory"):
        built = program.build(lambda x: [x + 1], [x])
    assert built.kind == "eager"
    assert torch.equal(built.run([x])[0], x + 1)


CONTENT = bytes(range(256)) * 8


@pytest.fixture
def compilations(monkeypatch):
    """In place of programs, archives of one file, which loads if it is what was written; a list of the compilations."""
    done = []

    def compile_(graph, choice, path):
        done.append(path)
        path.unlink(missing_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("program", CONTENT)
        path.chmod(0o600)
        return path

    def loaded(path, threads):
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() != ["program"]:
                raise aoti.NotLoaded
            return archive.read("program")

    monkeypatch.setattr(aoti, "address", lambda *_: "program.pt2")
    monkeypatch.setattr(aoti, "_compile", compile_)
    monkeypatch.setattr(aoti, "_loaded", loaded)
    return done


def another_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something else", "")


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "no archive": lambda path: path.write_bytes(b"garbage" * 100),
    "one bit": lambda path: path.write_bytes(path.read_bytes().replace(CONTENT[:64], b"\1" + CONTENT[1:64], 1)),
    "another archive": another_archive,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_program_is_compiled_anew(damage, home, compilations):
    assert aoti.compiled(None, [], ON_ONE_THREAD) == (CONTENT, False)
    assert aoti.compiled(None, [], ON_ONE_THREAD) == (CONTENT, True)
    damage(home / "program.pt2")
    assert aoti.compiled(None, [], ON_ONE_THREAD) == (CONTENT, False)
    assert aoti.compiled(None, [], ON_ONE_THREAD) == (CONTENT, True)
    assert len(compilations) == 2


def planted_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("plant", [lambda path: path.chmod(0o666), planted_link], ids=["writable", "link"])
def test_a_planted_program_is_refused_in_words_and_compiled_anew(plant, home, compilations):
    aoti.compiled(None, [], ON_ONE_THREAD)
    plant(home / "program.pt2")
    with pytest.warns(RuntimeWarning, match="not used: .*program.pt2"):
        assert aoti.compiled(None, [], ON_ONE_THREAD) == (CONTENT, False)
    assert aoti.compiled(None, [], ON_ONE_THREAD) == (CONTENT, True)


def test_that_the_loader_failed_once_is_not_kept(home, monkeypatch):
    statuses = iter([1, -11, 0])

    def run(command, **options):
        return subprocess.CompletedProcess(command, next(statuses), "", "why")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(aoti.NotLoaded, match=r"fails here \(status 1 why\)"):
        aoti._try_loader(home / "damaged.pt2")
    with pytest.raises(aoti.LoaderCrashes, match="status -11"):
        aoti._try_loader(home / "damaged.pt2")
    for _ in range(2):  # it worked: nobody asks again
        aoti._try_loader(home / "whole.pt2")


def test_what_inductor_wrote_is_read_again(home, monkeypatch):
    def half(path, files):
        Path(path).write_bytes(b"half of it")

    monkeypatch.setattr("torch._inductor.aot_compile", lambda graph, inputs, options: [])
    monkeypatch.setattr("torch._inductor.package.package.package_aoti", half)
    own_folder(home)
    with pytest.raises(NotCompiled, match="is its disk full"):
        aoti._compile(torch.fx.symbolic_trace(lambda: ()), ON_ONE_THREAD, home / "program.pt2")
    assert not list(home.iterdir())


@pytest.mark.parametrize("said", ["", "[]", "null", *(f'{{"fastest onednn over mkl": {n}}}' for n in ("null", '"x"'))])
def test_a_damaged_measurement_is_made_again(said, monkeypatch):
    monkeypatch.setattr("manual_bp.compilation.measured.kept_text", lambda name: said)
    monkeypatch.setattr("manual_bp.compilation.measured._ratio", lambda product, threads: 0.5)
    assert onednn_is_faster(Product(1, 1, 1, False, False), 1, said)
