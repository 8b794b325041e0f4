"""
What an operation costs beside the plain Python model of the same rules, and beside vLLM's own manager where vLLM is
importable: python3 adapters/vllm/bench.py [--json] [--quick]

Block 16, keys of 32 bytes (SHA-256, computed before). All take turns; medians of CPU time of this thread.
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
from workload import FullAttentionSpec, Request, config_of  # noqa: E402

from quartermaster_vllm import KVCacheManager  # noqa: E402

SIZE = 16
SUBJECTS = ["quartermaster", "plain Python model"]


def vllm_manager(blocks, longest):
    """vLLM's manager over the same cache, or None where vLLM cannot be imported."""
    try:
        import torch
        from vllm.v1.core.kv_cache_manager import KVCacheManager as Theirs
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    except ImportError:
        return None
    spec = FullAttentionSpec(block_size=SIZE, num_kv_heads=1, head_size=1, dtype=torch.float16)
    config = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    return Theirs(config, max_model_len=longest, hash_block_size=SIZE)


def managers(blocks):
    longest = blocks * SIZE
    made = [
        KVCacheManager(config_of(blocks, [SIZE], [None]), longest, SIZE),
        ModelManager(blocks, [FullAttentionSpec(SIZE)], SIZE, longest),
    ]
    theirs = vllm_manager(blocks, longest)
    if theirs is not None:
        made.append(theirs)
        if len(SUBJECTS) < len(made):
            SUBJECTS.append("vLLM")
    return made


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
    with watches["match, nothing cached"]:
        manager.get_computed_blocks(cold)
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
    every = managers(4 * blocks + 1024)
    names = ("match", "match, nothing cached", "allocate behind the hit", "allocate, nothing cached", "free")
    watches = [{name: Stopwatch() for name in names} for _ in every]
    for round_number in range(rounds):
        for manager, watch in zip(every, watches):
            one_request(manager, blocks, watch, round_number)
    for name in names:
        yield f"{name}, {blocks} blocks", "us", [watch[name].samples for watch in watches]


def decode(running, rounds):
    """One token for each of `running` requests of 64 blocks: a sixteenth of them need a block and cache one."""
    every = managers(running * 80)
    lists, watches = [], [Stopwatch() for _ in every]
    for manager in every:
        live = [Request(f"r{i}", range(i, i + 64 * SIZE + i % SIZE), SIZE) for i in range(running)]
        for request in live:
            manager.allocate_slots(request, request.num_tokens)
            request.num_computed_tokens = request.num_tokens
        lists.append(live)
    for _ in range(rounds):
        for manager, live, watch in zip(every, lists, watches):
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
    sizes = (64,) if given.quick else (4, 64, 512, 4096)
    results = [line for blocks in sizes for line in requests(blocks, rounds)]
    results += decode(64 if given.quick else 1024, rounds)
    for case, unit, samples in results:
        ours, *peers = (statistics.median(of_one) for of_one in samples)
        if not given.json:
            beside = "".join(f"  {name} {peer:9.2f} ({peer / ours:.1f}x)" for name, peer in zip(SUBJECTS[1:], peers))
            print(f"{case:40} {ours:9.2f} {unit}{beside}")
            continue
        for subject, value in zip(SUBJECTS, (ours, *peers)):
            record = {"bench": "vllm-adapter", "case": case, "subject": subject, "metric": "median"}
            print(json.dumps({**record, "value": value, "unit": unit}))
        for name, peer in zip(SUBJECTS[1:], peers):
            record = {"bench": "vllm-adapter", "case": case, "subject": SUBJECTS[0], "versus": name}
            print(json.dumps({**record, "metric": "speedup", "value": peer / ours}))


if __name__ == "__main__":
    main()
