"""The hashes by which a run's cells are known again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..adapters.spec import VariantSpec
from ..adapters.variants import VariantFactory
from ..errors import UserError
from .early_stopping import EarlyStopping
from .plan import cell_hash
from .suite import Suite
from .tasks import BuiltTask


def cell_hashes(
    suite: Suite,
    factory: VariantFactory,
    asked: Sequence[tuple[VariantSpec, BuiltTask]],
    *,
    early: EarlyStopping | None,
    untrained: Collection[str],
    device: str,
) -> dict[tuple[str, str], str]:
    """The hash of every cell that is asked; of those that may stop early, with what decides when.

    Args:
        suite: the suite.
        factory: knows the variants' identities.
        asked: the cells.
        early: decides which cells may stop early, where the suite has that.
        untrained: adapters that could not be trained.
        device: the type of the device.

    Returns:
        (variant, task) -> hash.

    Raises:
        UserError: a task's divergence is measured from a variant that does not read text alike.
    """

    def hashed(spec: VariantSpec, built: BuiltTask, stops: list[object] | None = None) -> str:
        reference = _reference(suite, factory, spec, built, untrained)
        return cell_hash(factory.identity(spec), built, suite, device, reference=reference, early=stops)

    plain = {(spec.name, built.info.name): hashed(spec, built) for spec, built in asked}
    stopping = {
        (spec.name, built.info.name): hashed(spec, built, early.identity(spec.name, built.info.name, plain))
        for spec, built in asked
        if early is not None and early.may_stop(spec.name, built)
    }
    return plain | stopping


def _reference(
    suite: Suite, factory: VariantFactory, spec: VariantSpec, built: BuiltTask, untrained: Collection[str]
) -> str | None:
    """The identity of the variant whose distributions a task's divergence is measured from."""
    if built.spec.divergence is None:
        return None
    name = built.spec.divergence.reference
    reference = next(one for one in suite.all_variants() if one.name == name)
    if reference.adapter in untrained:
        return None
    if factory.parts(reference)["tokenizer"] != factory.parts(spec)["tokenizer"]:
        raise UserError(
            f"the tokenizers of {spec.name} and {name} differ: their next tokens are not the same things",
            where=f"tasks: {built.info.name}.divergence",
            fix="name in the task's variants those that share the reference's tokenizer",
        )
    return factory.identity(reference)
