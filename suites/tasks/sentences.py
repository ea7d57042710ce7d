"""Split English prose into sentences by rules alone: for the citation metrics and for ROUGE-Lsum.

The rules are our own and fixed here, so that a score never moves because a splitter's data was updated.
"""

from __future__ import annotations

import re

# Never the last word of a sentence: a name or an example has to follow.
_OPENING_ABBREVIATIONS = frozenset("dr mr mrs ms mx prof messrs e.g eg i.e ie viz cf vs v".split())
# These may end a sentence, and do when a word follows that begins sentences and hardly ever names.
_CLOSING_ABBREVIATIONS = frozenset(
    "rev hon gen col capt lt sgt st gov sen rep pres fig figs eq eqs sec ch vol pp p approx ca al "
    "etc inc ltd co corp jr sr ed eds dept est ave blvd ph.d b.sc m.sc jan feb apr aug sep sept oct "
    "nov dec oz lb lbs avg".split()
)
_STARTERS = frozenset(
    "a an the this that these those it its he she they we you i his her their our your my there "
    "here what when where who why how which while if in on at by for from with without as although "
    "because since after before during however therefore thus also but and or so then to some many "
    "most more all each every both no not one two other is are was were do does did can could will "
    "would yes another such finally first second third additionally furthermore moreover overall "
    "instead today".split()
)

_BOUNDARY = re.compile(r"""(?P<stop>[.!?\u2026]+)["'\u201d\u2019)\]]*(?=\s)""")
_OPENERS = "\"'\u201c\u2018([*_-\u2013\u2014\u2022"  # signs that may stand before a sentence or a word


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the sentences of `text`, in order and without outer white space.

    A sentence ends at `.`, `!`, `?` or an ellipsis (with any closing quotes and brackets) before white space,
    and at the end of a line unless the next line goes on in lower case. Full stops of abbreviations,
    initials, decimals and list numbers do not end one. A piece without a letter or digit joins the sentence
    before it, or is dropped where there is none. Text that has no letter or digit has no sentences.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for end in [*_ends(text), len(text)]:
        begin, stop = _trim(text, start, end)
        start = end
        if any(character.isalnum() for character in text[begin:stop]):
            spans.append((begin, stop))
        elif spans and begin < stop:
            spans[-1] = (spans[-1][0], stop)
    return spans


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, each on one line: runs of white space become one space."""
    return [" ".join(text[start:end].split()) for start, end in sentence_spans(text)]


def _ends(text: str) -> list[int]:
    """Positions in `text` after which a new sentence may start, in order."""
    ends = set()
    line_start = 0
    for newline in re.finditer(r"\s*\n\s*", text):
        following = text[newline.end() : newline.end() + 1]
        if following and not following.islower():
            ends.add(newline.start())
            ends.update(_ends_in_line(text, line_start, newline.start()))
            line_start = newline.end()
    ends.update(_ends_in_line(text, line_start, len(text)))
    return sorted(ends)


def _ends_in_line(text: str, start: int, end: int) -> list[int]:
    """Ends of sentences in text[start:end], which starts where a sentence does."""
    ends = []
    begin = start
    for match in _BOUNDARY.finditer(text, start, end):
        if _is_end(text[begin : match.start()], match["stop"], text[match.end() : end]):
            ends.append(match.end())
            begin = match.end()
    return ends


def _is_end(before: str, stop: str, after: str) -> bool:
    """Whether `stop`, between the sentence so far and the rest of the line, ends a sentence."""
    following = after.lstrip().lstrip(_OPENERS).lstrip()
    if following[:1].islower():
        return False
    if stop != ".":
        return True
    token = "".join(before.rsplit(maxsplit=1)[-1:]).lstrip(_OPENERS)
    if token.isdigit() and before.strip() == token:  # "3. Rinse the rice": a list number
        return False
    bare = token.lower()
    if bare in _OPENING_ABBREVIATIONS:
        return False
    is_initial = len(token) == 1 and token.isupper()
    is_acronym = re.fullmatch(r"(?:[a-z]\.)+[a-z]", bare) is not None  # U.S., a.m., J.R.R.
    if is_initial or is_acronym or bare in _CLOSING_ABBREVIATIONS:
        word = re.match(r"[^\W\d_]+", following)
        return word is not None and word.group().lower() in _STARTERS
    if bare in {"no", "nos"}:  # "No. 5" is a number, "The answer is no. Five ..." is not
        return not following[:1].isdigit()
    return True


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span start:end without the white space at its two ends."""
    piece = text[start:end]
    begin = start + len(piece) - len(piece.lstrip())
    return begin, max(begin, start + len(piece.rstrip()))
