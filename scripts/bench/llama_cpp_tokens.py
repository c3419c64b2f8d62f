"""llama.cpp's side: reading a prompt and decoding rows of one GGUF file, in its own precision.

    llama_cpp_tokens.py MODEL.gguf

Prints one JSON object.
"""

import json
import os
import resource
import sys
import time

import llama_cpp

from sizes import PROMPT, ROWS, START, STEPS, fastest, some_ids


# Kept for as long as the library may call it.
SILENT = llama_cpp.llama_log_callback(lambda *_: None)


class Decoder:
    def __init__(self, path):
        llama_cpp.llama_log_set(SILENT, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(PROMPT, ROWS * (START + STEPS))
        params.n_batch = params.n_ubatch = PROMPT
        params.n_seq_max = ROWS
        # One row may then use the whole context.
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(PROMPT, 0, 1)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def step(self, tokens):
        """`tokens`: (id, position, sequence, wants logits)."""
        self.batch.n_tokens = len(tokens)
        for at, (token, position, sequence, logits) in enumerate(tokens):
            self.batch.token[at] = token
            self.batch.pos[at] = position
            self.batch.n_seq_id[at] = 1
            self.batch.seq_id[at][0] = sequence
            self.batch.logits[at] = logits
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")

    def prompt(self, sequence, count):
        ids = some_ids(self.vocabulary, sequence, count)
        self.step([(token, at, sequence, at + 1 == count) for at, token in enumerate(ids)])

    def read(self):
        self.clear()
        started = time.perf_counter()
        self.prompt(0, PROMPT)
        return time.perf_counter() - started

    def decode(self):
        self.clear()
        for row in range(ROWS):
            self.prompt(row, START)
        started = time.perf_counter()
        for at in range(STEPS):
            self.step([(some_ids(self.vocabulary, row + at, 1)[0], START + at, row, True) for row in range(ROWS)])
        return time.perf_counter() - started


def main():
    decoder = Decoder(sys.argv[1])
    print(json.dumps({
        "prompt_tokens_per_s": PROMPT / fastest(decoder.read),
        "decoded_tokens_per_s": ROWS * STEPS / fastest(decoder.decode),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))


if __name__ == "__main__":
    main()
