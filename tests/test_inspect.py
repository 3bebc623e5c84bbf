"""Inspection without its page: what is ranked how, that no verdict is lost, and what inspectors agree on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pa_csv
import pytest
from astropy.table import Table

from broadline.errors import UsageError
from broadline.evaluation.catalogues import read_catalogue
from broadline.flags import Flag
from broadline.inspect import exchange
from broadline.inspect.agreement import agreement, cohen_kappa, disputed, purity, settled
from broadline.inspect.expression import LONGEST, select
from broadline.inspect.queue import Reason, pipeline, rank, truth
from broadline.inspect.rulings import Ruling, Verdict
from broadline.inspect.subjects import Solution, Subjects, read_subjects, solutions
from broadline.inspect.verdicts import ConflictError, NotStoredError, Store, default_path
from broadline.lookup import Lookup
from broadline.truth import CLASSES, match, read_truth_table
from conftest import Answer
from files import room_for
from inspected import BAL, CONFLICT, STAR_CALLED, SWAPPED, N, true_kind, true_z, write_catalogue

Command = Callable[..., Answer]


@pytest.fixture(scope="module")
def subjects(to_inspect: Path) -> Subjects:
    return read_subjects(to_inspect)


@pytest.fixture
def store(subjects: Subjects, tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "verdicts.sqlite", subjects) as opened:
        yield opened


# ---- filters

COLUMNS: dict[str, Any] = {
    "Z": np.array([0.5, 2.5, np.nan, 3.0]),
    "SN_MEDIAN": np.array([1.0, 1.5, 1.0, 5.0]),
    "TARGETID": np.array([39627000000000001, 39627000000000002, -1, 5]),
    "OBJID": np.array(["a", "b c", "d", "e"]),
    "IS_QSO": np.array([1, 0, 1, 1], dtype=np.int8),
    "FLAGS": np.array([0, int(Flag.LOW_SN), int(Flag.LOW_SN | Flag.SKY_FIBRE), 0]),
}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Z > 2.1 & SN_MEDIAN < 2", [1]),
        ("Z>2.1&SN_MEDIAN<2", [1]),
        ("z <= 2.5 | sn_median == 5", [0, 1, 3]),
        ("Z < 1 | Z > 2.9 & SN_MEDIAN < 2", [0]),  # & binds closer
        ("(Z < 1 | Z > 2.9) & SN_MEDIAN < 6", [0, 3]),
        ("!(Z > 0)", [2]),  # what is missing compares as false
        ("Z != 3", [0, 1]),
        ("IS_QSO & !(FLAGS has LOW_SN)", [0, 3]),
        ("IS_QSO == true", [0, 2, 3]),
        ("FLAGS has sky_fibre", [2]),
        ("OBJID == 'b c'", [1]),
        ("OBJID = e", [3]),
        ("TARGETID == 39627000000000001", [0]),  # beyond what floating point tells apart
        ("SN_MEDIAN > -1e3", [0, 1, 2, 3]),
    ],
)
def test_a_filter_keeps_the_rows_that_it_says(text: str, kept: list[int]) -> None:
    assert np.flatnonzero(select(text, COLUMNS)).tolist() == kept


@pytest.mark.parametrize(
    "text",
    [
        "Z >",
        "Z > 2 SN_MEDIAN < 2",
        "Z > two",
        "Q > 2",
        "(Z > 2",
        "Z > 2)",
        "OBJID",
        "FLAGS has NOTHING",
        "2 < Z",
        "__import__('os').system('true')",
        "Z > 2; import os",
        "!" * 50 + "(Z > 2)",
        "(" * 500 + "Z > 2" + ")" * 500,
        "Z > 2 &" * LONGEST,
    ],
)
def test_what_is_no_filter_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match=r"filter|column|compared|Flags"):
        select(text, COLUMNS)


# ---- ranking


def test_spectra_are_ranked_by_what_a_verdict_is_worth(subjects: Subjects) -> None:
    ranking = rank(subjects)
    has = {reason: np.flatnonzero(ranking.reasons & np.uint32(reason)).tolist() for reason in Reason}
    assert has[Reason.SINGLE_LINE] == sorted([*SWAPPED, STAR_CALLED])
    assert has[Reason.CONFLICT] == [CONFLICT] and has[Reason.BAL] == [BAL] and has[Reason.MISSED] == []
    assert ranking.worth[SWAPPED[0]] == pytest.approx(0.6 + 0.3)  # 1 - P_Z, and one line only
    assert ranking.worth[CONFLICT] == pytest.approx(1 - (0.89 - 0.005 * CONFLICT) + 0.5, abs=1e-6)
    assert ranking.queue("conflict").tolist() == [CONFLICT]
    single = ranking.queue("single_line")
    assert (np.diff(ranking.worth[single]) <= 0).all()
    assert len(ranking.queue("all")) == N
    with pytest.raises(KeyError):
        ranking.queue("of nothing")


def test_every_tenth_of_the_ranked_is_a_random_control_and_the_same_next_time(subjects: Subjects) -> None:
    ranking = rank(subjects)
    controls = ranking.queue("control")
    called = np.flatnonzero(subjects.catalogue.called)
    assert len(controls) == -(-len(called) // 10) and set(controls.tolist()) <= set(called.tolist())
    assert rank(subjects).controls.tolist() == controls.tolist()
    others = [rank(replace(subjects, sha256=f"{seed:064x}"[::-1])).controls for seed in range(256)]
    drawn = np.bincount(np.concatenate(others), minlength=N)[called]
    mean = len(others) * len(controls) / len(called)  # each is drawn as often, whatever it is
    assert (np.abs(drawn - mean) < 5 * np.sqrt(mean)).all() and drawn.sum() == len(others) * len(controls)
    ranked = ranking.queue("ranked")
    assert len(set(ranked.tolist())) == len(ranked) >= 20
    n = (len(ranked) - len(controls)) // 9  # as many have nine others before them; the rest follows
    places = [*range(9, 10 * n, 10), *range(len(ranked) - len(controls) + n, len(ranked))]
    assert np.flatnonzero(np.isin(ranked, controls)).tolist() == places[: len(controls)]
    assert ranked[np.isin(ranked, controls)].tolist() == controls.tolist()  # in their order


def test_who_contradicts_the_catalogue_raises_the_rank(subjects: Subjects, tmp_path: Path) -> None:
    rows = np.arange(N)
    kind = [true_kind(row) for row in rows]
    kind[0] = "GALAXY"  # at the right redshift: that is no contradiction
    table = Table(
        {
            "PLATE": [4055] * N,
            "MJD": [55359] * N,
            "FIBERID": rows + 1,
            "CLASS": kind,
            "Z": [true_z(r) for r in rows],
        }
    )
    table.write(tmp_path / "truth.csv", format="ascii.csv")
    table["ZWARNING"] = np.where(rows == SWAPPED[1], 4, 0)  # not sure of this one
    table.write(tmp_path / "pipeline.csv", format="ascii.csv")
    opinions = {
        "truth table": truth(tmp_path / "truth.csv", subjects),
        "pipeline": pipeline(tmp_path / "pipeline.csv", subjects),
    }
    ranking = rank(subjects, opinions)
    assert sorted(ranking.queue("truth")) == sorted([*SWAPPED, STAR_CALLED])
    assert sorted(ranking.queue("pipeline")) == sorted([SWAPPED[0], SWAPPED[2], STAR_CALLED])
    plain = rank(subjects).worth
    assert ranking.worth[SWAPPED[0]] == pytest.approx(plain[SWAPPED[0]] + 0.5 + 0.5)


@pytest.mark.parametrize("flag", [Flag.SKY_FIBRE, Flag.BAD_FIBRE])
def test_what_is_no_target_ranks_behind_all_that_are(subjects: Subjects, flag: Flag) -> None:
    single = rank(subjects).queue("single_line")
    first = next(row for row in single.tolist() if row not in rank(subjects).controls)
    flags = subjects.columns["FLAGS"].copy()
    flags[first] = int(flags[first]) | int(flag)
    ranking = rank(replace(subjects, columns={**subjects.columns, "FLAGS": flags}))
    assert ranking.queue("single_line").tolist() == [*single[single != first].tolist(), first]
    ranked = ranking.queue("ranked")
    ranked = ranked[~np.isin(ranked, ranking.controls)]
    worth = ranking.worth[ranked]
    assert ranked[-1] == first and worth[-1] == 0 and (worth[:-1] > 0).all()


def test_the_second_solution_is_that_of_the_next_line_that_disagrees(subjects: Subjects) -> None:
    row = SWAPPED[0]
    first, second, *_ = solutions(subjects, row)
    assert first.said_by == "LYA" and second.said_by == "MGII"
    assert second.z == pytest.approx(true_z(row)) and second.confidence == pytest.approx(0.25)
    agreeing = solutions(
        subjects, 0, [Solution(true_z(0) + 1e-4, float("nan"), "pipeline"), Solution(3, 0, "other")]
    )
    assert [one.said_by for one in agreeing] == ["MGII", "other"]
    # What others say stands before lines that hardly anything speaks for.
    columns = {**subjects.columns, "C_CIV": np.full(N, 0.04), "Z_CIV": np.full(N, 2.5)}
    faint = solutions(replace(subjects, columns=columns), 0, [Solution(3, float("nan"), "survey")])
    assert [one.said_by for one in faint] == ["MGII", "survey", "CIV"]
    star = solutions(subjects, 9, [Solution(1.0, float("nan"), "survey")])  # not called: no line is there
    assert [one.said_by for one in star] == ["survey", "LYA"]


def test_a_catalogue_that_does_not_say_where_its_spectra_are_is_refused(tmp_path: Path) -> None:
    Table({"TARGETID": [1], "IS_QSO": [True], "Z": [2.0]}).write(tmp_path / "cat.fits")
    with pytest.raises(UsageError, match="SOURCE and ROW"):
        read_subjects(tmp_path / "cat.fits")


def test_spectra_are_found_by_the_ends_of_their_paths(subjects: Subjects, to_inspect: Path) -> None:
    source = str(subjects.columns["SOURCE"][2])
    elsewhere = Lookup.of([source, "gone/spec-1-2-3.fits"], [to_inspect.parent / "spectra"])
    assert elsewhere.path("gone/spec-1-2-3.fits") is None
    assert elsewhere.read(source, [0])[0].ids["FIBERID"][0] == 3
    with pytest.raises(UsageError, match="name the folder of the spectra"):
        Lookup.of(["gone/spec-1-2-3.fits"], [to_inspect.parent / "spectra"])


# ---- the file of verdicts


def test_verdicts_and_undo_are_appended_and_nothing_is_changed(store: Store) -> None:
    first = store.rule(0, "Ada", Ruling("QSO", 0.5), 0)
    second = store.rule(0, "Ada", Ruling("QSO", 0.6), first.version)
    store.rule(1, "Ada", Ruling("STAR", 0.0), 0)
    store.rule(0, "Ben", Ruling("GALAXY", 0.1), 0)
    assert second.version > first.version
    undone = [store.undo("Ada") for _ in range(4)]
    assert [u.row if u else None for u in undone] == [1, 0, 0, None]
    assert [u.ruling if u else None for u in undone[1:3]] == [Ruling("QSO", 0.5), Ruling("")]
    assert [v.inspector for v in store.on(0)] == ["Ben"] and store.on(1) == []
    assert [v.ruling.z for v in store.history()[:4]] == [0.5, 0.6, 0.0, 0.1]
    assert len(store.history()) == 7


def test_a_verdict_after_an_undo_is_the_next_to_be_undone(store: Store) -> None:
    store.rule(0, "Ada", Ruling("QSO", 0.5), 0)
    gone = store.undo("Ada")
    assert gone is not None
    store.rule(0, "Ada", Ruling("STAR", 0.0), gone.version)
    undone = store.undo("Ada")
    assert undone is not None and undone.ruling.kind == ""


def test_the_last_write_of_two_tabs_does_not_win_silently(store: Store) -> None:
    stored = store.rule(0, "Ada", Ruling("QSO", 0.5), 0)
    with pytest.raises(ConflictError) as conflict:
        store.rule(0, "Ada", Ruling("STAR", 0.0), 0)
    assert conflict.value.current == stored and conflict.value.version == stored.version
    store.rule(0, "Ada", Ruling("STAR", 0.0), stored.version)
    store.rule(0, "Ben", Ruling("QSO", 0.5), 0)  # others have verdicts of their own


def test_the_same_request_is_stored_once(store: Store) -> None:
    first = store.rule(0, "Ada", Ruling("QSO", 0.5), 0, request="r1")
    assert store.rule(0, "Ada", Ruling("QSO", 0.5), 0, request="r1") == first
    assert len(store.history()) == 1


@pytest.mark.parametrize(
    "ruling",
    [
        Ruling("QUASAR", 1.0),
        Ruling("QSO", None),
        Ruling("QSO", float("nan")),
        Ruling("QSO", -2.0),
        Ruling("STAR", 0.0, quality=5),
        Ruling("STAR", 0.0, comment="x" * 1001),
    ],
)
def test_what_can_be_no_ruling_is_refused(store: Store, ruling: Ruling) -> None:
    with pytest.raises(UsageError):
        store.rule(0, "Ada", ruling, 0)
    with pytest.raises(UsageError):
        store.rule(N, "Ada", Ruling("STAR", 0.0), 0)
    assert store.history() == []


def test_a_program_killed_right_after_a_key_has_lost_nothing(subjects: Subjects, tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from broadline.inspect.subjects import read_subjects
from broadline.inspect.rulings import Ruling
from broadline.inspect.verdicts import Store
store = Store(Path({str(tmp_path / "v.sqlite")!r}), read_subjects(Path({str(subjects.catalogue.path)!r})))
for row in range(5):
    store.rule(row, "Ada", Ruling("QSO", 1.0 + row), 0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == -signal.SIGKILL
    with Store(tmp_path / "v.sqlite", subjects) as again:
        assert [v.ruling.z for v in again.history()] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_second_program_on_the_same_file_is_refused(store: Store, subjects: Subjects) -> None:
    with pytest.raises(UsageError, match="another program has"):
        Store(store.path, subjects)


def test_verdicts_on_another_catalogue_are_refused(subjects: Subjects, tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    Store(path, subjects).close()
    write_catalogue(
        tmp_path / "other.parquet", subjects.names.tolist(), subjects.columns["SOURCE"].tolist(), seed=1
    )
    with pytest.raises(UsageError, match="verdicts on another catalogue"):
        Store(path, read_subjects(tmp_path / "other.parquet"))
    Store(path, subjects).close()


def test_a_file_that_holds_no_verdicts_is_refused(subjects: Subjects, tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database" * 100)
    with pytest.raises(UsageError, match="name another file"):
        Store(tmp_path / "text.sqlite", subjects)
    with sqlite3.connect(tmp_path / "other.sqlite") as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    with pytest.raises(UsageError, match="none of verdicts"):
        Store(tmp_path / "other.sqlite", subjects)


def test_a_full_disk_refuses_a_verdict_and_loses_none(store: Store) -> None:
    stored = store.rule(0, "Ada", Ruling("QSO", 0.5), 0)
    with room_for(1), pytest.raises(NotStoredError, match="all earlier ones are safe"):
        store.rule(1, "Ada", Ruling("QSO", 0.6), 0)
    assert store.current(1, "Ada") is None
    store.rule(1, "Ada", Ruling("QSO", 0.6), 0)
    assert [v.row for v in store.history()] == [stored.row, 1]


# ---- several inspectors


def verdict(
    row: int, inspector: str, kind: str, z: float | None = None, version: int = 1, **more: Any
) -> Verdict:
    adjudicates = more.pop("adjudicates", False)
    return Verdict(version, row, inspector, "", Ruling(kind, z, **more), adjudicates)


def test_kappa_is_that_of_a_worked_example() -> None:
    # 50 applications, two readers: 20 both yes, 15 both no, 5 and 10 one of them: p_o 0.7, p_e 0.5.
    one = ["yes"] * 25 + ["no"] * 25
    other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    assert cohen_kappa(one, one) == 1.0
    assert np.isnan(cohen_kappa([], [])) and np.isnan(cohen_kappa(["yes"], ["yes"]))


def test_agreement_compares_blind_verdicts_on_the_same_spectra() -> None:
    standing = {
        0: [verdict(0, "Ada", "QSO", 2.0), verdict(0, "Ben", "QSO", 2.01)],
        1: [verdict(1, "Ada", "QSO", 2.0), verdict(1, "Ben", "QSO", 1.0)],
        2: [verdict(2, "Ada", "STAR", 0.0), verdict(2, "Ben", "QSO", 1.0)],
        3: [verdict(3, "Ada", "STAR", 0.0), verdict(3, "Ben", "QSO", 1.0, adjudicates=True)],
        4: [verdict(4, "Ada", "STAR", 0.0)],
    }
    (pair,) = agreement(standing)
    assert pair.inspectors == ("Ada", "Ben") and pair.n == 3
    assert (pair.same_kind.k, pair.same_kind.n) == (2, 3)
    assert (pair.same_z.k, pair.same_z.n) == (1, 2)
    assert pair.kappa == pytest.approx(0.0)
    assert disputed(standing).tolist() == [1, 2]


def test_inspectors_settle_on_what_all_say_or_on_the_last_adjudication() -> None:
    one, other = (
        verdict(0, "Ada", "QSO", 2.00, quality=4, bal=True),
        verdict(0, "Ben", "QSO", 2.02, quality=3),
    )
    assert settled([one, other]) == Ruling("QSO", 2.01, 3, False, "")
    third = verdict(0, "Cy", "STAR", 0.0)
    assert settled([one, other, third]) is None
    final = verdict(0, "Dee", "GALAXY", 0.3, version=9, adjudicates=True)
    assert settled([one, final, third]) == final.ruling


def test_who_adjudicates_keeps_the_blind_verdict_and_the_statistics_use_it(store: Store) -> None:
    store.rule(0, "Ada", Ruling("QSO", 2.0), 0)
    store.rule(0, "Ben", Ruling("STAR", 0.0), 0)
    store.rule(0, "Ada", Ruling("STAR", 0.0), 0, adjudicates=True)
    standing = store.standing()
    assert [(v.inspector, v.ruling.kind, v.adjudicates) for v in standing[0]] == [
        ("Ada", "QSO", False),
        ("Ada", "STAR", True),
        ("Ben", "STAR", False),
    ]
    assert agreement(standing)[0].same_kind.k == 0 and disputed(standing).size == 0
    store.undo("Ada")  # the adjudication alone
    assert disputed(store.standing()).tolist() == [0]


def test_purity_is_counted_on_the_control_sample_alone(subjects: Subjects) -> None:
    right = [row for row in range(N) if true_kind(row) == "QSO" and row not in SWAPPED]
    standing = {
        right[0]: [verdict(right[0], "Ada", "QSO", true_z(right[0]))],
        right[1]: [verdict(right[1], "Ada", "GALAXY", true_z(right[1]))],
        right[2]: [verdict(right[2], "Ada", "?")],
        SWAPPED[0]: [verdict(SWAPPED[0], "Ada", "QSO", true_z(SWAPPED[0]))],
        STAR_CALLED: [verdict(STAR_CALLED, "Ada", "STAR", 0.0)],
    }
    share = purity(subjects, np.array([*right[:3], SWAPPED[0], STAR_CALLED]), standing)
    assert (share.k, share.n) == (2, 4)
    assert purity(subjects, np.array(right[:1]), standing).n == 1
    # What lies behind one that nobody has ruled on was looked at for another reason than chance.
    assert purity(subjects, np.array([right[0], right[3], *right[1:3]]), standing).n == 1
    assert purity(subjects, np.array([right[3], right[0]]), standing).n == 0


# ---- out and in

#: As desihub/prospect's `read_vi` takes them (utilities.vi_file_fields, version 1.2 and later).
PROSPECT_TYPES = ("i8", *["i4"] * 3, *["U16"] * 3, "U10", "U6", "U10", "U10", "U2", "U3", "U6", "U10", "U100")


def ruled(store: Store) -> Store:
    store.rule(0, "Ada", Ruling("QSO", true_z(0), 4, True, "clear, with a trough"), 0)
    store.rule(0, "Ben", Ruling("QSO", true_z(0) + 0.001, 3), 0)
    store.rule(SWAPPED[0], "Ada", Ruling("QSO", true_z(SWAPPED[0]), 3, False, '"quoted"\nand lines'), 0)
    store.rule(STAR_CALLED, "Ada", Ruling("STAR", 0.0001, 4, False, "=1+1"), 0)
    store.rule(8, "Ada", Ruling("QSO", 2.0, 2), 0)
    store.rule(8, "Ben", Ruling("STAR", 0.0, 2), 0)
    store.rule(9, "Ada", Ruling("?", None, 0), 0)
    return store


def test_verdicts_are_a_file_that_prospect_reads(store: Store, subjects: Subjects, tmp_path: Path) -> None:
    path = tmp_path / "vi.csv"
    path.write_bytes(exchange.prospect_csv(subjects, ruled(store).standing()))
    table = Table.read(path, format="ascii.csv", names=exchange.PROSPECT)  # as its read_vi does
    for name, kind in zip(exchange.PROSPECT, PROSPECT_TYPES, strict=True):
        table[name] = table[name].astype(kind)
    table = table.filled("")
    assert table["TARGETID"][0] == 4055 * 10**9 + 55359 * 10**4 + 1
    line = {name: table[name][2] for name in exchange.PROSPECT}
    assert (line["VI_spectype"], line["VI_quality"], line["VI_issue"]) == ("QSO", "3", "R")
    assert float(line["VI_z"]) == pytest.approx(true_z(SWAPPED[0]), abs=1e-4)
    assert table["VI_issue"].tolist()[:2] == ["", ""] and "RC" in table["VI_issue"].tolist()
    assert "'=1+1" in table["VI_comment"].tolist()


def test_verdicts_come_back_from_prospects_file_as_they_were(
    store: Store, subjects: Subjects, tmp_path: Path
) -> None:
    path = tmp_path / "vi.csv"
    path.write_bytes(exchange.prospect_csv(subjects, ruled(store).standing()))
    with Store(tmp_path / "again.sqlite", subjects) as again:
        read = exchange.read_verdicts(path, subjects)
        assert (again.rule_all(read.verdicts), read.n_unmatched) == (7, 0)
        assert again.rule_all(read.verdicts) == 0  # nothing twice
        mine, theirs = (
            {(v.row, v.inspector): v.ruling for r in s.standing().values() for v in r} for s in (store, again)
        )
    assert mine.keys() == theirs.keys()
    for key, ruling in mine.items():
        assert theirs[key]._replace(z=None) == ruling._replace(z=None)
        assert theirs[key].z == (None if ruling.z is None else pytest.approx(ruling.z, abs=6e-6))


def test_where_prospect_leaves_a_field_empty_the_pipeline_was_accepted(
    subjects: Subjects, tmp_path: Path
) -> None:
    path, header = tmp_path / "vi.csv", ",".join(exchange.PROSPECT)
    number = int(subjects.numbers[3])
    path.write_text(
        f"{header}\n{number},1,1,1,0.33,0.22,1.0,GALAXY,0.22,9.0,Desi Arnaz,3,,,,fine\n"
        f"{number},1,1,1,0.33,0.22,1.0,STAR,0.0,9.0,Lucy,-1,,,,a comment alone\n"
        "987654321,1,1,1,0.33,0.22,1.0,STAR,0.0003,9.0,Lucy,4,C,0.0004,STAR,of another survey\n"
    )
    read = exchange.read_verdicts(path, subjects)
    assert read.verdicts == [(3, "Desi Arnaz", Ruling("GALAXY", 0.22, 3, False, "fine"), False)]
    assert read.n_unmatched == 1


def test_adjudications_leave_and_come_back_as_what_they_are(
    store: Store, subjects: Subjects, tmp_path: Path
) -> None:
    path = tmp_path / "vi.csv"
    ruled(store)  # Ada and Ben disagree on row 8
    store.rule(8, "Cy", Ruling("QSO", 1.9, 3), 0, adjudicates=True)
    store.rule(8, "Ada", Ruling("STAR", 0.0, 3, comment="a white dwarf"), 0, adjudicates=True)  # has the word
    path.write_bytes(exchange.prospect_csv(subjects, store.standing()))
    with Store(tmp_path / "again.sqlite", subjects) as again:
        assert again.rule_all(exchange.read_verdicts(path, subjects).verdicts) == 9
        assert again.rule_all(exchange.read_verdicts(path, subjects).verdicts) == 0
        blind, final = again.current(8, "Ada"), again.current(8, "Ada", adjudicates=True)
        assert blind is not None and blind.ruling == Ruling("QSO", 2.0, 2) and not blind.adjudicates
        assert final is not None and final.ruling.comment == "a white dwarf"
        assert disputed(again.standing()).size == disputed(store.standing()).size == 0
        assert settled(again.on(8)) == settled(store.on(8)) == final.ruling
        assert [pair[:3] for pair in agreement(again.standing())] == [
            pair[:3] for pair in agreement(store.standing())
        ]


@pytest.mark.parametrize(
    "line",
    [
        "x,1",
        "{number},1,1,1,0,0,0,,,,Ada,9,,1.0,QSO,",
        "{number},1,1,1,0,0,0,,,,Ada,4,,,QSO,",
        "{number},1,1,1,0,0,0,,,,Ada,4,,1.0,BLAZAR,",
    ],
)
def test_a_line_that_is_no_verdict_is_named(subjects: Subjects, tmp_path: Path, line: str) -> None:
    path = tmp_path / "vi.csv"
    text = line.format(number=int(subjects.numbers[0]))
    path.write_text(
        f"{','.join(exchange.PROSPECT)}\n{text}\n"
        if line != "x,1"
        else f"{','.join(exchange.PROSPECT)}\nx,1,,,,,,,,,a,4,,,,\n"
    )
    with pytest.raises(UsageError, match="line 2"):
        exchange.read_verdicts(path, subjects)


@pytest.mark.parametrize("write", [exchange.truth_parquet, exchange.truth_csv])
def test_what_inspectors_settle_on_is_a_truth_table(
    write: Callable[..., bytes], store: Store, subjects: Subjects, tmp_path: Path
) -> None:
    path = tmp_path / ("truth.parquet" if write is exchange.truth_parquet else "truth.csv")
    path.write_bytes(write(subjects, ruled(store).standing()))
    known = read_truth_table(path)
    row = match(known, read_catalogue(subjects.catalogue.path).ids)
    assert [CLASSES[known.kind[row[i]]] for i in (0, SWAPPED[0], STAR_CALLED, 8, 9)] == [
        "QSO",
        "QSO",
        "STAR",
        "",
        "",
    ]
    assert known.z[row[SWAPPED[0]]] == pytest.approx(true_z(SWAPPED[0]))
    assert [int(known.confidence[row[i]]) for i in (0, STAR_CALLED, 8, 9)] == [3, 3, 0, 0]
    assert known.bal_flag[row[STAR_CALLED]] == -1 and row[5] == -1
    drawn = set(rank(subjects).controls.tolist())
    assert known.control is not None
    assert [bool(known.control[row[i]]) for i in (0, STAR_CALLED, 8)] == [
        i in drawn for i in (0, STAR_CALLED, 8)
    ]


def test_a_truth_table_comes_in_as_verdicts_of_its_name(subjects: Subjects, tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    columns = {"PLATE": [4055, 4055, 1], "MJD": [55359, 55359, 1], "FIBERID": [1, 2, 1]}
    Table(columns | {"CLASS": ["QSO", "STAR", "QSO"], "Z": [1.5, 0, 2], "Z_CONF": [3, 1, 3]}).write(
        path, format="ascii.csv"
    )
    read = exchange.read_verdicts(path, subjects)
    assert [given[:3] for given in read.verdicts] == [
        (0, "old", Ruling("QSO", 1.5, 4)),
        (1, "old", Ruling("STAR", 0.0, 1)),
    ]
    assert read.n_unmatched == 1
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(UsageError):
        exchange.read_verdicts(tmp_path / "bad.csv", subjects)


# ---- the command


def test_the_command_takes_verdicts_in_and_out(command: Command, subjects: Subjects, tmp_path: Path) -> None:
    path = tmp_path / "project.sqlite"
    with Store(path, subjects) as store:
        ruled(store)
    answer = command("verdicts", path, "-o", tmp_path / "vi.csv")
    assert answer.code == 0 and "7 verdicts on 5 spectra; 1 to adjudicate" in answer.out, answer.err
    assert "Ada and Ben: 2 spectra" in answer.out
    answer = command("verdicts", path, "--add", tmp_path / "vi.csv", "-o", tmp_path / "truth.parquet")
    assert answer.code == 0 and "0 new verdicts" in answer.out
    assert len(read_truth_table(tmp_path / "truth.parquet")) == 5
    assert (
        pa_csv.read_csv(
            tmp_path / "vi.csv", parse_options=pa_csv.ParseOptions(newlines_in_values=True)
        ).num_rows
        == 7
    )


def test_verdicts_are_what_a_catalogue_is_evaluated_by_and_a_training_set_is_made_of(
    command: Command, subjects: Subjects, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    with Store(tmp_path / "v.sqlite", subjects) as store:
        for row in range(N):
            store.rule(row, "Ada", Ruling(true_kind(row), true_z(row)), 0)
    truth_file = tmp_path / "truth.parquet"
    assert command("verdicts", tmp_path / "v.sqlite", "-o", truth_file).code == 0
    answer = command("evaluate", subjects.catalogue.path, "--truth", truth_file, "-o", tmp_path / "report")
    quasars = sum(true_kind(row) == "QSO" for row in range(N))
    right = quasars - len(SWAPPED)  # and of those called one is a star
    assert answer.code == 0 and f"{right} of {quasars + 1}" in answer.out, answer.err
    spectra = subjects.catalogue.path.parent / "spectra"
    answer = command("prepare", spectra, "--truth", truth_file, "-o", tmp_path / "set")
    assert answer.code == 0, answer.err
    assert f"{N} of {N} spectra: {quasars} QSO, {N - quasars} STAR" in answer.out


def test_verdicts_on_another_catalogue_are_one_sentence_of_the_command(
    command: Command, subjects: Subjects, tmp_path: Path
) -> None:
    with Store(tmp_path / "v.sqlite", subjects) as store:
        ruled(store)
    other = tmp_path / "other.parquet"
    write_catalogue(other, subjects.names.tolist(), subjects.columns["SOURCE"].tolist(), seed=1)
    answer = command("inspect", other, "--verdicts", tmp_path / "v.sqlite")
    assert answer.code == 2 and "verdicts on another catalogue" in answer.err
    with Store(tmp_path / "v.sqlite", subjects) as store:
        assert len(store.history()) == 7


@pytest.mark.parametrize(
    ("file", "said"), [("none.sqlite", "there is no file of verdicts"), ("text.sqlite", "cannot open")]
)
def test_a_wrong_file_of_verdicts_is_one_sentence(
    command: Command, tmp_path: Path, file: str, said: str
) -> None:
    (tmp_path / "text.sqlite").write_text("no database" * 100)
    answer = command("verdicts", tmp_path / file)
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err


def test_the_file_of_verdicts_lies_beside_the_catalogue(to_inspect: Path) -> None:
    assert default_path(to_inspect) == to_inspect.parent / "catalogue.parquet.verdicts.sqlite"
