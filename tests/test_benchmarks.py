"""The machinery of the benchmarks, not a run of them."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import machine, readme, results, suite
from benchmarks.case import ROOT, Case, run_fresh, watch
from benchmarks.competitors.symbols import Corpus, expansions, symbols_in, symbols_of
from benchmarks.contest import Contender, alone, race
from benchmarks.data import HELD_SEED, TRAIN_SEED, Stream, workload
from benchmarks.growth import curves, fitted_exponent
from benchmarks.measure import Timing, time_in_turn
from benchmarks.report import significant
from benchmarks.rows import DiffersError, ImpossibleError, LeftOutError, Row
from benchmarks.sizes import QUICK

ROW = Row("encode", "aloha", "batch 32", "somebody", 2)

# ---- Data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["droid", "noise", "noise A=2000", "aloha T=10", "aloha D=32"])
def test_chunks_depend_on_the_seed_only(name):
    work = workload(name)
    first = work.make(20, TRAIN_SEED)
    assert first.shape == (20, work.horizon, work.action_dim)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, work.make(20, TRAIN_SEED))
    assert not np.array_equal(first, work.make(20, HELD_SEED))


def test_noise_has_the_alphabet_it_says_and_no_runs_of_zeros():
    chunks = workload("noise A=2000").make(40, TRAIN_SEED)
    corpus = symbols_of(chunks, 10.0, -2000, 2000)
    assert (int(corpus.symbols.min()) - 2000, int(corpus.symbols.max()) - 2000) == (-1000, 999)
    assert (corpus.symbols == 2000).mean() < 0.02
    assert len({row.tobytes() for row in corpus.symbols}) == 40


def test_an_outlier_sets_the_smallest_coefficient_of_the_fit_alone():
    work = workload("aloha, 0 is a letter")
    assert symbols_of(work.make(20, TRAIN_SEED), 10.0, -400, 400).symbols.min() == 400 - 200
    assert symbols_of(work.make(20, HELD_SEED), 10.0, -400, 400).symbols.min() > 400 - 200


def test_a_stream_recombines_its_pool_and_repeats_itself():
    pool = np.arange(30, dtype=np.float32).repeat(12).reshape(30, 3, 4)  # chunk i is all i
    stream = Stream(pool, 100, block=32)
    blocks = list(stream)
    assert [len(block) for block in blocks] == [32, 32, 32, 4]
    chunks = np.concatenate(blocks)
    assert (chunks[:, :, :2] == chunks[:, :1, :1]).all()
    assert (chunks[:, :, 2:] == chunks[:, :1, 2:3]).all()
    assert len(np.unique(chunks[:, 0, :], axis=0)) > 90
    np.testing.assert_array_equal(chunks, np.concatenate(list(stream)))


def test_symbols_become_texts_and_come_back():
    corpus = Corpus(np.array([[0, 127, 5], [1, 1, 2]], np.uint16), 128)
    assert [symbols_in(text) for text in corpus.characters()] == [(0, 127, 5), (1, 1, 2)]
    assert [tuple(text.encode()) for text in corpus.ascii()] == [(0, 127, 5), (1, 1, 2)]
    with pytest.raises(ImpossibleError, match="129 symbols would be several bytes each"):
        Corpus(corpus.symbols, 129).ascii()
    assert expansions(np.array([[0, 1], [3, 3]], np.int32), 3) == [(0, 1), (0, 1, 0, 1)]


# ---- Clocks and scales -------------------------------------------------------------------------------


def test_calls_take_turns():
    order: list[str] = []
    timings = time_in_turn([lambda: order.append("a"), lambda: order.append("b")], budget=0)
    assert order == ["a", "b"] * 3
    assert all(0 <= t.low <= t.seconds <= t.high for t in timings)


def test_a_timing_is_a_share_of_its_median():
    assert Timing.of([4.0, 2.0, 6.0, 8.0, 0.0], per=2).figures() == {"seconds": 2.0, "low": 1.0, "high": 3.0}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the high-water mark")
def test_added_memory_is_what_the_call_adds():
    """In a process of its own: other tests leave memory behind that the call would take without adding any."""
    code = """
