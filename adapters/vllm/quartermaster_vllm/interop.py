"""vLLM's own types where it is importable, and equals of them where it is not."""

import importlib
import importlib.util
import logging
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional


def _optional(name):
    try:
        if "vllm" not in sys.modules and importlib.util.find_spec("vllm") is None:
            return None
        return importlib.import_module(name)
    except ImportError:
        return None


kv_cache_utils = _optional("vllm.v1.core.kv_cache_utils")
_events = _optional("vllm.distributed.kv_events")
_stats = _optional("vllm.v1.metrics.stats")
_specs = _optional("vllm.v1.kv_cache_interface")
# vLLM's manager's, where there is one.
logger = logging.getLogger("vllm.v1.core.kv_cache_manager" if kv_cache_utils is not None else __name__)

if _events is not None:
    AllBlocksCleared = _events.AllBlocksCleared
    BlockRemoved = _events.BlockRemoved
    BlockStored = _events.BlockStored
    MEDIUM_GPU = _events.MEDIUM_GPU
else:
    MEDIUM_GPU = "GPU"

    @dataclass
    class BlockStored:
        block_hashes: list
        parent_block_hash: Any
        token_ids: list
        block_size: int
        lora_id: Optional[int]
        medium: Optional[str]
        lora_name: Optional[str]
        extra_keys: Optional[list] = None
        group_idx: Optional[int] = None

    @dataclass
    class BlockRemoved:
        block_hashes: list
        medium: Optional[str]
        group_idx: Optional[int] = None

    @dataclass
    class AllBlocksCleared:
        pass


if _stats is not None:
    PrefixCacheStats = _stats.PrefixCacheStats
else:

    @dataclass
    class PrefixCacheStats:
        reset: bool = False
        requests: int = 0
        queries: int = 0
        hits: int = 0
        preempted_requests: int = 0
        preempted_queries: int = 0
        preempted_hits: int = 0

        def record(self, num_tokens, num_hits, preempted):
            """Counts one look-up of `num_tokens` tokens, `num_hits` of which were cached."""
            if preempted:
                self.preempted_requests += 1
                self.preempted_queries += num_tokens
                self.preempted_hits += num_hits
            else:
                self.requests += 1
                self.queries += num_tokens
                self.hits += num_hits


@lru_cache(maxsize=None)
def fields_of(kind):
    return frozenset(getattr(kind, "__struct_fields__", None) or getattr(kind, "__dataclass_fields__", ()))


def event(kind, **fields):
    """An event of a kind, with those of the fields that this vLLM's has: they grew from version to version."""
    known = fields_of(kind)
    return kind(**{name: value for name, value in fields.items() if name in known})


def spec_kind(spec):
    """(name of a spec's kind of attention, its sliding window or None), as vLLM's events call it."""
    return _specs.get_kv_cache_spec_kind(spec).value, _specs.get_kv_cache_spec_sliding_window(spec)
