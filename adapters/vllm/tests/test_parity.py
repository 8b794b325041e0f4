"""The adapter and the plain model take the same decisions through random lives, and a difference is found and shown."""

import logging
import os
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from model import ModelManager  # noqa: E402
from workload import RandomLife, config_of  # noqa: E402

from quartermaster_vllm import KVCacheManager, ParityError, ParityManager  # noqa: E402

# Refused resets are part of the life.
logging.disable(logging.WARNING)

STEPS = int(os.environ.get("QUARTERMASTER_STEPS", "2000"))
# name: blocks, block sizes, sliding windows, hash size, options
CASES = {
    "full attention": (48, [16], [None], 16, {}),
    "full attention, a large pool": (400, [16], [None], 16, {}),
    "full attention with eagle": (48, [16], [None], 16, {"use_eagle": True}),
    "a sliding window": (48, [16], [40], 16, {}),
    "a window of one token": (48, [16], [1], 16, {}),
    "full and window": (90, [16, 16], [None, 40], 16, {}),
    "full and window with eagle": (90, [16, 16], [None, 40], 16, {"use_eagle": True}),
    "full and two windows alike": (120, [16, 16, 16], [None, 33, 33], 16, {}),
    "two windows": (90, [16, 16], [33, 64], 16, {}),
    "two full groups and two windows": (160, [16] * 4, [None, 33, None, 64], 16, {}),
    "full of 32 and window of 16": (80, [32, 16], [None, 40], 16, {}),
    "no caching": (48, [16], [None], 16, {"enable_caching": False}),
    "no caching, full and window": (90, [16, 16], [None, 40], 16, {"enable_caching": False}),
}


def both(blocks, sizes, windows, hash_size, options):
    ours = KVCacheManager(config_of(blocks, sizes, windows), 4096, hash_size, **options)
    return ours, ModelManager(blocks, sizes, windows, hash_size, 4096, **options)


class Parity(unittest.TestCase):
    def test_random_lives_are_the_same(self):
        for number, (name, case) in enumerate(CASES.items()):
            with self.subTest(name):
                ours, model = both(*case)
                manager = ParityManager(ours, model, every=7)
                life = RandomLife(manager, 1000 + number, case[3], eagle=case[4].get("use_eagle", False))
                for _ in range(STEPS):
                    life.step()
                manager.compare()
                ours.block_pool.keyed.validate()
                wanted = {"refused", "drafts", "external", "delayed", "preempted"}
                if case[4].get("enable_caching", True):
                    wanted |= {"hits", "resets"}
                if "large" in name:
                    wanted -= {"refused", "preempted"}
                self.assertEqual({key for key in wanted if life.seen[key] == 0}, set(), life.seen)

    def test_a_difference_stops_at_once_and_says_where(self):
        ours, model = both(*CASES["full attention"])
        # The head of a sequence first: not the order that the rules ask for.
        def free(request):
            for block in model.tables[0].pop(request.request_id, []):
                model.block_pool.release(block)

        model.free = free
        manager = ParityManager(ours, model)
        with self.assertRaises(ParityError) as caught:
            life = RandomLife(manager, 5, 16)
            for _ in range(STEPS):
                life.step()
        self.assertRegex(str(caught.exception), r"call \d+ differs in free list: \[\d+\]: \d+ and \d+")
        self.assertRegex(str(caught.exception), r"\d+\. free\('r\d+: \d+ of \d+ tokens'\)")


if __name__ == "__main__":
    unittest.main()
