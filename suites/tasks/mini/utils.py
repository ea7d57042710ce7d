"""What the `mini_*.yaml` tasks call. lm-eval loads this file by its path, hence the absolute imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phibench.suites.tasks.embedded import read_rows


def load(files: Mapping[str, str], **_metadata: Any) -> Any:
    """A DatasetDict of embedded data.

    `files` maps a split to a file in suites/data/mini, such as {"test": "piqa.jsonl"}.
    lm-eval passes a task's metadata along with its dataset_kwargs; it is not needed here.

    Raises:
        ValueError: there is no such file.
    """
    from datasets import Dataset, DatasetDict

    return DatasetDict({split: Dataset.from_list(read_rows("mini", name)) for split, name in files.items()})


def winogrande_text(doc: Mapping[str, Any]) -> int:
    """Index of the right reading. A number here tells lm-eval that the choices are contexts."""
    return int(doc["answer"]) - 1


def winogrande_choices(doc: Mapping[str, Any]) -> list[str]:
    """The two readings: the sentence up to its gap, filled with either option."""
    before = doc["sentence"].split("_")[0]
    return [before + doc["option1"], before + doc["option2"]]


def winogrande_target(doc: Mapping[str, Any]) -> str:
    """What follows the gap: the text that is scored after either reading."""
    return str(doc["sentence"].split("_", 1)[1].strip())
