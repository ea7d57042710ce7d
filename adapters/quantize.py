"""Quantising a loaded model in place with bitsandbytes, dequantising it again, and keeping the CPU path sound."""

from __future__ import annotations

import importlib.util
import io
import tempfile
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from ..errors import UserError
from .base import LoadedBase, clone_to
from .spec import QuantizationSpec


def bnb_config(spec: QuantizationSpec, base_dtype: torch.dtype) -> BitsAndBytesConfig:
    """The `BitsAndBytesConfig` of a suite's quantisation; an unset compute dtype is the base's own."""
    fields = spec.model_dump()
    fields["bnb_4bit_compute_dtype"] = (
        getattr(torch, spec.bnb_4bit_compute_dtype) if spec.bnb_4bit_compute_dtype else base_dtype
    )
    return BitsAndBytesConfig(**fields)


def quantizable(model: PreTrainedModel, config: BitsAndBytesConfig) -> dict[str, nn.Module]:
    """The modules that transformers itself would quantise when loading `model` with `config`, by name.

    Raises:
        UserError: when one of them shares its weights with a layer that stays as it is, such as a tied embedding:
            transformers makes a model of that which fails at its first forward.
    """
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.quantizers_utils import should_convert_module

    quantizer = _quantizer(config)
    skip = quantizer.get_modules_to_not_convert(model, config.llm_int8_skip_modules, model._keep_in_fp32_modules)
    found = {
        name: module
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, skip)
    }
    others = (module for name, module in model.named_modules() if name not in found)
    kept = {id(parameter) for module in others for parameter in module.parameters(recurse=False)}
    tied = [name.rpartition(".")[2] for name, module in found.items() if id(module.weight) in kept]
    if tied:
        raise UserError(
            f"{tied[0]} cannot be quantised: its weights are tied to another layer's",
            where="[quantizations]",
            fix=f'add "{tied[0]}" to llm_int8_skip_modules',
        )
    return found


def quantize(model: PreTrainedModel, config: BitsAndBytesConfig, device: torch.device) -> PreTrainedModel:
    """Quantise `model` in place onto `device`: the weights become those that `from_pretrained` would make.

    It goes layer by layer, so the full-precision weights need not fit on the device.

    Raises:
        UserError: when bitsandbytes is missing.
    """
    layers = _EmptyLayers(model, config)
    sources = layers.sources
    for name in list(sources):
        source = sources.pop(name)  # the last hold on it: a model on the device shrinks as this goes on
        module = model.get_submodule(name)
        bias = cast("torch.Tensor | None", source.bias)
        module.weight = layers.quantized(name, cast(torch.Tensor, source.weight), device)
        if bias is not None:
            module.bias = nn.Parameter(bias.detach().to(device), requires_grad=False)
    model.hf_quantizer = layers.quantizer
    model.config.quantization_config = config
    model.quantization_method = config.quant_method
    model.is_quantized = True
    setattr(model, "is_loaded_in_4bit" if config.load_in_4bit else "is_loaded_in_8bit", True)
    keep_cpu_weights(model)
    return model.eval()


class _EmptyLayers:
    """A model's quantised layers before they have weights, and what makes those.

    Args:
        model: changed in place: the layers that are quantised become bitsandbytes' own, without weights.
        config: how they are quantised.

    Attributes:
        sources: the layers that were replaced, by name.
    """

    def __init__(self, model: PreTrainedModel, config: BitsAndBytesConfig) -> None:
        from transformers.integrations.bitsandbytes import replace_with_bnb_linear

        self.quantizer = _quantizer(config)
        self.sources = quantizable(model, config)
        skip = self.quantizer.get_modules_to_not_convert(
            model, config.llm_int8_skip_modules, model._keep_in_fp32_modules
        )
        replace_with_bnb_linear(model, skip, config)
        self._model = model
        self._operation = self.quantizer.get_quantize_ops()

    def quantized(self, name: str, weight: torch.Tensor, device: torch.device) -> Any:
        """A layer's weight, quantised on a device: bitsandbytes' parameter."""
        key = f"{name}.weight"
        quantized = self._operation.convert({key: weight.detach().to(device)}, model=self._model)[key]
        if getattr(quantized, "module", None) is not None:
            # bitsandbytes' way back from a 4-bit weight to its layer. Only quantising uses it, and it is a cycle: with
            # it the weights of a dropped model stay on the device until Python happens to collect.
            quantized.module = None
        return quantized


