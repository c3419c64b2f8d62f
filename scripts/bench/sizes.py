"""What `tokens` measures, for every peer; cli/benches/speed/tokens.rs has the same."""

PROMPT = 512
ROWS = 32
# Positions of each row before it is decoded, and steps.
START = 64
STEPS = 32
# Of which the fastest counts.
TRIES = 5


def some_ids(vocabulary, seed, count):
    return [1000 + (seed * 7919 + i * 104729) % (vocabulary - 2000) for i in range(count)]


def fastest(work):
    return min(work() for _ in range(TRIES))
