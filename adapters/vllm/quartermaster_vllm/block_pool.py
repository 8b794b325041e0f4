"""BlockPool: the surface and the decisions of vLLM v1's class of that name, over a keyed pool of the core."""

import logging
from array import array

from .blocks import CachedBlocks, FreeBlockQueue, KVCacheBlock
from .hashes import extra_keys, hashes_of_size, outside_hash, split_group, with_group
from .interop import MEDIUM_GPU, AllBlocksCleared, BlockRemoved, BlockStored, event
from .keyed_pool import KeyedPool

logger = logging.getLogger(__name__)


class BlockPool:
    """
    `num_gpu_blocks` blocks, of which block 0 is the null block: a placeholder that is never given out, freed or cached.

    Beside vLLM's methods there are batched ones over ids, which the KVCacheManager here uses: `take`, `give_back`,
    `cache`; their ids are array('I').
    """

    def __init__(
        self,
        num_gpu_blocks,
        enable_caching,
        hash_block_size,
        enable_kv_cache_events=False,
        metrics_collector=None,
    ):
        assert isinstance(num_gpu_blocks, int) and num_gpu_blocks > 0, f"num_gpu_blocks is {num_gpu_blocks!r}"
        self.num_gpu_blocks = num_gpu_blocks
        self.enable_caching = enable_caching
        self.hash_block_size = hash_block_size
        # Whether a block of several hashed blocks has the last one's hash, not all of them: vLLM's since July 2026.
        self.chained_hashes = False
        self.keyed = KeyedPool(num_gpu_blocks)
        # Hashes that were put on blocks by hand and are not in the index (yet).
        self.stamps = {}
        self.blocks = [KVCacheBlock(self, block_id) for block_id in range(num_gpu_blocks)]
        self.free_block_queue = FreeBlockQueue(self)
        self.cached_block_hash_to_block = CachedBlocks(self)
        self.null_block = self.free_block_queue.popleft()
        self.null_block.is_null = True
        self.enable_kv_cache_events = enable_kv_cache_events
        self.kv_event_queue = []
        self.metrics_collector = metrics_collector

    def owns(self, block):
        """Whether a block is one of this pool's own objects."""
        block_id = block.block_id
        return 0 <= block_id < self.num_gpu_blocks and self.blocks[block_id] is block

    def hashes_of(self, block_hashes, block_size):
        """The hashes of a request's blocks of `block_size` tokens."""
        return hashes_of_size(block_hashes, self.hash_block_size, block_size, self.chained_hashes)

    # ---- ids: what the manager calls

    def take(self, touch, count):
        """References the blocks of `touch` and takes `count` more: their ids, or None and nothing done."""
        ids = self.keyed.allocate(touch, count)
        if ids is None:
            return None
        if self.enable_kv_cache_events:
            self._removed(self.keyed.lost(count))
        if self.stamps:
            for block in ids:
                self.stamps.pop(block, None)
        if self.metrics_collector:
            for block in touch:
                self.metrics_collector.on_block_accessed(self.blocks[block])
            for block in ids:
                if self.enable_caching:
                    self.metrics_collector.on_block_evicted(self.blocks[block])
                self.metrics_collector.on_block_allocated(self.blocks[block])
        return ids

    def _removed(self, ids):
        for block in ids:
            block_hash, group = self.keyed.last_key(block)
            self.kv_event_queue.append(
                event(BlockRemoved, block_hashes=[outside_hash(block_hash)], medium=MEDIUM_GPU, group_idx=group)
            )

    def give_back(self, ids):
        """One reference less for each block, in order of eviction; the null block is passed over."""
        if ids and not self.keyed.release(ids):
            raise RuntimeError(f"a block among {ids.tolist()} is free already")

    def cache(self, request, ids, first, last, block_size, group):
        """Caches a request's blocks `first` to `last` - 1, whose ids are `ids`; null blocks are passed over."""
        hashes = self.hashes_of(request.block_hashes, block_size)
        new = hashes[first:last]
        self.keyed.enter_keys(group, ids, new)
        if self.enable_kv_cache_events:
            real = [(first + at, new[at]) for at, block in enumerate(ids) if block != 0]
            self._stored(request, hashes, real, first, last, block_size, group)

    def _stored(self, request, hashes, real, first, last, block_size, group):
        item, extras = 0, []
        for index, _ in real:
            extra, item = extra_keys(request, index * block_size, (index + 1) * block_size, item)
            extras.append(extra)
        lora = getattr(request, "lora_request", None)
        self.kv_event_queue.append(
            event(
                BlockStored,
                block_hashes=[outside_hash(block_hash) for _, block_hash in real],
                parent_block_hash=outside_hash(hashes[first - 1]) if first > 0 else None,
                token_ids=request.all_token_ids[first * block_size : last * block_size],
                block_size=block_size,
                lora_id=lora.adapter_id if lora else None,
                medium=MEDIUM_GPU,
                lora_name=lora.name if lora else None,
                extra_keys=extras or None,
                group_idx=group,
            )
        )

    # ---- blocks: vLLM's methods

    def get_cached_block(self, block_hash, kv_cache_group_ids):
        """The oldest block with a hash in each group, or None when a group has none."""
        found = []
        for group in kv_cache_group_ids:
            block = self.cached_block_hash_to_block.get_one_block(with_group(block_hash, group))
            if block is None:
                return None
            found.append(block)
        return found

    def cache_full_blocks(self, request, blocks, num_cached_blocks, num_full_blocks, block_size, kv_cache_group_id):
        if num_cached_blocks >= num_full_blocks:
            return
        full = blocks[num_cached_blocks:num_full_blocks]
        assert len(request.block_hashes) >= num_full_blocks, "the request has too few block hashes"
        if not all(map(self.owns, full)):
            self._cache_strangers(request, full, num_cached_blocks, num_full_blocks, block_size, kv_cache_group_id)
            return
        ids = array("I", [block.block_id for block in full])
        self.cache(request, ids, num_cached_blocks, num_full_blocks, block_size, kv_cache_group_id)

    def _cache_strangers(self, request, full, first, last, block_size, group):
        hashes = self.hashes_of(request.block_hashes, block_size)
        for block, block_hash in zip(full, hashes[first:last]):
            if block.is_null:
                continue
            assert block.block_hash is None, f"block {block.block_id} has a hash already"
            key = with_group(block_hash, group)
            block.block_hash = key
            self.cached_block_hash_to_block.insert(key, block)
        if self.enable_kv_cache_events:
            real = [(first + at, hashes[first + at]) for at, block in enumerate(full) if not block.is_null]
            self._stored(request, hashes, real, first, last, block_size, group)

    def get_new_blocks(self, num_blocks):
        ids = self.take(array("I"), num_blocks)
        if ids is None:
            raise ValueError(f"Cannot get {num_blocks} free blocks from the pool")
        return [self.blocks[block] for block in ids]

    def _maybe_evict_cached_block(self, block):
        """Takes a block's hash away; whether it had one that was in the index."""
        if self.metrics_collector:
            self.metrics_collector.on_block_evicted(block)
        key = block.block_hash
        if key is None or self.cached_block_hash_to_block.pop(key, block.block_id) is None:
            return False
        block.reset_hash()
        if self.enable_kv_cache_events:
            block_hash, group = split_group(key)
            self.kv_event_queue.append(
                event(BlockRemoved, block_hashes=[outside_hash(block_hash)], medium=MEDIUM_GPU, group_idx=group)
            )
        return True

    def touch(self, blocks):
        self.take(array("I", [block.block_id for block in blocks]), 0)

    def free_blocks(self, ordered_blocks):
        """One reference less for each block, in order of eviction."""
        blocks = list(ordered_blocks)
        if blocks and not self.keyed.release(array("I", [block.block_id for block in blocks])):
            self._free_strangers(blocks)

    def _free_strangers(self, blocks):
        own = [block for block in blocks if self.owns(block)]
        if len(own) == len(blocks):
            raise RuntimeError(f"a block among {[block.block_id for block in blocks]} is free already")
        for block in blocks:
            if not self.owns(block):
                block.ref_cnt -= 1
        self.give_back(array("I", [block.block_id for block in own]))

    def evict_blocks(self, block_ids):
        """Takes the hashes of these blocks away, whoever holds them."""
        if not block_ids:
            return
        assert 0 <= min(block_ids) and max(block_ids) < self.num_gpu_blocks, f"blocks {block_ids} of {self.num_gpu_blocks}"
        if self.metrics_collector is None and not self.stamps and len(block_ids) <= self.num_gpu_blocks:
            ids = self.keyed.with_keys(block_ids)
            if ids:
                self.keyed.drop_keys(ids)
                if self.enable_kv_cache_events:
                    self._removed(ids)
            return
        for block_id in block_ids:
            self._maybe_evict_cached_block(self.blocks[block_id])

    def reset_prefix_cache(self):
        """Takes all hashes away and says so, unless a block other than the null block is in use."""
        used = self.num_gpu_blocks - self.get_num_free_blocks()
        if used != 1:
            logger.warning("Failed to reset prefix cache: %d blocks are not freed yet", used - 1)
            return False
        self.keyed.drop_all_keys()
        self.stamps.clear()
        self.cached_block_hash_to_block.strangers.clear()
        if self.metrics_collector:
            self.metrics_collector.reset()
        if self.enable_kv_cache_events:
            self.kv_event_queue.append(AllBlocksCleared())
        return True

    def get_num_free_blocks(self):
        return self.keyed.free_count

    def get_usage(self):
        """Share of the blocks in use, the null block not counted: 0 to 1."""
        usable = self.num_gpu_blocks - 1
        return 1.0 - self.keyed.free_count / usable if usable else 0

    def take_events(self):
        """The events since the last call."""
        if not self.enable_kv_cache_events:
            return []
        events, self.kv_event_queue = self.kv_event_queue, []
        return events
