"""The manifest's entry on how far a variant's weights are from the trained form's; whatever fails, the run goes on."""

from __future__ import annotations

import logging

from ..adapters.variants import Variant, VariantFactory
from ..adapters.weight_error import layer_errors
from .results import WeightError

_log = logging.getLogger(__name__)


def weight_error(factory: VariantFactory, variant: Variant) -> list[WeightError]:
    """Measure a variant's weights; where that is not possible the log says why, and there is nothing."""
    try:
        found = layer_errors(factory, variant)
    except Exception as error:  # a number beside the scores is not worth a variant
        _log.warning("%s: its weights could not be compared: %s", variant.spec.name, error, exc_info=True)
        return []
    if isinstance(found, str):
        _log.info("%s: its weights are not compared: %s", variant.spec.name, found)
        return []
    return [
        WeightError(
            module=one.module, relative_to_update=one.relative_to_update, relative_to_weight=one.relative_to_weight
        )
        for one in found
    ]