import numpy as np
from benchmarks.measure import time_alone
np.ones(50 << 17).sum()  # 50 MiB that came and went before
print(time_alone(lambda: np.ones(20 << 17).sum(), budget=0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 19 < float(done.stdout) < 25


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_fitted_exponent(exponent):
    x = np.array([10.0, 100.0, 5000.0])
    assert fitted_exponent(x, 3e-6 * x**exponent) == pytest.approx(exponent, abs=1e-9)


def test_one_point_has_no_exponent():
    assert np.isnan(fitted_exponent([5.0], [1.0]))
    assert np.isnan(fitted_exponent([], []))


def test_curves_leave_out_what_was_not_measured():
    base = Row("growth", "N", competitor="published", threads=2)
    rows = [base.measured(value=10.0 * k, fit=1.0 * k, encode=2.0 * k, decode=3.0 * k) for k in (1, 2)]
    rows.append(base.measured(value=1e6).without("killed", "out of memory"))
    assert next(curves(rows)) == ("N", "fit", "published", [10.0, 20.0], [1.0, 2.0])


# ---- Contenders --------------------------------------------------------------------------------------


def raising(error):
    def prepare():
        raise error

    return prepare


def test_a_contender_that_does_not_make_it_has_a_row_with_the_reason(monkeypatch):
    monkeypatch.delenv("FAST_TOKENIZER_CI", raising=False)
    contenders = [
        Contender("absent", raising(ModuleNotFoundError("No module named 'absent'"))),
        Contender("unfit", raising(ImpossibleError("trains only"))),
        Contender("slow", raising(LeftOutError("would take a day"))),
        Contender("good", lambda: lambda: None, threads=2),
        Contender("wrong", raising(DiffersError("ids of chunk 3"))),
        Contender("broken", raising(RuntimeError("oh"))),
        Contender("huge", raising(MemoryError())),
    ]
    rows = list(race(ROW, contenders, seconds=0))
    assert [(row.competitor, row.problem) for row in rows] == [
        ("absent", "not installed"),
        ("unfit", "impossible"),
        ("slow", "left out"),
        ("good", ""),
        ("wrong", "differs"),
        ("broken", "failed"),
        ("huge", "killed"),
    ]
    assert rows[5].reason == "RuntimeError: oh"
    assert (rows[3].threads, set(rows[3].figures)) == (2, {"seconds", "low", "high"})
    assert [row.competitor for row in suite.wrong(rows, QUICK)] == ["wrong", "broken", "huge"]


def test_in_ci_a_missing_competitor_is_wrong(monkeypatch):
    monkeypatch.setenv("FAST_TOKENIZER_CI", "1")
    rows = list(race(ROW, [Contender("absent", raising(ImportError("absent")))], seconds=0))
    assert suite.wrong(rows, QUICK) == rows


def test_a_wrong_result_has_no_figures_even_when_it_was_timed():
    def check(result):
        assert result == 7
        raise DiffersError("merge 5 differs")

    row = alone(ROW, lambda: lambda: 7, check, seconds=0)
    assert (row.problem, row.reason, row.figures) == ("differs", "merge 5 differs", {})


# ---- Fresh processes ---------------------------------------------------------------------------------

CHILD = """
import os, signal
def measure(row, how):
    yield row.by("first").measured(seconds=1.0)
    if how == "raise":
        raise ValueError("no such thing")
    if how == "abort":
        os.abort()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    yield row.by("second").measured(seconds=2.0, process=os.getpid())
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "benchmark_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda how: run_fresh(Case("benchmark_child", ROW, {"how": how}), timeout=60)


def test_a_case_runs_in_a_process_of_its_own(child):
    first, second = child("finish")
    assert first == ROW.by("first").measured(seconds=1.0)
    assert second.figures["process"] != os.getpid()


@pytest.mark.parametrize(
    ("how", "problem", "reason"),
    [
        ("raise", "failed", "exit code 1: ValueError: no such thing"),
        ("abort", "failed", "by signal SIGABRT"),
        ("kill", "killed", "by signal SIGKILL: the system ran out of memory"),
    ],
)
def test_a_dead_process_leaves_its_rows_and_the_reason(child, how, problem, reason):
    first, dead = child(how)
    assert first.competitor == "first"
    assert (dead.competitor, dead.problem) == ("somebody", problem)
    assert dead.reason.startswith(reason)


def test_what_takes_too_long_is_given_up():
    ending = watch([sys.executable, "-c", "import time; time.sleep(60)"], 0.2, 1e6, dict(os.environ))
    assert (ending.problem, ending.reason) == ("timed out", "given up after 0 s")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory of another process")
def test_what_takes_too_much_memory_is_killed():
    grow = "import time; x = bytearray(300 << 20); time.sleep(60)"
    ending = watch([sys.executable, "-c", grow], 60, 200, dict(os.environ))
    assert ending.problem == "killed"
    assert ending.reason.startswith("out of memory: took more than 200 MiB")


# ---- Reports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.000123456, "0.000123"), (1.0, "1.00"), (12.345, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_three_significant_digits(value, text):
    assert significant(value) == text


def test_every_table_shows_rows_without_figures():
    rows = [
        Row(results.question_of(name), "aloha", competitor="ours").without("killed", "out of memory")
        for name in results.QUESTIONS
    ]
    rows = [row.measured(value=5.0) if row.question == "growth" else row for row in rows]
    tables = results.tables(rows)
    shown = [table for table in tables if any("killed: out of memory" in cell for line in table.lines for cell in line)]
    assert len(shown) == len(results.QUESTIONS)
    assert all(len(line) == len(table.header) for table in tables for line in table.lines)


def test_text_between_markers_is_replaced():
    text = "before\n<!-- measured -->\nold\n\n| old |\n<!-- /measured -->\nafter\n"
    new = readme.replace_between(text, "measured", r"| new \1 |")
    assert new == "before\n<!-- measured -->\n| new \\1 |\n<!-- /measured -->\nafter\n"
    assert readme.replace_between(new, "measured", r"| new \1 |") == new


def test_text_between_markers_in_one_line_stays_in_it():
    text = "- in the mean <!-- coding-mean -->old<!-- /coding-mean -->, at\nthe same error\n"
    assert readme.replace_between(text, "coding-mean", "6 %") == text.replace("old", "6 %")


CODING = """
## What each coding option is worth

Measured 2026-01-02 at commit abc on a CPU, 2 cores.

| recorded set | published fit | defaults | dimension-first | all options | entropy: order 0 | entropy: context model |
| --- | --- | --- | --- | --- | --- | --- |
| arm | 100.0 | 95.0 (-5.0%) | 90.0 (-10.0%) | 80.0 (-20.0%) | 99.0 | 71.5 |
| hand | 50.0 | 51.0 (+2.0%) | 45.0 (-10.0%) | 41.0 (-18.0%) | 49.0 | 31.5 |
| mean change |  | -1.5% | -10.0% | -19.0% |  |  |

## Errors at which that is

RMSE / largest error.

| recorded set | published fit | defaults | + dead zone | all options |
| --- | --- | --- | --- | --- |
| arm | 0.0100 / 0.1 | 0.0104 / 0.9 | 0.0100 / 0.2 | 0.0097 / 0.2 |
| hand | 0.0100 / 0.1 | 0.0100 / 0.1 | 0.0100 / 0.1 | 0.0106 / 0.1 |

## Vocabularies for any robot

| recorded set | FAST+ | frequency-first | dimension-first |
| --- | --- | --- | --- |
| arm | 110.0 | 99.0 (-10.0%) | 88.0 (-20.0%) |
| mean change |  | -10.0% | -20.0% |
"""


def test_the_readme_shows_few_columns_of_the_coding_tables_and_where_errors_differ():
    blocks = readme.coding_blocks(CODING)
    assert blocks["coding-mean"] == "1.5 % fewer with the defaults and 19.0 % fewer with the best options"
    assert blocks["coding"].splitlines() == [
        "Measured 2026-01-02 at commit abc on a CPU, 2 cores.",
        "",
        "| recorded set | published fit | defaults | best options | context model |",
        "| --- | --- | --- | --- | --- |",
        "| arm | 100.0 | 95.0 (-5.0%) | 80.0 (-20.0%) | 71.5 |",
        "| hand | 50.0 | 51.0 (+2.0%) | 41.0 (-18.0%) | 31.5 |",
        "| mean change |  | -1.5% | -19.0% |  |",
        "",
        "Errors on the held-out chunks agree within 5%, but for (RMSE of published fit / defaults / best options): "
        "hand (0.0100 / 0.0100 / 0.0106).",
        "",
        '| recorded set | FAST+ | `default()` | `default("dimension-first")` |',
        "| --- | --- | --- | --- |",
        "| arm | 110.0 | 99.0 (-10.0%) | 88.0 (-20.0%) |",
        "| mean change |  | -10.0% | -20.0% |",
    ]
    more = readme.coding_blocks(CODING.replace("-1.5%", "+1.5%"))
    assert more["coding-mean"].startswith("1.5 % more with the defaults")
    same = readme.coding_blocks(CODING.replace("0.0106", "0.0104"))
    assert "agree within 5%." in same["coding"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("entropy: context model", "bound", "option is worth': expected a column 'entropy: context model'"),
        ("## Vocabularies for any robot", "## Others", "expected a table 'Vocabularies for any robot'"),
    ],
)
def test_coding_tables_that_lack_something_are_refused(old, new, message):
    with pytest.raises(ValueError, match=message):
        readme.coding_blocks(CODING.replace(old, new))


def test_the_pages_are_updated_from_the_coding_tables(tmp_path, monkeypatch):
    pages = tuple(tmp_path / page.name for page in readme.PAGES)
    for page, original in zip(pages, readme.PAGES, strict=True):
        page.write_text(original.read_text())
    monkeypatch.setattr(readme, "PAGES", pages)
    before = [page.read_text() for page in pages]
    readme.update({}, [], tmp_path)
    assert [page.read_text() for page in pages] == before  # nothing measured: nothing changes
    (tmp_path / "coding.md").write_text(CODING)
    readme.update({}, [], tmp_path)
    first, options = pages[0].read_text(), (tmp_path / "options.md").read_text()
    assert "<!-- coding-mean -->1.5 % fewer with the defaults and 19.0 % fewer with the best options<!--" in first
    assert "| hand | 50.0 | 51.0 (+2.0%) | 41.0 (-18.0%) | 31.5 |" in options
    assert '| `order="dimension-first"`, `end_of_block=None` | -10.0% |' in options
    options_page = tmp_path / "options.md"
    options_page.write_text(options.replace("<!-- coding-options -->", ""))
    with pytest.raises(ValueError, match="no page has the marker <!-- coding-options -->"):
        readme.update({}, [], tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- measured --> only",
        "<!-- /measured --> <!-- measured -->",
        "<!-- measured --><!-- /measured -->" * 2,
    ],
)
def test_markers_must_be_there_once_and_in_order(text):
    with pytest.raises(ValueError, match="expected <!-- measured --> and <!-- /measured -->, once each"):
        readme.replace_between(text, "measured", "new")


def test_a_page_says_what_the_results_on_insulation_say():
    found = json.loads((readme.ROOT / "benchmarks" / "results" / "ki.json").read_text())
    block = readme.insulation_lines(found)
    assert f"<!-- ki -->\n{block}\n<!-- /ki -->" in (readme.ROOT / "docs" / "benchmarks.md").read_text()
    runs = [r for r in found["runs"] if r["arm"] == "KI+VQA"]
    mean = sum(r["curve"][-1]["error"] for r in runs) / len(runs)
    column = block.splitlines()[0].split(" | ").index("KI+VQA")
    (line,) = (line for line in block.splitlines() if line.startswith("| endpoint error |"))
    assert line.split(" | ")[column] == f"{mean:.2f}"


def test_the_readme_has_the_markers():
    text = readme.PAGES[0].read_text()
    for name in ("measured", "recorded", "speed", "coding-mean"):
        assert readme.replace_between(text, name, "new") != text


def test_the_gain_in_words_is_that_of_the_rows():
    def rows(question, setting, pairs):
        found = []
        for name, (them, us) in zip(readme.WORKLOADS, pairs, strict=False):
            row = Row(question, name, setting)
            found += [row.by(readme.PUBLISHED, 2).measured(**them), row.by(readme.OURS).measured(**us)]
            found += [row.by(readme.OURS, 2).measured(**{figure: value / 2 for figure, value in us.items()})]
        return found

    seconds = [({"seconds": 10.0}, {"seconds": 1.0}), ({"seconds": 40.0}, {"seconds": 2.0})]
    both = [({"seconds": 60.0, "added_mib": 100.0}, {"seconds": 1.0, "added_mib": 5.0})]
    found = [*rows("encode", "batch 256", seconds), *rows("decode", "batch 256", seconds[:1])]
    found += rows("fit", "100,000 chunks", both)
    assert readme._in_words(found) == (
        "batches are encoded 10 to 20 and decoded 10 to 10 times as fast, and 100,000 chunks are fitted 60 to 60 times "
        "as fast, in 1/20 to 1/20 of the memory"
    )
    grown = Row("growth", "N", "1,000,000", readme.OURS, 2).measured(fit=3.76, added_mib=634.0)
    assert readme._million([*found, grown]) == "3.8 s and 0.6 GiB"
    assert readme._million(found) is None


def test_the_readme_table_shows_ratios_and_what_failed():
    about = {
        "measured": {"encode": "abc on 2026-01-02", "fit": "def on 2026-01-03", "tokens": "def on 2026-01-03"},
        "cpu": "a CPU",
        "cores": 2,
        "kernel": "avx2",
        "python": "3.11",
    }
    encode = Row("encode", "aloha", "batch 256")
    fit = Row("fit", "aloha", "100 chunks")
    tokens = Row("tokens", "aloha", "50 x 14")
    rows = [
        encode.by("published").measured(seconds=300e-6),
        encode.by("ours").measured(seconds=3e-6),
        encode.by("ours", 2).measured(seconds=1.5e-6),
        fit.by("published", 2).without("killed", "out of memory"),
        fit.by("ours").measured(seconds=1.0, added_mib=30.0),
        tokens.by("published").measured(tokens=42.61),
        tokens.by("ours").measured(tokens=41.96),
    ]
    block = readme.blocks(about, rows)["measured"]
    assert "300 / 3.00 (100 x)" in block
    assert "published: killed" in block
    assert "| tokens a chunk | 42.6 / 42.0 | - | - |" in block
    assert "aloha, 50 x 14" in block
    assert "Measured at commit abc on 2026-01-02 (encode), commit def on 2026-01-03 (fit, tokens): a CPU" in block


def test_questions_that_were_not_asked_keep_their_results(tmp_path):
    first = [Row("encode", "aloha", "batch 1", "ours"), Row("fit", "aloha", "100 chunks", "ours")]
    results.write_json(first, QUICK, {"encode / aloha": 1.0, "fit / aloha": 2.0}, tmp_path)
    again = [Row("encode", "aloha", "batch 2", "ours")]
    written = results.write_json(again, QUICK, {"encode / aloha / 2": 3.0}, tmp_path)
    assert written["seconds"] == {"fit / aloha": 2.0, "encode / aloha / 2": 3.0}
    about, rows = results.read(tmp_path)
    assert rows == [first[1], *again]
    assert set(about["measured"]) == {"encode", "fit"}


def test_a_run_s_own_results_do_not_make_its_commit_dirty(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert machine.commit(tmp_path) == "unknown"
    results, code = tmp_path / "benchmarks" / "results" / "results.json", tmp_path / "code.py"
    results.parent.mkdir(parents=True)
    for file in (results, code):
        file.write_text("before")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    name = machine.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", name)
    results.write_text("after")
    (tmp_path / "new.py").touch()
    assert machine.commit(tmp_path) == name
    code.write_text("after")
    assert machine.commit(tmp_path) == f"{name}-dirty"
