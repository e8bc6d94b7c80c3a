"""Ensemble files under kill -9, a full disk, several readers, and a Dask cluster."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from test_ensemble import assert_identical
from torch.utils.data import DataLoader, Dataset

from skild_physics.data_gen import IsingParameters, generate
from skild_physics.fields.lattice import open_dataset

SKILD = str(Path(sys.executable).with_name("skild-physics"))


@pytest.mark.slow
def test_killed_thirty_times(tmp_path):
    """kill -9 at random moments, the same command again: the same file as in one go."""
    path = tmp_path / "killed.h5"
    command = [SKILD, "generate-ising", "--L", "64", "--samples", "150001", "--seed", "3"]
    rng = np.random.default_rng(0)
    killed = 0
    while killed < 30:
        process = subprocess.Popen([*command, "--out", str(path)], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 3.0))
        if process.poll() is not None:
            path.unlink()
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        if path.exists():
            with open_dataset(path) as data:
                n = data.sizes["sample"]
                assert data.attrs["n_samples_committed"] == n
                assert abs(data["spins"][n - 1].values).min() == 1
    whole = tmp_path / "whole.h5"
    for out in (path, whole):
        done = subprocess.run([*command, "--out", str(out)], capture_output=True)
        assert done.returncode == 0
    assert_identical(path, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.h5", "whole.h5"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_keeps_what_was_committed(small_disk):
    command = [SKILD, "generate-ising", "--L", "128", "--seed", "3", "--out", "ising.h5"]
    run = {"cwd": small_disk, "capture_output": True, "text": True}
    assert subprocess.run([*command, "--samples", "400"], **run).returncode == 0
    before = (small_disk / "ising.h5").read_bytes()
    done = subprocess.run([*command, "--samples", "4000"], **run)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "No space left" in last or "disk" in last
    assert (small_disk / "ising.h5").read_bytes() == before
    with open_dataset(small_disk / "ising.h5") as data:
        assert np.abs(data["spins"].values).min() == 1


class Fields(Dataset):
    def __init__(self, path):
        self.spins = open_dataset(path)["spins"]

    def __len__(self):
        return len(self.spins)

    def __getitem__(self, i):
        return self.spins[i].values


def test_several_dataloader_workers_read_at_once(tmp_path):
    path = tmp_path / "ising.h5"
    generate(path, IsingParameters.planned(16, seed=3), 600)
    loader = DataLoader(Fields(path), batch_size=32, num_workers=2, shuffle=False)
    loaded = np.concatenate([batch.numpy() for batch in loader])
    with open_dataset(path) as data:
        np.testing.assert_array_equal(loaded, data["spins"].values)


@pytest.fixture
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


def test_dask_cluster_makes_the_same_file(tmp_path, cluster):
    """Two worker processes, one of which is killed on the way."""
    parameters = IsingParameters.planned(32, seed=3)
    generate(tmp_path / "local.h5", parameters, 40_001, workers=2)
    killed = []

    def kill_one(done, note=""):
        if done and not killed:
            with Client(cluster) as client:
                victim = next(iter(client.run(os.getpid).values()))
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    address = cluster.scheduler_address
    generate(tmp_path / "dask.h5", parameters, 40_001, scheduler=address, progress=kill_one)
    assert killed
    assert_identical(tmp_path / "local.h5", tmp_path / "dask.h5")


def test_unreachable_scheduler_is_one_line(tmp_path):
    command = [SKILD, "generate-ising", "--L", "8", "--scheduler", "tcp://127.0.0.1:1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert not list(tmp_path.iterdir())
