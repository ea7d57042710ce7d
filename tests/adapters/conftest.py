"""Tiny bases and adapters, written once for the whole folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from phibench.adapters.base import LoadedBase
from support.models import load, lora, save_adapter, save_base, tiny_model

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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where phibench keeps what it trains, for one test: empty, and not there yet."""
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adapters"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    """A tiny base with room for a dialogue, to train on; training leaves it as it is."""
    return load(save_base(tmp_path_factory.mktemp("base"), "llama", max_position_embeddings=256))
