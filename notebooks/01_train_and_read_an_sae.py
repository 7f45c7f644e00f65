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
# # Train an SAE, and read it
#
# A sparse autoencoder takes the activations of a language model apart into *latents*: thousands of directions, of which
# only a few are active on any token. Many turn out to mean something. Here we train a small one, see how good it is,
# read some of its latents, and turn one up and down to see whether the model listens.
#
# The demo model and text come with `saelab assets fetch`. It takes some minutes on two cores, or none if you have run
# `make demo`: its SAE is better, and is used if it is there. For GPT-2, change one line.

# %%
MODEL = "asset:smollm2-135m-instruct"  # or "gpt2"

# %%
from pathlib import Path

from saelab import notebook as nb
from saelab.testing import short

RUNS, TEXT, NAME = Path("../runs"), "asset:wikipedia-sample", "first-" + Path(MODEL.removeprefix("asset:")).name
HOOK, WINDOW, TOKENS, STEPS, LATENTS = "blocks.10.hook_resid_post", 128, 200_000, 800, 4096
WORD, PROMPT, NEUTRAL = "war", "The soldiers came home when the war", "The old man looked at me and said that"

if short.asked():  # tests run these cells on a tiny model
    world = short.words()
    MODEL, TEXT, RUNS, NAME = world.model, world.text, world.runs, "tiny"
    HOOK, WINDOW, TOKENS, STEPS, LATENTS = "blocks.1.hook_resid_post", 32, 1500, 60, 128
    WORD, PROMPT, NEUTRAL = "river", "the house in the city by the river", "the moon is"

# %% [markdown]
# ## One config
#
# Which model, which text, which activations, which SAE, how long. Everything else has a default.
# `saelab config schema` lists all keys; `saelab run FILE` does the same from a terminal.

# %%
from saelab.lm.model import ModelSpec, load

lm = load(ModelSpec(MODEL))

config = f"""
name: {NAME}
runs_dir: {RUNS}
model:
  name: {MODEL}
data:
  dataset: {TEXT}
windows:
  context_length: {WINDOW}
  max_document_tokens: 8000   # a part of many articles
  heldout_frac: 0.12
activations:
  hooks: [{HOOK}]
  tokens: {TOKENS}
  heldout_tokens: {TOKENS // 10}
sae:
  kind: topk
  n_latents: {LATENTS}
  k: 32                       # of them are active on a token
train:
  tokens: {1024 * STEPS}
  batch_tokens: 1024
  lr: 1.5e-3
  warmup_steps: 50
  decay_frac: 0.5
  heldout_every_steps: {STEPS // 20}
eval:
  reconstruction:
  density:
  downstream:
    contexts: 20
"""

# %% [markdown]
# The text goes through the model once and its activations are kept; then the SAE is trained, measured on documents that
# it has not seen, and every latent is looked up in the text. Stop it at any time: the same cell goes on from there.

# %%
place = nb.finished(RUNS / "demo", lm) or nb.make(config, lm)

# %% [markdown]
# ## How it learned
#
# The loss on the left is what is minimised. *FVU*, on the right, is the share of the activations' variance that is not
# reconstructed, on documents that are not trained on: at 1 the SAE knows nothing, at 0 it loses nothing.

# %%
from saelab.evals.report import read
from saelab.evals.report.training import charts_of_one

run = read(place)
curves = {chart.title: nb.chart(chart) for chart in charts_of_one(run)}
nb.beside(curves["Loss"], curves["Held-out FVU in training"])

# %% [markdown]
# ## How good it is
#
# Reconstruction alone says little: what is lost may be what the model needs. So the SAE's output is put in place of the
# activations, and we see how much worse the model predicts the next token (`delta_ce_nats`). With zeros in their place
# it would be far worse: what share of that damage does the SAE undo (`ce_score`)?

# %%
nb.numbers(run, ["fvu", "l0", "delta_ce_nats", "ce_score", "dead_frac"])

# %% [markdown]
# How often does a latent fire? Rare ones, to the left, tend to be specific; one that fires on every third token can
# hardly mean much.

# %%
nb.chart(run.evaluation("density").charts[0])

# %% [markdown]
# ## Reading latents
#
# What does a latent stand for? Look at where it fires. Six of them, not picked: evenly spread from the rarest to the
# densest. Each has the tokens it fires on, those it makes likelier, and its strongest contexts. The deeper the colour,
# the stronger; the outlined token is the strongest.

# %%
nb.latents(run.bundle, nb.spread(run.bundle, 6))

# %% [markdown]
# Or go the other way, from a word to the latent that has most to do with it.

# %%
latent = nb.firing_on(run.bundle, WORD)
nb.latents(run.bundle, [latent])

# %% [markdown]
# And in a sentence of our own:

# %%
from saelab import SAE
from saelab.features.live import Live

live = Live.of(SAE.load(place / "sae"), lm)
nb.reading(live, [PROMPT], [latent])

# %% [markdown]
# ## Does the model listen?
#
# A latent that fires in the right places may still do nothing. So take it out: its value is 0 at every token, and all
# else stays, also what the SAE does not explain. Which next tokens become likelier, and which less?

# %%
from saelab.features.steer import Intervention, Sampling, steered

sampling = Sampling(new_tokens=16, temperature=0)
without = steered(live, PROMPT, [Intervention(latent, "clamp", 0.0)], sampling)
nb.steering(without, 4)

# %% [markdown]
# Now the other way: hold it at twice the highest value it ever had, in a sentence that has nothing to do with it.

# %%
loud = 2 * run.bundle.feature(latent).max
pushed = steered(live, NEUTRAL, [Intervention(latent, "clamp", loud)], sampling)
nb.steering(pushed, 4)

# %% [markdown]
# And this is how the model goes on, taking the likeliest token each time:

# %%
nb.table(
    ["", "the model goes on"],
    [
        [f"{PROMPT} …", without.baseline.text],
        ["… without the latent", without.steered.text],
        [f"{NEUTRAL} …", pushed.baseline.text],
        ["… with the latent held high", pushed.steered.text],
    ],
)

# %%
print(f"without it, the distribution of the next token moves by {without.kl_nats:.2f} nats")
print(f"with it held high, by {pushed.kl_nats:.2f} nats")

# %% [markdown]
# ## From here
#
# `saelab browse runs` shows every latent with search, labels and steering. Notebooks 02 to 04 ask which parts of the
# model do a task, and which latents they use.
