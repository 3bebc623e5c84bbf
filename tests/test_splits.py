"""Splits: nothing is learnt of an object that is scored on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.training.splits import (
    Leakage,
    Sizes,
    Split,
    by_plate,
    check,
    folds,
    leakage,
    random_splits,
    read_splits,
    sized_split,
    write_splits,
)
from files import room_for


def sample(n: int = 2000, repeats: float = 0.2, seed: int = 0) -> NDArray[np.int64]:
    """Objects of n spectra, of which a part are second visits."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, max(1, round(n * (1 - repeats))), n)


samples = st.lists(st.integers(-5, 30), min_size=10, max_size=80).map(lambda x: np.array(x, dtype=np.int64))


@given(samples, st.integers(0, 99))
def test_no_object_is_in_both_parts_of_any_split(objects: NDArray[np.int64], seed: int) -> None:
    plates = (np.arange(len(objects)) // 4).astype(np.int32)
    two = len(np.unique(objects)) > 1
    made = random_splits(objects, 3, 0.2, seed) + by_plate(plates, objects, 2, seed)
    for split in made + (folds(objects, 2, seed) if two else []):
        assert not set(objects[split.training]) & set(objects[split.validation])


def test_a_random_split_learns_from_80_percent_of_spectra_and_drops_shared_objects() -> None:
    objects = sample()
    splits = random_splits(objects)
    assert len(splits) == 10
    for split in splits:
        assert len(split.training) == 1600
        others = np.setdiff1d(np.arange(2000), split.training)
        assert np.array_equal(split.validation, others[~np.isin(objects[others], objects[split.training])])
        assert 0 < len(split.validation) < 400
    assert len({split.validation.tobytes() for split in splits}) == 10


def test_a_random_split_of_single_visits_is_exactly_80_to_20() -> None:
    for split in random_splits(np.arange(500), 3):
        assert (len(split.training), len(split.validation)) == (400, 100)


def test_the_seed_decides_a_split() -> None:
    objects = sample()
    for make in (random_splits, folds):
        one, same, other = (make(objects, 3, seed=seed) for seed in (1, 1, 2))
        assert all(np.array_equal(a.validation, b.validation) for a, b in zip(one, same, strict=True))
        assert not np.array_equal(one[0].validation, other[0].validation)


@given(samples.filter(lambda x: len(set(x.tolist())) >= 5), st.integers(2, 5))
def test_folds_validate_every_spectrum_once_and_lose_none(objects: NDArray[np.int64], k: int) -> None:
    splits = folds(objects, k)
    assert sorted(np.concatenate([split.validation for split in splits])) == list(range(len(objects)))
    for split in splits:
        assert len(split.training) + len(split.validation) == len(objects)
        check(split, objects)


def test_folds_are_of_nearly_equal_numbers_of_objects() -> None:
    objects = sample()
    sizes = [len(np.unique(objects[split.validation])) for split in folds(objects, 7)]
    assert max(sizes) - min(sizes) <= 1


def test_a_split_by_plate_scores_on_plates_of_which_nothing_was_learnt() -> None:
    objects, plates = sample(), np.repeat(np.arange(100, 120, dtype=np.int32), 100)
    splits = by_plate(plates, objects, 4)
    for split in splits:
        held = np.setdiff1d(plates, plates[split.training])
        assert len(held) == 5
        assert set(plates[split.validation]) <= set(held)
        check(split, objects)
    seen = np.concatenate([split.validation for split in splits])
    assert len(seen) == len(set(seen)) < 2000


def test_spectra_without_plates_cannot_be_split_by_plate() -> None:
    with pytest.raises(UsageError, match="2 spectra have no plate"):
        by_plate(np.array([1, -1, 2, -1], dtype=np.int32), np.arange(4), 2)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_parts_without_an_object_are_refused(k: int) -> None:
    with pytest.raises(UsageError, match=f"3 objects or plates cannot be split into {k} parts"):
        folds(np.array([1, 1, 2, 3]), k)


# ---- splits of given sizes


def test_parts_of_single_visits_have_the_sizes_asked_for_and_the_rest_is_learnt_from() -> None:
    split = sized_split(np.arange(1000), Sizes(50, 100))
    assert [len(rows) for rows in split.parts.values()] == [850, 50, 100]
    assert np.array_equal(np.sort(np.concatenate(list(split.parts.values()))), np.arange(1000))
    shares = sized_split(np.arange(1000), Sizes(0.05, 0.1))
    assert all(np.array_equal(a, b) for a, b in zip(split, shares, strict=True))


@given(samples, st.integers(1, 4), st.integers(0, 4), st.integers(0, 99))
def test_parts_by_object_share_none_and_are_larger_by_less_than_the_visits_to_one(
    objects: NDArray[np.int64], validation: int, test: int, seed: int
) -> None:
    visits = np.unique(objects, return_counts=True)[1]
    try:
        split = sized_split(objects, Sizes(validation, test), seed)
    except UsageError:
        assert len(visits) <= validation + test  # so few objects that all may be held out
        return
    check(split, objects)
    assert leakage(split, objects) == Leakage(0, 0, 0)
    for rows, size in ((split.validation, validation), (split.test, test)):
        assert size <= len(rows) < size + max(visits)
    assert len(np.unique(np.concatenate(list(split.parts.values())))) == len(objects)


@given(samples, st.integers(0, 99))
def test_parts_by_spectrum_have_exactly_the_sizes_asked_for(objects: NDArray[np.int64], seed: int) -> None:
    split = sized_split(objects, Sizes(3, 4, by_spectrum=True), seed)
    assert [len(rows) for rows in split.parts.values()] == [len(objects) - 7, 3, 4]
    check(split, objects)


def test_the_test_part_does_not_depend_on_what_is_done_with_the_rest() -> None:
    objects = sample()
    one, other = sized_split(objects, Sizes(100, 300)), sized_split(objects, Sizes(0.3, 300))
    assert np.array_equal(one.test, other.test) and len(other.validation) > 500
    assert not np.array_equal(one.test, sized_split(objects, Sizes(100, 300), seed=1).test)


def test_without_a_test_part_there_are_two() -> None:
    assert list(sized_split(np.arange(10), Sizes(0.2)).parts) == ["training", "validation"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Sizes(5, 5), "5 spectra for validation and 5 for a test leave none of 10 to learn from"),
        (Sizes(1, 50), "leave none of 10"),
        (Sizes(0.5, 0.6), "leave none of 10"),
        (Sizes(0), "not 0 and 0"),
        (Sizes(2, -1), "not 2 and -1"),
        (Sizes(float("nan")), "not nan and 0"),
    ],
)
def test_sizes_that_leave_nothing_to_learn_from_are_refused(sizes: Sizes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sized_split(np.arange(10), sizes)


# ---- what leaks


def test_leakage_is_what_other_parts_know_of_the_objects_of_a_part() -> None:
    objects = np.array([1, 2, 3, 1, 4, 1, 2, 4, 5])
    split = Split(np.array([0, 1, 2]), np.array([3, 4]), np.array([5, 6, 7, 8]), by_spectrum=True)
    # 1 is in all parts, 2 in training and test, 4 in validation and test.
    assert leakage(split, objects) == Leakage(objects=3, validation=1, test=2)
    assert str(leakage(split, objects)) == (
        "3 objects are in more than one part; another visit is learnt from of 1 validation and 2 test spectra"
    )


def test_a_split_by_spectrum_leaks_as_much_as_chance_has_it() -> None:
    objects = np.repeat(np.arange(5000), 2)
    leaks = leakage(sized_split(objects, Sizes(0.1, 0.2, by_spectrum=True)), objects)
    assert leaks.test == pytest.approx(2000 * 0.7, abs=100)
    assert leaks.validation == pytest.approx(1000 * 0.7, abs=70)


def test_the_test_part_must_not_leak_either_unless_the_split_says_so() -> None:
    objects = np.array([5, 7, 8, 7, 8])
    split = Split(np.array([0, 1]), np.array([2]), np.array([3]))
    with pytest.raises(UsageError, match="1 objects, such as 7, are in both training and test"):
        check(split, objects)
    with pytest.raises(UsageError, match="1 objects, such as 8, are in both validation and test"):
        check(split._replace(test=np.array([4])), objects)
    check(split._replace(by_spectrum=True), objects)
    with pytest.raises(UsageError, match="1 spectra, such as 1, are in both training and test"):
        check(split._replace(test=np.array([1]), by_spectrum=True), objects)


# ---- learning curves


@given(st.integers(0, 99), st.integers(1, 60), st.integers(1, 60))
def test_fewer_labels_are_among_more_of_the_same_seed(seed: int, one: int, other: int) -> None:
    whole = sized_split(np.arange(100), Sizes(20, 20), 5)
    few, many = (whole.limited(n, seed) for n in sorted((one, other)))
    assert (len(few.training), len(many.training)) == (min(one, other), max(one, other))
    assert np.isin(few.training, many.training).all() and np.isin(many.training, whole.training).all()
    assert (np.diff(few.training) > 0).all()
    assert few.validation is whole.validation and few.test is whole.test


def test_another_seed_chooses_other_labels_and_all_is_the_most() -> None:
    whole = sized_split(np.arange(100), Sizes(20))
    assert not np.array_equal(whole.limited(10, 0).training, whole.limited(10, 1).training)
    assert np.array_equal(whole.limited(80).training, whole.training)
    for n in (0, 81):
        with pytest.raises(UsageError, match=f"holds 80 spectra, not {n}"):
            whole.limited(n)


# ---- files


def test_test_parts_and_splits_by_spectrum_survive_a_file(tmp_path: Path) -> None:
    objects = sample()
    splits = [sized_split(objects, Sizes(0.1, 0.2, by_spectrum)) for by_spectrum in (False, True)]
    write_splits(tmp_path / "splits.parquet", splits, objects)
    names = pq.read_table(tmp_path / "splits.parquet").column_names
    assert names == ["OBJECT", "SPLIT_0", "SPLIT_1_BY_SPECTRUM"]
    for one, other in zip(splits, read_splits(tmp_path / "splits.parquet", objects), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_file_of_two_parts_has_no_test_part(tmp_path: Path) -> None:
    pq.write_table(pa.table({"OBJECT": [5, 7, 8], "SPLIT_0": [1, 2, 0]}), tmp_path / "splits.parquet")
    (split,) = read_splits(tmp_path / "splits.parquet", np.array([5, 7, 8]))
    assert (split.training.tolist(), split.validation.tolist(), split.test.tolist()) == ([0], [1], [])
    assert not split.by_spectrum


def test_splits_survive_a_file(tmp_path: Path) -> None:
    objects = sample()
    splits = [*random_splits(objects, 2), *folds(objects, 2)]
    write_splits(tmp_path / "splits.parquet", splits, objects)
    read = read_splits(tmp_path / "splits.parquet", objects)
    assert [path.name for path in tmp_path.iterdir()] == ["splits.parquet"]
    for one, other in zip(splits, read, strict=True):
        assert np.array_equal(one.training, other.training)
        assert np.array_equal(one.validation, other.validation)


def test_splits_of_another_sample_are_refused(tmp_path: Path) -> None:
    objects = sample()
    path = tmp_path / "splits.parquet"
    write_splits(path, folds(objects), objects)
    for other in (objects[:-1], objects[::-1], objects + 1):
        with pytest.raises(UsageError, match=r"splits\.parquet splits another sample"):
            read_splits(path, other)


LEAKS: dict[str, tuple[Any, str]] = {
    "object": (Split(np.array([0, 1]), np.array([2, 3])), "1 objects, such as 7, are in both"),
    "row": (Split(np.array([0, 1]), np.array([1, 3])), "1 objects, such as 7"),
    "empty": (Split(np.array([0, 1]), np.array([], dtype=int)), "the validation part of a split holds no"),
    "foreign": (Split(np.array([0, 9]), np.array([3])), "the training part of a split names rows"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_an_error_and_is_not_written(name: str, tmp_path: Path) -> None:
    split, message = LEAKS[name]
    objects = np.array([5, 7, 7, 8])
    with pytest.raises(UsageError, match=message):
        check(split, objects)
    with pytest.raises(UsageError, match=message):
        write_splits(tmp_path / "splits.parquet", [split], objects)
    assert not list(tmp_path.iterdir())


def test_a_leak_in_a_file_is_an_error_on_reading(tmp_path: Path) -> None:
    objects = np.array([5, 7, 7, 8])
    pq.write_table(pa.table({"OBJECT": objects, "SPLIT_0": [1, 1, 2, 2]}), tmp_path / "splits.parquet")
    with pytest.raises(UsageError, match="a split leaks: 1 objects, such as 7"):
        read_splits(tmp_path / "splits.parquet", objects)


def test_files_that_are_no_splits_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("1 2 3")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    for name in ("text", "other.parquet", "none"):
        with pytest.raises(UsageError, match=f"{name} cannot be read as a file of splits"):
            read_splits(tmp_path / name, np.arange(3))


def test_a_full_disk_leaves_no_half_written_splits(tmp_path: Path) -> None:
    objects = sample()
    write_splits(tmp_path / "splits.parquet", folds(objects, 2), objects)
    before = (tmp_path / "splits.parquet").read_bytes()
    with room_for(500), pytest.raises(UsageError, match="cannot write the splits"):
        write_splits(tmp_path / "splits.parquet", folds(objects, 3), objects)
    assert (tmp_path / "splits.parquet").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
