"""A SmolLM2 GGUF file as an ordinary model directory, dequantised to bf16.

Imported only where such a file is converted: it needs torch, transformers and gguf.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import Digits
from tokenizers.pre_tokenizers import Sequence as Steps
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging


def convert(sources: Sequence[Path], target: Path) -> None:
    """Write the model and tokenizer of the only source, a GGUF file, as `save_pretrained` does.

    Takes some 15 seconds: transformers walks through the file's vocabulary three times.
    """
    [source] = sources
    with _quietly():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        # The file says `pre: smollm`, which splits digits off before anything else; transformers overlooks it.
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = Steps([Digits(individual_digits=True), backend.pre_tokenizer])
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # not all of the progress bars have a switch
            yield
    finally:
        logging.set_verbosity(verbosity)
