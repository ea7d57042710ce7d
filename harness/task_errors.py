"""Failures of lm-eval and datasets in the words of someone who has to mend a suite. Imports neither."""

from __future__ import annotations

from typing import Any

from ..errors import UserError

_SPLITS = ("test_split", "validation_split", "fewshot_split", "training_split")


def task_error(error: Exception, where: str, config: dict[str, Any]) -> UserError:
    """An lm-eval or datasets failure in the words of someone who has to mend a suite."""
    dataset = ":".join(str(p) for p in (config.get("dataset_path"), config.get("dataset_name")) if p)
    text = " ".join(str(error).split())[:300] or type(error).__name__
    kind = type(error).__name__
    splits = [config[key] for key in _SPLITS if config.get(key)]
    if kind == "KeyError" and error.args and error.args[0] in splits:
        return UserError(
            f'its dataset {dataset} has no split "{error.args[0]}"',
            where=where,
            fix="give that split under [data], or choose another with override = { test_split = ... }",
        )
    if kind == "IndexError" and text.endswith("out of bounds for size 0"):
        fix = "look at the rows of the split that is evaluated: there are none, or none that the task can ask"
        return UserError("there is no item to ask", where=where, fix=fix)
    if kind == "SecurityError":
        return UserError(f"its template reaches for Python, which is off: {text}", where=where)
    if kind in ("UndefinedError", "KeyError"):
        return UserError(
            f"its documents lack a column that the task needs: {text}",
            where=where,
            fix=f"the data must have the columns of {dataset or 'the original dataset'}",
        )
    if kind in (
        "ConnectionError",
        "DatasetNotFoundError",
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
        "FileNotFoundError",
    ):
        return UserError(
            f"its dataset {dataset} cannot be had: {text}",
            where=where,
            fix=f'go online, or give local files: [data] "{dataset.split(":")[0]}" = "rows.jsonl"',
        )
    return UserError(f"lm-eval cannot set it up ({kind}): {text}", where=where)
