"""What the `*_pairs.yaml` tasks call. lm-eval loads this file by its path, hence the absolute imports.

An item is a pair, in the prompt and with the texts that training has; its choices are the preferred answer and the
rejected one, in this order. Each is scored by itself, so that the order tells a model nothing.

Neither answer has an end-of-text token: a task does not know the tokenizer, whose end it would be. Training appends
one to both, so that its log-probabilities have one more term each: how likely the model stops after the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phibench.suites.tasks.preferences.prompt import Row, read_orca, read_piqa, read_webglm

Reader = Callable[[Mapping[str, object], str], Row | None]


def load(path: str, splits: Mapping[str, str], **_metadata: Any) -> Any:
    """A DatasetDict whose splits are parts of a dataset's own, such as {"test": "train[95%:]"}.

    lm-eval passes a task's metadata along with its dataset_kwargs; it is not needed here.
    """
    from datasets import DatasetDict, load_dataset

    return DatasetDict({name: load_dataset(path, split=part) for name, part in splits.items()})


def piqa_docs(dataset: Any) -> Any:
    """The rows of PIQA that make a pair, once every row has been checked (see `read_piqa`)."""
    return _paired(dataset, read_piqa)


def piqa_text(doc: Mapping[str, Any]) -> str:
    """The prompt of a row of PIQA."""
    return _pair(doc, read_piqa).prompt


def piqa_choices(doc: Mapping[str, Any]) -> list[str]:
    """The right solution and the wrong one, each after a space."""
    return _choices(_pair(doc, read_piqa))


def piqa_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """The scores of a row of PIQA."""
    return preference(_pair(doc, read_piqa), results)


def orca_docs(dataset: Any) -> Any:
    """The rows of Intel/orca_dpo_pairs that make a pair, once every row has been checked (see `read_orca`)."""
    return _paired(dataset, read_orca)


def orca_text(doc: Mapping[str, Any]) -> str:
    """The prompt of a row of Intel/orca_dpo_pairs."""
    return _pair(doc, read_orca).prompt


def orca_choices(doc: Mapping[str, Any]) -> list[str]:
    """The chosen answer and the rejected one, each after a space."""
    return _choices(_pair(doc, read_orca))


def orca_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """The scores of a row of Intel/orca_dpo_pairs."""
    return preference(_pair(doc, read_orca), results)


def webglm_docs(dataset: Any) -> Any:
    """The rows of WebGLM-QA that make a pair, once every row has been checked (see `read_webglm`)."""
    return _paired(dataset, read_webglm)


def webglm_text(doc: Mapping[str, Any]) -> str:
    """The prompt of a row of WebGLM-QA."""
    return _pair(doc, read_webglm).prompt


def webglm_choices(doc: Mapping[str, Any]) -> list[str]:
    """The answer as it is, and citing other references."""
    return _choices(_pair(doc, read_webglm))


def webglm_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """The scores of a row of WebGLM-QA."""
    return preference(_pair(doc, read_webglm), results)


def preference(pair: Row, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """How much likelier a model holds the preferred answer of a pair than the rejected one.

    Beta times the difference of `margin` between a tuned model and its reference is the margin of rewards that DPO
    trains (Rafailov et al. 2023, arXiv 2305.18290), but for the end-of-text tokens.

    Args:
        pair: the two answers.
        results: lm-eval's, of the preferred answer and of the rejected one: (log-likelihood in nats, whether it is
            greedy).

    Returns:
        `margin`: the log-likelihood of the preferred answer minus that of the rejected one, in nats.
        `acc`: 1 where it is above zero, and half where it is zero, as in training's held-out accuracy.
        `margin_per_byte`: the same of the log-likelihoods per byte of the answers' UTF-8 text, without the space before
            it: the longer answer is not the less likely one for its length alone.
    """
    preferred, rejected = (float(found[0]) for found in results)
    sizes = [len(text.strip().encode("utf-8")) for text in _choices(pair)]
    margin = preferred - rejected
    return {
        "margin": margin,
        "acc": 0.5 if margin == 0 else float(margin > 0),
        "margin_per_byte": preferred / sizes[0] - rejected / sizes[1],
    }


def _choices(pair: Row) -> list[str]:
    return [pair.chosen, pair.rejected]


def _pair(doc: Mapping[str, Any], read: Reader) -> Row:
    found = read(doc, "row")
    if found is None:
        raise ValueError("the row makes no pair")
    return found


def _paired(dataset: Any, read: Reader) -> Any:
    """The rows that make a pair.

    Raises:
        ValueError: a column of some row is missing or of another type.
    """
    return dataset.select([index for index, row in enumerate(dataset) if read(row, f"row {index}") is not None])
