"""Damaged and hostile inputs: valid small files of every kind, changed at random by a seed."""

import gzip
import io
import json
import multiprocessing
import os
import random
import resource
import shlex
import shutil
import struct
import time
import zipfile
from argparse import Namespace
from pathlib import Path

import h5py
import numpy as np
import torch
from command_line import attempt, run
from PIL import Image
from small_runs import run_values, to_toml
from test_import_checkpoint import PUBLISHED_FORM

import skild_physics as sk
from skild_physics.networks import NCSNpp

L = 8
SECONDS = 10
MEMORY = 12 * 2**30
LONGEST = 400
"""Characters of a message, but for the names of the files in it."""

# which file of a kind is changed, what else a command needs, and the commands that read it
CASES = {
    "ensemble": (
        "train.h5",
        [],
        [
            "info train.h5",
            "fit-spectrum train.h5 --out o.nc",
            "eval-correlators a=train.h5 --out o.nc",
            "coarse-grain train.h5 --factor 2 --out o.h5",
            "import-fields train.h5 --out o.h5",
            f"generate-ising --L {L} --samples 220 --seed 1 --out train.h5",
        ],
    ),
    "onto": (
        "train.h5",
        [],
        [f"generate-ising --L {L} --samples 220 --seed 1 --out train.h5"],
    ),
    "sampled": (
        "train.h5",
        ["run"],
        ["super-resolve run train.h5 --samples 2 --factor 2 --steps 2 --out o.h5"],
    ),
    "fields": (
        "coarse.h5",
        [],
        [
            "info coarse.h5",
            "fit-spectrum coarse.h5 --out o.nc",
            "eval-correlators a=coarse.h5 --out o.nc",
            "coarse-grain coarse.h5 --factor 2 --out o.h5",
            "interpolate coarse.h5 --factor 2 --kernel bicubic --out o.h5",
        ],
    ),
    "coarse": (
        "coarse.h5",
        [],
        ["sample-exact coarse.h5 --factor 2 --draws 2 --out o.h5"],
    ),
    "draws": (
        "draws.nc",
        ["train.h5", "exact.h5"],
        [
            "info draws.nc",
            "load-draws draws.nc",
            "eval-draws truth=train.h5 exact=exact.h5 --out draws.nc",
        ],
    ),
    "exact": (
        "exact.h5",
        ["train.h5"],
        [
            "eval-draws truth=train.h5 exact=exact.h5 --out o.nc",
            "info exact.h5",
            "relax exact.h5 --sweeps 1 --out o.h5",
        ],
    ),
    "prepared": (
        "pictures.h5",
        [],
        ["info pictures.h5", "eval-images a=pictures.h5 b=pictures.h5 --metrics psnr"],
    ),
    "hdf5": ("theirs.h5", [], ["info theirs.h5", "fit-spectrum theirs.h5 --out o.nc"]),
    "netcdf": ("theirs.nc", [], ["info theirs.nc", "import-fields theirs.nc --out o.h5"]),
    "npz": ("made.npz", [], ["info made.npz", "eval-images a=made.npz b=made.npz --metrics psnr"]),
    "npy": ("theirs.npy", [], ["info theirs.npy", "fit-spectrum theirs.npy --out o.nc"]),
    "torch": ("theirs.pt", [], ["info theirs.pt", "fit-spectrum theirs.pt --out o.nc"]),
    "text": (
        "theirs.txt",
        [],
        ["info theirs.txt --L 8", "fit-spectrum theirs.txt --L 8 --out o.nc"],
    ),
    "gzip": ("theirs.txt.gz", [], ["info theirs.txt.gz --L 8"]),
    "zarr": ("theirs.zarr", [], ["info theirs.zarr", "fit-spectrum theirs.zarr --out o.nc"]),
    "pictures": (
        "pictures",
        [],
        [
            "info pictures",
            "eval-images a=pictures b=pictures --metrics psnr",
            "prepare-images pictures --size 8 --out o.h5",
        ],
    ),
    "provenance": (
        "made",
        [],
        ["info made", "eval-images a=made b=made --metrics psnr", "fit-spectrum made --out o.nc"],
    ),
    "spectrum": (
        "spectrum.nc",
        ["train.h5", "config.toml"],
        ["info spectrum.nc", "train config.toml --dry-run", "load-spectrum spectrum.nc"],
    ),
    "results": (
        "correlators.nc",
        [],
        ["info correlators.nc", "load-correlators correlators.nc"],
    ),
    "checkpoint": (
        "run",
        ["train.h5"],
        [
            "info run",
            "generate run --samples 2 --steps 2 --out o.npz",
            "super-resolve run train.h5 --samples 2 --factor 2 --steps 2 --out o.h5",
        ],
    ),
    "level-checkpoint": (
        "levels",
        ["train.h5"],
        ["info levels", "generate levels --samples 2 --steps 4 --out o.npz"],
    ),
    "state": ("stopped", ["train.h5", "spectrum.nc", "stopped.toml"], ["train stopped.toml"]),
    "config": ("config.toml", ["train.h5", "spectrum.nc"], ["train config.toml --dry-run"]),
    "published": (
        "published.pt",
        ["form.toml"],
        ["import-checkpoint published.pt --config form.toml --out ours"],
    ),
    "published-settings": (
        "trained.pt",
        ["form.toml"],
        ["import-checkpoint trained.pt --config form.toml --out ours"],
    ),
    "map": ("map.npy", [], ["fit-spectrum map.npy --variance-map --out o.nc"]),
}
LOADED = {
    "load-spectrum": sk.Spectrum,
    "load-correlators": sk.Correlators,
    "load-draws": sk.Draws,
}
ODD = [
    *(None, True, -1, 0, 1, 2**40, 10**30, -(2**63), 1e300, -0.5, float("nan"), float("inf")),
    *("", "x", "nan", "x" * 5000, "\n\x1b[31m", "../../x", [], {}, [1], [-1], [0, 0], ["x"] * 2),
    *([2**40] * 2, {"x": 1}, [[[[]]]], [None], 65536, [64] * 40, [10**9]),
]


