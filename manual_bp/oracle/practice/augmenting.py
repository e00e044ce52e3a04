"""Augmentation: `candidate(images, labels, seed=) -> (images, labels)`, whose images show where each pixel comes from.

Every pixel of the images that are given has a number of its own, so that what came tells which image and which place
each pixel is from: the shift and the flip of each image are read, and not asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.calling.invocation import call_with, described_error, parameters_of
from manual_bp.oracle.own_masks.drawing import generators_kept, seed_everything
from manual_bp.oracle.reports.mismatch import Mismatch, Worst
from manual_bp.oracle.reports.report import Report

SEEDS = 8
NUMBER, HEIGHT, WIDTH, CLASSES = 64, 8, 9, 3
OPTIONS = {"shift": 0, "flip": False, "swap": (), "labels": "classes"}
"""shift: pixels at most. flip: whether images may be mirrored. swap: the class that each class becomes in a mirror.
labels: "classes", (n,), or "pixels", (n, height, width)."""


@dataclass(frozen=True)
class Change:
    """What was done to one image: which it was, pixels down and to the right, whether it was mirrored."""

    source: int
    down: int
    right: int
    flipped: bool


def check_options(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValueError for what is no option."""
    if unknown := sorted(hyper.keys() - OPTIONS.keys()):
        raise ValueError(f"augmentation: what may be done is declared by {list(OPTIONS)}; came {unknown}.")
    found = {**OPTIONS, **hyper}
    if not (found["shift"] or found["flip"]):
        raise ValueError(
            "augmentation: say what may be done to the images: hyper={'shift': 1} (pixels) or hyper={'flip': True}, "
            "on a command line --hyper shift=1."
        )
    swap = tuple(found["swap"])
    if swap and sorted(swap) != list(range(CLASSES)):
        raise ValueError(f"augmentation: swap is the class that each of {CLASSES} becomes, as (1, 0, 2); came {swap}.")
    if found["labels"] not in ("classes", "pixels"):
        raise ValueError(f"augmentation: labels must be 'classes' or 'pixels'; came {found['labels']!r}.")
    return {**found, "swap": swap}


def judge(report: Report, candidate: Callable[..., Any], hyper: Mapping[str, Any]) -> None:
    """Put what is wrong into the report."""
    options = check_options(hyper)
    report.worst = {"images": Worst(), "labels": Worst()}
    images, labels = given(options["labels"])
    parameters = parameters_of(candidate) or {}
    asked = {n: v for n, v in hyper.items() if n in parameters and n != "labels"}
    takes = next((n for n in ("seed", "generator") if n in parameters), "")

    def call(seed: int) -> tuple[Tensor, Tensor] | str:
        if not takes:
            seed_everything(seed)
        how = {} if not takes else {takes: seed if takes == "seed" else torch.Generator().manual_seed(seed)}
        own = images.clone(), labels.clone()
        try:
            came = call_with(candidate, own, {**asked, **how})
        except Exception as error:
            return f"raised {described_error(error)}"
        if not torch.equal(own[0], images) or not torch.equal(own[1], labels):
            return (
                "the candidate overwrote the images or labels that it was given: the next epoch would change them again"
            )
        if not isinstance(came, tuple | list) or len(came) != 2:
            return f"(images, labels) is due; a {type(came).__name__} came"
        pair = torch.as_tensor(came[0]), torch.as_tensor(came[1])
        for name, x, y in zip(("images", "labels"), pair, (images, labels), strict=True):
            if x.shape != y.shape or x.dtype != y.dtype:
                return f"{name} of shape {tuple(y.shape)} and {y.dtype} are due; {tuple(x.shape)}, {x.dtype} came"
        return pair

    changes: list[list[Change]] = []
    with generators_kept():
        for seed in range(SEEDS):
            came = call(seed)
            if isinstance(came, str):
                report.raised += 1
                wrong(report, "images", f"seed {seed}", came, "trap")
                break
            report.cases += 1
            before = len(report.mismatches)
            changes.append(_read(report, *came, labels, options, seed))
            report.failed += len(report.mismatches) > before
            again = call(seed)
            if not isinstance(again, str) and not torch.equal(again[0], came[0]):
                words = "the same seed twice gives other images" if takes else "torch.manual_seed does not repeat it"
                if takes:
                    wrong(report, "images", f"seed {seed}", f"{words}: the seed is not what it draws from")
                elif words not in report.notes:
                    report.notes.append(words)
    if not report.mismatches:
        _chance(report, changes, options)
    report.diagnoses = list(dict.fromkeys(m.detail for m in report.mismatches))[:3]


def given(kind: str) -> tuple[Tensor, Tensor]:
    """Images of which every pixel is another number, and labels."""
    pixels = HEIGHT * WIDTH
    # 1 to 2 in steps of 2^-13: exact, and none of them 0, which is what enters.
    images = (1 + torch.arange(NUMBER * pixels) / 8192).reshape(NUMBER, HEIGHT, WIDTH)
    classes = torch.arange(NUMBER) % CLASSES
    return images, classes if kind == "classes" else (1 + torch.arange(NUMBER * pixels)).reshape(images.shape)


def _read(
    report: Report, images: Tensor, labels: Tensor, before: Tensor, options: Mapping[str, Any], seed: int
) -> list[Change]:
    found: list[Change] = []
    for position, image in enumerate(images):
        case = f"seed {seed}, image {position}"
        change = _change_of(image)
        if isinstance(change, str):
            return _one(report, "images", case, change, found)
        found.append(change)
        most = max(abs(change.down), abs(change.right))
        if most > options["shift"]:
            words = f"an image is moved by {most} pixels, too far: at most {options['shift']} are declared"
            return _one(report, "images", case, words, found)
        if change.flipped and not options["flip"]:
            return _one(report, "images", case, "an image is mirrored, which is not declared (flip=True)", found)
        words = _label(labels[position], before, change, position, options)
        if words:
            return _one(report, "labels", case, words, found)
    return found


