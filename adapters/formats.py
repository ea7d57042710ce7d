"""How a dataset's rows become what a model reads and learns: the prompts stand beside the tasks that use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..suites.tasks.dialogsum import prompt as dialogsum
from ..suites.tasks.instructions import prompt as instructions
from ..suites.tasks.preferences import prompt as preferences
from ..suites.tasks.riddles import prompt as riddles
from ..suites.tasks.webglm_qa import prompt as webglm_qa
from ..suites.tasks.webglm_qa.markers import find_markers

ParsedRow = Mapping[str, object]


@dataclass(frozen=True)
class Part:
    """A piece of an example's text."""

    text: str
    learned: bool = False
    ends: bool = False  # the end-of-text token follows, and is learned with it


Example = tuple[Part, ...]


class LeftOut(Exception):
    """A row that is not trained on, and why: a key of :data:`~phibench.adapters.encode.WHY`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _answered(prompt: str, completion: str) -> Example:
    if not completion.strip():
        raise LeftOut("empty")  # it would teach to say nothing, and stop
    return Part(prompt), Part(completion, learned=True, ends=True)


def _webglm_qa(row: ParsedRow, name: str) -> Iterator[Example]:
    """References are left out whole, the last first, for as long as the answer cites none of them."""
    read = webglm_qa.read_row(row, name)
    if not read.references:
        raise LeftOut("unsourced")
    cited = [number for marker in find_markers(read.answer) for number in marker.numbers]
    least = max((number for number in cited if number <= len(read.references)), default=0)
    for count in range(len(read.references), max(least, 1) - 1, -1):
        prompt = webglm_qa.prompt(read.question, read.references[:count])
        yield _answered(prompt, webglm_qa.completion(read.answer))


def _dialogsum(row: ParsedRow, name: str) -> Iterator[Example]:
    read = dialogsum.read_row(row, name, needs_id=False)
    yield _answered(dialogsum.prompt(read.dialogue), dialogsum.completion(read.summary))


def _riddles(row: ParsedRow, name: str) -> Iterator[Example]:
    """What the assistant says, and that it stops there, is learned; its header is given to it when it is asked."""
    parts = []
    for message in riddles.read_row(row, name):
        if message.role == "assistant" and not message.content.strip():
            raise LeftOut("empty")
        parts.append(Part(riddles.header(message.role)))
        parts.append(Part(riddles.body(message.content), learned=message.role == "assistant"))
        parts.append(Part("\n"))
    yield tuple(parts[:-1])


def _instructions(row: ParsedRow, name: str) -> Iterator[Example]:
    read = instructions.read_row(row, name)
    yield _answered(instructions.prompt(read.instruction), instructions.completion(read.answer))


# A dataset's name -> the forms of a row, the longest first; the first that fits the context is trained on.
FORMATS: dict[str, Callable[[ParsedRow, str], Iterator[Example]]] = {
    "webglm_qa": _webglm_qa,
    "dialogsum": _dialogsum,
    "riddles": _riddles,
    "instructions": _instructions,
}

# A dataset's name -> a pair of answers; None for a row that makes none.
PAIRS: dict[str, Callable[[ParsedRow, str], preferences.Row | None]] = {
    "orca_dpo_pairs": preferences.read_orca,
    "piqa_pairs": preferences.read_piqa,
    "webglm_pairs": preferences.read_webglm,
}

# Formats whose text holds its own end, which must be the tokenizer's.
ENDS = {"riddles": riddles.END}
# Formats whose template a tokenizer may carry.
CHAT_TEMPLATES = {"riddles": riddles.CHAT_TEMPLATE}
TEMPLATES = {"chatml": riddles.CHAT_TEMPLATE}  # by the names that base.chat_template may have
