"""Comparisons as pages, Markdown, JSON and on the terminal: what they say, and that foreign text stays inert."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from phibench.harness.compare import SideBySide, compare_sides
from phibench.harness.results import read_manifest
from phibench.harness.sides import open_sides
from phibench.reports import markdown
from phibench.reports.compare_build import build_compare_view, short_value
from phibench.reports.compare_html import render_compare_html
from phibench.reports.compare_json import CompareJson, render_compare_json
from phibench.reports.compare_markdown import render_compare_markdown
from phibench.reports.compare_terminal import compare_table
from support.inert import Page, assert_inert_markdown, assert_inert_page, assert_tables_keep_their_columns, tokens
from support.run_folder import HOSTILE, IMAGE, SCRIPT, edit_manifest, write_run_folder

WORSE = "On arc_easy, b:base scores 13 points of acc lower than a:adapter-nf4 (95 % interval 5 to 25 lower; 60 items;"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SideBySide:
    """An adapter against another run's base and merged form; wikitext is of another version there."""
    folder = tmp_path_factory.mktemp("runs")
    write_run_folder(folder / "a")
    shutil.copytree(folder / "a", folder / "b")
    manifest = read_manifest(folder / "b")
    tasks = [one.model_copy(update={"version": "2.0"}) if one.name == "wikitext" else one for one in manifest.tasks]
    edit_manifest(folder / "b", tasks=tasks, seeds={"run": 7, "fewshot": 1234})
    return compare_sides(open_sides([f"{folder}/a:adapter-nf4", f"{folder}/b:base", f"{folder}/b:merged"]))


@pytest.fixture(scope="module")
def page(found: SideBySide) -> Page:
    return Page(render_compare_html(build_compare_view(found)))


@pytest.fixture(scope="module")
def text(found: SideBySide) -> str:
    return render_compare_markdown(build_compare_view(found))


def terminal(found: SideBySide, width: int = 120) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(compare_table(found, width))
    return capture.get()


# ---- what is said


def test_a_page_says_verdicts_scores_settings_and_costs(page: Page) -> None:
    for said in (
        "b:base, b:merged compared with a:adapter-nf4",
        f"{WORSE} p = 0.016, Holm over 6)",
        "On wikitext, b:base is not comparable with a:adapter-nf4: its version was 1.0 there and is 2.0 here.",
        "Not compared: b:merged on wikitext.",
        "Of 6 differences in headline metrics: 3 worse, 3 without a clear difference.",
        "on 2 tasks (120 items in common)",
        "seeds.run 1234 7 7",
        "▼ −0.13 [−0.25, −0.05]",
        "0 / 8 / 52",
        "Examples: 5 items on which the sides part",
        "1.70 GiB",
    ):
        assert re.sub(r"\s", "", said) in re.sub(r"\s", "", page.shown), said


def test_markdown_says_the_same(text: str) -> None:
    assert (
        "- On `arc_easy`, `b:base` scores 13 points of `acc` lower than `a:adapter-nf4` (95 % interval 5 to 25 lower;"
        " 60 items; p = 0.016, Holm over 6).\n"
    ) in text
    assert "| `seeds.run` | `1234` | `7` | `7` |" in text
    row = "|  | `b:base` | 0.40 [0.29, 0.53] | ▼ −0.13 [−0.25, −0.05] | 0.004 | 0.016 | −0.39 | 0 / 8 / 52 | 0.13 |"
    assert row in text
    assert "|  | `b:base` | 21.4 [19.8, 23.2] | not comparable |" in text
    assert "Made by phibench" in text


def test_the_terminal_says_the_same_at_any_width(found: SideBySide) -> None:
    wide = terminal(found, 200)
    assert f"- {WORSE} p = 0.016, Holm over 6)." in wide
    assert re.search(r"b:base +0\.40 \[0\.29, 0\.53\] +▼ −0\.13 \[−0\.25, −0\.05\] +0\.016", wide)
    assert re.search(r"b:merged +21\.4 .* not comparable", wide)
    assert re.search(r"seeds\.run +1234 +7 +7", wide)
    narrow = terminal(found, 40)
    assert "…" not in narrow and max(map(len, narrow.splitlines())) <= 40
    assert "−0.13" in narrow


