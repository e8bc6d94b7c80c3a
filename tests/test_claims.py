"""Results are made by one process at a time, known again, and prepared where nothing else is."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import h5py
import numpy as np
import pytest

import skild_physics as sk
from skild_physics.claims import claimed, filling, replacing, work_folder
from skild_physics.data_gen import ensemble
from skild_physics.files import InputError
from skild_physics.models import making
from skild_physics.requests import recorded

FEW = {"sampler": sk.Multistep(1)}


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a"])
def test_a_second_writer_is_refused(tmp_path, name):
    out, fields = tmp_path / name, np.zeros((2, 8, 8))
    model = sk.load("bundled")
    writers = (
        lambda: sk.save(fields, out),
        lambda: sk.coarse_grain(fields, factor=2, out=out),
        lambda: model.generate(1, out=out, **FEW),
    )
    with claimed(out), ThreadPoolExecutor(1) as other:
        for writer in writers:
            with pytest.raises(InputError, match="another process is writing it"):
                other.submit(writer).result()
    assert not names(tmp_path)


def test_a_folder_of_somebody_is_not_touched(tmp_path):
    mine = work_folder(tmp_path / "a.h5")
    mine.mkdir()
    (mine / "tmp-thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds other things"):
        sk.save(np.zeros((2, 8, 8)), tmp_path / "a.h5")
    assert names(tmp_path) == [mine.name, f"{mine.name}/tmp-thesis.tex"]


def test_what_a_dead_process_left_is_cleared_away(tmp_path):
    out = tmp_path / "a.h5"
    with claimed(out) as work:
        (work / "kept").touch()
    (work / "tmp-folder").mkdir()
    (work / "tmp-folder" / "file").touch()
    (work / "tmp-file").touch()
    with claimed(out):
        assert sorted(path.name for path in work.iterdir()) == ["kept", "lock"]
    sk.save(np.zeros((2, 8, 8)), out)
    assert names(tmp_path) == ["a.h5"]


def test_a_failure_leaves_no_folders(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a" / "b" / "c") as temporary:
        _ = temporary.write_text("half") / 0
    assert not names(tmp_path)
    with replacing(tmp_path / "a" / "b" / "c") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["a", "a/b", "a/b/c"]


def test_what_fills_a_folder_is_prepared_in_it(tmp_path):
    with filling(tmp_path / "run") as work:
        with replacing(tmp_path / "run" / "pictures" / "a.png") as temporary:
            assert temporary.parent == work
            temporary.touch()
        with replacing(tmp_path / "beside") as temporary:
            assert temporary.parent == work_folder(tmp_path / "beside")
            temporary.touch()
    assert names(tmp_path) == ["beside", "run", "run/pictures", "run/pictures/a.png"]


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a"])
def test_a_request_is_that_of_one_result_alone(tmp_path, name):
    fields = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8)).astype("f4")
    out, again = tmp_path / name, tmp_path / f"again{name}"
    made = sk.coarse_grain(fields, factor=2, out=out)
    request = recorded(out)
    assert len(request) == 64
    sk.save(made, again)
    assert recorded(again) not in (None, request)
    assert "request" not in sk.coarse_grain(made, factor=2).attrs
    # it is known by what is in it, and not by its name
    np.save(tmp_path / "copy.npy", fields)
    sk.coarse_grain(tmp_path / "copy.npy", factor=2, out=out)
    for other in ({"kernel": "spectral"}, {"factor": 4}, {"samples": 2}):
        with pytest.raises(InputError, match="exists already"):
            sk.coarse_grain(fields, out=out, **{"factor": 2} | other)
    fields[0, 0, 0] += 0.5
    with pytest.raises(InputError, match="exists already"):
        sk.coarse_grain(fields, factor=2, out=out)
    assert recorded(out) == request


def test_a_missing_start_is_made_again_and_another_is_kept(tmp_path):
    model, truth = sk.load("bundled"), sk.generate_ising(64, samples=2, seed=2, workers=1)
    for name in ("a.h5", "a.npz", "a"):
        start = tmp_path / "start.npy"
        how = {"out": tmp_path / name, "start_out": start, **FEW}
        first = model.reconstruct(truth, 4, **how)
        before = start.read_bytes()
        start.unlink()
        np.testing.assert_array_equal(model.reconstruct(truth, 4, **how), first)
        assert start.read_bytes() == before
        model.reconstruct(truth, 4, **how)
        np.save(start, np.zeros((2, 1, 64, 64), "f4"))
        with pytest.raises(InputError, match=r"start\.npy: exists already"):
            model.reconstruct(truth, 4, **how)
        start.unlink()
    assert sorted(os.listdir(tmp_path)) == ["a", "a.h5", "a.npz"]


def test_what_files_cannot_hold_is_refused_before_the_work(tmp_path):
    model, out = sk.load("bundled"), tmp_path / "a" / "a.h5"
    with pytest.raises(InputError, match="`seed` must lie in 0"):
        model.generate(1, seed=2**63, out=out, **FEW)
    with pytest.raises(InputError, match="`seed` must lie in 0"):
        sk.generate_ising(8, samples=4, seed=2**64, out=out)
    fields = sk.open(np.zeros((2, 8, 8))).assign_attrs(odd=2**70)
    with pytest.raises(InputError, match="cannot hold the attribute 'odd'"):
        sk.save(fields, out)
    assert not names(tmp_path)


def test_shards_of_an_interrupted_call_are_finished_by_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("skild_physics.models.making.SHARD_FIELDS", 2)
    model, out = sk.load("bundled"), tmp_path / "a.h5"

    class Stop:
        def __call__(self, title, total):
            return self

        def __enter__(self):
            return self.show

        def __exit__(self, *error):
            pass

        def show(self, done, note=""):
            if done >= 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate(4, out=out, batch_size=2, progress=Stop(), **FEW)
    settings = json.loads((work_folder(out) / "settings.json").read_text())
    assert (settings["count"], settings["seed"]) == (4, 0)
    with pytest.raises(InputError, match="interrupted run with other settings"):
        model.generate(4, out=out, seed=1, **FEW)
    made = model.generate(4, out=out, batch_size=3, **FEW)
    np.testing.assert_array_equal(made, model.generate(4, **FEW))
    with h5py.File(out) as file:
        assert file.attrs["request"] == recorded(out)
    assert names(tmp_path) == ["a.h5"]


WRITERS = {
    "a.h5": lambda out, **how: sk.save(np.zeros((2, 8, 8)), out, **how).close(),
    "a": lambda out, **how: sk.save(np.zeros((2, 8, 8)), out, **how).close(),
    "i.h5": lambda out, **how: sk.generate_ising(8, samples=16, workers=1, out=out, **how).close(),
    "s.nc": lambda out, **how: sk.fit_spectrum(
        np.random.default_rng(0).normal(size=(64, 16, 16)), out=out, **how
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_pipes_devices_and_dangling_links_are_not_replaced(tmp_path, name, overwrite):
    out = tmp_path / name
    for make in (os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda p: p.symlink_to(p)):
        make(out)
        before = os.lstat(out)
        with pytest.raises(InputError, match="is not replaced"):
            WRITERS[name](out, overwrite=overwrite)
        assert os.path.samestat(os.lstat(out), before)
        assert names(tmp_path) == [name]
        out.unlink()


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_link_leads_to_is_replaced(tmp_path, name):
    far, out = tmp_path / "far" / name, tmp_path / f"link-{name}"
    far.parent.mkdir()
    WRITERS[name](far)
    out.symlink_to(far)
    before = os.stat(far)
    with (
        claimed(far),
        ThreadPoolExecutor(1) as other,
        pytest.raises(InputError, match="another process is writing it"),
    ):
        other.submit(WRITERS[name], out, overwrite=True).result()
    if name == "i.h5":
        sk.generate_ising(8, samples=32, workers=1, out=out).close()
    else:
        WRITERS[name](out, overwrite=True)
    assert out.is_symlink()
    assert not os.path.samestat(os.stat(far), before)
    assert names(tmp_path / "far") == [each for each in names(tmp_path / "far") if each[0] != "."]


@pytest.mark.parametrize("name", ["~/a.h5", "~.nc"])
def test_a_tilde_in_a_name_is_a_letter(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    sk.save(np.zeros((2, 8, 8)), name).close()
    with sk.open(name) as fields:
        assert fields.shape == (2, 8, 8)


def test_what_appears_meanwhile_is_kept(tmp_path):
    fields = np.random.default_rng(0).normal(size=(64, 16, 16))

    def progress(title, total):
        out.write_text("mine")
        return nullcontext(lambda *done: None)

    writers = (
        lambda out: sk.generate_ising(8, samples=16, workers=1, out=out, progress=progress),
        lambda out: sk.fit_spectrum(fields, out=out, progress=progress),
        lambda out: sk.eval_correlators(truth=fields, out=out, progress=progress),
        lambda out: sk.load("bundled").generate(1, out=out, progress=progress, **FEW),
    )
    for number, writer in enumerate(writers):
        out = tmp_path / f"{number}.h5"
        with pytest.raises(InputError, match=re.escape(f"{out}: ")):
            writer(out)
        assert out.read_text() == "mine"


def test_what_is_put_into_a_folder_meanwhile_is_kept(tmp_path):
    out = tmp_path / "made"
    sk.save(np.zeros((2, 8, 8)), out).close()

    def progress(title, total):
        (out / "notes.txt").write_text("mine")
        return nullcontext(lambda *done: None)

    with pytest.raises(InputError, match="holds other files"):
        sk.load("bundled").generate(1, out=out, overwrite=True, progress=progress, **FEW)
    assert (out / "notes.txt").read_text() == "mine"
    assert len(names(out)) == 4


def test_what_another_command_began_is_not_discarded(tmp_path, monkeypatch):
    out, model, fields = tmp_path / "a.h5", sk.load("bundled"), np.zeros((2, 8, 8))
    commands = {
        "generate": lambda: model.generate(1, out=out, **FEW).close(),
        "generate-ising": lambda: WRITERS["i.h5"](out),
        "save": lambda: sk.save(fields, out).close(),
    }
    for name, module, last in (
        ("generate", making, "write_fields"),
        ("generate-ising", ensemble, "commit"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, last, lambda *given, **how: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                commands[name]()
        begun = names(tmp_path)
        for other in commands.keys() - {name}:
            with pytest.raises(InputError, match="interrupted run of another command"):
                commands[other]()
            assert names(tmp_path) == begun
        commands[name]()
        assert names(tmp_path) == ["a.h5"]
        out.unlink()


def test_what_somebody_else_writes_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out.txt"
    both = replacing(out)
    both.__enter__().write_text("ours")
    out.write_text("theirs")
    with pytest.raises(InputError, match="was written by somebody else meanwhile"):
        both.__exit__(None, None, None)
    assert out.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["out.txt"]
