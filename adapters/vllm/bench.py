"""
What an operation costs beside the plain Python model of the same rules: python3 adapters/vllm/bench.py [--json] [--quick]

Block 16, keys of 32 bytes (SHA-256, computed before). Both take turns; medians of CPU time of this thread.
"""

import argparse
import gc
import json
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "tests")]

from model import ModelManager  # noqa: E402
from workload import Request, config_of  # noqa: E402

from quartermaster_vllm import KVCacheManager  # noqa: E402

SIZE = 16
SUBJECTS = ("quartermaster", "plain Python model")


def managers(blocks):
    longest = blocks * SIZE
    return KVCacheManager(config_of(blocks, [SIZE], [None]), longest, SIZE), ModelManager(
        blocks, [SIZE], [None], SIZE, longest
    )


class Stopwatch:
    def __init__(self):
        self.samples = []

    def __enter__(self):
        gc.disable()
        self._start = time.thread_time_ns()

    def __exit__(self, *_):
        self.samples.append((time.thread_time_ns() - self._start) / 1000)
        gc.enable()


def prompt(request_id, blocks, first=0):
    return Request(request_id, range(first, first + blocks * SIZE + 1), SIZE)


def one_request(manager, blocks, watches, round_number):
    """A prompt of `blocks` blocks: cold, freed, hit, allocated behind the hit, freed; its ids read as a scheduler does."""
    cold = prompt("cold", blocks, (round_number + 1) * 10_000_000)
    with watches["allocate, nothing cached"]:
        manager.allocate_slots(cold, cold.num_tokens).get_block_ids()
    with watches["free"]:
        manager.free(cold)
    warm = Request("warm", cold.all_token_ids, SIZE)
    with watches["match"]:
        found, length = manager.get_computed_blocks(warm)
    assert length == blocks * SIZE, (length, blocks)
    with watches["allocate behind the hit"]:
        manager.allocate_slots(warm, 1, length, found).get_block_ids()
    manager.free(warm)


def requests(blocks, rounds):
    both = managers(4 * blocks + 1024)
    names = ("match", "allocate behind the hit", "allocate, nothing cached", "free")
    watches = [{name: Stopwatch() for name in names} for _ in both]
    for round_number in range(rounds):
        for manager, watch in zip(both, watches):
            one_request(manager, blocks, watch, round_number)
    for name in names:
        yield f"{name}, {blocks} blocks", "us", [watch[name].samples for watch in watches]


def decode(running, rounds):
    """One token for each of `running` requests of 64 blocks: a sixteenth of them need a block and cache one."""
    both = managers(running * 80)
    lists, watches = [], [Stopwatch() for _ in both]
    for manager in both:
        live = [Request(f"r{i}", range(i, i + 64 * SIZE + i % SIZE), SIZE) for i in range(running)]
        for request in live:
            manager.allocate_slots(request, request.num_tokens)
            request.num_computed_tokens = request.num_tokens
        lists.append(live)
    for _ in range(rounds):
        for manager, live, watch in zip(both, lists, watches):
            for request in live:
                request.append([7])
            with watch:
                for request in live:
                    manager.allocate_slots(request, 1)
            for request in live:
                request.num_computed_tokens += 1
    yield f"decode, {running} running, a request", "us", [[s / running for s in w.samples] for w in watches]


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    options.add_argument("--quick", action="store_true")
    given = options.parse_args()
    rounds = 5 if given.quick else 41
    sizes = (64,) if given.quick else (64, 512, 4096)
    results = [line for blocks in sizes for line in requests(blocks, rounds)]
    results += decode(64 if given.quick else 1024, rounds)
    for case, unit, samples in results:
        ours, model = (statistics.median(of_one) for of_one in samples)
        if given.json:
            for subject, value in zip(SUBJECTS, (ours, model)):
                record = {"bench": "vllm-adapter", "case": case, "subject": subject, "metric": "median"}
                print(json.dumps({**record, "value": value, "unit": unit}))
            record = {"bench": "vllm-adapter", "case": case, "subject": SUBJECTS[0], "versus": SUBJECTS[1]}
            print(json.dumps({**record, "metric": "speedup", "value": model / ours}))
        else:
            print(f"{case:42} {ours:10.2f} {unit}  {SUBJECTS[1]} {model:10.2f} {unit}  {model / ours:6.1f}x")


if __name__ == "__main__":
    main()
