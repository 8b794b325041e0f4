"""What each kind of cache group decides, rule by rule; random lives of them: test_parity.py."""

import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from workload import (  # noqa: E402
    ChunkedLocalAttentionSpec,
    CrossAttentionSpec,
    FullAttentionSpec,
    Item,
    Lora,
    MambaSpec,
    MLAAttentionSpec,
    Position,
    Request,
    SinkFullAttentionSpec,
    SlidingWindowSpec,
    config_with,
)

from quartermaster_vllm import KVCacheManager, Version  # noqa: E402
from quartermaster_vllm.versions import version_of  # noqa: E402


def manager_of(blocks, *specs, **options):
    return KVCacheManager(config_with(blocks, specs), 256, 4, **options)


def computed(manager, name, tokens, **arguments):
    """A request all of whose tokens are computed."""
    request = Request(name, tokens, 4)
    assert manager.allocate_slots(request, request.num_tokens, **arguments) is not None
    request.num_computed_tokens = request.num_tokens
    return request


def hit(manager, tokens):
    blocks, length, *_ = manager.get_computed_blocks(Request("probe", tokens, 4))
    return blocks.get_block_ids(), length


class Chunks(unittest.TestCase):
    def test_chunks_before_the_last_token_s_own_are_hits_whatever_is_cached(self):
        manager = manager_of(20, ChunkedLocalAttentionSpec(4, 8))
        self.assertEqual(hit(manager, range(17)), (([0, 0, 0, 0],), 16))
        self.assertEqual(hit(manager, range(16)), (([0, 0],), 8))
        computed(manager, "a", range(16))
        self.assertEqual(hit(manager, range(16)), (([0, 0, 3],), 12))

    def test_a_new_chunk_frees_the_blocks_of_the_one_before(self):
        manager = manager_of(20, ChunkedLocalAttentionSpec(4, 8))
        request = computed(manager, "a", range(15))
        manager.remove_skipped_blocks("a", 15)
        self.assertEqual(manager.get_block_ids("a"), ([0, 0, 3, 4],))
        request.append([15, 16])
        manager.allocate_slots(request, 1)
        self.assertEqual(manager.get_block_ids("a"), ([0, 0, 3, 4],))
        request.num_computed_tokens = 16
        manager.allocate_slots(request, 1)
        self.assertEqual(manager.get_block_ids("a"), ([0, 0, 0, 0, 5],))

    def test_eagle_does_not_go_with_chunks(self):
        manager = manager_of(20, ChunkedLocalAttentionSpec(4, 8), use_eagle=True)
        self.assertRaises(AssertionError, hit, manager, range(16))


class State(unittest.TestCase):
    def test_a_hit_is_the_last_cached_state_and_nothing_before_it(self):
        manager = manager_of(20, MambaSpec(4))
        request = computed(manager, "a", range(12))
        manager.new_step_starts()
        manager.free(request)
        self.assertEqual(hit(manager, range(12)), (([0, 2],), 8))
        manager.evict_blocks({1})
        self.assertEqual(hit(manager, range(12)), (([0, 2],), 8))
        manager.evict_blocks({2})
        self.assertEqual(hit(manager, range(12)), (([],), 0))

    def test_a_state_cached_in_this_step_is_not_built_upon_before_the_next(self):
        manager = manager_of(20, FullAttentionSpec(4), MambaSpec(4))
        manager.new_step_starts()
        computed(manager, "a", range(8))
        request = Request("b", range(9), 4)
        blocks, length = manager.get_computed_blocks(request)
        self.assertEqual(length, 8)
        self.assertFalse(manager.can_fit_full_sequence(request, length, blocks))
        self.assertIsNone(manager.allocate_slots(request, 1, length, blocks))
        manager.new_step_starts()
        self.assertIsNotNone(manager.allocate_slots(request, 1, length, blocks))

    def test_drafts_have_blocks_of_their_own_and_keep_what_a_rejection_needs(self):
        manager = manager_of(20, MambaSpec(4, 2))
        request = computed(manager, "a", range(9))
        self.assertEqual(manager.get_block_ids("a"), ([1, 2, 3, 4, 5],))
        # 9 tokens, 2 of which may be drafts: the state behind token 7 may be needed yet.
        manager.remove_skipped_blocks(request.request_id, 9)
        self.assertEqual(manager.get_block_ids("a"), ([0, 2, 3, 4, 5],))

    def test_aligned_state_moves_on_with_one_block_a_step(self):
        manager = manager_of(20, MambaSpec(4, 1, "align"), enable_caching=False)
        request = Request("a", range(20), 4)
        manager.allocate_slots(request, 8)
        self.assertEqual(manager.get_block_ids("a"), ([0, 1, 2],))
        request.num_computed_tokens = 8
        manager.allocate_slots(request, 8)
        # The draft's block went on; one more was taken.
        self.assertEqual(manager.get_block_ids("a"), ([0, 1, 0, 2, 3],))
        request.num_computed_tokens = 16
        manager.allocate_slots(request, 4)
        self.assertEqual(manager.get_block_ids("a"), ([0, 0, 0, 2, 3, 4],))


