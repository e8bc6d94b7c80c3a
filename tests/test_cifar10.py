"""CIFAR-10 out of its published archive."""

import hashlib
import io
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from field_files import close, everything, one_line, unit

from skild_physics.fields import batches, channels_of, open_fields
from skild_physics.fields import cifar10 as published
from skild_physics.fields.cifar10 import cifar10


def pictures(seed, n=7):
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


# the order of the published archive is not that of the batches
TRAIN = {f"data_batch_{i}.bin": pictures(i) for i in (4, 3, 2, 5, 1)}


@pytest.fixture
def write_archive(tmp_path, monkeypatch):
    def write(members):
        path = tmp_path / published.ARCHIVE
        with tarfile.open(path, "w:gz") as archive:
            for name, content in {"readme.html": b"<html>", **members}.items():
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(published, "SHA256", digest)
        return path

    return write


def batch(data):
    """Records of a class and its picture."""
    labels = np.full((len(data), 1), 3, np.uint8)
    return np.hstack([labels, data]).tobytes()


@pytest.fixture
def archive(write_archive):
    members = {name: batch(data) for name, data in TRAIN.items()}
    return write_archive({**members, "test_batch.bin": batch(pictures(9))})


def test_cifar10_is_read_out_of_its_archive(archive, tmp_path):
    expected = np.concatenate([TRAIN[f"data_batch_{i}.bin"] for i in range(1, 6)])
    fields = open_fields("cifar10", data_dir=tmp_path)
    assert (fields.source, fields.shape, fields.basis) == ("cifar10", (35, 3, 32, 32), "cosine")
    assert channels_of(fields) == ("red", "green", "blue")
    close(everything(fields), unit(expected.reshape(-1, 3, 32, 32)))
    close(np.concatenate(list(batches(fields, 5, 20))), everything(fields)[5:20])
    close(everything(cifar10(tmp_path, "test")), unit(pictures(9).reshape(-1, 3, 32, 32)))
    assert sorted(os.listdir(tmp_path)) == [archive.name]


def test_cifar10_is_looked_for_in_the_cache(archive, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: archive.parent)
    assert len(open_fields("cifar10")) == 35


@pytest.mark.parametrize("content", [batch(pictures(1))[:-100], b"<html>"])
def test_other_records_are_refused(write_archive, content):
    path = write_archive({name: content for name in TRAIN})
    with pytest.raises(ValueError, match="damaged") as error:
        cifar10(path.parent)
    one_line(error, path)


def refuse_to_download(*args, **kwargs):
    raise AssertionError("a download began")


def test_archive_without_a_batch_is_refused(write_archive):
    path = write_archive({"data_batch_1.bin": batch(pictures(1))})
    with pytest.raises(ValueError, match=r"data_batch_2\.bin") as error:
        cifar10(path.parent)
    one_line(error, path)


def test_truncated_and_foreign_archives_are_refused_and_kept(archive, monkeypatch):
    whole = archive.read_bytes()
    monkeypatch.setattr(published, "urlopen", refuse_to_download)
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", b""):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="delete it") as error:
            cifar10(archive.parent)
        one_line(error, archive, f"{len(content):,} bytes", "expected 170,052,171 bytes")
        assert archive.read_bytes() == content


def test_damage_behind_a_right_hash_is_named(archive, monkeypatch):
    content = archive.read_bytes()[:3000]
    archive.write_bytes(content)
    monkeypatch.setattr(published, "SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(ValueError, match="damaged") as error:
        cifar10(archive.parent)
    one_line(error, archive)


@pytest.fixture
def server(archive, tmp_path_factory, monkeypatch):
    """A web server that has the archive."""
    root = tmp_path_factory.mktemp("web")
    archive.rename(root / archive.name)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=root)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{found.server_address[1]}/{published.ARCHIVE}"
        monkeypatch.setattr(published, "URL", url)
        yield root / archive.name
        found.shutdown()


def test_it_is_downloaded_once(server, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    assert len(cifar10(folder, "test")) == 7
    assert [each.name for each in folder.iterdir()] == [published.ARCHIVE]
    monkeypatch.setattr(published, "urlopen", refuse_to_download)
    assert len(cifar10(folder)) == 35


def test_failed_downloads_are_one_line(server, tmp_path, monkeypatch):
    server.write_bytes(server.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cannot download") as error:
        cifar10(tmp_path)
    one_line(error, "checksum", tmp_path)
    server.unlink()
    with pytest.raises(ValueError, match="cannot download") as error:
        cifar10(tmp_path)
    one_line(error, "File not found", tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_network_says_where_to_put_the_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    with pytest.raises(ValueError, match="cannot download") as error:
        cifar10(tmp_path)
    one_line(
        error,
        "http://127.0.0.1:9",
        "Connection refused",
        tmp_path / "cifar-10-binary.tar.gz",
        "data_dir",
    )
    assert not list(tmp_path.iterdir())
