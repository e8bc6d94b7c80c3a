"""skild-physics eval-images, with networks of random weights saved as the published ones are."""

import hashlib
import json
import socket
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import xarray as xr
from field_files import everything
from PIL import Image
from rich.console import Console
from scipy import stats
from skimage import data

import skild_physics as sk
from skild_physics.cli.main import main
from skild_physics.fields import open_fields
from skild_physics.files import InputError
from skild_physics.quality.evaluate import evaluate
from skild_physics.quality.extras import import_extra
from skild_physics.tables import with_error

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
ALEXNET = "alexnet-owt-7be5be79.pth"
SIZE = 48


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def connect(*_):
        raise AssertionError("something wants to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.fixture(autouse=True)
def small_inception(monkeypatch):
    """Inception enlarges pictures to 299 pixels; all else stays, and takes a tenth of the time."""
    library = import_extra("torch_fidelity.feature_extractor_inceptionv3", "fid")
    monkeypatch.setattr(library.FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 96)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 patches of real photographs, noisy ones, coarse ones as .npz, and grey ones."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.chelsea(), data.coffee()]
    patches = np.stack(
        [p[k * SIZE : (k + 1) * SIZE, 100 : 100 + SIZE] for p in photographs for k in range(6)]
        + [
            p[k * SIZE : (k + 1) * SIZE, 240 : 240 + SIZE]
            for p in photographs[:2]
            for k in range(3)
        ]
    )
    noisy = np.clip(np.rint(patches + rng.normal(0, 25, patches.shape)), 0, 255).astype(np.uint8)
    for name, stack in {"held": patches, "noisy": noisy, "few": patches[:20]}.items():
        (root / name).mkdir()
        for k, picture in enumerate(stack):
            Image.fromarray(picture).save(root / name / f"{k:02d}.png")
    np.savez(root / "coarse.npz", patches[:, ::4, ::4].repeat(4, axis=1).repeat(4, axis=2))
    np.savez(root / "small.npz", patches[:, :32, :32])
    np.savez(root / "few.npz", patches[:20])
    np.savez(root / "tiny.npz", patches[:, :10, :10])
    np.savez(root / "grey.npz", patches[..., :1])
    (root / "damaged").mkdir()
    for k, picture in enumerate(noisy):
        Image.fromarray(picture).save(root / "damaged" / f"{k:02d}.png")
    (root / "damaged" / "07.png").write_bytes(b"nothing of a picture")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random networks in files that are named and built like the published ones."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    library = import_extra("torch_fidelity.feature_extractor_inceptionv3", "fid")
    extractor = library.FeatureExtractorInceptionV3
    with (
        patch.object(library, "load_state_dict_from_url"),
        patch.object(extractor, "load_state_dict"),
    ):
        network = extractor("inception-v3-compat", ["2048"])
    # as large as He's, so that differences between pictures survive 40 layers
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), folder / INCEPTION)
    from torchvision.models import alexnet

    torch.save(alexnet().state_dict(), folder / ALEXNET)
    return folder


