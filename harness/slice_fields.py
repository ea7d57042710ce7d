"""The fields that `statistics.slices` names, held against those that the tasks' items have."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ..errors import UserError
from .item_fields import SOURCE, item_fields
from .tasks import BuiltTask


def refuse_unknown_slices(wanted: Sequence[str] | None, tasks: Sequence[BuiltTask]) -> None:
    """Refuse fields that no item of any task has, before anything is asked.

    Items beyond a limit count, too: they are of the same tasks.

    Args:
        wanted: the fields to look for slices in; None for all.
        tasks: all of the suite's.

    Raises:
        UserError: for the first such field, with those that there are.
    """
    missing, known = set(wanted or ()), dict[str, None]()
    for built in tasks:
        choices = int(built.task.OUTPUT_TYPE == "multiple_choice")
        for doc in built.task.eval_docs if missing else ():
            fields = item_fields(doc, "", choices, (0,), source=None, keep_texts=True)
            names = [field.name for field in fields if field.name != SOURCE]  # a source is no kind of items
            known.update(dict.fromkeys(names))
            missing.difference_update(names)
            if not missing:
                return
    for i, name in enumerate(wanted or ()):
        if name in missing:
            near = difflib.get_close_matches(name, known, n=1)
            there = f"there is: {', '.join(known) or 'none'}"
            raise UserError(
                f'no item of any task has the field "{name}"',
                where=f"statistics.slices[{i}]",
                fix=f'did you mean "{near[0]}"? {there}' if near else there,
            )
