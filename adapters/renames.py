"""Keys of [training] that published recipes have and today's libraries have no more, with what to write instead."""

from __future__ import annotations

_DROP = "drop it: "
# Removed in transformers 5 or trl 1; a spelling that is near would not lead to what took their place.
RENAMED = {
    "evaluation_strategy": "write eval_strategy",
    "group_by_length": 'write train_sampling_strategy = "group_by_length"',
    "no_cuda": "write use_cpu, or give --device cpu",
    "warmup_ratio": "write warmup_steps: below 1 it is a share of all steps",
    "max_seq_length": "write max_length",
    "max_prompt_length": _DROP + "prompts are never cut; max_length is of prompt and answer together",
    "max_completion_length": _DROP + "answers are never cut; max_length is of prompt and answer together",
    "logging_dir": _DROP + "TENSORBOARD_LOGGING_DIR in the environment is where tensorboard writes",
    "save_safetensors": _DROP + "weights are always safetensors",
    "overwrite_output_dir": _DROP + "what was trained is found by its hash, and --out is never overwritten",
    "per_gpu_train_batch_size": "write per_device_train_batch_size",
    "per_gpu_eval_batch_size": "write per_device_eval_batch_size",
    "tokenizer": "the [tokenizer] table has what is changed of the base's",
    "peft_config": "the [lora] table is peft's LoraConfig",
    "model_adapter_name": "write reference at the top of the recipe",
    "ref_adapter_name": 'write reference = "frozen_adapter" at the top of the recipe',
    "force_use_ref_model": 'write reference = "model" at the top of the recipe',
    "label_pad_token_id": _DROP + "what is not learned is told by position",
    "padding_value": _DROP + "what is not learned is told by position",
    "reference_free": _DROP + "there is always a reference",
    "generate_during_eval": _DROP + "a suite asks what a result writes",
    "rpo_alpha": _DROP + "the loss is DPO's sigmoid alone",
}