def run(monkeypatch, folder, arguments, capsys):
    """Exit code and what was printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["skild-physics", "eval-images", *arguments.split()])
    monkeypatch.setattr("skild_physics.cli.console.answers", Console(width=120))
    try:
        main()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    return code, *capsys.readouterr()


def opened(root, **sources):
    return {label: open_fields(root / source) for label, source in sources.items()}


def test_it_says_in_words_what_is_better(pictures, tmp_path):
    """Of real pictures: a Lanczos enlargement is better than a bicubic one, noise worse."""
    held = open_fields(pictures / "held")
    coarse = sk.coarse_grain(held, factor=2, kernel="bicubic")
    for out in ("bicubic", "bicubic.h5", "lanczos.h5"):
        kernel = out.partition(".")[0]
        enlarged = sk.interpolate(coarse, factor=2, kernel=kernel, out=tmp_path / out)
    sources = {"truth": held, "noisy": pictures / "noisy", "half": (held + enlarged.values) / 2}
    both = {"bicubic": tmp_path / "bicubic.h5", "lanczos": tmp_path / "lanczos.h5"}
    quality = sk.eval_images(sources | both, metrics=["psnr", "ssim"], out=tmp_path / "q.nc")
    noisy, half = quality.in_words()
    assert noisy.startswith("noisy against lanczos, the best interpolation, picture by picture: ")
    psnr = quality.dataset["psnr"]
    difference = (psnr.sel(source="half") - psnr.sel(source="lanczos")).values
    stderr = stats.sem(difference)
    value = with_error(difference.mean(), stderr)
    assert half.partition(": ")[2].startswith(f"PSNR better by {value} dB, SSIM better by ")
    assert "PSNR worse by" in noisy
    assert repr(quality).splitlines()[-1] == half
    assert sk.ImageQuality.load(tmp_path / "q.nc").in_words() == [noisy, half]
    older = sk.ImageQuality(quality.dataset.drop_vars("interpolated"))
    assert [line.partition(" picture")[0] for line in older.in_words()] == [
        f"{label} against noisy" for label in ("half", "bicubic", "lanczos")
    ]
    folder = {"truth": held, "same": held, "noisy": pictures / "noisy", "up": tmp_path / "bicubic"}
    same, noisy = sk.eval_images(folder, metrics=["psnr", "ssim"]).in_words()
    assert same.startswith("same against up picture by picture: PSNR not compared, SSIM better by")
    assert noisy.startswith("noisy against up picture by picture: PSNR worse by ")
    assert sk.eval_images(truth=held, noisy=pictures / "noisy").in_words() == []


def test_table_files_and_json(pictures, tmp_path, monkeypatch, capsys):
    files = f"--out {tmp_path}/q.nc --csv {tmp_path}/q.csv"
    sources = "truth=held noisy=noisy coarse=coarse.npz"
    code, out, err = run(monkeypatch, pictures, f"{sources} {files}", capsys)
    assert code == 0, err
    assert out.splitlines()[-1] == f"{tmp_path}/q.nc"
    assert "MS-SSIM, 3 scales" in out
    assert "minus noisy" in out
    assert "24 of truth, 24 of noisy, 24 of coarse" in err
    with xr.open_dataset(tmp_path / "q.nc", engine="h5netcdf") as saved:
        results = saved.load()
    assert dict(results.sizes) == {"source": 3, "image": 24}
    assert results["psnr"].attrs["units"] == "dB"
    assert results["ms_ssim"].attrs["scales"] == 3
    assert results.attrs["reference"] == "truth"
    mean = results["ssim_mean"].sel(source="coarse").item()
    assert mean == pytest.approx(results["ssim"].sel(source="coarse").mean().item())
    assert np.isnan(results["psnr"].sel(source="truth")).all()
    lines = (tmp_path / "q.csv").read_text().splitlines()
    assert lines[0] == "source,image,psnr,ssim,ms_ssim,name"
    assert lines[1].split(",")[-1] == "00"
    assert len(lines) == 1 + 2 * 24
    first = float(lines[1].split(",")[2])
    assert first == pytest.approx(results["psnr"].sel(source="noisy")[0].item())
    code, out, _ = run(monkeypatch, pictures, f"{sources} {files} --overwrite --json", capsys)
    rows = json.loads(out)
    assert [(row["metric"], row["source"]) for row in rows[:2]] == [
        ("psnr", "noisy"),
        ("psnr", "coarse"),
    ]
    assert rows[0]["low"] < rows[0]["value"] < rows[0]["high"]
    assert rows[1]["difference"] == pytest.approx(rows[1]["value"] - rows[0]["value"])


def test_values_are_of_8_bit_pixels(pictures, tmp_path):
    x = np.moveaxis(np.load(pictures / "coarse.npz")["arr_0"], -1, 1) / np.float32(127.5) - 1
    # less than half a step, and beyond the ends of the scale
    x = np.where(x == 1, 1.5, np.where(x == -1, -1.5, x + 0.003)).astype(np.float32)
    np.save(tmp_path / "fields.npy", x)
    found = [
        evaluate({**opened(pictures, truth="held"), "y": open_fields(path)}, ["psnr", "ssim"])
        for path in (pictures / "coarse.npz", tmp_path / "fields.npy")
    ]
    xr.testing.assert_equal(*found)


def test_results_do_not_depend_on_batches(pictures):
    sources = {"truth": "held", "noisy": "noisy", "coarse": "coarse.npz"}
    whole, parts = (
        evaluate(opened(pictures, **sources), ["psnr", "ms-ssim"], batch_size=size)
        for size in (24, 7)
    )
    xr.testing.assert_allclose(whole, parts, rtol=1e-12)
    few = evaluate(opened(pictures, **sources), ["psnr", "ms-ssim"], samples=9)
    xr.testing.assert_allclose(
        few.drop_vars("n_samples"), parts.drop_vars("n_samples")[{"image": slice(9)}]
    )


def test_equal_pictures(pictures, tmp_path, monkeypatch, capsys):
    arguments = f"a=held b=held --out {tmp_path}/q.nc --json"
    code, out, err = run(monkeypatch, pictures, arguments, capsys)
    assert code == 0, err
    psnr, ssim, ms_ssim = json.loads(out)
    assert (psnr["value"], psnr["stderr"]) == ("inf", None)
    assert ssim["value"] == ms_ssim["value"] == 1


def test_ensembles_agree_with_torch_fidelity_itself(
    pictures, weights, tmp_path, monkeypatch, capsys
):
    arguments = (
        f"truth=held noisy=noisy --metrics fid,kid,is --weights {weights} --out {tmp_path}/q.nc"
    )
    code, out, err = run(monkeypatch, pictures, arguments, capsys)
    assert code == 0, err
    # a number from other weights is never to be taken for a published one
    for title in ("FID", "KID", "IS"):
        assert f"{title}, NOT the published weights" in out
    assert f"fid: {weights}/{INCEPTION} is not the published file" in err
    assert "24 pictures of noisy are fewer than the 2048 features" in err
    with xr.open_dataset(tmp_path / "q.nc", engine="h5netcdf") as saved:
        results = saved.load()
    expected = import_extra("torch_fidelity", "fid").calculate_metrics(
        input1=str(pictures / "noisy"),
        input2=str(pictures / "held"),
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=12,
        feature_extractor_weights_path=weights / INCEPTION,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    found = {name: results[name].sel(source="noisy").item() for name in ("fid", "kid", "is")}
    assert found["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert found["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert found["is"] == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert results["kid_subset_size"].sel(source="noisy") == 12
    assert results["fid_stderr"].sel(source="noisy") > 0
    assert results["is"].notnull().all()
    assert np.isnan(results["fid"].sel(source="truth"))
    assert results["fid"].attrs["published_weights"] == 0


def test_ensembles_need_no_pairs(pictures, weights, caplog):
    sources = opened(pictures, truth="held", few="few", small="small.npz")
    caplog.set_level("INFO", "skild_physics")
    results = evaluate(sources, ["fid"], weights=weights)
    assert results["n_samples"].values.tolist() == [24, 20, 24]
    assert results["fid"][1:].notnull().all()
    assert "20 pictures of few" in caplog.text


def test_lpips_is_its_formula(pictures, weights):
    sources = opened(pictures, truth="held", noisy="noisy")
    found = evaluate(sources, ["lpips"], weights=weights)["lpips"].sel(source="noisy")
    from torchvision.models import alexnet

    network = alexnet()
    network.load_state_dict(torch.load(weights / ALEXNET, weights_only=True))
    package = Path(import_extra("lpips", "lpips").__file__).parent
    heads = torch.load(package / "weights/v0.1/alex.pth", "cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]

    def activations(name):
        x = torch.from_numpy(everything(open_fields(pictures / name)))
        x = (x - shift) / scale
        for number, layer in enumerate(network.features[:12]):
            x = layer(x)
            if number in (1, 4, 7, 9, 11):
                yield x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)

    with torch.no_grad():
        expected = sum(
            ((x - y).square() * heads[f"lin{k}.model.1.weight"]).sum(dim=1).mean(dim=(1, 2))
            for k, (x, y) in enumerate(zip(activations("held"), activations("noisy"), strict=True))
        )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.std() > 1e-3 * found.mean()


def test_grey_pictures(pictures, weights, tmp_path):
    grey = np.load(pictures / "grey.npz")["arr_0"]
    np.savez(tmp_path / "coarse.npz", grey[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2))
    np.savez(tmp_path / "three.npz", grey.repeat(3, axis=-1))
    np.savez(
        tmp_path / "coarse3.npz",
        np.load(tmp_path / "coarse.npz")["arr_0"].repeat(3, axis=-1),
    )
    one, three = (
        evaluate(
            {"truth": open_fields(truth), "coarse": open_fields(tmp_path / coarse)},
            ["psnr", "ssim", "ms-ssim", "lpips"],
            weights=weights,
        )
        for truth, coarse in (
            (pictures / "grey.npz", "coarse.npz"),
            (tmp_path / "three.npz", "coarse3.npz"),
        )
    )
    xr.testing.assert_allclose(one, three, rtol=1e-6)


def test_options_of_folders_beside_other_sources(pictures, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "middle.npz", np.load(pictures / "coarse.npz")["arr_0"][:, 8:-8, 8:-8])
    arguments = f"truth=held coarse={tmp_path}/middle.npz --size 32 --out {tmp_path}/q.nc --json"
    code, out, err = run(monkeypatch, pictures, arguments, capsys)
    assert code == 0, err
    x = everything(open_fields(pictures / "held", size=32))
    y = np.moveaxis(np.load(tmp_path / "middle.npz")["arr_0"], -1, 1) / 127.5 - 1
    error = (127.5**2 * (x - y) ** 2).mean(axis=(1, 2, 3))
    assert json.loads(out)[0]["value"] == pytest.approx((10 * np.log10(255**2 / error)).mean())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("held=", "expected SOURCE or LABEL=SOURCE, got 'held='"),
        ("held held", "two sources go by 'held'"),
        ("a=held a=noisy", "label 'a' is given twice"),
        ("a=held b=noisy --metrics psnr,mse", "'mse' is none of psnr, ssim"),
        ("a=nowhere b=noisy", "nowhere: no such file or folder"),
        ("a=held", "psnr, ssim, ms-ssim compare with a reference: give it and another source"),
        ("a=held b=few.npz", "a has 24 pictures, b 20; --samples N takes the first N of each, and"),
        ("a=held b=few --samples 21", "b has 20 pictures, fewer than --samples 21"),
        ("a=held b=small.npz", "00 has 48 x 48 pixels in a, 32 x 32 in b; where a factor does not"),
        ("a=held b=grey.npz", "a is read in colour, b in grey; --grey"),
        ("a=tiny.npz b=tiny.npz", "ssim needs at least 11 pixels per side; a has 10"),
        ("a=held b=damaged", "b: 07.png cannot be used"),
        ("a=held b=noisy --data-dir .", "--data-dir is for cifar10, and none is given"),
        ("a=small.npz b=small.npz --resize", "--resize is for folders of pictures"),
        ("a=held b=noisy --out held", "held: is a directory"),
        ("a=held b=noisy --csv coarse.npz", "coarse.npz: exists already"),
        ("a=held b=noisy --metrics fid --csv x.csv", "--csv is for values of every picture"),
        ("a=held b=noisy --metrics fid --weights no", f"fid: no weights at no/{INCEPTION}; downl"),
        ("a=held b=noisy --metrics lpips --weights no", f"lpips: no weights at no/{ALEXNET}; do"),
        ("a=held b=noisy --metrics fid --bootstrap 200", "--bootstrap is for values of every"),
        ("a=held b=noisy --weights .", "--weights is for networks, which no metric here needs"),
        ("a=held b=noisy --resize", "--resize of held goes with --size"),
        ("a=held b=noisy --metrics psnr --bootstrap 1", "1 is not in the range x>=100"),
    ],
)
def test_bad_input_is_one_line(pictures, monkeypatch, capsys, arguments, message):
    before = sorted(pictures.iterdir())
    code, out, err = run(monkeypatch, pictures, arguments, capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(pictures.iterdir()) == before


@pytest.mark.parametrize(("metric", "file"), [("fid", INCEPTION), ("lpips", ALEXNET)])
def test_weights_of_another_network(pictures, tmp_path, metric, file):
    torch.save({"features.0.weight": torch.ones(3)}, tmp_path / file)
    with pytest.raises(ValueError, match=f"{file}: weights of another network"):
        evaluate(opened(pictures, a="held", b="noisy"), [metric], weights=tmp_path)


def test_damaged_pictures_are_named_where_no_pairs_are(
    pictures, weights, tmp_path, monkeypatch, capsys
):
    arguments = f"a=damaged --metrics is --weights {weights} --out {tmp_path}/q.nc"
    code, _, err = run(monkeypatch, pictures, arguments, capsys)
    assert code == 0, err
    assert "skipped 07.png: not a picture" in err
    assert "1 of 24 files skipped" in err
    assert "23 of a" in err


def test_fields_that_are_not_finite(tmp_path):
    x = np.zeros((3, 1, 16, 16), np.float32)
    np.save(tmp_path / "whole.npy", x)
    x[1, 0, 2, 3] = np.nan
    np.save(tmp_path / "broken.npy", x)
    with pytest.raises(ValueError, match=r"b: .*field 1 holds nan"):
        evaluate(opened(tmp_path, a="whole.npy", b="broken.npy"), ["psnr"])


def test_photographs_give_many_fields(tmp_path):
    truth = open_fields("photographs-test", size=128)
    np.save(tmp_path / "fields.npy", everything(truth))
    results = evaluate({"truth": truth, "same": open_fields(tmp_path / "fields.npy")}, ["psnr"])
    assert results["n_samples"].values.tolist() == [len(truth)] * 2
    assert (results["psnr"].sel(source="same") == np.inf).all()


def test_networks_of_pyiqa(pictures, tmp_path, monkeypatch):
    """Of random weights; those of CLIP are in an archive of TorchScript, as published."""
    pytest.importorskip("pyiqa")
    torch.manual_seed(0)
    musiq = import_extra("pyiqa.archs.musiq_arch", "musiq").MUSIQ(pretrained=False)
    torch.save(musiq.state_dict(), tmp_path / "musiq_koniq_ckpt-e95806b9.pth")
    library = import_extra("pyiqa.archs.clip_model", "clipiqa")
    clip = library.CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12).half()
    archive = torch.nn.Module()
    for name, each in clip.state_dict().items():
        inner = archive
        *folders, last = name.split(".")
        for folder in folders:
            if folder not in inner._modules:
                inner.add_module(folder, torch.nn.Module())
            inner = inner.get_submodule(folder)
        inner.register_buffer(last, each)
    torch.jit.script(archive).save(tmp_path / "RN50.pt")
    sources = opened(pictures, truth="held", noisy="noisy")
    how = {"metrics": ["musiq", "clipiqa"], "samples": 4, "weights": tmp_path}
    with pytest.raises(InputError, match=r"RN50\.pt: is not the published file, and no other is"):
        evaluate(sources, **how)
    digest = hashlib.sha256((tmp_path / "RN50.pt").read_bytes()).hexdigest()
    monkeypatch.setitem(library._MODELS, "RN50", f"https://example.org/{digest}/RN50.pt")
    results = evaluate(sources, **how)
    assert results["musiq"].notnull().all()
    assert results["musiq"].std() > 0
    assert ((results["clipiqa"] > 0) & (results["clipiqa"] < 1)).all()
    assert results["clipiqa"].std() > 0
    assert results["musiq"].attrs["published_weights"] == 0


@pytest.mark.parametrize("metric", ["musiq", "clipiqa"])
def test_pyiqa_that_is_missing(pictures, monkeypatch, capsys, metric):
    for name in [each for each in sys.modules if each.partition(".")[0] == "pyiqa"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    code, _, err = run(monkeypatch, pictures, f"a=held --metrics {metric}", capsys)
    assert code == 2
    assert err == (
        f"Error: {metric} needs the package pyiqa: pip install 'skild_physics[iqa]' "
        "(its licence forbids commercial use)\n"
    )


def test_the_call_is_the_command(pictures, weights, tmp_path, monkeypatch, capsys):
    """Also of fields in memory, but for the names of their sources."""
    metrics = ["psnr", "ssim", "lpips", "fid"]
    options = {"samples": 20, "size": 32, "bootstrap": 200, "weights": weights}
    words = [f"--metrics {','.join(metrics)}", *(f"--{k} {v}" for k, v in options.items())]
    files = f"--out {tmp_path}/theirs.nc --csv {tmp_path}/theirs.csv"
    sources = {"truth": "held", "noisy": "noisy", "small": "small.npz"}
    labels = " ".join(f"{label}={source}" for label, source in sources.items())
    code, _, err = run(monkeypatch, pictures, f"{labels} {' '.join(words)} {files}", capsys)
    assert code == 0, err
    outs = {"out": tmp_path / "ours.nc", "csv": tmp_path / "ours.csv"}
    found = sk.eval_images(sources, metrics=metrics, **options, **outs)
    theirs, ours = (
        xr.load_dataset(tmp_path / f"{name}.nc", engine="h5netcdf") for name in ("theirs", "ours")
    )
    xr.testing.assert_identical(ours, theirs)
    xr.testing.assert_equal(found.dataset, theirs)
    assert (tmp_path / "ours.csv").read_text() == (tmp_path / "theirs.csv").read_text()
    with pytest.raises(InputError, match="`overwrite=True`"):
        sk.eval_images(sources, metrics=metrics[:3], **options, **outs)
    del options["size"]
    held, noisy = (sk.open(pictures / name, size=32) for name in ("held", "noisy"))
    small = np.load(pictures / "small.npz")["arr_0"]
    again = sk.eval_images(truth=held, noisy=noisy.load(), small=small, metrics=metrics, **options)
    xr.testing.assert_equal(again.dataset, found.dataset)
    assert again.dataset.attrs["sources"] == ["truth=array", "noisy=array", "small=array"]


def test_results_show_themselves(pictures):
    sources = {label: pictures / label for label in ("held", "noisy")}
    found = sk.eval_images(sources, metrics=["psnr"], bootstrap=200)
    shown = repr(found)
    row = found.rows[0]
    assert with_error(row.value, row.stderr) in shown
    assert "PSNR / dB" in shown
    assert "(pictures: 24 of held, 24 of noisy; means over pictures" in shown
    assert "<pre" in found._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to evaluate"),
        ({"a": "x", "metrics": ["mse"]}, "`metrics`: 'mse' is none of psnr"),
        ({"a": np.zeros((9, 16, 16)), "size": 8}, "`size` is for folders of pictures"),
        ({"a": np.zeros((9, 16, 16)), "data_dir": "."}, "`data_dir` is for cifar10"),
        (
            {"a": np.zeros((9, 2, 16, 16)), "b": np.zeros((9, 2, 16, 16)), "metrics": ["psnr"]},
            "a: 2 channels; pictures have one or three",
        ),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(InputError, match=message):
        sk.eval_images(**options)
