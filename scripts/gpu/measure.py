"""The engine on a GPU beside transformers and PEFT, on random models of real shapes: same logits, and how fast.
`make bench-gpu`.

    measure.py --bench PATH/TO/speed [--device cuda:0] [--shapes qwen2.5-0.5b llama-3.2-3b] [--rows 1 32 128]

`speed` is the bench of the package `influence`, built with the feature `cuda`. The Python needs torch for that GPU,
transformers, tokenizers and peft; no network and no weights: speed does not depend on their values. On the CPU
(`--device cpu --dtype f32 --shapes tiny`) it only tries itself out.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import torch
from peft import LoraConfig, get_peft_model
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
    "llama-3.2-3b": LlamaConfig(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=True,
    ),
    "llama-3-8b": LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False,
    ),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# As in the bench: tokens of the prompt, positions of each row before it is decoded, and steps.
PROMPT, START, STEPS, TRIES = 512, 64, 32, 5
# Of a training step: sequences, and tokens of each.
SEQUENCES, LENGTH = 8, 512
# Tokens of a sampled reply.
REPLY = 64


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
    """What it prints, with the GPU memory that it took at most, in MiB, as `device_mib`."""
    on_device = torch.cuda.is_available()
    if on_device:
        torch.cuda.empty_cache()
    process = subprocess.Popen([bench, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    before = least = torch.cuda.mem_get_info()[0] if on_device else 0
    ended = threading.Event()

    def watch():
        nonlocal least
        while on_device and not ended.wait(0.02):
            least = min(least, torch.cuda.mem_get_info()[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode != 0:
        sys.exit(f"{bench} {' '.join(map(str, arguments))} failed with status {process.returncode}")
    return {**json.loads(output.strip().splitlines()[-1]), "device_mib": (before - least) >> 20}


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
    """The largest difference of the last token's logits from theirs in f32: of ours after a prompt, of ours after a prompt and
    single tokens, of theirs; and the largest of theirs."""
    vocabulary = model.config.vocab_size
    ids = torch.tensor([[token(vocabulary, 0, i) for i in range(200)]], device=model.device)
    theirs = model.float()(ids).logits[0, -1].tolist()
    model.to(DTYPES[dtype])
    there = model(ids).logits[0, -1].tolist()
    place = ["--model", folder, "--device", device, "--dtype", dtype, "--tokens", 200]
    mine = [ours(bench, "logits", *place, "--decoded", decoded)["logits"] for decoded in (0, 100)]
    differ = [max(abs(a - b) for a, b in zip(logits, theirs)) for logits in (*mine, there)]
    return *differ, max(map(abs, theirs))


@torch.no_grad()
def peer_tokens(model, rows):
    """Prompt tokens a second, decoded tokens a second, tokens of sampled replies a second, by transformers."""
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

    def reply(prepared):
        if prepared is not None:
            model.generate(
                starts, attention_mask=torch.ones_like(starts), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                min_new_tokens=REPLY, max_new_tokens=REPLY, pad_token_id=0,
            )
        return True

    return PROMPT / fastest(read), rows * STEPS / fastest(decode), rows * REPLY / fastest(reply)


def peer_training(model, checkpointing, steps=4):
    """Tokens a second of PEFT's fastest step, what it took of the GPU's memory in MiB, and its losses."""
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, use_rslora=True, target_modules=targets)
    peft = get_peft_model(model, config).train()
    vocabulary, place = model.config.vocab_size, {"device": model.device}
    ids = torch.tensor([[token(vocabulary, r, i) for i in range(LENGTH)] for r in range(SEQUENCES)], **place)
    trained = [p for p in peft.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    fastest, losses = float("inf"), []
    for _ in range(steps):
        started = synchronised()
        loss = peft(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        fastest = min(fastest, synchronised() - started)
        losses.append(loss.item())
    peak = torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else 0
    peft.unload()
    model.gradient_checkpointing_disable()
    return SEQUENCES * LENGTH / fastest, peak, losses


def train(arguments, shape, folder, model):
    """Both sides, with the layers run again in the backward pass or with their graphs kept."""
    place = ["--model", folder, "--device", arguments.device, "--dtype", arguments.dtype]
    rows = ["--rows", SEQUENCES, "--length", LENGTH, "--steps", 4]
    for mode in arguments.training:
        mine = ours(arguments.bench, "train", *place, *rows, "--graph-mib", 1 << 20 if mode == "plain" else 0)
        speed, peak, losses = peer_training(model, mode == "checkpointing")
        print(
            f"{shape}, training, {mode}: {mine['tokens_per_s']:.0f} tokens/s in {mine['device_mib']} MiB, "
            f"PEFT {speed:.0f} in {peak}; losses {mine['losses'][0]:.4f} and {losses[0]:.4f} at first, "
            f"{mine['losses'][-1]:.4f} and {losses[-1]:.4f} at last",
            flush=True,
        )


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
    parser.add_argument("--shapes", nargs="+", default=["qwen2.5-0.5b", "llama-3.2-3b"], choices=SHAPES)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 32, 128])
    modes = ["checkpointing", "plain"]
    parser.add_argument("--training", nargs="*", default=modes, choices=modes)
    parser.add_argument("--parity", nargs="*", choices=DTYPES, help="types to compare logits in; f32 and --dtype")
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
    for dtype in dict.fromkeys(["f32", arguments.dtype]) if arguments.parity is None else arguments.parity:
        read, decoded, theirs, highest = logits_differ(model, arguments.bench, folder, arguments.device, dtype)
        print(
            f"{shape}: logits in {dtype} differ by {read:.2e}, decoded by {decoded:.2e}, from transformers' in f32, "
            f"of {highest:.1f}; transformers' by {theirs:.2e}",
            flush=True,
        )
    model.to(DTYPES[arguments.dtype])
    size = DTYPES[arguments.dtype].itemsize
    where = ["--device", arguments.device, "--dtype", arguments.dtype, "--rows", *arguments.rows]
    mine = ours(arguments.bench, "tokens", "--model", folder, *where)
    figures = zip(arguments.rows, mine["decoded_tokens_per_s"], mine["reply_tokens_per_s"], mine["as_alone"])
    for rows, found, replied, as_alone in figures:
        prompt, decoded, replied_there = peer_tokens(model, rows)
        roof = rows * speed / step_bytes(SHAPES[shape], rows, size)
        print(
            f"{shape}, {rows} rows: prompt {mine['prompt_tokens_per_s']:.0f} tokens/s (transformers {prompt:.0f}), "
            f"decoded {found:.0f} (transformers {decoded:.0f}; memory allows {roof:.0f}), "
            f"replies {replied:.0f} (transformers {replied_there:.0f}; {as_alone:.0%} as alone)",
            flush=True,
        )
    train(arguments, shape, folder, model)


main()
