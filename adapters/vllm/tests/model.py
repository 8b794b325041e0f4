"""
The rules of vLLM v1's cache manager in plain Python: lists that are searched, no core, no batching. What the adapter is
compared with, and timed against. The rules of each kind of cache group: model_groups.py.
"""

import copy
from dataclasses import dataclass
from math import lcm

from model_groups import group_of


@dataclass
class PrefixCacheStats:
    """Fields as vLLM's; two look-ups of one prompt are two."""

    reset: bool = False
    requests: int = 0
    queries: int = 0
    hits: int = 0
    preempted_requests: int = 0
    preempted_queries: int = 0
    preempted_hits: int = 0


@dataclass
class BlockStored:
    block_hashes: list
    parent_block_hash: object
    token_ids: list
    block_size: int
    lora_id: object
    medium: str
    lora_name: object
    extra_keys: object
    group_idx: int


@dataclass
class BlockRemoved:
    block_hashes: list
    medium: str
    group_idx: int


@dataclass
class AllBlocksCleared:
    pass


def outside(block_hash):
    """How events name a block: the last 64 bits of its hash."""
    return int.from_bytes(block_hash[-8:], "big")


def extras_of(request, start, end):
    """What besides tokens tells the block [start, end) from others: adapter, items in it with their offset, salt; or None."""
    lora = request.lora_request
    keys = [lora.lora_name] if lora else []
    for item in request.mm_features or []:
        offset, length = item.mm_position.offset, item.mm_position.length
        if offset < end and start < offset + length:
            keys.append((item.identifier, offset - start))
    if start == 0 and request.cache_salt:
        keys.append(request.cache_salt)
    return tuple(keys) or None


class ModelBlock:
    def __init__(self, pool, block_id):
        self._pool, self.block_id = pool, block_id
        self.is_null = block_id == 0

    @property
    def ref_cnt(self):
        return self._pool.refs[self.block_id]

    @property
    def block_hash(self):
        return self._pool.keys[self.block_id]


class ModelPool:
    """Block ids in a list of free ones; for each key the blocks that have it, oldest first."""

    def __init__(self, blocks):
        self.free = dict.fromkeys(range(1, blocks))
        self.refs = [0] * blocks
        self.keys = [None] * blocks
        self.holders = {}
        self.events = []
        self.blocks = [ModelBlock(self, block) for block in range(blocks)]
        self.null_block = self.blocks[0]
        self.free_block_queue = self

    def get_all_free_blocks(self):
        return [self.blocks[block] for block in self.free]

    @property
    def num_free_blocks(self):
        return len(self.free)

    def forget(self, block):
        key = self.keys[block]
        if key is None:
            return
        self.keys[block] = None
        self.holders[key].remove(block)
        if not self.holders[key]:
            del self.holders[key]
        self.events.append(BlockRemoved([outside(key[:-4])], "GPU", int.from_bytes(key[-4:], "big")))

    def take(self):
        block = next(iter(self.free))
        del self.free[block]
        self.forget(block)
        self.refs[block] = 1
        return block

    def touch(self, block):
        if block == 0:
            return
        self.free.pop(block, None)
        self.refs[block] += 1

    def release(self, block):
        if block == 0:
            return
        self.refs[block] -= 1
        if self.refs[block] == 0:
            self.free[block] = None

    def enter(self, block, key):
        if block == 0:
            return
        assert self.keys[block] is None
        self.keys[block] = key
        self.holders.setdefault(key, []).append(block)

    def free_blocks(self, ordered_blocks):
        for block in ordered_blocks:
            self.release(block.block_id)

    def find(self, key):
        found = self.holders.get(key)
        return found[0] if found else None


class ModelBlocks:
    def __init__(self, blocks):
        self.blocks = tuple(blocks)

    def get_block_ids(self, allow_none=False):
        return tuple([block.block_id for block in group] for group in self.blocks)


