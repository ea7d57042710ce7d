"""Tiny bases and adapters, written once for the whole folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from support.models import lora, save_adapter, save_base, tiny_model

Saved = Callable[..., Path]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models run fastest on one thread, and do not slow down what else runs on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """`base_folder(kind, dtype=...)`: the folder of a tiny base."""

    @functools.cache
    def saved(kind: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
        return save_base(tmp_path_factory.mktemp(f"base-{kind}"), kind, dtype=dtype)

    return saved


@pytest.fixture(scope="session")
def lora_folder(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """`lora_folder(kind, dtype=...)`: the folder of a LoRA for that base, on every linear layer."""

    @functools.cache
    def saved(kind: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
        return save_adapter(tiny_model(kind, dtype=dtype), tmp_path_factory.mktemp(f"lora-{kind}"), lora(kind))

    return saved
