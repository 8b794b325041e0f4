"""allocate_slots of a manager with one group of full attention: no plans, at most one call."""

from .cache_blocks import KVCacheBlocks
from .groups import Plan
from .hashes import cdiv


def allocate_full(manager, request, hits, adopts, local, external, new, lookahead, delay_cache_blocks):
    """As allocate_slots, with `local` and `external` tokens computed. Most often a request runs, and there is nothing to do."""
    group, pool, longest = manager._only, manager.block_pool, manager.max_model_len
    request_id = request.request_id
    size, table = group.block_size, group.tables.get(request_id)
    total = min(local + external, longest)
    needed = cdiv(min(total + new + lookahead, longest), size)
    begins = adopts and request_id not in group.num_cached_block
    have, ahead = len(table) if table else 0, 0
    if begins:
        assert not have, f"{request_id} has blocks already"
        have = len(hits)
        ahead = max(cdiv(local + external, size) - have, 0) if external > 0 else 0
    else:
        assert not hits, "a running request has no new cached blocks"
    count = max(needed - have, ahead)
    added = manager.empty_kv_cache_blocks
    if count > 0 or begins:
        ids = pool.take(hits, max(count, 0))
        if ids is None:
            return None
        if begins:
            group.begin(request_id, Plan(0, hits, 0, hits, ahead, 0, True), ids[:ahead])
            ids = ids[ahead:]
        added = group.extend(request_id, None, ids)
        added = KVCacheBlocks.of_ids(pool, (added,)) if added else manager.empty_kv_cache_blocks
    elif table is None:
        group.extend(request_id, None, ())
    if manager.enable_caching and not delay_cache_blocks:
        full = min(total + new, request.num_tokens)
        if full >= (group.num_cached_block.get(request_id, 0) + 1) * size:
            group.cache_blocks(request, full)
    return added
