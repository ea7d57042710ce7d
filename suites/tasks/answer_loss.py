"""How likely a model holds the answer that was written: held-out loss, item by item, for the `*_loss` tasks."""

from __future__ import annotations

from collections.abc import Sequence


def answer_loss(answer: str, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """The negative log-likelihood of an answer in nats per byte of its UTF-8 text, which no tokenizer has a say in.

    Training's held-out loss is in nats per token, and counts the end-of-text token too.

    Args:
        answer: the text whose log-likelihood was asked for, without the space before it.
        results: lm-eval's, of one `loglikelihood` request: (log-likelihood in nats, whether it is greedy).

    Raises:
        ValueError: the answer is empty.
    """
    count = len(answer.encode("utf-8"))
    if not count:
        raise ValueError("the answer is empty: it has no loss")
    return {"nll_per_byte": -float(results[0][0]) / count}
