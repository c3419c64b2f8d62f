"""Writes reference token ids for a byte-level BPE tokenizer inside a GGUF file.

An independent reading of the format, in plain Python: the words are cut by the two rules of the `smollm` pre-tokenizer
(single digits, then GPT-2's pattern), then merged by rank. Usage: python tokens.py MODEL.gguf > smollm2_tokens.json
(needs the packages `gguf` and `regex`).
"""

import json
import sys

import regex
from gguf import GGUFReader

WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
TEXTS = [
    "The capital of France is Paris.",
    "In 2024, 1,234,567 people paid $3.50 (or 12%).",
    "  leading, trailing  and   inner   spaces   ",
    "line\nbreaks\n\nand\ttabs\r\n",
    "I'll say it's what we've done; they'd DON'T",
    "¿Qué hora es? Straße, naïve, Ελληνικά, 日本語, ひらがな",
    "emoji 😀👩‍👩‍👧 and ½ ² ٣ Ⅷ",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "def f(x):\n    return x**2  # squared\n",
    "The answer is: ",
    " yes Yes YES 10 7",
    "",
    "\n",
    "a<|endoftext|> b <|im_end|>\n\n\nc",
    "http://example.org/?q=a+b&c=%20#frag",
]


def byte_letters():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + extra)
            extra += 1
    return letters


def words(text):
    piece = ""
    for letter in text:
        if regex.match(r"\p{N}", letter):
            yield from WORDS.findall(piece)
            yield letter
            piece = ""
        else:
            piece += letter
    yield from WORDS.findall(piece)


def merge(parts, ranks):
    while len(parts) > 1:
        ranked = [(ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:]))]
        rank, at = min(ranked)
        if rank == 1 << 30:
            break
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
    return parts


def main(path):
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids = {token: i for i, token in enumerate(tokens)}
    control = [token for token, kind in zip(tokens, kinds) if kind == 3]
    cut = regex.compile("(" + "|".join(map(regex.escape, control)) + ")")
    letters = byte_letters()

    def encode(text):
        out = []
        for piece in cut.split(text):
            if piece in control:
                out.append(ids[piece])
                continue
            for word in words(piece):
                parts = [letters[byte] for byte in word.encode()]
                out.extend(ids[part] for part in merge(parts, ranks))
        return out

    cases = [json.dumps([text, encode(text)], ensure_ascii=False) for text in TEXTS]
    print("[\n" + ",\n".join(cases) + "\n]")


main(sys.argv[1])
