"""The arithmetic of `scripts/bench`, and that a contender runs the build that its name says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.builds import HERE, Build, UnknownRevisionError, built, check_build, origin, with_twins
from benchmarks.deploys import Handling, handlings, judged
from benchmarks.everyday_apps import Ledger
from benchmarks.figures import EVERYDAY, FIGURES, summary
from benchmarks.report import EVERYDAY as MARKS
from benchmarks.report import PAGE, Goal, Measured, NoFigureError, NoWorse, Table, everyday_lines, filled
from benchmarks.runs import interleave, no_worse, of, python
from benchmarks.workload import Order

OURS, PEER = "fastapi-athomic", "FastStream"
MILLISECOND = 1_000_000
OLD = Build(Path("/old"), "0ddba11")


def order(key: int, number: int, sent: int = 0) -> Order:
    return Order(number=number, key=key, sent=sent, customer="c", items=[], amount=1.5, note="")


def handling(key: int, number: int, *, sent: int = 0, began: int, milliseconds: int = 3) -> Handling:
    return Handling(sent, began, sent + milliseconds * MILLISECOND, key, number)


# --- builds


def test_each_of_ours_has_a_twin_behind_it() -> None:
    names = with_twins([PEER, OURS, f"{OURS}, isolation=thread"], OLD)
    assert names == [
        PEER,
        OURS,
        f"{OURS}, 0ddba11",
        f"{OURS}, isolation=thread",
        f"{OURS}, isolation=thread, 0ddba11",
    ]
    assert [origin(name, OLD) for name in names] == [
        (PEER, HERE),
        (OURS, HERE),
        (OURS, OLD),
        (f"{OURS}, isolation=thread", HERE),
        (f"{OURS}, isolation=thread", OLD),
    ]


def test_without_another_build_there_are_no_twins() -> None:
    assert with_twins([PEER, OURS], None) == [PEER, OURS]
    assert origin(f"{OURS}, 0ddba11", None) == (f"{OURS}, 0ddba11", HERE)
    assert no_worse([PEER, OURS], None, "p99") == []


def git(repository: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It has a revision `first`, whose package says so, and its cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "repository"
    (folder / "fastapi_athomic").mkdir(parents=True)
    (folder / "fastapi_athomic" / "__init__.py").write_text("which = 'first'\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "tag", "first")
    return folder


def test_a_process_takes_the_package_of_its_build(repository: Path) -> None:
    build = built("first", repository)
    assert python("-c", "import fastapi_athomic; print(fastapi_athomic.which)", build=build) == ["first"]
    here = "import fastapi_athomic; print(hasattr(fastapi_athomic, 'which'))"
    assert python("-c", here) == ["False"]
    check = "import benchmarks.builds; benchmarks.builds.check_build(); print(benchmarks.builds.ROOT)"
    assert python("-c", check, build=build) == python("-c", check), "what measures is the same for both"


def test_a_build_is_kept_as_its_revision_was(repository: Path) -> None:
    first = built("first", repository)
    (repository / "fastapi_athomic" / "__init__.py").write_text("which = 'second'\n")
    git(repository, "commit", "--quiet", "--all", "-m", "second")
    assert built("first", repository) == first
    assert built("HEAD", repository).folder != first.folder
    assert (first.folder / "fastapi_athomic" / "__init__.py").read_text() == "which = 'first'\n"


def test_a_revision_that_a_shallow_clone_lacks_is_an_error_that_says_so(repository: Path) -> None:
    with pytest.raises(UnknownRevisionError, match=r"no revision 0ddba11 in this clone.*git fetch --unshallow"):
        built("0ddba11", repository)


def test_a_revision_without_the_package_is_an_error(repository: Path) -> None:
    git(repository, "mv", "fastapi_athomic", "other")
    git(repository, "commit", "--quiet", "-m", "moved")
    with pytest.raises(UnknownRevisionError, match="revision HEAD has no package fastapi_athomic"):
        built("HEAD", repository)


def test_a_process_with_the_wrong_package_ends(repository: Path) -> None:
    with pytest.raises(RuntimeError, match=r"instead of /old"):
        check_build({"BENCH_PACKAGE_IN": "/old"})


# --- what is counted


def test_what_was_skipped_repeated_or_misordered_is_wrong() -> None:
    ledger = Ledger()
    for topic, key, number in (("a", 1, 0), ("a", 1, 1), ("b", 1, 0), ("a", 2, 0)):
        ledger.note(topic, order(key, number))
    assert (ledger.handled, ledger.wrong) == (4, 0)
    for number in (3, 3):
        ledger.note("a", order(1, number))
    assert (ledger.handled, ledger.wrong) == (6, 2)


def test_only_messages_sent_in_the_spell_have_a_latency() -> None:
    ledger = Ledger()
    for number, sent in enumerate((1, 5, 9, 10)):
        ledger.note("a", order(1, number, sent))
    assert len(ledger.waits(5, 10)) == 2


def test_latency_in_deploys_runs_from_publish_to_done() -> None:
    done = [handling(1, number, began=number, milliseconds=number + 1) for number in range(100)]
    assert judged(done, 100) == {"p50": 51, "p99": 100, "longest": 100, "lost": 0, "repeated": 0, "out of order": 0}


def test_a_message_that_nobody_has_handled_is_lost() -> None:
    assert judged([handling(1, 0, began=1)], 3)["lost"] == 2


def test_a_message_that_comes_again_is_repeated_and_nothing_else() -> None:
    found = judged([handling(1, 0, began=1), handling(1, 1, began=2), handling(1, 0, began=3)], 2)
    assert (found["lost"], found["repeated"], found["out of order"]) == (0, 1, 0)


def test_order_is_that_in_which_handlings_of_a_key_began() -> None:
    done = [handling(1, 1, began=1), handling(1, 0, began=2), handling(2, 0, began=3)]
    assert judged(done, 3)["out of order"] == 1
    assert judged(list(reversed(done)), 3)["out of order"] == 1


def test_the_record_is_read_as_it_was_written() -> None:
    assert handlings(["1 2 3 4 5"]) == [Handling(sent=1, began=2, ended=3, key=4, number=5)]


# --- goals and tables


@pytest.mark.parametrize(
    ("column", "here", "line"),
    [
        ("messages/s", (91, 91), "≥ 0.90, the spread | 0.91 | reached"),
        ("messages/s", (80, 80), "≥ 0.90, the spread | 0.80 | missed"),
        ("p99", (110, 108), "≤ 1.10, the spread | 1.09 | reached"),
        ("p99", (130, 120), "≤ 1.10, the spread | 1.25 | missed"),
    ],
)
def test_no_worse_means_within_the_rounds_of_the_other_build(column: str, here: tuple[int, int], line: str) -> None:
    (goal,) = no_worse([OURS, OLD.twin(OURS)], OLD, column)
    rounds = [
        {OURS: {column: value}, OLD.twin(OURS): {column: old}} for value, old in zip(here, (90, 110), strict=True)
    ]
    assert line in goal.line(rounds)


def test_a_twin_without_a_figure_decides_nothing() -> None:
    goal = NoWorse(OURS, OLD.twin(OURS), "p99")
    assert "no figure of fastapi-athomic, 0ddba11" in goal.line([{OURS: {"p99": 1.0}}])


def test_a_failed_round_takes_the_figure_away_and_the_others_go_on() -> None:
    table = Table("e1", "E1", "", ["p99"], [Goal("p99", of(OURS, "p99"), 5, at_most=True)])
    table.runs = {OURS: [], PEER: []}

    def run(name: str) -> Measured:
        if name == PEER:
            raise NoFigureError("3 lost")
        return {"p99": 4.0}

    interleave(table, 3, run)
    assert len(table.runs[OURS]) == 3
    assert f"| {PEER} | no figure: 3 lost |" in table.markdown()


def test_the_page_has_the_goals_of_each_result_whenever_it_was_measured() -> None:
    tables = [Table(name, f"{name}: title", "", ["p99"]) for name in ("e1", "e2")]
    for value, table in enumerate(tables, 1):
        table.goals = [Goal("p99", of(OURS, "p99"), 1, at_most=True)]
        table.runs = {OURS: [{"p99": float(value)}]}
    pages = {table.name: f"{table.markdown()}\nMeasured on {day}.\n" for table, day in zip(tables, "ab", strict=True)}
    lines = everyday_lines(pages)
    assert "| [e1: title](../benchmarks/results/e1.md) | p99 | ≤ 1 | 1.00 | reached |" in lines
    assert "| [e2: title](../benchmarks/results/e2.md) | p99 | ≤ 1 | 2.00 | missed |" in lines
    assert [line for line in lines if line.startswith("Measured")] == ["Measured on a.", "Measured on b."]


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = filled("before <b> old <e> after", ("<b>", "<e>"), ["new"])
    assert page == "before <b>\n\nnew\n\n<e> after"
    assert all(PAGE.read_text().count(mark) == 1 for mark in MARKS)


def test_everyday_load_has_all_its_figures() -> None:
    assert list(EVERYDAY) == ["e1", "e2", "e3", "e4", "e5", "e6"]
    assert EVERYDAY.items() <= FIGURES.items()


def test_f8_says_when_a_run_was_too_short() -> None:
    curve = [{"seconds": float(second), "resident": 100.0, "handled": float(second)} for second in range(1, 4)]
    with pytest.raises(NoFigureError, match="take a larger --scale"):
        summary(curve)
