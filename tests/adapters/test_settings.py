"""The libraries' own settings in a recipe: what is wrong, who gave it, by which key, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from phibench.adapters.adapter_files import TRAINING
from phibench.adapters.base import LoadedBase
from phibench.adapters.recipe import read_recipe
from phibench.adapters.recipe_table import RECIPES
from phibench.adapters.renames import RENAMED
from phibench.adapters.settings import refuse_settings
from phibench.errors import UserError
from support.recipes import RECIPE, trained, write

pytestmark = pytest.mark.usefixtures("cache")

# What is set: the rule that is told, and what to do.
BAD = {
    # Keys and types.
    "training.learning_rat=0.1": ("there is no such key", 'did you mean "learning_rate"?'),
    "training.epochs=0.1": ("there is no such key", "the keys of [training] are those of trl.SFTConfig"),
    "lora.rank=4": ("there is no such key", "the keys of [lora] are those of peft.LoraConfig"),
    "training.max_steps=two": ('must be a whole number (it is "two")', "write a number without a point"),
    "training.max_steps=2.5": ("must be a whole number (it is 2.5)", "write a number without a point"),
    "training.learning_rate=fast": ('must be a number (it is "fast")', "write a number, without quotes"),
    "training.bf16=yes": ('must be true or false (it is "yes")', "write true or false"),
    "lora.target_modules=3": ("must be a string, or a list (it is 3)", "write it in quotes"),
    "lora.rank_pattern=[]": ("must be a table", "write it as a [table]"),
    "training.optim=adamw_8bits": ("must be one of adamw_torch, ", 'did you mean "adamw_8bit"?'),
    "training.lr_scheduler_type=sorcery": ("must be one of linear, cosine", "write one of them, in quotes"),
    "lora.bias=some": ("must be one of none, all, lora_only", "write one of them, in quotes"),
    # Bounds.
    "lora.r=0": ("must be at least 1 (it is 0)", "give another number"),
    "lora.lora_dropout=1.0": ("must be less than 1 (it is 1.0)", "give another number"),
    "training.per_device_train_batch_size=0": ("must be at least 1 (it is 0)", "give another number"),
    "training.gradient_accumulation_steps=0": ("must be at least 1 (it is 0)", "give another number"),
    "training.learning_rate=-1e-4": ("must be at least 0", "give another number"),
    "training.learning_rate=-inf": ("must be finite (it is -Infinity)", "give another number"),
    "training.max_grad_norm=-nan": ("must be finite (it is NaN)", "give another number"),
    # What is not the recipe's to say, or our trainers' to do.
    "training.output_dir=elsewhere": ("checkpoints have their own place", "drop it"),
    "training.seed=7": ("give the seed with --seed", "drop it"),
    "training.hub_token=hf_secret": ("a token does not belong in a recipe", "drop it"),
    "training.push_to_hub=true": ("a training publishes nothing", "publishing is `phibench push`'s"),
    "training.push_to_hub=false": ("a training publishes nothing", "publishing is `phibench push`'s"),
    "training.push_to_hub_model_id=mine": ("a training publishes nothing", "publishing is `phibench push`'s"),
    "training.hub_model_id=me/mine": ("a training publishes nothing", "publishing is `phibench push`'s"),
    "training.hub_always_push=true": ("a training publishes nothing", "publishing is `phibench push`'s"),
    # What the libraries take, and what would change nothing.
    "training.eos_token=foo": ("the end of text that is learned is the tokenizer's", "tokenizer.eos_token"),
    "training.pad_token=foo": ("padding is the tokenizer's", "tokenizer.pad_token"),
    "training.resume_from_checkpoint=/nope": ("goes on from its own last checkpoint", "name it as start"),
    "training.dataset_text_field=text": ("columns are read as data.format says", "another data.format"),
    "training.dataset_num_proc=4": ("rows are encoded by phibench", "drop it"),
    "training.truncation_mode=keep_end": ("rows are never cut", "training.max_length"),
    "training.assistant_only_loss=true": ("what is learned is told by data.format", "completion_only_loss"),
    "training.model_init_kwargs=nope": ("loaded as [base] and [quantization] say", "base.dtype"),
    "training.trust_remote_code=true": ("loaded as [base] says", "base.trust_remote_code"),
    "training.do_eval=true": ("example scripts", "data.eval"),
    "training.trackio_space_id=me/runs": ("would write to the hub", "trackio keeps its runs here"),
    # What is gone from the libraries, and would be missed by its spelling.
    "training.group_by_length=true": ("there is no such key", 'train_sampling_strategy = "group_by_length"'),
    "training.no_cuda=true": ("there is no such key", "write use_cpu"),
    "training.logging_dir=logs": ("there is no such key", "TENSORBOARD_LOGGING_DIR"),
    "training.save_safetensors=true": ("there is no such key", "always safetensors"),
    "training.evaluation_strategy=steps": ("there is no such key", "write eval_strategy"),
    "training.warmup_ratio=0.1": ("there is no such key", "a share of all steps"),
    "training.max_seq_length=64": ("there is no such key", "write max_length"),
    "training.overwrite_output_dir=true": ("there is no such key", "never overwritten"),
    # What would make another result than was promised.
    "training.save_only_model=true": ("checkpoints without the optimizer cannot be gone on from", "drop it"),
    "training.ignore_data_skip=true": ("would see rows anew", "drop it"),
    "training.save_total_limit=1": ("a kill while it is being written leaves none", "give 2 or more"),
    "training.max_steps=0": ("no step would be trained", "at least 1, or -1"),
    "training.max_steps=-2": ("must be at least -1 (it is -2)", "give another number"),
    "training.dataloader_drop_last=true": ("their loss would be that of a part of them", "drop it"),
    "training.eval_packing=true": ("it lets held-out rows read one another", "drop it"),
    "training.logging_nan_inf_filter=true": ("the last finite loss", "drop it"),
    "training.chat_template_path=chatml.jinja": ("and not by this template", "tokenizer.chat_template"),
    "lora.init_lora_weights=pissa": ("would not be what was trained", '"gaussian" or "orthogonal"'),
    "lora.init_lora_weights=pissa_niter_16": ("would not be what was trained", '"gaussian" or "orthogonal"'),
    "lora.init_lora_weights=olora": ("would not be what was trained", '"gaussian" or "orthogonal"'),
    "lora.init_lora_weights=loftq": ("would not be what was trained", '"gaussian" or "orthogonal"'),
    "lora.task_type=SEQ_CLS": ("phibench trains language models", "drop it"),
    "lora.inference_mode=true": ("has no weights that are trained", "drop it"),
    'lora.modules_to_save=["nope"]': ("the base has no module nope", "the keys here are: "),
    'lora.target_modules=["q_proj", "vproj"]': ("the base has no module vproj", 'did you mean "v_proj"?'),
    'lora.target_modules=["q_proj", "proj"]': ("the base has no module proj", "did you mean"),
    'lora.modules_to_save=["embed_token"]': ("the base has no module embed_token", 'did you mean "embed_tokens"?'),
    "training.report_to=clearml": ("clearml is not installed", "pip install clearml"),
    'training.report_to=["none", "comet_ml"]': ("comet_ml is not installed", "pip install comet-ml"),
    "training.label_smoothing_factor=0.5": ("0.5 is not what phibench's trainer does", "drop it"),
    "training.loss_type=dft": ("'dft' is not what phibench's trainer does", "drop it"),
    "training.packing_strategy=wrapped": ("'wrapped' is not what phibench's trainer does", "drop it"),
    # What only the libraries find out.
    "lora.target_modules=no_such_proj": ("the libraries refuse its settings: Target modules", "peft.LoraConfig"),
    "training.max_length=8": ("max_length = 8 leaves no room for any row", "raise training.max_length"),
}


@pytest.mark.parametrize("setting", BAD)
def test_a_setting_that_is_refused(setting: str, base: LoadedBase, cache: Path, tmp_path: Path) -> None:
    rule, fix = BAD[setting]
    with pytest.raises(UserError) as caught:
        trained(write(tmp_path), base, setting)
    assert rule in caught.value.what
    assert fix in str(caught.value.fix)
    assert caught.value.where == f"--set {setting}"
    # The same in the file.
    path = tmp_path / "child.toml"
    key, _, value = setting.partition("=")
    bare = value[:1] not in "[-0123456789" and value not in ("true", "false")
    path.write_text(f'extends = "tiny"\n{key} = ' + (f'"{value}"' if bare else value) + "\n")
    with pytest.raises(UserError) as caught:
        trained(path, base)
    assert rule in caught.value.what
    assert fix in str(caught.value.fix)
    assert caught.value.where == f"{path}: {key}"
    assert [entry for entry in cache.glob("*") if (entry / TRAINING).exists()] == []


def test_what_is_renamed_is_gone_from_the_libraries() -> None:
    from trl import DPOConfig, SFTConfig

    assert not RENAMED.keys() & (SFTConfig.__dataclass_fields__.keys() | DPOConfig.__dataclass_fields__.keys())


def test_the_best_checkpoint_needs_a_checkpoint_at_each_evaluation(base: LoadedBase, tmp_path: Path) -> None:
    settings = ["training.load_best_model_at_end=true", "training.save_steps=3", "training.eval_steps=2"]
    with pytest.raises(UserError, match="multiple") as caught:
        trained(write(tmp_path), base, *settings)
    assert "Traceback" not in str(caught.value)


DPO_BAD = {
    "training.f_divergence_type=js_divergence": "nothing beside it",
    "training.ld_alpha=0.5": "nothing beside it",
    "training.use_weighting=true": "nothing beside it",
    "training.loss_weights=[1.0]": "nothing beside it",
    "training.label_smoothing=0.1": "nothing beside it",
    "training.sync_ref_model=true": "the reference stays as it was",
    "training.train_sampling_strategy=group_by_length": "a pair has two lengths",
}


@pytest.mark.parametrize("setting", DPO_BAD)
def test_a_setting_of_preference_tuning_that_is_refused(setting: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_settings(read_recipe(RECIPES / "dpo.toml", [setting]))
    assert DPO_BAD[setting] in caught.value.what
    assert (caught.value.where, caught.value.fix) == (f"--set {setting}", "drop it")


def test_settings_that_say_what_is_so_anyway_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path)
    for setting in (
        "training.save_only_model=false",
        "training.dataloader_drop_last=false",
        "training.max_steps=-1",
        "training.save_total_limit=2",
        "lora.task_type=CAUSAL_LM",
        "lora.init_lora_weights=true",
        "lora.inference_mode=false",
    ):
        refuse_settings(read_recipe(path, [setting]))
    for setting in ("training.f_divergence_type=reverse_kl", "training.label_smoothing=0.0"):
        refuse_settings(read_recipe(RECIPES / "dpo.toml", [setting]))


QUANTIZATION = {
    "quantization.load_in_4bit=yes": ("must be true or false", "write true or false, without quotes"),
    "quantization.bnb_4bit_quant_type=nf5": ("must be one of nf4, fp4", 'did you mean "nf4"?'),
    "quantization.load_in_4bits=true": ("there is no such key", 'did you mean "load_in_4bit"?'),
    "data.formt=dialogsum": ("there is no such key", 'did you mean "format"?'),
    "trainable_dtype=float64": ("must be one of auto, float32, bfloat16", "did you mean"),
    "data.train.file=nowhere.jsonl": ("there is no data file nowhere.jsonl", "counts from the working folder"),
}


@pytest.mark.parametrize("setting", QUANTIZATION)
def test_a_key_of_ours_that_is_refused(setting: str, tmp_path: Path) -> None:
    rule, fix = QUANTIZATION[setting]
    path = write(tmp_path, RECIPE + "[quantization]\nload_in_4bit = true\n")
    with pytest.raises(UserError) as caught:
        read_recipe(path, [setting])
    assert rule in caught.value.what
    assert fix in str(caught.value.fix)
    assert caught.value.where == f"--set {setting}"


def test_a_fault_is_told_of_the_file_that_made_it(tmp_path: Path) -> None:
    parent = write(tmp_path, RECIPE.replace("max_steps = 6", "max_steps = 6.5"))
    child = tmp_path / "child.toml"
    child.write_text('extends = "tiny"\n[training]\nlearning_rate = 0.1\n')
    with pytest.raises(UserError) as caught:
        refuse_settings(read_recipe(child))
    assert caught.value.where == f"{parent}: training.max_steps"
    refuse_settings(read_recipe(child, ["training={ max_steps = 3 }"]))
    with pytest.raises(UserError) as caught:
        refuse_settings(read_recipe(child, ["training={ max_steps = 3, epochs = 2 }"]))
    assert caught.value.where == "--set training={ max_steps = 3, epochs = 2 }: training.epochs"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.toml")), ids=lambda file: file.stem)
def test_our_own_settings_are_taken(file: Path) -> None:
    refuse_settings(read_recipe(file))
    refuse_settings(read_recipe(file, ["training.learning_rate=1", 'training.report_to=["wandb"]']))


def test_a_key_may_have_many_forms(tmp_path: Path) -> None:
    path = write(tmp_path)
    for setting in (
        "lora.init_lora_weights=false",
        "lora.init_lora_weights=gaussian",
        "lora.init_lora_weights=orthogonal",
        "lora.rank_pattern={ q_proj = 8 }",
        "lora.target_modules=all-linear",
        "training.warmup_steps=0.1",
        "training.deepspeed={ zero_optimization = { stage = 2 } }",
        "training.gradient_checkpointing_kwargs={ use_reentrant = false }",
        "training={ packing = true, eval_packing = true }",
    ):
        refuse_settings(read_recipe(path, [setting]))


def test_a_rule_that_a_setting_breaks_together_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(UserError, match="give only one of them") as caught:
        read_recipe(path, ["start=oig-lora"])
    assert caught.value.where == f"{path} with --set start=oig-lora"
