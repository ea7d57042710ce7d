"""Deriving every variant from one load of the base."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from ..files import sha256_json
from .adapter_files import AdapterFiles
from .attach import attach
from .base import LoadedBase, load_tokenizer
from .ends import set_ends
from .identity import base_parts, variant_parts
from .merge import merge
from .quantize import LayerQuantizer, bnb_config, copy_of, dequantize, quantize
from .spec import QuantizationSpec, VariantSpec


@dataclass(frozen=True)
class Variant:
    """A model as it is evaluated."""

    spec: VariantSpec
    model: nn.Module  # a PreTrainedModel, or a PeftModel around one
    tokenizer: PreTrainedTokenizerBase
    load_seconds: float

    @property
    def model_bytes(self) -> int:
        """Bytes of weights and buffers in the form they are held, quantisation state included."""
        return model_bytes(self.model)


class VariantFactory:
    """Derives variants from one loaded base. Each is made from the untouched master, so none can mark another.

    Args:
        base: the base as read from disk, on the host.
        quantizations: the suite's named quantisations.
        adapters: the adapters the suite names, already found or trained.
        device: where variants are made and evaluated.
    """

    def __init__(
        self,
        base: LoadedBase,
        quantizations: Mapping[str, QuantizationSpec],
        adapters: Mapping[str, AdapterFiles],
        device: torch.device,
    ) -> None:
        self.base = base
        self.device = device
        self.quantizations = quantizations
        self.adapters = adapters
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._base_parts = base_parts(base)
        self._layer_quantizers: dict[str, LayerQuantizer] = {}

    def tokenizer(self, spec: VariantSpec) -> PreTrainedTokenizerBase:
        """The tokenizer of a variant: the adapter's own where its folder carries one, else the base's."""
        adapter = self.adapters[spec.adapter] if spec.adapter else None
        if adapter is None or not adapter.has_tokenizer:
            return self.base.tokenizer
        if adapter.name not in self._tokenizers:
            self._tokenizers[adapter.name] = _own_tokenizer(adapter, self.base)
        return self._tokenizers[adapter.name]

    def parts(self, spec: VariantSpec) -> dict[str, str]:
        """What the variant's identity is the hash of; needs no model."""
        return variant_parts(
            spec,
            self._base_parts,
            adapter=self.adapters[spec.adapter] if spec.adapter else None,
            quantization=self.quantizations[spec.quantization] if spec.quantization else None,
            tokenizer=self.tokenizer(spec),
        )

    def identity(self, spec: VariantSpec) -> str:
        """The variant's content hash."""
        return sha256_json(self.parts(spec))

    def make(self, spec: VariantSpec) -> Variant:
        """Derive one variant.

        Raises:
            UserError: when its adapter does not fit the base or cannot be merged.
        """
        started = time.perf_counter()
        adapter = self.adapters[spec.adapter] if spec.adapter else None
        quantization = self.quantizations[spec.quantization] if spec.quantization else None
        model: nn.Module
        if adapter is None:
            model = self._copy(quantization)
        elif spec.merge == "none":
            model = self._attached(spec, self._copy(quantization), adapter)
        elif spec.merge == "dequantized" and quantization is not None:
            plain = dequantize(self._copy(quantization), self.base.dtype)
            model = merge(self._attached(spec, plain, adapter), adapter)
        else:
            model = merge(self._attached(spec, self._copy(), adapter), adapter)
            if quantization is not None:
                model = quantize(model, bnb_config(quantization, self.base.dtype), self.device)
        if adapter is not None and adapter.has_tokenizer:
            set_ends(model, self.tokenizer(spec), self.base.tokenizer)
        return Variant(spec, model, self.tokenizer(spec), time.perf_counter() - started)

    def layer_quantizer(self, quantization: str) -> LayerQuantizer:
        """What quantises single layers of the base with one of the quantisations; the same one at each call.

        Raises:
            UserError: when the quantisation cannot be made of this base.
        """
        if quantization not in self._layer_quantizers:
            spec = self.quantizations[quantization]
            self._layer_quantizers[quantization] = LayerQuantizer(self.base, spec, self.device)
        return self._layer_quantizers[quantization]

    def _attached(self, spec: VariantSpec, model: PreTrainedModel, adapter: AdapterFiles) -> Any:
        attached = attach(model, adapter)
        rows = model.get_input_embeddings().weight.shape[0]
        highest = max(self.tokenizer(spec).get_vocab().values())
        if highest >= rows and highest > max(self.base.tokenizer.get_vocab().values()):
            raise UserError(
                f"its tokenizer has {highest + 1} tokens and the model {rows} rows for them",
                where=adapter.where,
                fix="save the adapter again with save_embedding_layers=True, so that it carries the rows that it added",
            )
        return attached

    def _copy(self, quantization: QuantizationSpec | None = None) -> PreTrainedModel:
        return copy_of(self.base, quantization, self.device)


def _own_tokenizer(adapter: AdapterFiles, base: LoadedBase) -> PreTrainedTokenizerBase:
    try:
        return load_tokenizer(str(adapter.folder), base.spec, offline=True)
    except UserError:
        raise
    except Exception as error:  # whatever a library raises over files that it did not write
        raise UserError(
            f"its tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}",
            where=adapter.where,
            fix="save the tokenizer again, or remove its files from the folder: then the base's is used",
        ) from error


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights and buffers as they are held, with bitsandbytes' quantisation state."""
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        for inner in (state, getattr(state, "state2", None)):
            if inner is not None:
                tensors += [t for t in (inner.absmax, inner.code, inner.offset) if isinstance(t, torch.Tensor)]
    # The scales of 8-bit weights: the first forward moves them from the weight to its layer's state.
    holders = [*model.parameters(), *(getattr(module, "state", None) for module in model.modules())]
    scales = (getattr(holder, "SCB", None) for holder in holders)
    tensors += [scale for scale in scales if isinstance(scale, torch.Tensor)]
    distinct = {id(tensor): tensor for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in distinct.values())
