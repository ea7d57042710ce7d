"""Whether variants that are compared item by item are asked the same; an adapter may carry a template of its own."""

from __future__ import annotations

from collections.abc import Sequence

from .tasks import BuiltTask


def other_prompts(variant: str, asked: Sequence[BuiltTask], baseline: str, base: Sequence[BuiltTask]) -> list[str]:
    """Where a variant's prompts are not those of the variant that it is compared with, in a sentence for each task.

    Args:
        variant: its name.
        asked: the tasks as it is asked them.
        baseline: the name of what it is compared with.
        base: the tasks as that is asked them.
    """
    known = {built.info.name: built for built in base}
    found = []
    for built in asked:
        other = known.get(built.info.name)
        if other is None or other is built or other.items_hash == built.items_hash:
            continue
        theirs = {item.item_hash: item.prompt_hash for item in other.items}
        count = sum(theirs.get(item.item_hash) != item.prompt_hash for item in built.items)
        found.append(
            f"{variant} is asked other prompts than {baseline} on {count} of {len(built.items)} items of"
            f" {built.info.name} (its adapter carries its own tokenizer or chat template): the differences between"
            f' them are of prompts, too; base.chat_template = "chatml" or a file gives both the same'
        )
    return found
