"""A local Hugging Face model that answers conversations, on the engine: what the front door hands to a synthesis."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

from ..adapters.base import load_base
from ..adapters.bundled import NAME as BUNDLED
from ..adapters.identity import base_parts, tokenizer_hash
from ..adapters.spec import DTYPES, BaseSpec
from ..adapters.synthesis.generator import CUT, STOPPED, Reply, Request, Sampling
from ..errors import UserError
from ..files import sha256_json
from .engine.attention import Way
from .engine.base import render_chat
from .engine.budget import token_budget
from .engine.plain import PlainEngine
from .engine.response import Response
from .engine.scoring import TreeEngine
from .engine.support import find_way
from .environment import choose_device, hardware

_LEAST_PROMPT = 64  # tokens that a prompt needs beside the new ones


class LocalGenerator:
    """Answers conversations with a model on this machine.

    Args:
        spec: the model.
        device: as `engine.device` of a suite.
        offline: use only what is on this machine.

    Raises:
        UserError: when the model cannot be loaded, or has no chat template.
    """

    def __init__(self, spec: BaseSpec, *, device: str = "auto", offline: bool = False) -> None:
        self.device = choose_device(device)
        base = _loaded(spec, offline=offline)
        template = base.tokenizer.chat_template
        if template is None:
            raise UserError(
                "this model has no chat template, so it was not made to answer conversations",
                where=f"--model {spec.model}",
                fix="name a model that was tuned to follow instructions",
            )
        self._identity = {
            "model": spec.model,
            **({"revision": base.revision} if base.revision else {}),
            **base_parts(base),
            "tokenizer": tokenizer_hash(base.tokenizer),
            "chat_template": sha256_json(template),
            "device": self.device.type,
            "generation_config": sha256_json(base.model.generation_config.to_diff_dict()),
        }
        model: Any = base.model.to(self.device)
        way = find_way(model)
        self.engine = (TreeEngine if isinstance(way, Way) else PlainEngine)(
            model, base.tokenizer, batch_tokens=token_budget(model, self.device)
        )
        if isinstance(self.engine, TreeEngine) and isinstance(way, Way):
            self.engine.way = way
        self._why = "" if isinstance(way, Way) else way

    def identity(self) -> dict[str, str]:
        return self._identity

    def how(self) -> str:
        """See :class:`phibench.adapters.synthesis.generator.TextGenerator`."""
        ours = self.engine.texts_by() if isinstance(self.engine, TreeEngine) else f"plain: {self._why}"
        return ours or "all found in the journal"

    def ask(self, requests: Sequence[Request], sampling: Sampling) -> Generator[tuple[int, Reply]]:
        """See :class:`phibench.adapters.synthesis.generator.TextGenerator`.

        Raises:
            UserError: when new tokens leave no room for a prompt, or the chat template refuses a conversation.
        """
        if sampling.max_new_tokens + _LEAST_PROMPT > self.engine.max_length:
            raise UserError(
                f"{sampling.max_new_tokens} new tokens leave no room for a prompt in a context of"
                f" {self.engine.max_length:,} tokens",
                where="--max-new-tokens",
                fix="lower it",
            )
        settings = _settings(sampling)
        asked = [(self._prompt(request), settings, request.seed) for request in requests]
        with contextlib.closing(self.engine.generate(asked)) as found:
            for position, response in found:
                yield position, _reply(response)

    def _prompt(self, request: Request) -> str:
        try:
            return render_chat(self.engine.tokenizer, _plain(request))
        except Exception as error:  # a template is code of the model's author
            raise UserError(
                f"the model's chat template does not take this conversation: {' '.join(str(error).split())[:200]}",
                where=f"--model {self._identity['model']}",
                fix="name another model",
            ) from error


def local_generator(
    model: str | None, *, revision: str | None, dtype: str, device: str, offline: bool
) -> tuple[LocalGenerator, dict[str, Any]]:
    """The generator that the command line asks for, and the hardware that it runs on.

    Args:
        model: None: the bundled model.
        revision: of a hub model.
        dtype: a key of `DTYPES`.
        device: as `engine.device` of a suite.
        offline: use only what is on this machine.

    Raises:
        UserError: for a dtype that there is not, or as :class:`LocalGenerator` does.
    """
    if dtype not in DTYPES:
        raise UserError("there is no such precision", where=f"--dtype {dtype}", fix=f"one of {', '.join(DTYPES)}")
    spec = BaseSpec.model_validate({"model": model or BUNDLED, "revision": revision, "dtype": dtype})
    found = LocalGenerator(spec, device=device, offline=offline)
    return found, hardware(found.device)


def _reply(response: Response) -> Reply:
    return Reply(
        text=response.text or "",
        finish=CUT if response.stop == "length" else STOPPED,
        tokens_in=response.tokens_in - response.tokens,
        tokens_out=response.tokens,
        truncated=response.truncated,
    )


def _plain(request: Request) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in request.messages]


def _settings(sampling: Sampling) -> dict[str, Any]:
    """Sampling in lm-eval's words; every setting that could come from the model's own is given."""
    settings: dict[str, Any] = {"until": [], "max_gen_toks": sampling.max_new_tokens}
    if sampling.temperature == 0:
        return settings | {"do_sample": False}
    return settings | {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
    }


def _loaded(spec: BaseSpec, *, offline: bool) -> Any:
    """Load the model; what is wrong is told in the words of the command line, not of a suite."""
    try:
        return load_base(spec, offline=offline)
    except UserError as error:
        where = (error.where or "").replace("base.model = ", "--model ")
        fix = error.fix
        if fix is not None and "trust_remote_code" in fix:
            fix = "name a model that needs no code of its own, or serve it and give --endpoint"
        elif fix is not None and "allow_pickle" in fix:
            fix = "convert the model to safetensors"
        raise UserError(error.what, where=where or None, fix=fix) from error