class Others(unittest.TestCase):
    def test_cross_attention_takes_the_encoder_s_blocks_once(self):
        manager = manager_of(20, FullAttentionSpec(4), CrossAttentionSpec(4), enable_caching=False)
        request = Request("a", range(4), 4)
        self.assertFalse(manager.can_fit_full_sequence(request, num_encoder_tokens=80))
        manager.allocate_slots(request, 4, num_encoder_tokens=10)
        self.assertEqual(manager.get_block_ids("a"), ([1], [2, 3, 4]))
        request.num_computed_tokens = 4
        request.append([4])
        manager.allocate_slots(request, 1)
        self.assertEqual(manager.get_block_ids("a"), ([1, 5], [2, 3, 4]))
        manager.free(request)
        self.assertEqual(manager.block_pool.get_num_free_blocks(), 19)

    def test_cross_attention_is_never_cached(self):
        manager = manager_of(20, CrossAttentionSpec(4))
        self.assertRaises(NotImplementedError, hit, manager, range(8))
        self.assertRaises(ValueError, manager.allocate_slots, Request("a", range(8), 4), 8, num_encoder_tokens=8)

    def test_sinks_keep_their_blocks(self):
        manager = manager_of(8, SinkFullAttentionSpec(4, 8))
        self.assertEqual(manager.block_pool.get_num_free_blocks(), 5)
        request = computed(manager, "a", range(20))
        self.assertEqual(manager.get_block_ids("a"), ([3, 4, 5, 6, 7],))
        manager.free(request)
        self.assertEqual(manager.block_pool.get_num_free_blocks(), 5)
        self.assertEqual(hit(manager, range(20))[1], 16)
        self.assertRaises(AssertionError, manager_of, 8, SinkFullAttentionSpec(4, 6))

    def test_mla_is_full_attention_whose_new_blocks_are_not_reported(self):
        for spec, reported in ((FullAttentionSpec(4), [1, 2, 3]), (MLAAttentionSpec(4), [])):
            manager = manager_of(20, spec)
            computed(manager, "a", range(12))
            self.assertEqual(manager.take_new_block_ids(), reported)
            self.assertEqual(manager.take_new_block_ids(), [])
            self.assertEqual(hit(manager, range(12)), (([1, 2],), 8))
            self.assertEqual(manager.get_num_common_prefix_blocks("a"), [3])

    def test_new_blocks_that_no_host_zeroes_are_not_kept_for_it(self):
        config = config_with(20, [FullAttentionSpec(4)])
        config.needs_kv_cache_zeroing = False
        for version, noted in ((Version.JUNE_2026, [1, 2, 3]), (Version.JULY_2026, [])):
            manager = KVCacheManager(config, 256, 4, version=version)
            computed(manager, "a", range(12))
            self.assertEqual(manager.take_new_block_ids(), noted)

    def test_new_blocks_that_nobody_takes_are_noted_once_in_the_end(self):
        manager = manager_of(4, FullAttentionSpec(4), enable_caching=False)
        for _ in range(1000):
            manager.free(computed(manager, "a", range(12)))
        self.assertLessEqual(len(manager._groups[0].new_block_ids), 64)
        self.assertEqual(set(manager.take_new_block_ids()), {1, 2, 3})

    def test_full_groups_of_different_specs_hit_together(self):
        for second in (MLAAttentionSpec(4), FullAttentionSpec(8)):
            manager = manager_of(40, FullAttentionSpec(4), second)
            computed(manager, "a", range(16))
            ids, length = hit(manager, range(17))
            self.assertEqual(length, 16)
            self.assertEqual([len(table) * size for table, size in zip(ids, (4, second.block_size))], [16, 16])
            manager.evict_blocks({ids[1][-1]})
            self.assertEqual(hit(manager, range(17))[1], 16 - second.block_size)

    def test_a_window_behind_two_full_specs_shortens_both(self):
        manager = manager_of(60, FullAttentionSpec(4), MLAAttentionSpec(4), SlidingWindowSpec(4, 9))
        computed(manager, "a", range(24))
        ids, length = hit(manager, range(25))
        self.assertEqual((length, [len(table) for table in ids]), (24, [6, 6, 6]))
        manager.evict_blocks({ids[2][4]})
        ids, length = hit(manager, range(25))
        self.assertEqual((length, [len(table) for table in ids]), (16, [4, 4, 4]))


