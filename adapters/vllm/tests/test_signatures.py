"""The surface is vLLM's: the methods and parameters that its scheduler and tests use, and, where it is installed, its own."""

import importlib.util
import inspect
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from quartermaster_vllm import BlockPool, KVCacheBlocks, KVCacheManager  # noqa: E402

# Of vLLM main, 17 April 2026: class, method, parameters in order ("=": has a default).
EXPECTED = {
    "BlockPool": {
        "__init__": "num_gpu_blocks enable_caching hash_block_size enable_kv_cache_events= metrics_collector=",
        "get_cached_block": "block_hash kv_cache_group_ids",
        "cache_full_blocks": "request blocks num_cached_blocks num_full_blocks block_size kv_cache_group_id",
        "get_new_blocks": "num_blocks",
        "touch": "blocks",
        "free_blocks": "ordered_blocks",
        "evict_blocks": "block_ids",
        "reset_prefix_cache": "",
        "get_num_free_blocks": "",
        "get_usage": "",
        "take_events": "",
    },
    "KVCacheManager": {
        "__init__": "kv_cache_config max_model_len hash_block_size enable_caching= use_eagle= log_stats= "
        "enable_kv_cache_events= dcp_world_size= pcp_world_size= metrics_collector=",
        "make_prefix_cache_stats": "",
        "get_computed_blocks": "request",
        "can_fit_full_sequence": "request num_new_computed_tokens= new_computed_blocks= "
        "num_external_computed_tokens= num_encoder_tokens=",
        "allocate_slots": "request num_new_tokens num_new_computed_tokens= new_computed_blocks= num_lookahead_tokens= "
        "num_external_computed_tokens= delay_cache_blocks= num_encoder_tokens=",
        "free": "request",
        "remove_skipped_blocks": "request_id total_computed_tokens",
        "evict_blocks": "block_ids",
        "reset_prefix_cache": "",
        "get_num_common_prefix_blocks": "running_request_id",
        "take_events": "",
        "get_blocks": "request_id",
        "get_block_ids": "request_id",
        "cache_blocks": "request num_computed_tokens",
        "create_kv_cache_blocks": "blocks",
        "take_new_block_ids": "",
        "new_step_starts": "",
    },
    "KVCacheBlocks": {
        "get_block_ids": "allow_none=",
        "get_unhashed_block_ids": "",
        "get_unhashed_block_ids_all_groups": "",
        "new_empty": "",
    },
}
# Parameters and methods of later vLLM that are here as well, behind or beside those.
LATER = {
    "KVCacheManager": {
        "__init__": "watermark= scheduler_block_size= max_in_flight_tokens= max_num_batched_tokens= retention_interval= "
        "version=",
        "allocate_slots": "full_sequence_must_fit= reserved_blocks= has_scheduled_reqs=",
        "remove_skipped_blocks": "num_prompt_tokens=",
        "pop_blocks_for_free": "request",
        "prefix_cache_lookup_enabled": "request",
        "record_prefix_cache_stats": "request num_hits",
        "get_computed_blocks_for_connector": "request",
        "get_block_ids_for_computed_tokens": "request_id num_computed_tokens",
    },
}
OURS = {"BlockPool": BlockPool, "KVCacheManager": KVCacheManager, "KVCacheBlocks": KVCacheBlocks}
VLLM = {
    "BlockPool": "vllm.v1.core.block_pool",
    "KVCacheManager": "vllm.v1.core.kv_cache_manager",
    "KVCacheBlocks": "vllm.v1.core.kv_cache_manager",
}


def parameters(function):
    names = list(inspect.signature(function).parameters.values())[1:]
    return " ".join(p.name + ("" if p.default is inspect.Parameter.empty else "=") for p in names)


def surface(cls):
    return {name: parameters(getattr(cls, name)) for name in EXPECTED[cls.__name__] if hasattr(cls, name)}


class Signatures(unittest.TestCase):
    def test_every_method_has_the_parameters_that_callers_pass(self):
        for name, expected in EXPECTED.items():
            later = LATER.get(name, {})
            both = {method: f"{text} {later.get(method, '')}".strip() for method, text in expected.items()}
            self.assertEqual(surface(OURS[name]), both, name)
        for name, methods in LATER.items():
            for method, text in methods.items():
                self.assertTrue(parameters(getattr(OURS[name], method)).endswith(text), f"{name}.{method}")

    @unittest.skipIf(importlib.util.find_spec("vllm") is None, "vllm is not installed: nothing to compare with")
    def test_the_vllm_installed_here_has_the_same(self):
        for name, module in VLLM.items():
            theirs = getattr(importlib.import_module(module), name)
            if theirs.__module__ == module:
                self.assertEqual(surface(theirs), EXPECTED[name], f"{module}.{name}")


if __name__ == "__main__":
    unittest.main()
