"""How lm-eval's Jinja templates are run: in a sandbox, and compiled once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def templates() -> Iterator[None]:
    """Run lm-eval's Jinja templates in a sandbox, and compile each once rather than once for every document and field.

    `lm_eval.utils.apply_template` asks lm-eval's own environment to compile the template's source each time, and lets
    it reach any Python object. Inside this context the environment is a sandboxed twin that remembers what it compiled.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    original = utils.env
    twin = ImmutableSandboxedEnvironment(
        loader=original.loader, undefined=original.undefined, keep_trailing_newline=original.keep_trailing_newline
    )
    twin.filters.update(original.filters)
    compiled = functools.lru_cache(maxsize=4096)(twin.from_string)
    twin.from_string = compiled  # type: ignore[method-assign, assignment]
    utils.env = twin
    try:
        yield
    finally:
        utils.env = original


def render_once(task: Any, docs: Iterable[Any]) -> None:
    """Let a task work out each document's target and choices once, however many variants are scored.

    lm-eval renders them for every item of every cell; they depend on the document alone.
    """
    known = {id(doc) for doc in docs}

    def remembering(method: Callable[..., Any]) -> Callable[..., Any]:
        found: dict[int, Any] = {}

        def ask(doc: Any, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs or id(doc) not in known:
                return method(doc, *args, **kwargs)
            if id(doc) not in found:
                found[id(doc)] = method(doc)
            answer = found[id(doc)]
            return list(answer) if isinstance(answer, list) else answer

        return ask

    for name in ("doc_to_target", "doc_to_choice"):
        setattr(task, name, remembering(getattr(task, name)))
