from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sfm.marks import BORDER, PATCH, MatchedPoints, find_lines, find_print

SIZE = (1000, 700)
OTHER = (640, 900)
Photo = tuple[np.ndarray, tuple[int, int]]


def _matched(*pairs: tuple[Photo, Photo]) -> MatchedPoints:
    return MatchedPoints(
        one=np.concatenate([one for (one, _), _ in pairs]),
        two=np.concatenate([two for _, (two, _) in pairs]),
        pair=np.repeat(np.arange(len(pairs)), [len(one) for (one, _), _ in pairs]),
        sizes=np.array([[one, two] for (_, one), (_, two) in pairs]),
    )


def _anywhere(rng: np.random.Generator, size: tuple[int, int], number: int) -> np.ndarray:
    return rng.uniform((0, 0), size, (number, 2))


def _bar(rng: np.random.Generator, size: tuple[int, int], height: float = 40) -> np.ndarray:
    """Letters of one line below a photo, each anywhere along it."""
    across = size[1] - height / 2 + rng.uniform(-0.2, 0.2, 30) * height
    return np.column_stack([rng.uniform(10, size[0] - 10, 30), across])


def _same_letters(one: Photo, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Letters of another line in a photo of this size, at the depth of those in the first photo."""
    depth = one[1][1] - one[0][:, 1]
    return np.column_stack([rng.uniform(10, size[0] - 10, 30), size[1] - depth + rng.uniform(-1, 1, 30)])


def _turned(photo: Photo, turns: int) -> Photo:
    """A photo rotated clockwise by so many quarters."""
    points, size = photo
    for _ in range(turns):
        points, size = np.column_stack([size[1] - points[:, 1], points[:, 0]]), (size[1], size[0])
    return points, size


def _grown(photo: Photo, factor: float) -> Photo:
    return photo[0] * factor, (round(photo[1][0] * factor), round(photo[1][1] * factor))


def _second(make: Callable, change: Callable, value: float) -> Callable:
    """Makes pairs of which the second photo was changed after it got its print."""

    def changed(rng: np.random.Generator) -> tuple[Photo, Photo]:
        one, two = make(rng)
        return one, change(two, value)

    return changed


def _bars(rng: np.random.Generator, two: tuple[int, int] = SIZE) -> tuple[Photo, Photo]:
    one = (_bar(rng, SIZE), SIZE)
    return one, (_same_letters(one, rng, two), two)


def _frames(rng: np.random.Generator, two: tuple[int, int] = SIZE) -> tuple[Photo, Photo]:
    points = _anywhere(rng, SIZE, 40)
    points[:20, 0] = rng.choice([40, 960], 20)
    points[20:, 1] = rng.choice([30, 670], 20)
    return (points, SIZE), (points + rng.uniform(-1, 1, points.shape), two)


def _corners(rng: np.random.Generator) -> tuple[Photo, Photo]:
    """A name at the upper left and a date at the lower right, on photos of different sizes."""
    name, date = rng.uniform((10, 10), (300, 50), (15, 2)), rng.uniform((700, 640), (980, 690), (15, 2))
    one, moved = np.concatenate([name, date]), np.subtract(OTHER, SIZE)
    return (one, SIZE), (np.concatenate([name, date + moved]), OTHER)


def _logos(rng: np.random.Generator, two: tuple[int, int] = OTHER) -> tuple[Photo, Photo]:
    """In the middle of photos of different sizes."""
    from_middle = rng.uniform((-80, -40), (80, 40), (30, 2))
    return (from_middle + np.array(SIZE) / 2, SIZE), (from_middle + np.array(two) / 2, two)


PRINTS: dict[str, tuple[Callable, str]] = {
    "bar": (_bars, BORDER),
    "bar, other sizes": (lambda rng: _bars(rng, OTHER), BORDER),
    "bar at the right": (lambda rng: tuple(_turned(each, 3) for each in _bars(rng)), BORDER),
    "bar at the left": (lambda rng: tuple(_turned(each, 1) for each in _bars(rng, OTHER)), BORDER),
    "bar on top": (lambda rng: tuple(_turned(each, 2) for each in _bars(rng, OTHER)), BORDER),
    "bar, one photo turned": (_second(_bars, _turned, 1), BORDER),
    "bar, one upside down": (_second(_bars, _turned, 2), BORDER),
    "bar, one shrunk": (_second(_bars, _grown, 0.61), BORDER),
    "bar, one grown and turned": (_second(_second(_bars, _turned, 3), _grown, 1.7), BORDER),
    "frame": (_frames, BORDER),
    "frame, one shrunk": (_second(_frames, _grown, 0.7), BORDER),
    "two corners": (_corners, BORDER),
    "logo": (_logos, PATCH),
    "logo, one shrunk": (_second(lambda rng: _logos(rng, SIZE), _grown, 0.5), PATCH),
}


def _with_wrong_matches(pair: tuple[Photo, Photo], rng: np.random.Generator) -> tuple[Photo, Photo]:
    """A geometry that fits the print fits some wrong matches elsewhere."""
    number = len(pair[0][0]) // 3
    one, two = ((np.concatenate([points, _anywhere(rng, size, number)]), size) for points, size in pair)
    return one, two


@pytest.mark.parametrize("kind", PRINTS)
def test_print_is_told_wherever_it_stands(kind: str) -> None:
    make, reason = PRINTS[kind]
    rng = np.random.default_rng(5)
    pair = make(rng)
    number = len(pair[0][0])
    found = find_print(_matched(_with_wrong_matches(pair, rng)))
    assert found.reasons.tolist() == [reason]
    assert found.matches[:number].mean() > 0.9
    assert found.matches[number:].mean() < 0.2


def _tripod(rng: np.random.Generator) -> tuple[Photo, Photo]:
    points = _anywhere(rng, SIZE, 60)
    return (points, SIZE), (points + rng.uniform(-1, 1, points.shape), SIZE)


def _sideways(rng: np.random.Generator) -> tuple[Photo, Photo]:
    """Seen by a camera that moved to the side: every point by its own way along its row."""
    points = _anywhere(rng, SIZE, 60)
    return (points, SIZE), (points - np.column_stack([rng.uniform(5, 90, 60), np.zeros(60)]), SIZE)


def _border_moved(rng: np.random.Generator) -> tuple[Photo, Photo]:
    (one, size), _ = _frames(rng)
    return (one, size), (one + rng.uniform(5, 40, one.shape), size)


def _thing_moved(rng: np.random.Generator) -> tuple[Photo, Photo]:
    """A small thing of which a third moves against the rest."""
    (one, size), _ = _logos(rng)
    moved = np.where(np.arange(len(one))[:, None] % 3 > 0, 0, rng.uniform(5, 40, one.shape))
    return (one, size), (one + moved, size)


def _bar_and_scene(rng: np.random.Generator) -> tuple[Photo, Photo]:
    (one, size), (two, _) = _bars(rng)
    scene = _anywhere(rng, (1000, 600), 60)
    return (np.concatenate([one, scene]), size), (np.concatenate([two, 0.8 * scene + 90]), size)


@pytest.mark.parametrize("make", [_tripod, _sideways, _border_moved, _thing_moved, _bar_and_scene])
def test_what_may_show_a_place_is_not_print(make: Callable) -> None:
    found = find_print(_matched(make(np.random.default_rng(6))))
    assert found.reasons.tolist() == [""]
    assert not found.matches.any()


def _text(rng: np.random.Generator) -> tuple[Photo, Photo]:
    """The same letters at other places of a line, on another height of the photo."""
    place = np.column_stack([rng.uniform(100, 500, 30), 300 + rng.uniform(-12, 12, 30)])
    moved = np.column_stack([rng.uniform(-90, 300, 30), np.full(30, 147.0)])
    return (place, SIZE), (place + moved, SIZE)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_text, True),
        (_second(_text, _turned, 1), True),
        (_second(_text, _turned, 3), True),
        (lambda rng: tuple(_turned(each, 1) for each in _text(rng)), True),
        (_second(_text, _grown, 0.6), True),
        (_tripod, False),
        (_sideways, False),
        (_border_moved, False),
    ],
)
def test_lines_are_told_on_any_height(make: Callable, expected: bool) -> None:
    rng = np.random.default_rng(7)
    matched = _matched(_with_wrong_matches(make(rng), rng))
    assert (find_lines(matched).sum() >= 20) == expected


def _plain_print(matched: MatchedPoints) -> tuple[list[bool], list[str]]:
    """One pair, one way to lay it over the other, and one match at a time."""
    explained, reasons = [], []
    for pair, (size1, size2) in enumerate(matched.sizes.tolist()):
        rows = np.flatnonzero(matched.pair == pair)
        one, two = matched.one[rows].tolist(), matched.two[rows].tolist()
        border, patch = _plain_explanations(one, two, size1, size2)
        reason, best = "", [False] * len(rows)
        if 2 * sum(border) >= len(rows) and any(border):
            reason, best = BORDER, border
        elif 2 * sum(patch) >= len(rows) and any(patch) and _plain_is_patch(one, two, size1, size2, patch):
            reason, best = PATCH, patch
        explained += best
        reasons.append(reason)
    return explained, reasons


def _plain_explanations(
    one: list[list[float]], two: list[list[float]], size1: list[int], size2: list[int]
) -> tuple[list[bool], list[bool]]:
    tolerance, width = max(3.0, 0.003 * max(size1)), 0.1 * float(np.hypot(*size1))
    border, patch = [False] * len(one), [False] * len(one)
    for turn in range(4):
        points, size = _turned((np.array(two), (size2[0], size2[1])), turn)
        for factor in (1.0, size1[0] / size[0], size1[1] / size[1]):
            in_border, level_anywhere, still = [], 0, []
            for (x, y), (u, v) in zip(one, points.tolist(), strict=True):
                depths1 = (x, y, size1[0] - x, size1[1] - y)
                depths2 = tuple(factor * depth for depth in (u, v, size[0] - u, size[1] - v))
                level = [abs(a - b) <= tolerance for a, b in zip(depths1, depths2, strict=True)]
                deep = zip(level, depths1, depths2, strict=True)
                in_border.append(any(ok and a <= width and b <= width for ok, a, b in deep))
                level_anywhere += any(level)
                central = [
                    abs((depths1[k] - depths1[k + 2]) - (depths2[k] - depths2[k + 2])) <= 2 * tolerance
                    for k in (0, 1)
                ]
                still.append(all(level[k] or level[k + 2] or central[k] for k in (0, 1)))
            if sum(in_border) >= 0.8 * level_anywhere and sum(in_border) > sum(border):
                border = in_border
            if sum(still) > sum(patch):
                patch = still
    return border, patch


def _plain_is_patch(
    one: list[list[float]],
    two: list[list[float]],
    size1: list[int],
    size2: list[int],
    unmoved: Sequence[bool],
) -> bool:
    for points, size in ((one, size1), (two, size2)):
        own = [point for point, still in zip(points, unmoved, strict=True) if still]
        low, high = np.quantile(own, 0.05, axis=0), np.quantile(own, 0.95, axis=0)
        inside = [
            still
            for (x, y), still in zip(points, unmoved, strict=True)
            if low[0] <= x <= high[0] and low[1] <= y <= high[1]
        ]
        area = (high[0] - low[0]) * (high[1] - low[1]) / (size[0] * size[1])
        if area > 0.1 or sum(inside) < 0.8 * len(inside):
            return False
    return True


def test_a_block_of_pairs_is_judged_as_pair_by_pair() -> None:
    rng = np.random.default_rng(8)
    makers = [make for make, _ in PRINTS.values()]
    makers += [_tripod, _sideways, _border_moved, _thing_moved, _bar_and_scene, _text]
    pairs = [_with_wrong_matches(make(rng), rng) for make in makers for _ in range(3)]
    some = [rng.permutation(len(one))[: rng.integers(15, 50)] for (one, _), _ in pairs]
    cut = [
        ((one[rows], size1), (two[rows], size2))
        for ((one, size1), (two, size2)), rows in zip(pairs, some, strict=True)
    ]
    matched = _matched(*cut)
    found = find_print(matched)
    explained, reasons = _plain_print(matched)
    assert found.reasons.tolist() == reasons
    assert found.matches.tolist() == explained
    assert {BORDER, PATCH, ""} == set(reasons)


def test_lines_of_a_block_are_those_of_each_pair() -> None:
    rng = np.random.default_rng(9)
    pairs = [
        _with_wrong_matches(make(rng), rng)
        for make in (_text, _tripod, _bars, _text, _sideways, _logos, _thing_moved)
    ]
    alone = np.concatenate([find_lines(_matched(pair)) for pair in pairs])
    assert find_lines(_matched(*pairs)).tolist() == alone.tolist()


def test_without_matches_there_is_no_print() -> None:
    empty = (np.empty((0, 2)), SIZE)
    found = find_print(_matched((empty, empty)))
    assert found.reasons.tolist() == [""]
    assert find_lines(_matched((empty, empty))).tolist() == []
