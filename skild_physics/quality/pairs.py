"""Which picture of one source belongs to which of another, and whether they can be compared.

Pictures of two sources that both know the names of their files are partners if they have the same
name, without its suffix and whatever zeros fill up its numbers: 7.png and 0007.jpg. Those of arrays
have the number of their partner in the coordinate `sample`; where one side has neither names nor
numbers of the other's, they have the place of their partner in its natural order.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from unicodedata import normalize

import numpy as np

from skild_physics.fields.choice import chosen
from skild_physics.files import InputError
from skild_physics.progress import logger
from skild_physics.quality.metrics import METRICS
from skild_physics.quality.sources import Numbers, Pictures

SHOWN = 3


def pictures_to_read(
    sources: Mapping[str, Pictures],
    metrics: Sequence[str],
    samples: int | None,
    shave: int = 0,
    choose_seed: int | None = None,
) -> dict[str, Numbers]:
    """The numbers of the pictures of each source that are compared, partners in the same place.

    Args:
        sources: by label, the reference first.
        metrics: what they are to be compared by.
        samples: the first so many of each; None: all.
        shave: pixels that are cut off at every edge for those metrics that take no others.
        choose_seed: so many of each, or pairs, are chosen at random; None: the first.

    Raises:
        InputError: other numbers of channels; names, sizes or numbers of pictures that make no
            pairs; pictures that are too small or fewer than ``samples``; nothing to compare with.
    """
    others = list(sources)[1:]
    comparing = [metric for metric in metrics if METRICS[metric].compares]
    paired = [metric for metric in metrics if METRICS[metric].paired]
    if comparing and not others:
        raise InputError(
            f"{', '.join(comparing)} compare with a reference: give it and another source"
        )
    _check_channels(sources)
    for label, pictures in sources.items():
        if samples is not None and len(pictures) < samples:
            raise InputError(
                f"{label} has {len(pictures)} pictures, fewer than `samples={samples}`"
            )
    what = f"{', '.join(paired)} compare pairs"
    if paired:
        numbers = _partners(sources, samples, choose_seed, what)
    elif choose_seed is None:
        # one that cannot be used is replaced by the next
        numbers = {label: np.arange(len(pictures)) for label, pictures in sources.items()}
    else:
        numbers = {
            label: chosen(len(pictures), samples, choose_seed)
            for label, pictures in sources.items()
        }
    _check_smallest(sources, numbers, metrics, shave)
    for label in others if paired else []:
        _check_sizes(sources, numbers, label, what)
    return numbers


def smallest_side(sources: Mapping[str, Pictures], numbers: Mapping[str, Numbers]) -> int:
    """The shortest side of what is taken of any of these pictures."""
    return min(_smallest(each, numbers[label])[0] for label, each in sources.items())


def _smallest(pictures: Pictures, numbers: Numbers) -> tuple[int, int]:
    """The shortest side, and the number of the picture that has it."""
    sides = pictures.taken()[numbers].min(axis=1)
    known = np.where(sides > 0, sides, np.iinfo(np.int64).max)
    first = int(known.argmin())
    return int(known[first]), int(numbers[first])


def _check_channels(sources: Mapping[str, Pictures]) -> None:
    reference, kinds = next(iter(sources)), {1: "in grey", 3: "in colour"}
    colours = sources[reference].channels
    for label, pictures in sources.items():
        if pictures.channels != colours:
            raise InputError(
                f"{reference} is read {kinds[colours]}, {label} {kinds[pictures.channels]}; "
                "`grey=True` opens folders as grey pictures"
            )


def _check_smallest(
    sources: Mapping[str, Pictures],
    numbers: Mapping[str, Numbers],
    metrics: Sequence[str],
    shave: int,
) -> None:
    for label, pictures in sources.items():
        side, number = _smallest(pictures, numbers[label])
        which = "" if len(np.unique(pictures.taken())) == 1 else f" ({pictures.name(number)})"
        for metric in metrics:
            cut = 2 * shave if METRICS[metric].of_pixels else 0
            if side - cut < METRICS[metric].smallest:
                raise InputError(
                    f"{metric} needs at least {METRICS[metric].smallest} pixels per side; "
                    f"{label} has {side}{which}" + (f", less a border of {shave}" if cut else "")
                )


def _partners(
    sources: Mapping[str, Pictures], samples: int | None, choose_seed: int | None, what: str
) -> dict[str, Numbers]:
    """Numbers of pictures of the same place in every source.

    Raises:
        InputError: there are others, or not enough.
    """
    reference, *others = sources
    first = sources[reference]
    place = {reference: np.arange(len(first))}
    are_alone = all(pictures.alone for pictures in sources.values())
    for label in others:
        pictures = sources[label]
        if first.names is not None and pictures.names is not None and not are_alone:
            place[label] = _by_name(reference, first.names, label, pictures.names, what)
        elif (found := _by_sample(reference, first, label, pictures, what)) is not None:
            place[label] = found
        elif (samples is None or choose_seed is not None) and len(pictures) != len(first):
            remedy = (
                "`samples=N` takes the first N of each, and fid, kid and is need no pairs"
                if choose_seed is None
                else "`choose_seed` chooses pairs without names of as many pictures only"
            )
            raise InputError(
                f"{what}: {reference} has {len(first)} pictures, {label} {len(pictures)}; {remedy}"
            )
        else:
            place[label] = np.where(place[reference] < len(pictures), place[reference], -1)
    common = np.flatnonzero(np.all([found >= 0 for found in place.values()], axis=0))
    if len(common) < (samples or 1):
        raise InputError(
            f"{what}: only {len(common)} pictures are in every source, fewer than "
            f"`samples={samples or 1}`"
        )
    common = common[chosen(len(common), samples, choose_seed)]
    return {label: found[common] for label, found in place.items()}


def _by_name(
    reference: str, ours: Sequence[str], label: str, theirs: Sequence[str], what: str
) -> Numbers:
    """For each picture of the reference the number of its partner, or -1.

    Raises:
        InputError: both sources have pictures without a partner.
    """
    ours, theirs = ([normalize("NFC", name) for name in names] for names in (ours, theirs))
    keys, others = _keys(ours), _keys(theirs)
    plain, plain_others = _keys(map(_unfilled, ours)), _keys(map(_unfilled, theirs))
    # the second 7.png is no other tile of the first but 007.png
    if _tiles(plain) == _tiles(keys) and _tiles(plain_others) == _tiles(others):
        keys, others = plain, plain_others
    found = _places(keys, others)
    matched = int((found >= 0).sum())
    if matched < len(ours) and matched < len(theirs):
        known = set(keys)
        left = [name for name, key in zip(theirs, others, strict=True) if key not in known]
        raise InputError(
            f"{what}, by the names of pictures: {_listed(left)} of {label} "
            f"{'has' if len(left) == 1 else 'have'} no partner in {reference} ({_listed(ours)}); "
            "give partners the same name, or pass arrays or .npz files, which pair by position"
        )
    _say_matched(reference, ours, label, theirs, f"{matched} of the same name")
    return found


def _places(ours: Iterable[Hashable], theirs: Iterable[Hashable]) -> Numbers:
    """Where each of these keys is among others, or -1."""
    number = {key: i for i, key in enumerate(theirs)}
    return np.array([number.get(key, -1) for key in ours])


def _say_matched(reference: str, ours: Sized, label: str, theirs: Sized, which: str) -> None:
    """Say which pictures are compared, where one source has more: the others have no partner."""
    if len(ours) != len(theirs):
        logger.warning(
            f"{reference} has {len(ours)} pictures and {label} {len(theirs)}: the {which} are "
            "compared"
        )


def _is_counted(samples: Numbers) -> bool:
    """Whether numbers are those that fields have which say none."""
    return np.array_equal(samples, np.arange(len(samples)))


def _by_sample(
    reference: str, first: Pictures, label: str, pictures: Pictures, what: str
) -> Numbers | None:
    """For each picture of the reference the number of its partner, or -1; None: by position.

    Raises:
        InputError: some samples are the same, but each source has others, too.
    """
    ours, theirs = first.samples, pictures.samples
    if ours is None or theirs is None or (_is_counted(ours) and _is_counted(theirs)):
        return None
    found = _places(ours.tolist(), theirs.tolist())
    matched = int((found >= 0).sum())
    if not matched:
        return None
    if matched < min(len(ours), len(theirs)):
        raise InputError(
            f"{what}: {matched} samples are in {reference} and in {label}, but each has others, "
            "too; select the same ones, or pass `.values`, which pair by position"
        )
    _say_matched(reference, ours, label, theirs, f"{matched} of the same number `sample`")
    return found


def _unfilled(name: str) -> str:
    """A name whose numbers begin with no zeros; what follows a point is no number of its own."""
    return re.sub(r"(?<![\d.])0+(?=\d)", "", name)


def _keys(names: Iterable[str]) -> list[tuple[str, int]]:
    """Names, and for patches of one picture, which have one name, their place among these."""
    times: Counter[str] = Counter()
    keys = []
    for name in names:
        keys.append((name, times[name]))
        times[name] += 1
    return keys


def _tiles(keys: list[tuple[str, int]]) -> list[int]:
    return [place for _, place in keys]


def _listed(names: Sequence[str]) -> str:
    shown, more = ", ".join(names[:SHOWN]), len(names) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _check_sizes(
    sources: Mapping[str, Pictures], numbers: Mapping[str, Numbers], label: str, what: str
) -> None:
    """Refuse pairs of pictures that do not lie on each other."""
    reference = next(iter(sources))
    first, other = sources[reference], sources[label]
    ours, theirs = numbers[reference], numbers[label]
    differ = (first.sizes[ours] != other.sizes[theirs]) | (
        first.taken()[ours] != other.taken()[theirs]
    )
    for i in np.flatnonzero(differ.any(axis=1)).tolist():
        a, b = int(ours[i]), int(theirs[i])
        whole = first.upright(a), other.upright(b)
        if not np.all(whole):
            # damaged, as reading will say
            continue
        sides = [
            size if pictures.crop is None else (pictures.crop, pictures.crop)
            for size, pictures in zip(whole, (first, other), strict=True)
        ]
        check_same_size(sides[0], sides[1], (reference, label, first.name(a)), what)
        # of what was shrunk, or is such a centre itself, centres are the same
        if whole[0] != whole[1] and sides[0] not in whole and not (first.shrinks or other.shrinks):
            raise InputError(
                f"{what}: {first.name(a)} has {_times(whole[0])} pixels in {reference}, "
                f"{_times(whole[1])} in {label}, so that the central {_times(sides[0])} of one are "
                "not those of the other; crop both to the same pixels"
            )


def check_same_size(
    size: tuple[int, ...], other: tuple[int, ...], whose: tuple[str, str, str], what: str
) -> None:
    """Refuse a pair of pictures of other sizes.

    Args:
        size: width and height.
        other: those of the partner.
        whose: labels of the two sources, and the name of the picture.
        what: what compares them.

    Raises:
        InputError: they are not the same.
    """
    if size != other:
        reference, label, name = whose
        sides = [each[0] for each in (size, other) if each[0] == each[1]]
        centre = [side for side in sides if side <= min(*size, *other)]
        also = f", or pass `size={min(centre)}` if one is the centre of the other" if centre else ""
        raise InputError(
            f"{what}: {name} has {_times(size)} pixels in {reference}, {_times(other)} in {label}; "
            f"where a factor does not divide the sides, crop both to the same pixels{also}; fid, "
            "kid and is need no pairs"
        )


def _times(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]}"
