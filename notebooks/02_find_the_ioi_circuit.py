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
# # Find the IOI circuit
#
# *When Mary and John went to the store, John gave the book to* … Mary. A language model that goes on like this has to
# notice which of the two names came only once, and to bring it to the end of the sentence. Wang et al.
# ([2022](https://arxiv.org/abs/2211.00593)) took GPT-2 small apart to see how it does that, and found two dozen
# attention heads that hand the names to each other.
#
# Here we look for such heads in a small model, in some minutes: first the exact and slow way, then by methods that
# guess. Then we ask what the circuit that we have found is worth.
#
# The demo model comes with `saelab assets fetch`. For GPT-2, change one line.

# %%
MODEL = "asset:smollm2-135m-instruct"  # or "gpt2"

# %%
from saelab import notebook as nb
from saelab.testing import short

TASK, FEW, MANY = "ioi", 16, 32  # pairs of prompts: for what is slow, for all else
RANDOM, SETS = 5, 20  # random circuits, and sets of heads, to compare with

if short.asked():  # tests run these cells on a tiny model whose circuit is known
    world = short.planted()
    MODEL, TASK, FEW, MANY, RANDOM, SETS = world.model, world.task, 4, 8, 2, 3

# %% [markdown]
# ## The task
#
# Each prompt has a partner. It is just as long and asks for the same word, but the names in it are others, so that
# nothing in it points to the answer. Whatever the model knows about the answer has to be in the difference of the two.

# %%
from saelab.circuits import competence, draw
from saelab.lm.model import ModelSpec, load

lm = load(ModelSpec(MODEL))
pairs = draw(TASK, MANY, "train", seed=0, lm=lm)
nb.prompts(lm, pairs)

# %% [markdown]
# Can the model do it at all? Its *score* is by how much it prefers right answers to wrong ones, in logits. A model that
# fails would be refused here, since there is no circuit to find.

# %%
known = competence(lm, pairs)
print(f"right on {known.accuracy:.0%} of the prompts")
print(f"score {known.clean:.2f} on clean prompts, {known.corrupted:.2f} on corrupted ones")

# %% [markdown]
# ## The exact way
#
# Take one head. Run the model on the clean prompt, but let this one head carry what it carries in the corrupted prompt,
# and let everything behind it follow. How much of the score is gone? That is *activation patching*. There is nothing
# approximate about it, and it costs a run of the model for every head.
#
# These prompts have sentences that no other method will see: we want to hold the others against what is found here.

# %%
from saelab.circuits import CUT_OFF, METHODS, by_patching

few = draw(TASK, FEW, "test", seed=1, lm=lm)
exact = METHODS["patching"]()(lm, few, nb.progress("exact patching"))
truth = by_patching(exact, competence(lm, few).effect)[CUT_OFF]

named = ", ".join(f"{layer}.{head}" for layer, head in exact.strongest(6))
size = int(truth.members.sum())
print(f"of {truth.members.numel()} heads, {size} move the score by {CUT_OFF:.0%} or more; the strongest are {named}")

# %% [markdown]
# Those are our circuit. (The 2 % were chosen before anything was measured.) In the picture each cell is a head, and the
# circuit is framed. Orange: without what this head knows the score falls. Blue: it *rises*. Where there are such
# negative heads, they are part of the circuit as well. They argue against the answer, and the others outvote them.

# %%
nb.heads("Score lost where a head is patched", exact, truth)

# %% [markdown]
# ## A guess from one gradient
#
# *Attribution patching* asks the same question to first order: how much does the head's output differ, times how much
# the score would move with it. Two runs and one run backwards, for all heads at once.

# %%
attribution = METHODS["attribution"]()(lm, pairs, nb.progress("attribution"))

spent = [scores.cost.seconds / len(scores.samples) for scores in (exact, attribution)]
print(f"{spent[0]:.2f} s for a pair of prompts by exact patching, {spent[1]:.2f} s by attribution")

# %%
nb.beside(nb.heads("Exact patching", exact, truth), nb.heads("Attribution patching", attribution, truth))

