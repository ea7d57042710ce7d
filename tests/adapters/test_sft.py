"""The lighter loss against trl's own: the same number and the same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from phibench.adapters.sft import CompletionTrainer
from support.tiny import save_tiny_model

ROWS = [
    {"prompt": "Question: why?\nAnswer:", "completion": " because yeast makes gas"},
    {"prompt": "A longer question about the old stone bridge in the north?\nAnswer:", "completion": " rain"},
    {"prompt": "x", "completion": " and a completion that is much longer than its prompt"},
]


def _loss_and_gradients(trainer_class: Any, folder: Path, out: Path, items: int | None) -> tuple[float, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    settings = SFTConfig(
        output_dir=str(out), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, max_length=128
    )
    trainer = trainer_class(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=items)
    loss.backward()
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return float(loss), torch.cat(gradients)


@pytest.mark.parametrize("items", [None, 50])
def test_loss_and_gradients_are_trls(tmp_path: Path, items: int | None) -> None:
    folder = save_tiny_model(tmp_path / "model")
    ours, our_gradients = _loss_and_gradients(CompletionTrainer, folder, tmp_path / "a", items)
    stock, stock_gradients = _loss_and_gradients(SFTTrainer, folder, tmp_path / "b", items)
    assert ours == pytest.approx(stock, rel=1e-5)
    assert stock_gradients.abs().max() > 0
    torch.testing.assert_close(our_gradients, stock_gradients, rtol=1e-3, atol=1e-6)
