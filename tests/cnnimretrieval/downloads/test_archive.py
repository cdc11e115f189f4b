import io
import tarfile
import zipfile

import pytest

from cnnimretrieval.downloads.archive import unpack

FILES = {"paris/eiffel/a.jpg": b"iron" * 500, "paris/b.jpg": b"stone" * 700, "c.txt": b""}


def tar(path, members, mode="w:gz"):
    """`members` are (TarInfo or name, content)."""
    with tarfile.open(path, mode) as file:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def packed(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(name, content)
        return path
    return tar(path, files.items(), "w" if path.suffix == ".tar" else "w:gz")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def refuses(archive, folder, expected):
    with pytest.raises(ValueError, match="expected") as caught:
        unpack(archive, folder)
    assert str(caught.value) == f"{archive}: {expected}; download it again or from a --mirror"
    assert sorted(path.name for path in folder.parent.iterdir()) == [archive.name]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar", "x.zip"])
def test_every_kind(tmp_path, folder, name):
    assert unpack(packed(tmp_path / name, FILES), folder) == 3
    assert contents(folder) == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", name]


def test_flat(tmp_path, folder):
    unpack(packed(tmp_path / "x.tgz", FILES), folder, flat=True)
    assert contents(folder) == {name.rpartition("/")[2]: content for name, content in FILES.items()}


def test_beside_what_is_there(tmp_path, folder):
    unpack(packed(tmp_path / "1.tgz", FILES), folder)
    unpack(packed(tmp_path / "2.tgz", {"paris/d.jpg": b"d", "paris/b.jpg": b"new"}), folder)
    assert contents(folder) == {**FILES, "paris/d.jpg": b"d", "paris/b.jpg": b"new"}


def test_hard_links_become_files(tmp_path, folder):
    members = [("a.jpg", b"once"), (special("b.jpg", tarfile.LNKTYPE, "a.jpg"), b"")]
    assert unpack(tar(tmp_path / "x.tgz", members), folder) == 2
    assert contents(folder) == {"a.jpg": b"once", "b.jpg": b"once"}


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "a\\..\\out.jpg"])
@pytest.mark.parametrize("kind", ["x.tgz", "x.zip"])
def test_members_outside(tmp_path, folder, name, kind):
    archive = packed(tmp_path / kind, {"good.jpg": b"good", name: b"bad"})
    refuses(archive, folder, f"expected members inside its own folder, got '{name}'")


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (special("a", tarfile.SYMTYPE, "/etc"), "files and folders only, got 'a', which is a link"),
        (special("a", tarfile.SYMTYPE, "good.jpg"), "files and folders only, got 'a', which is a link"),
        (special("a", tarfile.CHRTYPE), "files and folders only, got 'a', which is a device or pipe"),
        (special("a", tarfile.FIFOTYPE), "files and folders only, got 'a', which is a device or pipe"),
        (special("a", tarfile.LNKTYPE, "/etc/hosts"), "links to its own files, got 'a' to '/etc/hosts'"),
        (special("a", tarfile.LNKTYPE, "a"), "links to its own files, got 'a' to 'a'"),
    ],
)
def test_members_that_are_no_files(tmp_path, folder, member, said):
    archive = tar(tmp_path / "x.tgz", [("good.jpg", b"good"), (member, b"")])
    refuses(archive, folder, f"expected {said}")


def test_a_file_through_a_link_of_the_archive(tmp_path, folder):
    members = [(special("a", tarfile.SYMTYPE, str(tmp_path)), b""), ("a/out.jpg", b"bad")]
    refuses(
        tar(tmp_path / "x.tgz", members),
        folder,
        "expected files and folders only, got 'a', which is a link",
    )


def test_a_link_in_a_zip(tmp_path, folder):
    info = zipfile.ZipInfo("a")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc")
    refuses(tmp_path / "x.zip", folder, "expected files and folders only, got 'a', which is a link")


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("kind", ["x.tgz", "x.tar", "x.zip"])
def test_a_truncated_archive(tmp_path, folder, kind, kept):
    archive = packed(tmp_path / kind, {f"{n}.bin": bytes(range(256)) * (40 + n) for n in range(9)})
    whole = archive.read_bytes()
    # A tar ends with zeros, which nobody misses: what is cut here is content.
    end = len(whole.rstrip(b"\0")) if kind == "x.tar" else len(whole)
    archive.write_bytes(whole[: int(end * kept)])
    with pytest.raises(
        ValueError, match=f"^{archive}: expected a whole archive, got '.+'; download it again"
    ):
        unpack(archive, folder)
    assert not folder.exists()


def test_no_archive(tmp_path, folder):
    (tmp_path / "x.tgz").write_bytes(b"<html>not found</html>" * 99)
    refuses(
        tmp_path / "x.tgz", folder, "expected a whole archive, got 'file could not be opened successfully'"
    )


def test_an_empty_archive(tmp_path, folder):
    refuses(packed(tmp_path / "x.tgz", {}), folder, "expected files, got none")


def test_a_name_twice(tmp_path, folder):
    archive = packed(tmp_path / "x.tgz", {"a/1.jpg": b"1", "b/1.jpg": b"2"})
    with pytest.raises(ValueError, match=r"expected each name once, got 'b/1.jpg' again"):
        unpack(archive, folder, flat=True)
    assert not folder.exists()
