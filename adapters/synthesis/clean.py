"""The rules that clean riddles, answers and follow-up questions; pure functions, each with a name and a reason.

Nothing inside a text is cut at a marker: numbering, labels and roles are removed at the start alone, and only where
they are numbering, labels or roles.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .rules import Rule
from .similarity import words

_SHORTEST = 12  # letters and digits of a riddle
_LONGEST_QUESTION = 60  # words of a follow-up
_LONGEST_VERSE = 8  # lines
_LOOP = (5, 3)  # so many words in a row, so many times

_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'", "‘": "’"}
_CLOSING = "\"'”’»)]"
_ENDINGS = ".?!…。？！"
# A Roman numeral up to 49 that numbers: a dot or bracket and a space follow it. "I am" has neither.
_ROMAN = r"(?=[IVX])(?:XL|X{0,3})(?:IX|IV|V?I{0,3})"
_NUMBERING = re.compile(
    rf"^\(?(?:#?\d{{1,3}}[.)](?:\s+|(?=[^\W\d_]|[\"“‘]))|#?\d{{1,3}}:\s+|#\d{{1,3}}\s+"
    rf"|{_ROMAN}[.)]\s+(?![a-z])|[A-Za-z]\)\s+)(?=\S)"
)
_BULLET = re.compile(r"^(?:[-–—•·*>]|#{1,6})\s+(?=\S)")
_LABEL = re.compile(r"^(?:riddle|question|q)\s*(?:no\.?\s*)?#?\s*\d{0,3}\s*(?:[:.)]|[–—-]\s)\s*(?=\S)", re.IGNORECASE)
_ROLE = re.compile(
    r"^(?:(?:the\s+)?(?:curious\s+)?(?:10|ten)[\s-]*years?[\s-]*old(?:\s+(?:kid|child|boy|girl|user))?"
    r"|kid|child|user|human|assistant|ai|bot)\s*:\s*(?=\S)",
    re.IGNORECASE,
)
_ANSWER_MARK = re.compile(r"^a:\s+(?=\S)(?!.*\bb:)", re.IGNORECASE | re.DOTALL)  # A: and B: are a list
_NEXT_TURN = re.compile(r"\n\s*(?:user|assistant|kid|child|human|ai|bot)\s*:.*\Z", re.IGNORECASE | re.DOTALL)
_TOLD_ANSWER = re.compile(
    rf"(?<=[{re.escape(_ENDINGS + _CLOSING)}])\s*[(\[]?\s*(?:the\s+)?answer\s*(?::|is\b)[^?]*\Z", re.IGNORECASE
)
_ANSWER_LINE = re.compile(
    r"^[(\[]?(?:(?:the\s+)?(?:correct\s+)?(?:answers?|solution|hint|explanation)\s*\d*\s*[:.]"
    r"|(?:the )?answer is\b|a\s*:\s)",
    re.IGNORECASE,
)
_TALK = re.compile(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|great|here (?:are|is)|here['’]s|below|these|those|i hope"
    r"|i['’]d be|i can|i['’]ve|let me|feel free|please|enjoy)\b.*\briddles?\b",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"^(?:so,?\s+)?(?:what|who|where|which)\s+(?:am|is|are)\s+(?:i|it|we|they|this)\s*\W*$", re.IGNORECASE
)
_THINKING = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>\s*", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_EMPHASIS = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")


@dataclass(frozen=True)
class Line:
    """One riddle's text as a call gave it."""

    text: str
    before: str  # the same with the line feeds that were in it
    pieces: int  # lines that it stood on


def riddle_lines(text: str) -> Iterator[Line]:
    """The riddles of one call: one a line, but a riddle that was broken into verses is one again.

    Lines of one paragraph belong together where one ends in a comma, a semicolon or a dash, or where the last of them
    is the only question and none is numbered.
    """
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = [line for line in (" ".join(line.split()) for line in paragraph.split("\n")) if line]
        if _is_verse(lines):
            yield _joined(lines)
            continue
        waiting: list[str] = []
        for line in lines:
            if waiting and (_starts_anew(line) or not waiting[-1].endswith((",", ";", "–", "—"))):
                yield _joined(waiting)
                waiting = []
            waiting.append(line)
        if waiting:
            yield _joined(waiting)


def _joined(lines: list[str]) -> Line:
    return Line(" ".join(lines), "\n".join(lines), len(lines))


def _is_verse(lines: list[str]) -> bool:
    questions = [line for line in lines if line.rstrip(_CLOSING).endswith("?")]
    if not (1 < len(lines) <= _LONGEST_VERSE) or len(questions) != 1 or questions[0] != lines[-1]:
        return False
    return not any(_starts_anew(line) or line.endswith(":") or _TALK.search(line) for line in lines)


def _starts_anew(line: str) -> bool:
    return any(pattern.match(line) for pattern in (_NUMBERING, _BULLET, _LABEL, _ANSWER_LINE))


def _without(pattern: re.Pattern[str], instead: str = "") -> Callable[[str], str | None]:
    return lambda text: pattern.sub(instead, text, count=1).strip() if pattern.search(text) else text


def _unless(is_met: Callable[[str], object]) -> Callable[[str], str | None]:
    return lambda text: None if is_met(text) else text


def without_thinking(text: str) -> str:
    """A text without the thoughts that a reasoning model puts before it."""
    return _THINKING.sub("", text)


