"""How lm-eval's Jinja templates are run: in a sandbox, and compiled once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator


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
