"""Language models and text small enough for a unit test, saved as users' own would be."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal

import torch

from saelab.lm.model import quiet_transformers
from saelab.tasks import words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS = """
the a of and in to is was for on with as by that it from at which or an be this are were has
river city king sun moon tree stone bird house north south water light number music train paper
""".split()  # noqa: SIM905  (a list of words reads best as words)


def tiny_model(
    directory: Path, family: Literal["llama", "gpt2"] = "llama", *, words: bool = False, seed: int = 0
) -> Path:
    """Save a random three-layer model of width 32 and its tokenizer into `directory`.

    Args:
        words: a token is a word, a digit or a punctuation mark, spaces or not, and all words of `saelab.tasks` are
            known; else it is a character.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    wrapped = _tokenizer_of_words() if words else _tokenizer_of_characters()
    vocabulary = wrapped.get_vocab()
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
    with quiet_transformers():
        model.save_pretrained(directory)
    wrapped.save_pretrained(directory)
    return directory


_SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}


def _tokenizer_of_characters() -> PreTrainedTokenizerBase:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {text: i for i, text in enumerate([*_SPECIAL.values(), *map(chr, range(32, 127)), "\n"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def _tokenizer_of_words() -> PreTrainedTokenizerBase:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = [chr(i) for i in range(33, 127) if not chr(i).isalpha()]
    known = dict.fromkeys([*_SPECIAL.values(), "<unk>", *marks, *_WORDS, *_words_of_tasks()])
    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(_WORD), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **_SPECIAL)


_WORD = r"[A-Za-z]+|[^A-Za-z]"


def _words_of_tasks() -> list[str]:
    """Of every tuple of texts in `saelab.tasks.words`, in order."""
    modules = [import_module(f"{words.__name__}.{found.name}") for found in iter_modules(words.__path__)]
    texts = [text for module in modules for value in vars(module).values() for text in _texts(value)]
    return [word for text in texts for word in re.findall("[A-Za-z]+", re.sub("{.*?}", " ", text))]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _texts(part)


def tiny_text(file: Path, *, documents: int = 40, words: int = 60, seed: int = 0) -> Path:
    """Write documents of random common words as `.jsonl` with a `text` column."""
    import json

    rng = random.Random(seed)
    texts = [" ".join(rng.choices(_WORDS, k=words)) for _ in range(documents)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return file