def make_valid(folder):
    """Valid files of every kind."""
    rng = np.random.default_rng(0)
    run(f"generate-ising --L {L} --samples 200 --seed 1 --out train.h5", folder)
    run("fit-spectrum train.h5 --out spectrum.nc", folder)
    run("coarse-grain train.h5 --factor 2 --out coarse.h5", folder)
    run("sample-exact coarse.h5 --factor 2 --out exact.h5", folder)
    run("eval-draws truth=train.h5 exact=exact.h5", folder)
    spins = sk.open(folder / "train.h5").values
    np.save(folder / "theirs.npy", spins)
    run("eval-correlators a=train.h5 b=theirs.npy --out correlators.nc", folder)
    with h5py.File(folder / "theirs.h5", "w") as file:
        file["group/phi"] = rng.normal(size=(40, L, L))
        file["group/phi"].attrs["beta"] = 0.4
        file.create_dataset("group/many", data=spins, chunks=(8, L, L), compression="gzip")
        del file["group/many"]
        file.attrs["model"] = "phi4"
    import xarray as xr

    fields = xr.DataArray(rng.normal(size=(40, L, L)), dims=("time", "y", "x"), name="phi")
    fields.attrs["scale_factor"] = 1.0
    fields.to_dataset().to_netcdf(folder / "theirs.nc", engine="h5netcdf")
    torch.save({"beta": 0.4, "state": {"phi": torch.randn(40, L, L)}}, folder / "theirs.pt")
    text = "\n".join(" ".join(map(str, row)) for row in spins[:20].reshape(20, -1))
    (folder / "theirs.txt").write_text(text)
    (folder / "theirs.txt.gz").write_bytes(gzip.compress(text.encode()))
    import zarr

    store = zarr.open(folder / "theirs.zarr", mode="w")
    data = rng.normal(size=(40, L, L))
    store.create_array("phi", data=data) if hasattr(store, "create_array") else store.array(
        "phi", data
    )
    (folder / "pictures").mkdir()
    for i in range(3):
        pixels = rng.integers(0, 256, (L, L, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.{('png', 'jpg', 'tif')[i]}")
    run("prepare-images pictures --size 8 --out pictures.h5", folder)
    for name, kind in (("run", {}), ("levels", LEVELS)):
        values = run_values(Path(), name, steps=2, checkpoint_every=1, evaluate_every=100)
        values["process"] |= {"k_c": 3.0, "schedule": {"kind": "linear", "resolution": 0.4}}
        (folder / f"{name}.toml").write_text(to_toml({**values, **kind}))
        run(f"train {name}.toml", folder)
    run("generate run --samples 4 --steps 2 --out made.npz", folder)
    run("generate run --samples 4 --steps 2 --out made", folder)
    shutil.copytree(folder / "run", folder / "stopped")
    (folder / "stopped" / "model.safetensors").unlink()
    for each in ("run", "levels"):
        shutil.rmtree(folder / each / "samples")
        for path in (folder / each).iterdir():
            if path.name != "model.safetensors" and path.is_file():
                path.unlink()
    text = (folder / "run.toml").read_text()
    (folder / "stopped.toml").write_text(text.replace('out = "run"', 'out = "stopped"'))
    (folder / "config.toml").write_text(text.replace('out = "run"', 'out = "new"'))
    (folder / "form.toml").write_text(PUBLISHED_FORM)
    torch.manual_seed(0)
    weights = NCSNpp(8, 8, (1, 2), 1, (4,), field_channels=3).state_dict()
    content = {"ema": weights, "model": weights}
    torch.save(content | {"step": 7}, folder / "published.pt")
    settings = Namespace(lr=2e-4, betas=(0.9, 0.999), model=Namespace(channels=8))
    torch.save(content | {"train_steps": 7, "config": settings}, folder / "trained.pt")
    np.save(folder / "map.npy", 1 / (1.0 + np.add.outer(np.arange(L) ** 2, np.arange(L) ** 2)))


LEVELS = {
    "process": {"kind": "scale-space", "size": 8, "basis": "periodic", "factors": [2]},
    "network": {"kind": "flexi", "channels": [8, 8], "blocks": [1, 1], "patch": 1},
}


def change_bytes(data, rng):
    """Bits turned over, an end cut off, runs of other bytes."""
    data = bytearray(data)
    how = rng.choice(["bit", "bits", "cut", "run", "swap", "insert", "empty", "head"])
    at = rng.randrange(max(1, len(data)))
    if how == "bit" and data:
        data[at] ^= 1 << rng.randrange(8)
    elif how == "bits" and data:
        for _ in range(20):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "run":
        length = rng.choice([4, 16, 64, 512])
        fill = rng.choice([b"\0", b"\xff", None])
        data[at : at + length] = fill * length if fill else rng.randbytes(length)
    elif how == "swap":
        data[:] = data[at:] + data[:at]
    elif how == "insert":
        data[at:at] = rng.randbytes(rng.choice([1, 8, 100]))
    elif how == "head" and data:
        data[rng.randrange(min(len(data), 600))] ^= 1 << rng.randrange(8)
    elif how == "empty":
        data.clear()
    return bytes(data), how


def odd_value(rng):
    return rng.choice(ODD)


def change_values(values, rng):
    """One entry, anywhere in nested values, removed, or replaced by something odd."""
    places = []

    def walk(holder):
        keys = holder if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                walk(holder[key])

    walk(values)
    if not places:
        return "nothing"
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
        return f"without {key}"
    holder[key] = odd = odd_value(rng)
    return f"{key} = {str(odd)[:30]}"


def nested(depth):
    return "[" * depth + "]" * depth


def change_json(text, rng):
    if rng.random() < 0.1:
        return nested(rng.choice([900, 100_000])), "nested"
    values = json.loads(text)
    if rng.random() < 0.1 or not isinstance(values, dict):
        return json.dumps(odd_value(rng)), "other value"
    said = change_values(values, rng)
    return json.dumps(values), said


def change_toml(text, rng):
    lines = text.splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if "=" in line])
    odd = rng.choice(
        [
            *('""', "-1", "0", "1", "nan", "inf", "1e300", "[]", "{}", "[[]]", "true", "[-1]"),
            *("1099511627776", "[0, 0]", '"x"', '"' + "x" * 5000 + '"', "[64, 64, 64, 64, 64, 64]"),
            *(
                "[1099511627776]",
                "{x = 1}",
                "1979-05-27",
                "-0.5",
                "10000000000000000000000",
                "1e-300",
            ),
            *(
                nested(900),
                nested(50_000),
                "{a=" * 900 + "1" + "}" * 900,
                "65536",
                "1e9",
                "'''\n'''",
            ),
        ]
    )
    how = rng.choice(["value", "value", "value", "value", "lost", "twice", "key", "section"])
    if how == "value":
        key = lines[at].partition("=")[0]
        lines[at] = f"{key}= {odd}"
    elif how == "lost":
        del lines[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    elif how == "key":
        lines[at] = rng.choice(["x", "a." * 3000 + "b", '""', "y" * 4000]) + " = 1"
    else:
        section = rng.choice([line for line in lines if line.startswith("[")])
        lines = [rng.choice(["[x]", "[training.steps]", section, "[[training]]"]), *lines]
    return "\n".join(lines), f"{how} {lines[min(at, len(lines) - 1)][:40]}"


def odd_array(rng, like=None):
    shape = rng.choice(
        [(), (0,), (1,), (3,), (2, 2), (4, 8, 8), (200, 1, 1), (16, 16), (200, 8, 8), (16, 8, 8),
         (2, 3, 8, 8, 8), (200, 8, 9), (16, 4), (16, 64, 64), (200, 16, 16)]
    )  # fmt: skip
    shape = like.shape if like is not None and rng.random() < 0.4 else shape
    kind = rng.choice("bihfdDS?eQ")
    values = np.zeros(shape, np.float64)
    values += rng.choice([0, 1, -1, 7, np.nan, np.inf, 1e300, -1e300])
    with np.errstate(all="ignore"):
        return values.astype(kind if kind != "S" else "S4")


def change_hdf5(path, rng):
    """An attribute, a dataset or a link of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        datasets = []
        file.visititems(lambda n, x: datasets.append(n) if isinstance(x, h5py.Dataset) else None)
        how = rng.choice(
            ["attribute"] * 4 + ["lost attribute", "dataset", "dataset", "dataset", "lost", "group",
             "virtual", "external", "link", "claim", "null", "value", "soft", "storage"]
        )  # fmt: skip
        name = rng.choice(datasets)
        where = rng.choice([file, file, file, file[name]])
        if "attribute" in how:
            names = [k for k in where.attrs if k not in ("DIMENSION_LIST", "REFERENCE_LIST")]
            if not names:
                where, names = file, list(file.attrs)
            key = rng.choice(names or ["schema"])
            if how == "lost attribute":
                if key in where.attrs:
                    del where.attrs[key]
                return f"{how} {key}"
            odd = odd_value(rng)
            odd = rng.choice([odd, odd_array(rng), np.float32(3), np.bytes_(b"\xff\xfe")])
            try:
                where.attrs[key] = odd
            except (TypeError, ValueError, OverflowError, RuntimeError, OSError):
                where.attrs[key] = h5py.Empty("f8") if odd is None else str(odd).replace("\0", "")
            return f"{key} = {str(odd)[:40]}"
        old = file[name]
        shape, dtype = old.shape, old.dtype
        kept = old[()] if how in ("dataset", "value") else None
        if how == "value":
            if kept.size and kept.dtype.kind in "iuf":
                with np.errstate(all="ignore"):
                    odd = np.array(rng.choice([7, -1, 0, np.nan, 1e300, 127])).astype(kept.dtype)
                if rng.random() < 0.5:
                    kept[...] = odd
                else:
                    kept[np.unravel_index(rng.randrange(kept.size), kept.shape)] = odd
                old[...] = kept
            return f"{how} {name}"
        del file[name]
        if how == "dataset":
            file.create_dataset(name, data=odd_array(rng, np.asarray(kept)))
        elif how == "group":
            file.create_group(name)
        elif how == "virtual":
            layout = h5py.VirtualLayout(shape=shape or (4, 8, 8), dtype=dtype)
            layout[...] = h5py.VirtualSource(
                rng.choice([".", "other.h5"]), name, shape=shape or (4, 8, 8)
            )
            file.create_virtual_dataset(name, layout)
        elif how == "external":
            file[name] = h5py.ExternalLink(rng.choice(["other.h5", path.name]), name)
        elif how == "link":
            file[name] = file["/"] if "/" not in name else file[name.rpartition("/")[0]]
        elif how == "soft":
            file[name] = h5py.SoftLink(f"/{name}")
        elif how == "claim":
            huge = rng.choice([(2**40, L, L), (2**20, 2**20), (2**30,), (2**40, 4, 8, 8)])
            file.create_dataset(name, huge, "i1", chunks=tuple(min(n, 64) for n in huge))
        elif how == "null":
            file[name] = h5py.Empty("f8")
        elif how == "storage":
            file.create_dataset(
                name, (4, 8, 8), "i1", external=[("secret.bin", 0, h5py.h5f.UNLIMITED)]
            )
        return f"{how} {name}"


def parts_of_safetensors(data):
    """Header and tensors."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def change_safetensors(path, rng):
    data = path.read_bytes()
    header, body = parts_of_safetensors(data)
    (length,) = struct.unpack("<Q", data[:8])
    how = rng.choice(["metadata", "inner", "inner", "tensor", "length", "names"])
    about = header["__metadata__"]
    # hostile files have the right one
    about.pop("sha256", None)
    if how == "metadata":
        key = rng.choice(sorted(about))
        if rng.random() < 0.3:
            del about[key]
        else:
            odd = odd_value(rng)
            about[key] = odd if isinstance(odd, str) else json.dumps(odd)
        said = f"{how} {key}"
    elif how == "inner":
        key = rng.choice(["config", "trained_on", "channels", "config", "config"])
        about[key], said = change_json(about[key], rng)
        said = f"{key}: {said}"
    elif how == "tensor":
        name = rng.choice(sorted(set(header) - {"__metadata__"}))
        said = f"{name}: {change_values(header[name], rng)}"
    elif how == "names":
        names = sorted(set(header) - {"__metadata__"})
        a, b = rng.sample(names, 2)
        header[a], header[b] = header[b], header[a]
        said = f"{a} is {b}"
    else:
        length, said = rng.choice([0, 1, 2**40, 2**63, length - 1]), "length"
        path.write_bytes(struct.pack("<Q", length) + data[8:])
        return said
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return said


def change_npy(data, rng):
    """The header of an array."""
    at = data.index(b"{")
    end = data.index(b"\n", at)
    text = rng.choice(
        [
            "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 8, 8), }",
            "{'descr': '|i1', 'fortran_order': False, 'shape': (-1, 8, 8), }",
            "{'descr': '<c16', 'fortran_order': False, 'shape': (2, 8, 8), }",
            "{'descr': '|i1', 'fortran_order': 7, 'shape': 4, }",
            "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (4, 8, 8), }",
            "{'descr': '<m8[s]', 'fortran_order': False, 'shape': (4, 8, 8), }",
            "{'descr': '|V0', 'fortran_order': False, 'shape': (4, 8, 8), }",
            "{'descr': '|i1', 'fortran_order': True, 'shape': (0, 8, 8), }",
            "{'descr': '|i1', 'fortran_order': True, 'shape': (), }",
            "{" + "(" * 100,
            "{'descr': '|i1', 'fortran_order': False, 'shape': (" + "1, " * 70 + "), }",
        ]
    )
    version, body = data[6:8], data[end + 1 :]
    text = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body, "header"


def change_npz(path, rng):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    how = rng.choice(["array", "array", "header", "lost", "text", "twice", "path"])
    said = f"{how} {name}"
    if how == "array":
        buffer = io.BytesIO()
        np.save(buffer, odd_array(rng))
        members[name] = buffer.getvalue()
    elif how == "header":
        members[name] = change_npy(members[name], rng)[0]
    elif how == "lost":
        del members[name]
    elif how == "text":
        members[name] = b"x"
    elif how == "path":
        members["../../x.npy"] = members.pop(name)
    with zipfile.ZipFile(path, "w", rng.choice([0, zipfile.ZIP_DEFLATED])) as archive:
        for each, data in members.items():
            archive.writestr(each, data)
        if how == "twice":
            archive.writestr(name, b"x")
    return said


def change_torch(path, rng):
    values = torch.load(path, weights_only=False)
    places = []

    def walk(holder):
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                walk(holder[key])

    walk(values)
    holder, key = rng.choice(places)
    odd = rng.choice(
        [
            *(odd_value(rng), odd_value(rng), torch.zeros(0), torch.tensor(1.0), {}, "x"),
            *(torch.full((3, 8, 8), float("nan")), torch.ones(1).expand(2**20, 2**20)),
            *(torch.zeros(4, 4).to_sparse(), torch.empty(2**40, device="meta")),
            *(torch.zeros(8, 8, dtype=torch.complex64), torch.zeros(3, dtype=torch.int8)),
        ]
    )
    if rng.random() < 0.2:
        del holder[key]
        odd = "lost"
    else:
        holder[key] = odd
    torch.save(rng.choice([values, values, values, values, values, odd]), path)
    shape = tuple(odd.shape) if isinstance(odd, torch.Tensor) else str(odd)[:30]
    return f"{key} = {shape}"


def change(path, rng):
    """Change a file, or one of a folder, where it lies; says what was done."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        path = rng.choice(files)
        if path.parent.name == "made":
            path = path.parent / "provenance.json"
    if path.name == "state.previous.pt":
        path = path.with_name("state.pt")
    how = "bytes" if rng.random() < 0.35 else path.suffix
    if how == ".pt":
        said = change_torch(path, rng)
    elif how == ".npz":
        said = change_npz(path, rng)
    elif how == ".safetensors":
        said = change_safetensors(path, rng)
    elif how in (".h5", ".nc"):
        said = change_hdf5(path, rng)
    elif how == ".json":
        text, said = change_json(path.read_text(), rng)
        path.write_text(text)
    elif how == ".toml":
        text, said = change_toml(path.read_text(), rng)
        path.write_text(text)
    else:
        data = path.read_bytes()
        header = how == ".npy"
        data, said = change_npy(data, rng) if header else change_bytes(data, rng)
        path.write_bytes(data)
    return f"{path.name}: {said}"


def copied(valid, folder, names):
    for name in names:
        source = valid / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def mutated(valid, folder, number):
    """Case ``number`` in an empty folder: what was changed, and the command that is to read it."""
    rng = random.Random(number)
    kind = list(CASES)[number % len(CASES)]
    name, others, commands = CASES[kind]
    copied(valid, folder, [name, *others])
    said = change(folder / name, rng)
    return f"{kind}: {said}", rng.choice(commands)


def fault(command, folder):
    """What is wrong with what a command does here, None if nothing is."""
    before = contents(folder)
    name, *arguments = shlex.split(command)
    if name.startswith("load-"):
        try:
            str(LOADED[name].load(folder / arguments[0]))
            code, last = 0, ""
        except sk.InputError as error:
            code, last = 2, f"Error: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    else:
        done = attempt(command, folder)
        code, last = done.returncode, (done.stderr.splitlines() or [""])[-1]
    after = contents(folder)
    targets = {Path(w) for w in arguments} | {Path("ours"), Path("stopped"), Path("new")}
    for path, data in before.items():
        own = path.relative_to(folder)
        is_output = own in targets and "--out" in arguments and arguments[-1] == str(own)
        if after.get(path) != data and not is_output and own.parts[0] not in ("stopped",):
            return f"changed {own}"
    return verdict(code, last, arguments, folder)


def verdict(code, last, arguments, folder):
    """What is wrong with how a command ends, None if nothing is."""
    if code == 0:
        return None
    if code != 2:
        return f"exit {code}: {last[:300]}"
    if not last.startswith("Error: ") or len(last) > LONGEST or not last.isprintable():
        return f"{len(last)} characters: {last[:200]}"
    names = [*(word.split("=")[-1] for word in arguments), *os.listdir(folder), "x" * 50]
    # a parameter of the command may be what does not fit, or a file that a configuration names
    is_named = last.endswith((": no such file", ": no pictures in this folder"))
    if "--" not in last and not any(Path(name).name in last for name in names if name):
        if is_named and any(folder.glob("*.toml")):
            return None
        return f"names no file: {last[:200]}"
    return None


def _work(valid, scratch, pipe):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    while True:
        number = pipe.recv()
        folder = Path(scratch) / str(number)
        folder.mkdir()
        said, command = mutated(valid, folder, number)
        pipe.send((said, command))
        began = time.process_time()
        try:
            found = fault(command, folder)
        except BaseException as error:
            found = f"{type(error).__name__} escapes: {error}"
        shutil.rmtree(folder, ignore_errors=True)
        seconds = time.process_time() - began
        pipe.send(found or (f"takes {seconds:.0f} s" if seconds > SECONDS else None))


def faults(valid, scratch, numbers):
    """Of every case that goes wrong: its number, what was changed, the command, what is wrong.

    Cases run one after another in a process that is started anew after a crash or a hang.
    """
    context = multiprocessing.get_context("spawn")
    worker = None
    for number in numbers:
        if worker is None or not worker.is_alive():
            here, there = context.Pipe()
            worker = context.Process(target=_work, args=(valid, scratch, there), daemon=True)
            worker.start()
            there.close()
        wrong, said, command = None, "", ""
        try:
            here.send(number)
            said, command = here.recv()
            if here.poll(6 * SECONDS):
                wrong = here.recv()
            else:
                wrong = f"takes more than {6 * SECONDS} s"
                worker.kill()
                worker.join()
        except (EOFError, OSError):
            worker.join()
            wrong = f"crash, exit {worker.exitcode}"
        if wrong:
            yield number, said, command, wrong
    if worker is not None:
        worker.kill()


if __name__ == "__main__":
    import sys
    import tempfile
    from collections import Counter

    valid = Path(sys.argv[1])
    if not valid.exists():
        valid.mkdir()
        make_valid(valid)
    numbers = range(*map(int, sys.argv[2:4]))
    if len(sys.argv) > 4:
        numbers = [n for n in numbers if list(CASES)[n % len(CASES)] in sys.argv[4].split(",")]
    began = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        found = []
        for each in faults(valid, scratch, numbers):
            found.append(each)
            print(*each, sep=" | ", flush=True)
    print(
        Counter(each[1].split(":")[0] for each in found),
        Counter(list(CASES)[n % len(CASES)] for n in numbers),
    )
    print(f"{len(found)} of {len(numbers)} in {time.time() - began:.0f} s")