class Told(unittest.TestCase):
    def test_stored_blocks_tell_adapter_items_and_salt_of_each(self):
        manager = manager_of(20, FullAttentionSpec(4), enable_kv_cache_events=True)
        items = [Item("cat", Position(2, 3)), Item("dog", Position(6, 9))]
        request = Request("a", range(16), 4, salt="pepper", lora=Lora(7, "seven"), items=items)
        manager.allocate_slots(request, 16)
        (stored,) = manager.take_events()
        self.assertEqual((stored.lora_id, stored.lora_name, stored.medium), (7, "seven", "GPU"))
        self.assertEqual(
            stored.extra_keys,
            [
                ("seven", ("cat", 2), "pepper"),
                ("seven", ("cat", -2), ("dog", 2)),
                ("seven", ("dog", -2)),
                ("seven", ("dog", -6)),
            ],
        )

    def test_blocks_without_any_have_none(self):
        manager = manager_of(20, FullAttentionSpec(4), enable_kv_cache_events=True)
        computed(manager, "a", range(8))
        (stored,) = manager.take_events()
        self.assertEqual((stored.lora_id, stored.lora_name, stored.extra_keys), (None, None, [None, None]))

    def test_statistics_are_of_the_look_ups_since_the_last_call(self):
        manager = manager_of(20, FullAttentionSpec(4), log_stats=True)
        request = computed(manager, "a", range(8))
        hit(manager, range(9))
        again = Request("b", range(6), 4)
        again.num_preemptions = 1
        manager.get_computed_blocks(again)
        skips = Request("c", range(9), 4)
        skips.skip_reading_prefix_cache = True
        manager.get_computed_blocks(skips)
        stats = manager.make_prefix_cache_stats()
        self.assertEqual((stats.requests, stats.queries, stats.hits), (1, 9, 8))
        self.assertEqual((stats.preempted_requests, stats.preempted_queries, stats.preempted_hits), (1, 6, 4))
        self.assertFalse(stats.reset)
        manager.free(request)
        manager.reset_prefix_cache()
        stats = manager.make_prefix_cache_stats()
        self.assertEqual((stats.requests, stats.reset), (0, True))
        self.assertIsNone(manager_of(20, FullAttentionSpec(4)).make_prefix_cache_stats())


