"""What `webglm_qa.yaml` calls. lm-eval loads this file by its path, hence the absolute imports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from phibench.suites.tasks.answer_loss import answer_loss
from phibench.suites.tasks.webglm_qa.prompt import completion, prompt, read_row
from phibench.suites.tasks.webglm_qa.scores import score_answer
from phibench.suites.tasks.webglm_qa.support import Judge, LexicalJudge, make_judge


def process_docs(dataset: Any) -> Any:
    """The dataset itself, once every row has been checked: a fault is named before a model is asked anything.

    Raises:
        ValueError: a row lacks a column (see `read_row`).
    """
    for index, row in enumerate(dataset):
        read_row(row, f"row {index}")
    return dataset


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The prompt of a row."""
    return prompt(doc["question"], doc["references"])


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """The answer to learn."""
    return completion(doc["answer"])


def process_results(
    doc: Mapping[str, Any], results: Sequence[str], judge: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """The scores of one generated answer, results[0], by name.

    Args:
        doc: a row of the dataset.
        results: the generated answer.
        judge: options of `make_judge`, such as {"kind": "nli", "model": ...}; without them, the lexical judge.
    """
    scores = score_answer(results[0], doc["answer"], doc["references"], _judge(json.dumps(judge, sort_keys=True)))
    return asdict(scores)


def loss_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """How likely the answer of a row is held."""
    return answer_loss(completion(doc["answer"]), results)


@cache
def _judge(options: str) -> Judge:
    """One judge for every answer of a run: a model is loaded once."""
    given = json.loads(options)
    return LexicalJudge() if given is None else make_judge(given)
