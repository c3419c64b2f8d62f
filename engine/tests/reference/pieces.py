"""Writes small SentencePiece tokenizers and what they make of some texts, with and without a space put before them.

Trained on the repository's own documents. Usage: python pieces.py DOCUMENT... > pieces.json (needs `sentencepiece`).
"""

import io
import json
import sys

import sentencepiece

TEXTS = [
    "The worker asks the model.",
    " two leading  and inner   spaces ",
    "line\nbreaks\n\nand\ttabs",
    "10 or 7, 1,234 and 3.50",
    "Straße, naïve, 日本語, 😀",
    "▁ is a letter here",
    "",
    " ",
]


def tokenizer(documents, space_first):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents),
        model_writer=written,
        model_type="bpe",
        vocab_size=450,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=space_first,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    ids = range(model.get_piece_size())

    # As GGUF numbers them.
    def kind(i):
        tests = [model.is_unknown, model.is_control, model.is_byte]
        return next((k for k, test in zip([2, 3, 6], tests) if test(i)), 1)

    return {
        "add_space_prefix": space_first,
        "tokens": [model.id_to_piece(i) for i in ids],
        "scores": [model.get_score(i) for i in ids],
        "token_type": [kind(i) for i in ids],
        "texts": [{"text": text, "ids": model.encode(text), "decoded": model.decode(model.encode(text))} for text in TEXTS],
    }


documents = [line for path in sys.argv[1:] for line in open(path, encoding="utf-8").read().split("\n") if line.strip()]
json.dump([tokenizer(documents, space_first) for space_first in (True, False)], sys.stdout, ensure_ascii=False)
print()
