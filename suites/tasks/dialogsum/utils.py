"""What `dialogsum.yaml` calls. lm-eval loads this file by its path, hence the absolute imports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from phibench.suites.tasks.answer_loss import answer_loss
from phibench.suites.tasks.dialogsum.prompt import completion, prompt, read_row
from phibench.suites.tasks.rouge import rouge_f

_KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_ONE_OF_SEVERAL = re.compile(r"(?P<dialogue>.+_\d+)_\d+")  # "test_12_3": the third summary of dialogue "test_12"


def process_docs(dataset: Any) -> Any:
    """One document a dialogue, in order of first appearance: `id`, `dialogue` and `summaries`, a list.

    The test split has three rows for each dialogue, whose ids end in _1, _2 and _3; the other splits have
    one.

    Raises:
        ValueError: a row lacks a column (see `read_row`), two rows share an id, or rows
            whose ids name one dialogue hold different ones.
    """
    from datasets import Dataset

    seen: set[str] = set()
    documents: dict[str, dict[str, Any]] = {}
    for index, raw in enumerate(dataset):
        row = read_row(raw, f"row {index}")
        if row.id in seen:
            raise ValueError(f"dialogsum: row {index}: another row has the id {row.id!r} too")
        seen.add(row.id)
        match = _ONE_OF_SEVERAL.fullmatch(row.id)
        name = match["dialogue"] if match else row.id
        document = documents.setdefault(name, {"id": name, "dialogue": row.dialogue, "summaries": []})
        if document["dialogue"] != row.dialogue:
            raise ValueError(f"dialogsum: row {index} ({row.id}): its dialogue is not that of the other rows of {name}")
        document["summaries"].append(row.summary)
    return Dataset.from_list(list(documents.values()))


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The prompt of a document."""
    return prompt(doc["dialogue"])


def doc_to_target(doc: Mapping[str, Any]) -> list[str]:
    """Every reference summary; lm-eval shows the first in a few-shot example."""
    return [completion(summary) for summary in doc["summaries"]]


def first_summary(doc: Mapping[str, Any]) -> str:
    """The first reference summary."""
    return completion(doc["summaries"][0])


def loss_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """How likely the first summary of a dialogue is held."""
    return answer_loss(first_summary(doc), results)


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """ROUGE F-measures, 0 to 1, of one generated summary, results[0], against every reference summary.

    `*_mean` is the mean over the references, `*_best` the highest of them.
    """
    summary = results[0].strip()
    scores = [rouge_f(summary, reference, _KINDS) for reference in doc["summaries"]]
    found = {"summary_empty": float(not any(character.isalnum() for character in summary))}
    for kind in _KINDS:
        found[f"{kind}_mean"] = fmean(score[kind] for score in scores)
        found[f"{kind}_best"] = max(score[kind] for score in scores)
    return found
