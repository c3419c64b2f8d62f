"""Clients that others wrote, against a running `influence serve`: OpenAI's, and plain HTTP. `make test-clients` calls it.

    openai_client.py --influence target/debug/influence --model MODEL.gguf

The Python that runs it needs what `requirements.txt` lists.
"""

import argparse
import json
import math
import os
import re
import signal
import subprocess

import httpx
import openai

TOKEN = "correct-horse-battery-staple"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name the colour of the sky."}]


class Server:
    """`influence serve` on a free port."""

    def __init__(self, influence, model):
        command = [influence, "serve", "--model", f"smol={model}", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "INFLUENCE_SERVE_TOKEN": TOKEN}
        )
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"serving .* at (http://\S+)/v1;", line):
                self.url = found[1]
                return
        raise SystemExit(f"it does not serve: {''.join(said)}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=20)


def chat(client):
    reply = client.chat.completions.create(model="smol", messages=CHAT, max_tokens=24, temperature=0.8, seed=7)
    again = client.chat.completions.create(model="smol", messages=CHAT, max_tokens=24, temperature=0.8, seed=7)
    choice = reply.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert again.choices[0].message.content == choice.message.content, "the same seed gave another text"
    return f"{choice.message.content!r}, {reply.usage.prompt_tokens} + {reply.usage.completion_tokens} tokens"


def several(client):
    reply = client.chat.completions.create(model="smol", messages=CHAT, max_tokens=16, n=4, seed=7)
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3] and len(set(texts)) > 1
    return f"{len(set(texts))} different replies of {len(texts)}"


def stream(client):
    asked = dict(model="smol", messages=CHAT, max_tokens=40, temperature=0.8, seed=7)
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, (text, whole.choices[0].message.content)
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    return f"{len(chunks)} chunks, the same text as in one piece"


def characters(client):
    asked = [{"role": "user", "content": "Repeat exactly: 🙂🙃 grüße 東京"}]
    pieces = []
    for chunk in client.chat.completions.create(model="smol", messages=asked, max_tokens=40, temperature=0, stream=True):
        pieces.append(chunk.choices[0].delta.content or "")
    assert any(ord(letter) > 127 for letter in "".join(pieces)), pieces
    assert "\ufffd" not in "".join(pieces[:-1]), pieces
    return repr("".join(pieces))


def stop(client):
    asked = dict(model="smol", messages=CHAT, max_tokens=40, temperature=0)
    text = client.chat.completions.create(**asked).choices[0].message.content
    end = text[len(text) // 2 :][:4]
    choice = client.chat.completions.create(**asked, stop=[end]).choices[0]
    pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**asked, stop=[end], stream=True)]
    assert choice.message.content == text[: text.index(end)] == "".join(pieces) and choice.finish_reason == "stop"
    return f"ended before {end!r}"


def logprobs(client):
    asked = dict(model="smol", messages=CHAT, max_tokens=12, temperature=0, logprobs=True, top_logprobs=20)
    choice = client.chat.completions.create(**asked).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        top = [other.logprob for other in token.top_logprobs]
        assert len(top) == 20 and top == sorted(top, reverse=True) and top[0] == token.logprob
        assert sum(map(math.exp, top)) <= 1.0001
    streamed = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert streamed == tokens
    return ", ".join(f"{token.token!r} {math.exp(token.logprob):.3f}" for token in tokens[:4])


def models(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == ["smol"] and client.models.retrieve("smol") == listed[0]
    return listed[0].id


def errors(client):
    def refused(kind, **more):
        try:
            client.chat.completions.create(**{"model": "smol", "messages": CHAT, "max_tokens": 4, **more})
        except kind as error:
            return error
        raise AssertionError(f"{more} was accepted")

    assert refused(openai.NotFoundError, model="gpt-4o").code == "model_not_found"
    assert refused(openai.BadRequestError, temperature=-1).param == "temperature"
    assert refused(openai.BadRequestError, tools=[{"type": "function", "function": {"name": "f"}}]).param == "tools"
    long = refused(openai.BadRequestError, messages=[{"role": "user", "content": "long " * 20_000}])
    assert long.code == "context_length_exceeded"
    assert refused(openai.BadRequestError, messages=[{"role": "user", "content": "long " * 20_000}], stream=True)
    stranger = client.with_options(api_key="somebody-else")
    try:
        stranger.models.list()
        raise AssertionError("a stranger was let in")
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"
    return str(long)


def score(url):
    asked = {"model": "smol", "messages": CHAT, "answers": ["blue", "green"]}
    reply = httpx.post(f"{url}/v1/score", json=asked, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert abs(sum(answer["probability"] for answer in found["answers"]) - 1) < 1e-9 and 0 < found["mass"] <= 1
    return json.dumps(found["answers"]) + f", mass {found['mass']:.4f}"


def score_is_the_commands(url, influence, model):
    asked = {"model": "smol", "messages": CHAT, "answers": ["1", "2", "10"]}
    reply = httpx.post(f"{url}/v1/score", json=asked, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60).json()
    command = [influence, "model", "score", "--model", model, "--messages", "-", "--answers", "1,2,10", "--json"]
    printed = json.loads(subprocess.run(command, input=json.dumps(CHAT), capture_output=True, text=True, check=True).stdout)
    assert {answer["answer"]: answer["probability"] for answer in reply["answers"]} == printed["answers"]
    assert reply["mass"] == printed["mass"] and reply["usage"]["prompt_tokens"] == printed["prompt_tokens"]
    return "equal in every bit"


def gone(client):
    with client.chat.completions.create(model="smol", messages=CHAT, max_tokens=2000, stream=True) as running:
        next(iter(running))
    reply = client.chat.completions.create(model="smol", messages=CHAT, max_tokens=2, timeout=30)
    return f"a client that went away holds up nobody: {reply.usage.completion_tokens} tokens"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--influence", required=True, help="the binary")
    parser.add_argument("--model", required=True, help="a .gguf file or a folder of safetensors")
    arguments = parser.parse_args()
    print(f"openai {openai.__version__}, httpx {httpx.__version__}")
    with Server(arguments.influence, arguments.model) as server:
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0, timeout=120)
        for check in [models, chat, several, stream, characters, stop, logprobs, errors, gone]:
            print(f"ok  {check.__name__}: {check(client)}", flush=True)
        print(f"ok  score: {score(server.url)}")
        print(f"ok  score: {score_is_the_commands(server.url, arguments.influence, arguments.model)}")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        print("ok  it ends when asked")


if __name__ == "__main__":
    main()
