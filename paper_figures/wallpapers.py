"""Photographs under free licences, shrunk and split into those to train on and those to test on.

    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04      # 27 MB, Debian
    for package in lomiri-wallpapers-*.deb; do dpkg-deb -x $package wallpapers; done
    python paper_figures/wallpapers.py wallpapers/usr/share/backgrounds pictures
    skild-physics prepare-images pictures/train --size 64 --tile --out photographs64.h5

Cameras interpolate colours and JPEG loses fine detail, so photographs are shrunk by 2, 3 and 4, and
by 4 to test on. Every fifth by name, found before any was looked at, is tested on alone. The six
photographs of scikit-image and scikit-learn that the bundled model is trained on are added as they
are, and at half their size. All are there a second time without their first 32 rows and columns, so
that tiles of 64 pixels begin in the middle of those before; but for the last photograph, of which
some tiles are not trained on.

The rights are their authors': CC-BY-SA-4.0 for Bridge, Dragonfly and those of P. Nerlich; CC-BY-4.0
for those of A. Berasategi, freespace, A. Mudgal and J. Mede; CC0 for seeding; CC-BY-SA-3.0 for
Kleiber, as the package's copyright file says. Drawings of the package are left out. None of the
pictures is part of this project.
"""

import hashlib
import sys
from pathlib import Path

from PIL import Image

from skild_physics.fields.photographs import photograph_files

PHOTOGRAPHS = {
    "Bridge_by_Sander_Klootwijk": "bd86b081f9975e2b",
    "Dragonfly_by_Bolly": "af5af17841009732",
    "Kleiber_by_Lukas_Baubkus": "6572410c09f4492c",
    "Picture_0B_by_freespace": "c8c0ab18e48d9e04",
    "Picture_1A_by_freespace": "89e86af38d04daae",
    "Wine_by_Jakkub_Mede": "d2e96e6d4da40dd8",
    "aitzgorri_by_Aitzol_Berasategi": "66268e7b48f8854d",
    "analogpattern_by_Peter_Nerlich": "15372488a192b2be",
    "free_by_Peter_Nerlich": "85a5453c2fed514c",
    "friends_by_Aitzol_Berasategi": "cc40e313c74e421e",
    "greentock_by_Peter_Nerlich": "e7b20e2db9dcd6e2",
    "life_by_Aitzol_Berasategi": "4c119350ead80201",
    "picosdeeuropa_by_Aitzol_Berasategi": "414d0072b2f6f2c5",
    "seeding_by_Clements_Engelhardt": "a5634d1ab5e41a35",
    "sunset_by_Aitzol_Berasategi": "474dab6a4b9f94dc",
    "umang_by_Abhishek_Mudgal": "bfb425545e77e9f0",
}
"""The first digits of their SHA-256, by name."""
SHRUNK = (2, 3, 4)
HALF = 32
"""Pixels, half a tile."""


def write(source: Path, out: Path, factor: int, again: bool = False) -> None:
    """A picture whose pixels are averages of factor x factor of the source's, or twice the same."""
    with Image.open(source) as picture:
        small = picture.convert("RGB").reduce(factor)
    small.save(out / f"{source.stem}_{factor}.png")
    if again:
        small.crop((HALF, HALF, *small.size)).save(out / f"half_{source.stem}_{factor}.png")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python paper_figures/wallpapers.py BACKGROUNDS OUT")
    backgrounds, out = Path(sys.argv[1]), Path(sys.argv[2])
    train, test = out / "train", out / "test"
    for folder in (train, test):
        folder.mkdir(parents=True)
    for number, (name, digits) in enumerate(sorted(PHOTOGRAPHS.items())):
        source = backgrounds / f"{name}.jpg"
        if not hashlib.sha256(source.read_bytes()).hexdigest().startswith(digits):
            sys.exit(f"{source}: is another picture than the package's version 20.04.0 had")
        if number % 5 == 4:
            write(source, test, SHRUNK[-1])
            continue
        for factor in SHRUNK:
            write(source, train, factor, again=name != max(PHOTOGRAPHS))
    for source in photograph_files("train"):
        for factor in (1, 2):
            write(source, train, factor, again=True)