class LayerQuantizer:
    """Quantises a base's layers one at a time, each into the weight that :func:`quantize` gives it.

    Holds no weights but the base's own: its model is empty. On a CPU, where quantising to 4 bits takes long, it keeps
    what it quantised in a file without a name, which takes no memory and goes with the process.

    Args:
        base: the base; its weights stay as they are.
        quantization: how they are quantised.
        device: where.

    Raises:
        UserError: when the quantisation cannot be made of this base.
    """

    def __init__(self, base: LoadedBase, quantization: QuantizationSpec, device: torch.device) -> None:
        self._base = base
        self._device = device
        self._empty = clone_to(base.model, torch.device("meta"))
        self._layers = _EmptyLayers(self._empty, bnb_config(quantization, base.dtype))
        keeps = quantization.load_in_4bit and device.type == "cpu"  # the file is open for as long as this is there
        self._file = tempfile.TemporaryFile() if keeps else None  # noqa: SIM115
        self._places: dict[str, tuple[int, int]] = {}  # where in the file a layer begins, and its bytes

    def dense(self, name: str) -> torch.Tensor:
        """The matrix that a layer of the quantised base stands for: (outputs, inputs), on the device.

        Layers that are not quantised have their own.
        """
        source = self._base.model.get_submodule(name)
        if name not in self._layers.sources:
            return dense_weight(source).to(self._device)
        if name in self._places:
            return self._kept(name)
        quantized = self._layers.quantized(name, cast(torch.Tensor, source.weight), self._device)
        empty: Any = self._empty.get_submodule(name)
        empty.quant_state = None  # which bitsandbytes leaves there: scales would gather on the device
        self._keep(name, quantized)
        return _dequantized(quantized)

    def _keep(self, name: str, quantized: Any) -> None:
        if self._file is not None:
            written = io.BytesIO()
            torch.save((quantized.data, quantized.quant_state), written)
            place = self._file.seek(0, io.SEEK_END)
            self._file.write(written.getbuffer())
            self._places[name] = (place, written.tell())

    def _kept(self, name: str) -> torch.Tensor:
        import bitsandbytes as bnb

        place, size = self._places[name]
        file = cast(BinaryIO, self._file)
        file.seek(place)
        # Our own file, which nobody else can open: what it says may be any object.
        data, state = torch.load(io.BytesIO(file.read(size)), weights_only=False)
        return torch.as_tensor(bnb.functional.dequantize_4bit(data, state))


def dense_weight(layer: Any) -> torch.Tensor:
    """The matrix that a linear layer multiplies by, quantised or not: (outputs, inputs), where the layer is."""
    from transformers.pytorch_utils import Conv1D

    weight = _dequantized(layer.weight, getattr(getattr(layer, "state", None), "SCB", None))
    return weight.T if isinstance(layer, Conv1D) else weight


def _dequantized(weight: Any, scales: torch.Tensor | None = None) -> torch.Tensor:
    """A weight by transformers' own way of dequantising models.

    Args:
        weight: of a layer, quantised or not.
        scales: of an 8-bit weight, where its layer's first forward took them from it.
    """
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    return torch.as_tensor(dequantize_bnb_weight(weight, SimpleNamespace(SCB=scales))).detach()


def copy_of(base: LoadedBase, quantization: QuantizationSpec | None, device: torch.device) -> PreTrainedModel:
    """A copy of the base on `device`, in its own precision or quantised; what variants and training start from.

    Raises:
        UserError: when the quantisation cannot be made of this base.
    """
    if quantization is None:
        return clone_to(base.model, device)
    config = bnb_config(quantization, base.dtype)
    replaced = {id(module.weight) for module in quantizable(base.model, config).values()}
    return quantize(clone_to(base.model, device, share=replaced), config, device)


def dequantize(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Replace quantised layers by ordinary ones that hold the very values the quantised layers stood for."""
    plain = model.dequantize(dtype=dtype)
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"):
        if hasattr(plain, flag):
            setattr(plain, flag, False)
    plain.requires_grad_(False)
    return plain.eval()


def dequantize_once(model: nn.Module) -> dict[str, nn.Module]:
    """Replace 4-bit layers in place by plain ones that hold their dequantised weights, adapters around them left alone.

    bitsandbytes dequantises a layer's weight at each forward and multiplies by that: on a CPU always, on CUDA from some
    number of rows on (version 0.50: up to some tens or hundreds, by layer and card, it has a kernel that does both at
    once and rounds otherwise). There the outputs are the same bit for bit, and the time is paid once. The model then
    takes the memory of its full-precision form.

    Returns:
        The layers that were replaced, by name; :func:`put_back` undoes it.
    """
    import bitsandbytes as bnb

    replaced: dict[str, nn.Module] = {}
    for name, module in _dequantizable(model):
        weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        with torch.device("meta"):
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            plain.bias = nn.Parameter(module.bias.detach().to(weight.dtype), requires_grad=False)
        model.set_submodule(name, plain)
        replaced[name] = module
    return replaced


def put_back(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put layers back where they were."""
    for name, module in layers.items():
        model.set_submodule(name, module)


def dequantized_bytes(model: nn.Module) -> int:
    """Bytes that the weights which :func:`dequantize_once` would make take; 0 where it has nothing to do."""
    states = [module.weight.quant_state for _, module in _dequantizable(model)]
    return sum(state.shape.numel() * state.dtype.itemsize for state in states)


def _dequantizable(model: nn.Module) -> list[tuple[str, Any]]:
    """4-bit layers that compute in the precision they were quantised from; none unless all of them do."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return []
    import bitsandbytes as bnb

    found = [(name, m) for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    same = all(m.compute_dtype in (None, m.weight.quant_state.dtype) for _, m in found)
    return found if same else []


def keep_cpu_weights(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in place at the first forward on a CPU with avx512_bf16.

    With bitsandbytes 0.50 that repacking makes gradients through the base vanish, merging give garbage, and saving
    without double quantisation wrong: it would invent the very damage that people come to measure. It is a flag of
    each layer; a layer made later (a merged model quantised again, say) needs it again.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _quantizer(config: BitsAndBytesConfig) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("this quantisation needs bitsandbytes", where="[quantizations]", fix="pip install bitsandbytes")
    from transformers.quantizers.auto import AutoHfQuantizer

    return AutoHfQuantizer.from_config(config, pre_quantized=False)
