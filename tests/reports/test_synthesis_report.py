"""The report of a synthesised data set: its figures, and that no text in it is markup."""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt

from phibench.adapters.synthesis.results import (
    Lengths,
    Manifest,
    Overlap,
    Pair,
    Results,
    RuleOutcome,
    StageCount,
    write_model,
)
from phibench.reports.synthesis import render, write_report
from support.run_folder import HOSTILE


def manifest(**changes: object) -> Manifest:
    values = {
        "kind": "riddles", "digest": "0" * 64, "identity": {"model": "org/name"}, "sampling": {"temperature": 0.7},
        "seed": 3, "per_call": 10, "seeds_source": "mine.jsonl", "seeds_sha256": "1" * 64, "seeds_count": 42,
        "prompts": {}, "calls": 6, "limit": None, "eval_share": 0.1, "versions": {}, "hardware": {},
    }  # fmt: skip
    return Manifest.model_validate(values | changes)


def results(text: str = "a riddle") -> Results:
    return Results(
        seconds=75.0,
        stages=[
            StageCount(stage="expand", requests=6, stopped=5, tokens_in=1200, tokens_out=3456),
            StageCount(stage="answer", requests=40, stopped=39, tokens_in=None, tokens_out=None),
        ],
        rules=[
            RuleOutcome(stage="expand", rule="numbering removed", why="A `1. `.", dropped=0, changed=7,
                        examples=[(text, "after " + text)]),
            RuleOutcome(stage="expand", rule="no end", why="Why.", dropped=11, changed=0, examples=[(text, None)]),
            RuleOutcome(stage="answer", rule="echo", why="Why.", dropped=0, changed=0, examples=[]),
        ],
        lines=51, kept=40, train=35, eval=4, groups=30, largest_group=5,
        lengths=[Lengths(message="riddle", least=4, median=12.5, most=40, mean=14.1)],
        overlaps=[
            Overlap(what="riddles with the seeds", texts=39, others=42, shared={"5": 9, "8": 2, "13": 0},
                    closest=[Pair(text=text, other=text, likeness=0.66)]),
            Overlap(what="riddles of eval with those of train", texts=0, others=35, shared={"5": 0, "8": 0, "13": 0},
                    closest=[]),
        ],
        generated="by a script", answered_by={"name": 46}, sha256={"train.jsonl": "2" * 64},
    )  # fmt: skip


def rows(text: str = "a riddle") -> list[dict[str, object]]:
    roles = ("user", "assistant", "user", "assistant")
    return [{"id": "x", "messages": [{"role": role, "content": text} for role in roles]}]


def test_the_figures_stand_in_the_report() -> None:
    shown = render(manifest(), results(), rows())
    for line in (
        "**39 conversations: 35 in train.jsonl, 4 in eval.jsonl.** 6 calls gave 51 lines; 40 of them were riddles",
        "| expand | 6 | 5 | 1200 | 3456 |".replace("1200", "1,200").replace("3456", "3,456"),
        "| answer | 40 | 39 | not told | not told |",
        "| expand | numbering removed | 0 | 7 | A `1. `. |",
        "| expand | no end | 11 | 0 | Why. |",
        "answer: echo.",
        "| riddles with the seeds | 39 with 42 | 9 | 2 | 0 | 0.66 |",
        "| riddles of eval with those of train | 0 with 35 | 0 | 0 | 0 | – |",
        "30 groups of riddles that are kin; the largest has 5.",
        "| riddle | 4 | 12.5 | 14.1 | 40 |",
        "time of the last command: 1 min 15 s",
        "answered by `name`: 46",
    ):
        assert line in shown, line


def test_every_table_is_one() -> None:
    for text in ("a riddle", *HOSTILE):
        shown = render(manifest(), results(text), rows(text))
        tables = re.findall(r"(?:^\|.*\n)+", shown, re.MULTILINE)
        assert len(tables) == 6
        for table in tables:
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(cells) == 1, table


def test_no_text_becomes_markup() -> None:
    for text in HOSTILE:
        shown = render(manifest(identity={text: text}, seeds_source=text), results(text), rows(text))
        html = MarkdownIt("commonmark", {"html": True}).enable("table").render(shown)
        bare = re.sub(r"</?(details|summary)>", "", html)  # our own folds
        assert not re.search(r"<(script|img|a|details|h1|h4)\b", bare, re.IGNORECASE), text
        assert html.count("<details>") == html.count("</details>") == 4
        assert "\u202e" not in shown
        assert "\x1b" not in shown


def test_the_report_is_written_from_the_folder_alone(tmp_path: Path) -> None:
    write_model(tmp_path / "manifest.json", manifest())
    write_model(tmp_path / "results.json", results())
    (tmp_path / "train.jsonl").write_text("", encoding="utf-8")
    path = write_report(tmp_path)
    assert path.read_text(encoding="utf-8") == render(manifest(), results(), [])
    assert "conversation of train.jsonl" not in path.read_text(encoding="utf-8")
