"""The arithmetic that no engine can avoid: each distinct prefix once, each generated token once."""


def operations(work):
    """Floating-point operations of all calls, as {linear, attention, output}, and the number of distinct tokens."""
    shape = work["model"]
    linear = 2 * shape["layers"] * (
        shape["hidden"] * (shape["query_width"] + 2 * shape["kv_width"])
        + shape["query_width"] * shape["hidden"]
        + 3 * shape["hidden"] * shape["intermediate"]
    )
    per_position = 4 * shape["layers"] * shape["query_width"]
    nodes = {}
    attention = outputs = 0
    for batch in work["calls"]:
        for row in batch["rows"]:
            # The last sampled token is never run.
            tokens = row["prompt"] + row["sampled"][:-1]
            outputs += max(1, len(row["sampled"]))
            node = 0
            for depth, token in enumerate(tokens, start=1):
                known = nodes.get((node, token))
                if known is None:
                    known = nodes[(node, token)] = len(nodes) + 1
                    attention += per_position * depth
                node = known
    return {
        "tokens": len(nodes),
        "linear": linear * len(nodes),
        "attention": attention,
        "output": 2 * shape["hidden"] * shape["vocabulary"] * outputs,
    }