# %% [markdown]
# ## Other guesses
#
# *EAP* does the same for every edge, from what one head writes to what another one reads. The *mean difference* and
# *discrete codes* (which SAE latents are active in a head's output) never touch the model: they compare what heads say
# in clean and in corrupted prompts. A head can look very different there and do nothing for the answer.
#
# How well does each rank the circuit's heads before all others? The ROC curve goes down each list. It counts what part
# of the circuit was met, against what part of the other heads. The earlier it rises, the better; the diagonal is luck.

# %%
from saelab.circuits import gather, published

methods = {"attribution": attribution}
others = {"EAP": "eap", "mean difference": "mean_difference", "discrete codes": "sparse_codes", "random": "random"}
for label, name in others.items():
    methods[label] = METHODS[name]()(lm, pairs, nb.progress(label))

truths = {f"{CUT_OFF:g}": truth} | {paper.source: paper for paper in published(lm, TASK)}
found = gather(lm, TASK, known, truths, methods)
nb.rocs(found)

# %%
nb.methods(found)

# %%
best = found.rows[0]
print(f"{best.label} comes first, with an AUC of {best.auc[f'{CUT_OFF:g}'].mean:.3f} (1 is perfect, 0.5 is luck)")

# %% [markdown]
# ## Is it enough?
#
# A list of heads explains the task if they can do it alone. So we keep the strongest heads by attribution, more and
# more of them, and give all others their corrupted output. 1 is the whole model, 0 the model with every head
# corrupted. What is left when just these heads are taken *away* should go the other way. Random heads are the
# comparison.
#
# All of this is measured on prompts that were not used before.

# %%
from saelab.circuits import Circuits, curve, order_of, random_orders

fresh = draw(TASK, MANY, "test", seed=2, lm=lm)
circuits = Circuits(lm, fresh, ablation="corrupted")
kept = curve(circuits, order_of(attribution), report=nb.progress("circuits by attribution"))
orders = random_orders(tuple(truth.members.shape), RANDOM, seed=0)
random = [curve(circuits, order, complement=False, rounds=0) for order in orders]

# %%
found = gather(
    lm, TASK, known, truths, methods, curves={"attribution": kept}, random=random, circuit=("EAP", min(size, 16))
)
nb.kept(found)

# %%
for heads, share in dict(zip(kept.sizes, kept.faithfulness)).items():
    print(f"{heads:>4} of {truth.members.numel()} heads: {share:>4.0%} of the effect")

# %% [markdown]
# More than all, and less than nothing, are possible: without negative heads the task is done better than by the whole
# model, and with nothing but them the wrong answer wins.

# %% [markdown]
# ## The circuit
#
# EAP knows which head speaks to which, so its circuit can be drawn. From the words at the bottom to the answer on top;
# thick frames are heads that exact patching found, too. Orange connections help, dashed blue ones hurt.

# %%
nb.drawn(found)

# %% [markdown]
# ## Heads that work together
#
# Heads can stand in for each other, and then patching one at a time says too little. Last test: take the five whose
# patching loses most, corrupt them together, and do the same with sets of five others that are like them, in layers
# nearby and writing about as much.

# %%
from saelab.circuits import ablate_together
from saelab.circuits.together import output_norms

helpful = [head for head in exact.strongest() if exact.heads[head] > 0][:5]
five = ablate_together(circuits, helpful, output_norms(lm, fresh), SETS, seed=0)
found = gather(lm, TASK, known, truths, methods, together=five)
nb.together(found)

# %%
whole = competence(lm, fresh)
worse, mean = sum(loss >= five.loss for loss in five.matched), sum(five.matched) / len(five.matched)
print(f"together they cost {five.loss:.2f} of a score of {whole.clean:.2f}")
print(f"{worse} of {len(five.matched)} matched sets cost as much; the mean of these is {mean:.2f}")

# %% [markdown]
# ## From here
#
# `saelab circuit circuits/ioi` runs every method with five seeds on more prompts, and writes a page with all of this.
# Notebook 03 does two other tasks, 04 looks for the SAE latents in this circuit.