def unquoted(text: str) -> str:
    """A text without the pair of quotes around all of it, or without a double quote that has no partner."""
    closing = _QUOTES.get(text[:1])
    inner = text[1:-1]
    if closing is not None and len(text) > 2 and text[-1] == closing:
        # An apostrophe inside a word is no quote; "Who?" asked the owl, "and why?" keeps its quotes.
        others = re.sub(r"(?<=\w)['’](?=\w)", "", inner)
        if text[0] not in others and closing not in others:
            return inner.strip()
    if text.count('"') == 1 and (text[0] == '"' or text[-1] == '"'):
        return text.strip('"').strip()
    return text


def _ends_nowhere(text: str) -> bool:
    return text[-1:] not in _ENDINGS + _CLOSING


def _loops(text: str) -> bool:
    length, times = _LOOP
    found = words(text)
    counts = Counter(tuple(found[start : start + length]) for start in range(len(found) - length + 1))
    return max(counts.values(), default=0) >= times


# ---- rules for texts of every kind

CUT = Rule("cut", "It was cut at the token limit: who learns from it learns not to stop.")
PROMPT_CUT = Rule("prompt cut", "Its prompt did not fit the context, so the model answered something else.")
UNFINISHED = Rule("not finished", "It ended for another reason than that the model had said all, such as a filter.")
THINKING = Rule("thinking removed", "What stands in <think> before a text is no part of it.", _without(_THINKING))
CONTROL = Rule("control characters removed", "Control characters are no text.", lambda text: _CONTROL.sub("", text))
BROKEN = Rule(
    "broken characters",
    "It holds U+FFFD, which stands where bytes were no character.",
    _unless(lambda text: "\ufffd" in text),
)
ROLE = Rule(
    "role removed", "A speaker's name before the text (`Kid:`, `user:`) is removed at the start only.", _without(_ROLE)
)
ANSWER_MARK = Rule("answer mark removed", "`A:` at the start only.", _without(_ANSWER_MARK))
QUOTES = Rule("quotes removed", "Quotes around the whole text, or one without a partner at its end.", unquoted)
NUMBERING = Rule(
    "numbering removed",
    "A number at the start with a dot, bracket or colon and a space (`1. `, `12) `, `IV. `); `1.5` stays.",
    _without(_NUMBERING),
)
LABEL = Rule("label removed", "`Riddle 3:`, `Question:` and kin at the start.", _without(_LABEL))
EMPTY = Rule("empty", "Nothing is left of it.", _unless(lambda text: not text.strip()))
ECHO = Rule("echo", "It only repeats a message before it.")
PARROT = Rule("instruction repeated", "It repeats six words in a row of what the model was told to do.")

# ---- riddles

LAST_OF_CUT = Rule(
    "last line of a cut call", "The call was cut at the token limit, and so its last line, probably, was too."
)
JOINED = Rule("lines joined", "A riddle that stood on several lines (a verse, a list with commas) is one again.")
DUPLICATE = Rule("duplicate", "The same words in the same order as a riddle before it.")
NEAR_DUPLICATE = Rule(
    "near-duplicate", "Nearly the same words as a riddle before it, or a piece of one; the earlier one stays."
)
OF_A_SEED = Rule(
    "copy of a seed", "The same words as a seed, nearly, or a piece of one: the seeds are not to be learnt by heart."
)
OVER_LIMIT = Rule("over the limit", "Left out by --limit.")

RIDDLE_RULES = (
    CONTROL,
    BROKEN,
    Rule(
        "emphasis removed",
        "Markdown's bold marks.",
        lambda text: _EMPHASIS.sub(lambda found: found[2], text),
    ),
    Rule("bullet removed", "A bullet, heading or quotation mark of Markdown at the start.", _without(_BULLET)),
    NUMBERING,
    LABEL,
    ROLE,
    QUOTES,
    Rule("an answer", "The line is an answer, a hint or an explanation.", _unless(_ANSWER_LINE.search)),
    Rule("talk", "The line speaks about riddles to whoever asked for them.", _unless(_TALK.search)),
    Rule("answer removed", "An answer after the riddle's end: the riddle stays.", _without(_TOLD_ANSWER)),
    Rule(
        "no end",
        "It does not end as a sentence does (. ? ! … or a closing quote or bracket): a heading, or cut off.",
        _unless(_ends_nowhere),
    ),
    Rule("bare question", "Nothing but `What am I?`.", _unless(_BARE.search)),
    Rule(
        "too short",
        f"Less than {_SHORTEST} letters and digits.",
        _unless(lambda text: sum(map(str.isalnum, text)) < _SHORTEST),
    ),
    Rule("loop", f"{_LOOP[0]} words in a row occur {_LOOP[1]} times: the model went in circles.", _unless(_loops)),
)

# ---- answers and follow-up questions

ANSWER_RULES = (THINKING, CONTROL, BROKEN, ROLE, ANSWER_MARK, EMPTY)
FOLLOW_UP_RULES = (
    THINKING,
    CONTROL,
    BROKEN,
    ROLE,
    ANSWER_MARK,
    Rule("next turn removed", "The model went on with a turn that is not the user's.", _without(_NEXT_TURN)),
    NUMBERING,
    LABEL,
    QUOTES,
    EMPTY,
    Rule("no question", "A follow-up without a question mark asks nothing.", _unless(lambda text: "?" not in text)),
    Rule("several lines", "One short question was asked for.", _unless(lambda text: "\n" in text)),
    Rule(
        "not short",
        f"More than {_LONGEST_QUESTION} words: no child's question.",
        _unless(lambda text: len(words(text)) > _LONGEST_QUESTION),
    ),
)
