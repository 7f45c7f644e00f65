# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Greater-than and agreement
#
# Two more tasks, without the slow methods. *The war lasted from the year 1732 to the year 17* … must go on with a
# number that is greater than 32. *The keys to the cabinet* … must go on with *are*, although a singular is nearer.
#
# For each: do it, rank the heads by every cheap method, and hold them against exact patching on other prompts. A closer
# look at one of them, which reads nothing but SAE codes, shows what such a method finds, and where it falls behind.

# %%
MODEL = "asset:smollm2-135m-instruct"  # or "gpt2"

# %%
from pathlib import Path

from saelab import notebook as nb
from saelab.circuits import STANDARD, Entry
from saelab.testing import short

TASKS = ["greater_than", "agreement"]
PROMPTS, RUNS = 24, Path("../runs")
SLOW = {"patching", "denoising", "mean ablation"}
CHEAP = {label: entry for label, entry in STANDARD.items() if label not in SLOW}

if short.asked():  # tests run these cells on a tiny model whose circuit is known
    world = short.planted()
    MODEL, RUNS, TASKS, PROMPTS = world.model, world.runs, [world.task], 4
    CHEAP = {label: Entry(entry.method, 12, entry.settings) for label, entry in CHEAP.items()}

# %% [markdown]
# ## The tasks
#
# Clean prompts beside corrupted ones. Where a war began in the year 01, every year comes after it; where the noun has
# only one form, its number is not to be seen.

# %%
from IPython.display import display

from saelab.circuits import draw
from saelab.lm.model import ModelSpec, load

lm = load(ModelSpec(MODEL))
for task in TASKS:
    display(nb.prompts(lm, draw(task, 8, "train", seed=0, lm=lm), 2))

# %% [markdown]
# ## All cheap methods
#
# `saelab.circuits.run` does what the last notebook did by hand: it checks that the model can do the task, patches every
# head exactly on prompts that no method sees, and then asks the methods. What is done is kept in a file, so that a
# second run takes no time. `saelab circuit` is the same with more prompts and seeds.

# %%
from saelab.circuits import Plan, run
from saelab.circuits.findings import findings

found = {}
for task in TASKS:
    plan = Plan(task, CHEAP, seeds=1, truth_prompts=PROMPTS, together=0)
    with nb.stages(task) as tell:
        found[task] = findings(run(lm, plan, RUNS / "notebooks" / f"{task}.json", tell), task)

# %%
for task, known in found.items():
    inside = int(known.truth.members.sum())
    print(f"{task}: right on {known.competence.accuracy:.0%}, {inside} of {known.truth.members.numel()} heads matter")

# %%
nb.beside(*(nb.heads(f"Exact patching: {task}", known.truth.effects, known.truth) for task, known in found.items()))

# %% [markdown]
# Do the tasks share heads?

# %%
circuits = [{tuple(head) for head in known.truth.members.nonzero().tolist()} for known in found.values()]
shared = set.intersection(*circuits)
print(f"{len(shared)} heads are in every circuit here, {len(set.union(*circuits))} in at least one")

# %% [markdown]
# The table is ordered by AUC: the probability that a head of the circuit is ranked above one that is not. The next two
# columns take stricter or laxer circuits.

# %%
for task, known in found.items():
    print(task)
    display(nb.methods(known))

# %% [markdown]
# ## What codes find
#
# *Discrete codes* (O'Neill and Bui, [2024](https://arxiv.org/abs/2405.12522)) read one thing: which SAE latents are
# active in a head's output, in clean prompts and in corrupted ones. No gradient, no intervention. The *mean difference*
# reads even less, how far apart the two mean outputs are. Here they are beside exact patching. Exact effects have a
# sign, the others have none: to them a head is more conspicuous or less.

# %%
READERS = ["codes (ours)", "codes (paper)", "mean difference"]

for task, known in found.items():
    exact = nb.heads(f"{task}: exact patching", known.truth.effects, known.truth)
    seen = [nb.heads(f"{task}: {label}", known.methods[label].mean, known.truth) for label in READERS]
    display(nb.beside(exact, *seen, columns=2))

# %% [markdown]
# Where does each method put the heads that matter most? (1 is the top of its list.)

# %%
for task, known in found.items():
    print(task)
    display(nb.places(known, ["attribution", *READERS], 10))

# %% [markdown]
# A gradient is a guess as well, and may put a head that matters at the end of its list. But three weaknesses are those
# of reading alone, and no number of prompts cures them:
#
# - A head may say something else in every clean prompt, and nobody listens. Reading cannot tell.
# - A head may hardly change its output, in a direction that much depends on. Distances do not know the direction.
# - What is averaged may cancel: what points one way in one prompt, and the other way in the next, is gone. (The paper
#   averages over positions before it looks for codes; ours looks at each position, and compares prompts of one answer
#   among themselves.)

# %% [markdown]
# ## A model whose circuit is known
#
# The first of these can be had pure. saelab has a small transformer whose weights were set by hand: six heads do the
# task, and some others write down, loudly, whether the prompt is a clean one, where nobody reads it.

# %%
from saelab.circuits import METHODS, pairs_of
from saelab.circuits.truth import Truth
from saelab.testing.planted_circuit import PlantedTask, plant

planted = plant(RUNS / "notebooks" / "planted")
small = load(ModelSpec(str(RUNS / "notebooks" / "planted")))
known = pairs_of("planted", PlantedTask(), 60, "train", 0)
circuit = Truth("as it was planted", planted.members())

names = {"exact patching": "patching", "attribution": "attribution"}
names |= {"codes (ours)": "sparse_codes", "mean difference": "mean_difference"}
scores = {label: METHODS[name]()(small, known) for label, name in names.items()}
nb.beside(*(nb.heads(label, one, circuit) for label, one in scores.items()), columns=2)

# %%
decoys = planted.correlated
for label, one in scores.items():
    fooled = sum(head in decoys for head in one.strongest(len(decoys)))
    print(f"{label}: of its {len(decoys)} strongest heads, {fooled} only tell clean prompts from corrupted ones")

# %% [markdown]
# So read codes where a look has to be cheap, or where there is no gradient to be had, and believe a head when an
# intervention says so.