class Later(unittest.TestCase):
    def test_a_manager_s_signatures_say_which_version_it_is(self):
        self.assertEqual(version_of(["max_model_len"], 2), Version.APRIL_2026)
        self.assertEqual(version_of(["max_num_batched_tokens"], 2), Version.JUNE_2026)
        self.assertEqual(version_of(["max_in_flight_tokens"], 2), Version.JULY_2026)
        self.assertEqual(version_of([], 3), Version.JULY_2026)

    def test_of_a_window_only_what_a_hit_reads_is_cached(self):
        specs = FullAttentionSpec(16), SlidingWindowSpec(4, 5)
        for version, left in ((Version.APRIL_2026, 9), (Version.JUNE_2026, 2)):
            manager = manager_of(40, *specs, version=version, log_stats=False)
            computed(manager, "a", range(36))
            window = manager.get_blocks("a").blocks[1]
            self.assertEqual(sum(block.block_hash is not None for block in window), left)
            self.assertEqual(hit(manager, range(36))[1], 32)

    def test_with_an_interval_the_end_of_the_prompt_is_kept_whatever_it_is(self):
        for interval, kept in ((None, 8), (16, 3), (0, 1)):
            manager = manager_of(
                40, FullAttentionSpec(4), MambaSpec(4), version=Version.JULY_2026, retention_interval=interval
            )
            computed(manager, "a", range(32))
            states = manager.get_blocks("a").blocks[1]
            self.assertEqual(sum(block.block_hash is not None for block in states), kept, interval)
            self.assertEqual(hit(manager, range(32)), (([1, 2, 3, 4, 5, 6, 7], [0] * 6 + [states[6].block_id]), 28))

    def test_what_one_group_has_and_another_lacks_is_told(self):
        manager = manager_of(40, FullAttentionSpec(4), MambaSpec(4), version=Version.JULY_2026, retention_interval=0)
        computed(manager, "a", range(32))
        request = Request("b", [*range(20), *range(50, 60)], 4)
        self.assertEqual(manager.get_computed_blocks(request)[1:], (0, 20))
        blocks, length, _, diverged = manager.get_computed_blocks_for_connector(request)
        self.assertEqual((blocks.get_block_ids(), length, diverged), (([1, 2, 3, 4, 5], []), 20, True))
        request.shared_prefix_boundary = 20
        manager.allocate_slots(request, request.num_tokens)
        self.assertEqual(hit(manager, [*range(20), *range(70, 80)])[1], 20)

    def test_an_interval_is_a_multiple_and_needs_a_group_that_heeds_it(self):
        july = {"version": Version.JULY_2026}
        self.assertRaises(ValueError, manager_of, 9, FullAttentionSpec(4), retention_interval=8, **july)
        self.assertRaises(ValueError, manager_of, 9, SlidingWindowSpec(4, 8), retention_interval=6, **july)
        self.assertRaises(ValueError, manager_of, 9, SlidingWindowSpec(4, 8), retention_interval=-4, **july)

    def test_a_window_asks_for_what_it_holds_at_a_time(self):
        request = Request("a", range(256), 16)
        for in_flight, fits in ((None, False), (32, True)):
            # 16 blocks of full attention; 7 of the window, or 16.
            manager = manager_of(25, FullAttentionSpec(16), SlidingWindowSpec(16, 64), max_in_flight_tokens=in_flight)
            self.assertEqual(manager.allocate_slots(request, 16, full_sequence_must_fit=True) is not None, fits)

    def test_blocks_of_computed_tokens_alone(self):
        manager = manager_of(40, FullAttentionSpec(4), MambaSpec(4, 2))
        computed(manager, "a", range(12))
        self.assertEqual(manager.get_block_ids("a"), ([1, 2, 3], [4, 5, 6, 7, 8]))
        self.assertEqual(manager.get_block_ids_for_computed_tokens("a", 5), ([1, 2], [4, 5, 6, 7, 8]))


if __name__ == "__main__":
    unittest.main()
