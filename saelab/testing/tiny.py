"""Language models and text small enough for a unit test, saved as users' own would be."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

import torch

_WORDS = """
the a of and in to is was for on with as by that it from at which or an be this are were has
river city king sun moon tree stone bird house north south water light number music train paper
""".split()  # noqa: SIM905  (a list of words reads best as words)


def tiny_model(directory: Path, family: Literal["llama", "gpt2"] = "llama", *, seed: int = 0) -> Path:
    """Save a random three-layer model of width 32 and a character tokenizer into `directory`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<bos>", "<eos>", "<pad>"]
    vocabulary = {text: i for i, text in enumerate([*special, *map(chr, range(32, 127)), "\n"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    sizes: dict[str, Any] = {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(seed)
    model = (
        LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                **sizes,
            )
        )
        if family == "llama"
        else GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **sizes))
    )
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    wrapped.save_pretrained(directory)
    return directory


def tiny_text(file: Path, *, documents: int = 40, words: int = 60, seed: int = 0) -> Path:
    """Write documents of random common words as `.jsonl` with a `text` column."""
    import json

    rng = random.Random(seed)
    texts = [" ".join(rng.choices(_WORDS, k=words)) for _ in range(documents)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return file