def test_json_has_every_number_under_its_schema(found: SideBySide) -> None:
    told = CompareJson.model_validate_json(render_compare_json(found))
    assert (told.schema_version, told.first, told.family, told.correction) == ("1", "a:adapter-nf4", 6, "holm")
    assert [side.label for side in told.sides] == ["a:adapter-nf4", "b:base", "b:merged"]
    assert told.sides[0].costs["peak_memory_bytes"] == 3 * 2**29
    task, of = told.tasks[0], found.tasks[0].compared.metrics[0].differences["b:base"]
    one = task.metrics[0].differences["b:base"]
    assert of.interval is not None
    assert (one.estimate, one.low, one.high) == (of.interval.estimate, of.interval.low, of.interval.high)
    assert (one.p, one.adjusted_p, one.won, one.lost, one.tied) == (of.p, of.adjusted_p, 0, 8, 52)
    assert one.sentence.startswith(WORSE) and one.sentence in task.sentences
    assert task.metrics[0].scores["b:base"].value == 0.4
    assert task.metrics[0].points and not told.tasks[2].metrics[0].points
    assert {answer for example in task.examples for answer in example["answers"]} == {s.label for s in told.sides}
    wikitext = told.tasks[2].pairings["b:base"]
    assert (wikitext.comparable, wikitext.common, told.tasks[2].metrics[0].differences) == (False, 60, {})
    assert "NaN" not in json.dumps(json.loads(render_compare_json(found)))


def test_every_field_of_the_schema_is_checked(found: SideBySide) -> None:
    told = json.loads(render_compare_json(found))
    with pytest.raises(ValueError, match="extra"):
        CompareJson.model_validate({**told, "more": 1})


def test_a_comparison_with_itself_says_so(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", items=20)
    found = compare_sides(open_sides([str(run), str(run)]))
    text = render_compare_markdown(build_compare_view(found))
    assert "`adapter-nf4 (2)` and `adapter-nf4` score the same in `acc` on each of 20 items" in text
    assert "Nothing in the runs' manifests differs between the sides" in text
    assert "▲" not in text and "▼" not in text
    assert "Nothing in the runs' manifests differs" in terminal(found)


@pytest.mark.parametrize(("key", "value", "shown"), [
    ("a.b", "f" * 64, "f" * 12),
    ("a", ["0" * 64, "x"], '["000000000000", "x"]'),
    ("hardware.memory_bytes", 2**31, "2.00 GiB"),
    ("a", None, "–"),
    ("a", False, "false"),
    ("a", "x" * 100, "x" * 80 + " … (20 more characters)"),
    ("a", {"b": "two\nlines"}, '{"b": "two\\nlines"}'),
])  # fmt: skip
def test_settings_values_are_short(key: str, value: object, shown: str) -> None:
    assert short_value(key, value) == shown


# ---- foreign text


def test_nothing_foreign_acts(page: Page, text: str, found: SideBySide) -> None:
    assert_inert_page(page)
    assert_inert_markdown(text)
    assert_tables_keep_their_columns(text, 20)
    assert IMAGE in page.shown and page.shown.count(SCRIPT) > 3
    policies = [one["content"] for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert "\x1b" not in terminal(found)


def test_hostile_names_everywhere(tmp_path: Path) -> None:
    evil = "\"'><\\title><img src=x onerror=alert(1)>|`x` @me #1" + "".join(HOSTILE[:2]) + HOSTILE[5] + "[bold]"
    folder = tmp_path / "<img src=x onerror=alert(1)>|`x`[red]"
    names = ("a", evil.replace("/", "").replace("\x00", ""))
    for name in names:
        run = write_run_folder(folder / name, items=12)
        manifest = read_manifest(run)
        variant = manifest.variants[0].model_copy(update={"name": evil, "error": evil, "kind": evil})
        metrics = [one.model_copy(update={"name": evil}) for one in manifest.tasks[1].metrics[:1]]
        edit_manifest(
            run,
            name=evil,
            model=evil,
            versions={evil: evil + name},
            hardware={"device": evil},
            started=evil,
            variants=[*manifest.variants, variant],
            adapters=[manifest.adapters[0].model_copy(update={"source": evil + name, "training": {evil: name}})],
            tasks=[*manifest.tasks, manifest.tasks[1].model_copy(update={"name": evil, "metrics": metrics})],
        )
    references = [f"{folder}/a:adapter-nf4", f"{folder}/{names[1]}:merged", f"{folder}/a:{evil}"]
    found = compare_sides(open_sides(references))
    view = build_compare_view(found)
    page, text = Page(render_compare_html(view)), render_compare_markdown(view)
    assert_inert_page(page)
    assert len(page.named("style")) == len(page.named("title")) == 1
    assert not {"\u202e", "\x00", "\x1b"} & set(page.shown + text)
    assert_inert_markdown(text)
    assert_tables_keep_their_columns(text, 20)
    spoken = "\n".join(token.content for token in tokens(text) if token.type == "text")
    assert not re.search(r"@\w|#\d|https?://|www\.", spoken)
    shown = terminal(found)
    assert "\x1b" not in shown and "\u202e" not in shown and "[bold]" in shown
    assert CompareJson.model_validate_json(render_compare_json(found)).sides[2].variant == evil


def test_long_comparisons_fit_a_comment(found: SideBySide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "LONGEST", 7000)
    text = render_compare_markdown(build_compare_view(found))
    assert len(text) <= 7100
    assert "(--html has them): " in text and "examples of `dialogsum`" in text
