"""What callers rely on in a BlockPool and its blocks, rule by rule."""

import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from workload import Request, Status, config_of  # noqa: E402

from quartermaster_vllm import BlockPool, KVCacheManager  # noqa: E402


def ids(blocks):
    return [block.block_id for block in blocks]


def cached(pool, count, request=None):
    """`count` blocks, cached as the start of a request."""
    request = request or Request("r", range(count * 4), 4)
    blocks = pool.get_new_blocks(count)
    pool.cache_full_blocks(request, blocks, 0, count, 4, 0)
    return request, blocks


class Rules(unittest.TestCase):
    def setUp(self):
        self.pool = BlockPool(9, True, 4)

    def free_ids(self):
        return ids(self.pool.free_block_queue.get_all_free_blocks())

    def test_new_blocks_come_in_id_order_and_never_the_null_block(self):
        self.assertEqual(ids(self.pool.get_new_blocks(8)), [1, 2, 3, 4, 5, 6, 7, 8])
        self.assertRaises(ValueError, self.pool.get_new_blocks, 1)
        self.assertTrue(self.pool.null_block.is_null)
        self.assertEqual(self.pool.null_block.ref_cnt, 0)

    def test_what_is_freed_goes_behind_in_the_order_given(self):
        blocks = self.pool.get_new_blocks(3)
        self.pool.free_blocks(reversed(blocks))
        self.assertEqual(self.free_ids(), [4, 5, 6, 7, 8, 3, 2, 1])

    def test_a_block_keeps_its_hash_while_it_is_free_and_loses_it_when_it_is_taken(self):
        request, blocks = cached(self.pool, 2)
        self.pool.free_blocks(reversed(blocks))
        self.assertEqual(self.pool.get_cached_block(request.block_hashes[0], [0]), [blocks[0]])
        self.pool.get_new_blocks(8)
        self.assertIsNone(blocks[0].block_hash)
        self.assertIsNone(self.pool.get_cached_block(request.block_hashes[0], [0]))

    def test_a_touched_block_leaves_the_middle_of_the_queue(self):
        _, blocks = cached(self.pool, 3)
        self.pool.free_blocks(reversed(blocks))
        self.pool.touch([blocks[1], self.pool.null_block])
        self.assertEqual(self.free_ids(), [4, 5, 6, 7, 8, 3, 1])
        self.assertEqual(blocks[1].ref_cnt, 1)

    def test_the_oldest_of_several_blocks_with_a_hash_is_found(self):
        request, first = cached(self.pool, 1)
        _, second = cached(self.pool, 1, request)
        self.assertEqual(self.pool.get_cached_block(request.block_hashes[0], [0]), first)
        self.pool.evict_blocks({first[0].block_id})
        self.assertEqual(self.pool.get_cached_block(request.block_hashes[0], [0]), second)

    def test_a_hash_of_another_group_is_another_key(self):
        request, _ = cached(self.pool, 1)
        self.assertIsNone(self.pool.get_cached_block(request.block_hashes[0], [0, 1]))

    def test_links_of_the_free_queue_run_from_fake_head_to_fake_tail(self):
        queue = self.pool.free_block_queue
        self.assertEqual(queue.fake_free_list_head.next_free_block.block_id, 1)
        self.assertEqual(self.pool.blocks[1].next_free_block.block_id, 2)
        self.assertIs(self.pool.blocks[8].next_free_block, queue.fake_free_list_tail)
        self.pool.get_new_blocks(8)
        self.assertIs(queue.fake_free_list_head.next_free_block, queue.fake_free_list_tail)
        self.assertIsNone(self.pool.blocks[8].next_free_block)

    def test_reset_is_refused_while_a_block_is_in_use(self):
        _, blocks = cached(self.pool, 1)
        self.assertFalse(self.pool.reset_prefix_cache())
        self.pool.free_blocks(blocks)
        self.assertTrue(self.pool.reset_prefix_cache())
        self.assertEqual(len(self.pool.cached_block_hash_to_block), 0)

    def test_a_block_freed_twice_is_an_error_and_nothing_changes(self):
        blocks = self.pool.get_new_blocks(2)
        self.pool.free_blocks(blocks[:1])
        before = self.free_ids()
        self.assertRaises(RuntimeError, self.pool.free_blocks, blocks)
        self.assertEqual(self.free_ids(), before)
        self.assertEqual(blocks[1].ref_cnt, 1)

    def test_events_name_what_was_stored_and_what_was_removed(self):
        pool = BlockPool(3, True, 4, enable_kv_cache_events=True)
        request, blocks = cached(pool, 2)
        pool.free_blocks(reversed(blocks))
        pool.get_new_blocks(2)
        stored, *removed = pool.take_events()
        self.assertEqual(stored.token_ids, list(range(8)))
        self.assertEqual((stored.block_size, stored.parent_block_hash, stored.group_idx), (4, None, 0))
        self.assertEqual([event.block_hashes[0] for event in removed], stored.block_hashes[::-1])
        self.assertEqual(pool.take_events(), [])

    def test_keys_of_any_length_find_their_block(self):
        for number, key in enumerate([b"1", b"22", b"x" * 31, b"y" * 64, b"z" * 16]):
            self.pool.cached_block_hash_to_block.insert(key + bytes(4), self.pool.blocks[number + 1])
        for number, key in enumerate([b"1", b"22", b"x" * 31, b"y" * 64, b"z" * 16]):
            self.assertEqual(self.pool.get_cached_block(key, [0])[0].block_id, number + 1)
            self.assertEqual(self.pool.blocks[number + 1].block_hash, key + bytes(4))


