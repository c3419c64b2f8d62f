"""The engine on a GPU beside transformers, on random models of real shapes: same logits, and how fast. `make bench-gpu`.

    measure.py --bench PATH/TO/speed [--device cuda:0] [--shapes qwen2.5-0.5b llama-3-8b] [--rows 1 32 128]

`speed` is the bench of the package `influence`, built with the feature `cuda`. The Python needs torch for that GPU,
transformers and tokenizers; no network and no weights: speed does not depend on their values. On the CPU
(`--device cpu --dtype f32 --shapes tiny`) it only tries itself out.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, Qwen2Config

SHAPES = {
    "tiny": LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=4096, max_position_embeddings=1024, tie_word_embeddings=True,
    ),
    "smollm2-135m": LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, max_position_embeddings=8192, rope_theta=100000.0, tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        vocab_size=151936, max_position_embeddings=32768, rope_theta=1000000.0, tie_word_embeddings=True,
        use_sliding_window=False,
    ),
    "llama-3-8b": LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False,
    ),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# As in the bench: tokens of the prompt, positions of each row before it is decoded, and steps.
PROMPT, START, STEPS, TRIES = 512, 64, 32, 5


def random_model(name, device, folder):
    """A random model of this shape, in bf16, in a folder that both sides read."""
    torch.manual_seed(7)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(SHAPES[name], dtype=torch.bfloat16)
    # Larger than the usual beginning of a training, so that logits differ from each other.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 1.5 / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder, max_shard_size="2GB")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(specials + alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    template += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    config = {"chat_template": template, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return model


def token(vocabulary, seed, at):
    """As the bench has them."""
    return 1000 + (seed * 7919 + at * 104729) % (vocabulary - 2000)


def ours(bench, *arguments):
    result = subprocess.run([bench, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{bench} {' '.join(map(str, arguments))} failed with status {result.returncode}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def synchronised():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def fastest(work):
    times = []
    for _ in range(TRIES):
        prepared = work(None)
        started = synchronised()
        work(prepared)
        times.append(synchronised() - started)
    return min(times)


@torch.no_grad()
def logits_differ(model, bench, folder, device, dtype):
    """The largest difference of the last token's logits, and the largest of theirs in f32."""
    vocabulary = model.config.vocab_size
    ids = torch.tensor([[token(vocabulary, 0, i) for i in range(200)]], device=model.device)
    theirs = model.float()(ids).logits[0, -1].tolist()
    model.to(DTYPES[dtype])
    mine = ours(bench, "logits", "--model", folder, "--device", device, "--dtype", dtype, "--tokens", 200)["logits"]
    return max(abs(a - b) for a, b in zip(mine, theirs)), max(map(abs, theirs))


@torch.no_grad()
def peer_tokens(model, rows):
    """Prompt tokens a second, decoded tokens a second, by transformers."""
    vocabulary, place = model.config.vocab_size, {"device": model.device}
    prompt = torch.tensor([[token(vocabulary, 0, i) for i in range(PROMPT)]], **place)

    def read(prepared):
        if prepared is not None:
            model(prompt, logits_to_keep=1)
        return True

    starts = torch.tensor([[token(vocabulary, r, i) for i in range(START)] for r in range(rows)], **place)

    def decode(cache):
        if cache is None:
            cache = DynamicCache()
            model(starts, past_key_values=cache, logits_to_keep=1)
            return cache
        for at in range(STEPS):
            ids = torch.tensor([[token(vocabulary, r + at, 0)] for r in range(rows)], **place)
            model(ids, past_key_values=cache)
        return None

    return PROMPT / fastest(read), rows * STEPS / fastest(decode)


def bandwidth(device):
    """Bytes a second that a copy reads and writes together."""
    count = 1 << 30 if device.startswith("cuda") else 1 << 27
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / fastest(lambda prepared: target.copy_(source) if prepared is not None else True)


def step_bytes(config, rows, size):
    """What a decoding step must read: every weight once, and each row's keys and values, half way through."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv = config.num_key_value_heads * head
    attention = 2 * config.hidden_size * config.num_attention_heads * head + 2 * config.hidden_size * kv
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    weights = config.num_hidden_layers * layer + config.vocab_size * config.hidden_size
    return size * (weights + rows * config.num_hidden_layers * 2 * kv * (START + STEPS // 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, type=pathlib.Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--shapes", nargs="+", default=["qwen2.5-0.5b", "llama-3-8b"], choices=SHAPES)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 32, 128])
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "the CPU"
    speed = bandwidth(arguments.device)
    print(f"{name}, {arguments.dtype}: a copy moves {speed / 1e9:.0f} GB/s", flush=True)
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as folder:
            measure(arguments, shape, pathlib.Path(folder), speed)


def measure(arguments, shape, folder, speed):
    model = random_model(shape, arguments.device, folder).eval()
    for dtype in dict.fromkeys(["f32", arguments.dtype]):
        differ, highest = logits_differ(model, arguments.bench, folder, arguments.device, dtype)
        print(f"{shape}: logits in {dtype} differ by {differ:.2e} from transformers' in f32, of {highest:.1f}", flush=True)
    size = DTYPES[arguments.dtype].itemsize
    for rows in arguments.rows:
        where = ["--device", arguments.device, "--dtype", arguments.dtype, "--rows", rows]
        mine = ours(arguments.bench, "tokens", "--model", folder, *where)
        prompt, decoded = peer_tokens(model, rows)
        roof = rows * speed / step_bytes(SHAPES[shape], rows, size)
        print(
            f"{shape}, {rows} rows: prompt {mine['prompt_tokens_per_s']:.0f} tokens/s (transformers {prompt:.0f}), "
            f"decoded {mine['decoded_tokens_per_s']:.0f} (transformers {decoded:.0f}; memory allows {roof:.0f})",
            flush=True,
        )


main()