def _one(report: Report, argument: str, case: str, words: str, found: list[Change]) -> list[Change]:
    wrong(report, argument, case, words)
    return found


def _change_of(image: Tensor) -> Change | str:
    """What was done, or what is wrong with it."""
    whole, _ = given("classes")
    inside = image != 0
    if not bool(inside.any()):
        return "an image is empty: it was moved out of sight"
    codes = ((image[inside] - 1) * 8192).round().long()
    if (
        bool((codes < 0).any())
        or int(codes.max()) >= whole.numel()
        or not torch.equal(whole.flatten()[codes], image[inside])
    ):
        return "an image holds numbers that no image had: it was interpolated, scaled or clipped, which is not declared"
    sources = codes // (HEIGHT * WIDTH)
    source = int(sources.mode().values)
    if not bool((sources == source).all()):
        return "an image holds pixels of another one: images of a batch are mixed"
    rows, columns = inside.nonzero().unbind(1)
    at = codes % (HEIGHT * WIDTH)
    own_rows, own_columns = at // WIDTH, at % WIDTH
    for flipped in (False, True):
        old = WIDTH - 1 - own_columns if flipped else own_columns
        offsets = Counter(zip((rows - own_rows).tolist(), (columns - old).tolist(), strict=True))
        (down, right), count = offsets.most_common(1)[0]
        change = Change(source, down, right, flipped)
        picture = whole[source].flip(-1) if flipped else whole[source]
        if torch.equal(_moved(picture, down, right), image):
            return change
        if 2 * count < len(rows):
            continue
        if torch.equal(picture.roll((down, right), (0, 1)), image):
            return "the shift wraps round: what leaves an image on one side enters on the other, where 0 is due"
        if torch.equal(_moved(picture, down, right, edge=True), image):
            return "what enters an image repeats its edge, where 0 is due"
        return "of an image some pixels are moved otherwise than the others, or lost"
    if torch.equal(whole[source].flip(-2), image):
        return "an image is turned upside down, where left and right were to be exchanged"
    return "pixels of one image are moved by different offsets"


def _moved(x: Tensor, down: int, right: int, edge: bool = False) -> Tensor:
    rows, columns = torch.arange(HEIGHT)[:, None] - down, torch.arange(WIDTH) - right
    inside = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
    found = x[rows.clamp(0, HEIGHT - 1), columns.clamp(0, WIDTH - 1)]
    return found if edge else torch.where(inside, found, 0)


def _label(label: Tensor, labels: Tensor, change: Change, position: int, options: Mapping[str, Any]) -> str:
    """What is wrong with the label of an image; "" if nothing."""
    own = labels[change.source]
    if options["labels"] == "pixels":
        picture = own.flip(-1) if change.flipped else own
        if torch.equal(label, _moved(picture, change.down, change.right)):
            return ""
        if torch.equal(label, labels[position]):
            return "the labels of the pixels are not moved with the image"
        if torch.equal(label, _moved(own, change.down, change.right)):
            return "the labels of the pixels are not mirrored with the image"
        return "the labels of the pixels are moved otherwise than the image"
    swap = options["swap"] or tuple(range(CLASSES))
    expected = swap[int(own)] if change.flipped else int(own)
    if int(label) == expected:
        return ""
    if change.source != position and int(label) == int(labels[position]):
        return "labels are not moved with the images: these are in another order, those are not"
    if change.flipped and int(label) == int(own):
        return "a mirrored image keeps its label, where left and right change places: swap says which class it becomes"
    if not change.flipped and int(label) == swap[int(own)]:
        return "the label of an image that is not mirrored is exchanged"
    return f"label {expected} is due, {int(label)} came"


def _chance(report: Report, changes: list[list[Change]], options: Mapping[str, Any]) -> None:
    """What a right program does not do in so many images: each of these has a probability below 1e-9."""
    every = [change for batch in changes for change in batch]
    flips = sum(c.flipped for c in every)
    if options["flip"] and flips in (0, len(every)):
        word = "none" if not flips else "each"
        wrong(report, "images", "all", f"{word} of {len(every)} images is mirrored, where a half of them is due")
        return
    alike = all(len({(c.down, c.right, c.flipped) for c in batch}) == 1 for batch in changes)
    moving = len({(c.down, c.right, c.flipped) for c in every}) > 1
    if alike and moving:
        wrong(report, "images", "all", "all images of a batch are changed alike: each is to have a change of its own")
    elif not moving:
        wrong(report, "images", "all", "all images are changed alike, whatever the seed: nothing is drawn at random")
    elif len({tuple((c.down, c.right, c.flipped) for c in batch) for batch in changes}) == 1:
        wrong(report, "images", "all", "all seeds give the same changes: the seed is ignored")
    else:
        shift = options["shift"]
        for name, moves in (("down", [c.down for c in every]), ("to the right", [c.right for c in every])):
            lost = [k for k in range(-shift, shift + 1) if k not in moves] if shift <= 3 else []
            if lost:
                words = (
                    f"no image of {len(every)} is ever moved {name} by {lost[0]}: shifts are from −{shift} to {shift}"
                )
                wrong(report, "images", "all", words)


def wrong(report: Report, argument: str, case: str, words: str, kind: str = "wrong") -> None:
    report.mismatches.append(Mismatch(kind, argument, case, words))