class ModelManager:
    """
    `specs`: of the cache groups. Of later vLLM: `watermark`, a share of the blocks that stays free when a request is let in;
    `scheduler_block_size`, of which every hit is a multiple.
    """

    def __init__(
        self,
        blocks,
        specs,
        hash_size,
        max_model_len,
        enable_caching=True,
        use_eagle=False,
        log_stats=False,
        enable_kv_cache_events=False,
        watermark=0.0,
        scheduler_block_size=None,
    ):
        self.block_pool = ModelPool(blocks)
        self.groups = [group_of(spec, self.block_pool, number) for number, spec in enumerate(specs)]
        self.hash_size, self.max_model_len = hash_size, max_model_len
        self.enable_caching, self.use_eagle = enable_caching, use_eagle
        self.log_stats, self.stats, self.tells = log_stats, PrefixCacheStats(), enable_kv_cache_events
        self.kept = int(watermark * blocks)
        self.align = scheduler_block_size or lcm(*(group.size for group in self.groups))
        self.empty_kv_cache_blocks = ModelBlocks([] for _ in specs)
        self.usable = blocks - 1

    @property
    def usage(self):
        return 1.0 - len(self.block_pool.free) / self.usable

    def _blocks(self, tables):
        if not any(tables):
            return self.empty_kv_cache_blocks
        known = self.block_pool.blocks
        return ModelBlocks([known[block] for block in table] for table in tables)

    def _hash(self, request, group, index):
        parts = group.size // self.hash_size
        return b"".join(request.block_hashes[index * parts : (index + 1) * parts])

    def _key(self, request, group, index):
        return self._hash(request, group, index) + group.number.to_bytes(4, "big")

    # ---- hits

    def _hit(self, request, groups, limit, eagle):
        """Tables of groups of one spec."""

        def find(group, at):
            return self.block_pool.find(self._key(request, group, at))

        def there(at):
            return all(find(group, at) is not None for group in groups)

        row = groups[0].hit(there, limit, self.align, eagle)
        return [[0 if at is None else find(group, at) for at in row] for group in groups]

    def _alike(self):
        """Groups of one spec together, full attention first."""
        alike = []
        for group in self.groups:
            for groups in alike:
                if groups[0].spec == group.spec:
                    groups.append(group)
                    break
            else:
                alike.append([group])
        return sorted(alike, key=lambda groups: not groups[0].full)

    def _hits(self, request):
        alike, tables, limit = self._alike(), {}, request.num_tokens - 1
        while True:
            start = limit
            for groups in alike:
                first = groups[0]
                if first.full and first.number in tables:
                    limit -= limit % first.size
                    continue
                hits = self._hit(request, groups, limit, self.use_eagle)
                limit = len(hits[0]) * first.size
                tables.update((group.number, hit) for group, hit in zip(groups, hits))
            if limit >= start or len(alike) == 1 or (len(alike) == 2 and alike[0][0].full):
                break
        return [tables[group.number][: limit // group.size] for group in self.groups], limit

    def get_computed_blocks(self, request):
        if not self.enable_caching or request.skip_reading_prefix_cache:
            return self.empty_kv_cache_blocks, 0
        tables, length = self._hits(request)
        self._count(request, length)
        return self._blocks(tables), length

    def _count(self, request, hits):
        if request.num_preemptions == 0:
            self.stats.requests += 1
            self.stats.queries += request.num_tokens
            self.stats.hits += hits
        else:
            self.stats.preempted_requests += 1
            self.stats.preempted_queries += request.num_tokens
            self.stats.preempted_hits += hits

    # ---- allocation

    def remove_skipped_blocks(self, request_id, computed):
        for group in self.groups:
            group.leave(request_id, computed)

    def _missing(self, request, hits, computed, need, need_main, encoder):
        return sum(
            group.missing(request.request_id, hit, computed, need, need_main, encoder)
            for group, hit in zip(self.groups, hits)
        )

    def _ids(self, blocks):
        return [[]] * len(self.groups) if blocks is None else blocks.get_block_ids()

    def _whole_missing(self, request, hits, computed, need, encoder):
        return self._missing(request, hits, computed, need, need, encoder)

    def can_fit_full_sequence(
        self, request, new_tokens=0, new_computed_blocks=None, external=0, encoder=0, spared=0, missing=None
    ):
        computed = min(request.num_computed_tokens + new_tokens + external, self.max_model_len)
        need, hits = min(request.num_tokens, self.max_model_len), self._ids(new_computed_blocks)
        missing = missing or (lambda *of: ModelManager._whole_missing(self, *of))
        return missing(request, hits, computed, need, encoder) + spared <= len(self.block_pool.free)

    def allocate_slots(
        self,
        request,
        num_new_tokens,
        num_new_computed_tokens=0,
        new_computed_blocks=None,
        num_lookahead_tokens=0,
        num_external_computed_tokens=0,
        delay_cache_blocks=False,
        num_encoder_tokens=0,
        full_sequence_must_fit=False,
        reserved_blocks=0,
        has_scheduled_reqs=True,
    ):
        if num_new_tokens == 0 and num_external_computed_tokens == 0:
            raise ValueError("nothing to allocate")
        pool, request_id, external = self.block_pool, request.request_id, num_external_computed_tokens
        waits = request.status.name in ("WAITING", "PREEMPTED")
        kept = self.kept if waits and has_scheduled_reqs else 0
        local = request.num_computed_tokens + num_new_computed_tokens
        both, encoder = local + external, num_encoder_tokens
        if full_sequence_must_fit and not self.can_fit_full_sequence(
            request, num_new_computed_tokens, new_computed_blocks, external, encoder, kept, self._whole_missing
        ):
            return None
        total = min(both, self.max_model_len)
        need_main = total + num_new_tokens
        need = min(need_main + num_lookahead_tokens, self.max_model_len)
        self.remove_skipped_blocks(request_id, max(0, total - request.num_in_flight_tokens))
        hits = self._ids(new_computed_blocks)
        missing = self._missing(request, hits, both, need, need_main, encoder)
        if missing + kept + reserved_blocks > len(pool.free):
            return None
        given = new_computed_blocks is not None and new_computed_blocks is not self.empty_kv_cache_blocks
        hits = hits if given or external > 0 else None
        if external > 0 and any(group.may_take_more for group in self.groups):
            try:
                copy.deepcopy(self)._take(request_id, hits, both, external, need, need_main, encoder)
            except StopIteration:
                return None
        added = self._take(request_id, hits, both, external, need, need_main, encoder)
        if not delay_cache_blocks:
            self.cache_blocks(request, min(total + num_new_tokens, request.num_tokens))
        return self._blocks(added)

    def _take(self, request_id, hits, computed, external, need, need_main, encoder):
        """What is new in each table. StopIteration: the pool has run empty on the way."""
        if hits is not None:
            starts = [group for group in self.groups if request_id not in group.cached]
            # All hits are held before a block is taken.
            for group in starts:
                group.adopt(request_id, hits[group.number], computed)
            for group in starts:
                group.receive(request_id, computed, external)
        return [group.extend(request_id, need, need_main, encoder) for group in self.groups]

    def cache_blocks(self, request, tokens):
        if not self.enable_caching:
            return
        for group in self.groups:
            cached = group.cache(request, tokens, lambda index, group=group: self._key(request, group, index))
            if cached is not None:
                self._tell_stored(request, group, *cached)

    def _tell_stored(self, request, group, first, last, indices):
        size, lora = group.size, request.lora_request
        self.block_pool.events.append(
            BlockStored(
                [outside(self._hash(request, group, index)) for index in indices],
                outside(self._hash(request, group, first - 1)) if first > 0 else None,
                request.all_token_ids[first * size : last * size],
                size,
                lora.adapter_id if lora else None,
                "GPU",
                lora.name if lora else None,
                [extras_of(request, index * size, (index + 1) * size) for index in indices] or None,
                group.number,
            )
        )

    # ---- the rest

    def free(self, request):
        for group in self.groups:
            for block in reversed(group.pop(request.request_id)):
                self.block_pool.release(block)

    def pop_blocks_for_free(self, request):
        known = self.block_pool.blocks
        return [known[block] for group in self.groups for block in group.pop(request.request_id)]

    def evict_blocks(self, block_ids):
        for block in block_ids:
            self.block_pool.forget(block)

    def reset_prefix_cache(self):
        if len(self.block_pool.free) != self.usable:
            return False
        events = list(self.block_pool.events)
        for block in range(self.usable + 1):
            self.block_pool.forget(block)
        self.block_pool.events = [*events, AllBlocksCleared()]
        self.stats.reset = True
        return True

    def make_prefix_cache_stats(self):
        stats, self.stats = self.stats, PrefixCacheStats()
        return stats if self.log_stats else None

    def take_events(self):
        events, self.block_pool.events = self.block_pool.events, []
        return events if self.tells else []

    def take_new_block_ids(self):
        ids = [block for group in self.groups for block in group.new]
        for group in self.groups:
            group.new = []
        return ids

    def get_num_common_prefix_blocks(self, request_id):
        return [group.common(request_id) if self.enable_caching else 0 for group in self.groups]

    def get_blocks(self, request_id):
        return self._blocks([group.tables.get(request_id, []) for group in self.groups])

    def get_block_ids(self, request_id):
        return self.get_blocks(request_id).get_block_ids()

    def new_step_starts(self):
        for group in self.groups:
            group.step_starts()