class Manager(unittest.TestCase):
    def test_a_hit_never_covers_the_last_token(self):
        manager = KVCacheManager(config_of(9, [4], [None]), 64, 4)
        request = Request("a", range(8), 4)
        manager.allocate_slots(request, 8)
        _, length = manager.get_computed_blocks(Request("b", range(8), 4))
        self.assertEqual(length, 4)

    def test_drafts_are_never_cached(self):
        manager = KVCacheManager(config_of(9, [4], [None]), 64, 4)
        request = Request("a", range(6), 4)
        manager.allocate_slots(request, 6)
        request.num_computed_tokens = 6
        request.append([6])
        manager.allocate_slots(request, 1 + 3)
        hashes = [block.block_hash is not None for block in manager.get_blocks("a").blocks[0]]
        self.assertEqual(hashes, [True, False, False])

    def test_a_refused_allocation_frees_what_left_the_window_and_changes_nothing_else(self):
        manager = KVCacheManager(config_of(8, [4], [5]), 64, 4)
        request = Request("a", range(40), 4)
        manager.allocate_slots(request, 24)
        request.num_computed_tokens = 24
        free = manager.block_pool.get_num_free_blocks()
        self.assertIsNone(manager.allocate_slots(request, 40))
        self.assertEqual(manager.get_block_ids("a"), ([0, 0, 0, 0, 0, 6],))
        self.assertEqual(manager.block_pool.get_num_free_blocks(), free + 5)

    def test_hits_of_all_groups_are_held_before_blocks_are_taken_for_a_connector(self):
        manager = KVCacheManager(config_of(9, [4, 4], [None, 8]), 64, 4)
        first = Request("a", range(13), 4)
        manager.allocate_slots(first, 12)
        first.num_computed_tokens = 12
        manager.allocate_slots(first, 1)
        self.assertEqual(manager.get_block_ids("a"), ([1, 2, 3, 7], [0, 5, 6, 8]))
        manager.free(first)
        # Block 4 left the window first: it would be taken first, and is a hit of the window group.
        self.assertEqual(ids(manager.block_pool.free_block_queue.get_all_free_blocks()), [4, 7, 3, 2, 1, 8, 6, 5])
        second = Request("b", [*range(8), 90, 91, 92], 4)
        blocks, hit = manager.get_computed_blocks(second)
        self.assertEqual((blocks.get_block_ids(), hit), (([1, 2], [4, 5]), 8))
        manager.allocate_slots(second, 0, hit, blocks, num_external_computed_tokens=1, delay_cache_blocks=True)
        self.assertEqual(manager.get_block_ids("b"), ([1, 2, 7], [4, 5, 3]))
        self.assertEqual(manager.get_computed_blocks(Request("c", [*range(8), 90], 4))[1], 8)

    def test_a_watermark_and_reserved_blocks_stay_free(self):
        manager = KVCacheManager(config_of(11, [4], [None]), 64, 4, watermark=0.2)
        request = Request("a", range(36), 4)
        request.status = Status.WAITING
        self.assertIsNone(manager.allocate_slots(request, 36))
        self.assertEqual(manager.block_pool.get_num_free_blocks(), 10)
        self.assertIsNotNone(manager.allocate_slots(request, 36, has_scheduled_reqs=False))
        request.num_computed_tokens = 36
        manager.free(request)
        request = Request("b", range(100, 132), 4)
        request.status = Status.RUNNING
        self.assertIsNone(manager.allocate_slots(request, 32, reserved_blocks=3))
        self.assertIsNotNone(manager.allocate_slots(request, 32, reserved_blocks=2))

    def test_the_full_sequence_must_fit_if_that_is_asked_for(self):
        manager = KVCacheManager(config_of(5, [4], [None]), 64, 4)
        request = Request("a", range(20), 4)
        self.assertIsNone(manager.allocate_slots(request, 8, full_sequence_must_fit=True))
        self.assertIsNotNone(manager.allocate_slots(request, 8))

    def test_hits_are_multiples_of_the_scheduler_block_size(self):
        for unit, hit in ((4, 16), (8, 16), (32, 0)):
            manager = KVCacheManager(config_of(11, [4], [None]), 64, 4, scheduler_block_size=unit)
            manager.allocate_slots(Request("a", range(20), 4), 20)
            self.assertEqual(manager.get_computed_blocks(Request("b", range(20), 4))[1], hit)

    def test_popped_blocks_are_freed_later(self):
        manager = KVCacheManager(config_of(9, [4, 4], [None, 8]), 64, 4)
        request = Request("a", range(8), 4)
        manager.allocate_slots(request, 8)
        blocks = manager.pop_blocks_for_free(request)
        self.assertEqual([block.block_id for block in blocks], [1, 2, 3, 4])
        self.assertEqual(manager.block_pool.get_num_free_blocks(), 4)
        manager.block_pool.free_blocks(reversed(blocks))
        self.assertEqual(manager.block_pool.get_num_free_blocks(), 8)

    def test_a_salt_keeps_prompts_apart(self):
        manager = KVCacheManager(config_of(9, [4], [None]), 64, 4)
        manager.allocate_slots(Request("a", range(8), 4, salt="one"), 8)
        self.assertEqual(manager.get_computed_blocks(Request("b", range(9), 4, salt="two"))[1], 0)
        self.assertEqual(manager.get_computed_blocks(Request("c", range(9), 4, salt="one"))[1], 8)


if __name__ == "__main__":
    unittest.main()
