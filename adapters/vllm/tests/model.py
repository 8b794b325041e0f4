"""
The rules of vLLM v1's cache manager in plain Python, for full attention and sliding windows: lists that are searched, no
core, no batching. What the adapter is compared with, and timed against.
"""

from math import lcm


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
        self.events.append(("removed", key))

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

    def find(self, key):
        found = self.holders.get(key)
        return found[0] if found else None


class ModelBlocks:
    def __init__(self, blocks):
        self.blocks = tuple(blocks)

    def get_block_ids(self, allow_none=False):
        return tuple([block.block_id for block in group] for group in self.blocks)


class ModelManager:
    """`windows`: for each group its sliding window in tokens, or None for full attention; `sizes`: its block size."""

    def __init__(self, blocks, sizes, windows, hash_size, max_model_len, enable_caching=True, use_eagle=False):
        self.block_pool = ModelPool(blocks)
        self.sizes, self.windows, self.hash_size = sizes, windows, hash_size
        self.max_model_len, self.enable_caching, self.use_eagle = max_model_len, enable_caching, use_eagle
        self.tables = [{} for _ in sizes]
        self.cached = [{} for _ in sizes]
        self.empty_kv_cache_blocks = ModelBlocks([] for _ in sizes)
        self.usable = blocks - 1

    @property
    def usage(self):
        return 1.0 - len(self.block_pool.free) / self.usable

    def _blocks(self, tables):
        if not any(tables):
            return self.empty_kv_cache_blocks
        known = self.block_pool.blocks
        return ModelBlocks([known[block] for block in table] for table in tables)

    def _key(self, request, group, index):
        parts = self.sizes[group] // self.hash_size
        joined = b"".join(request.block_hashes[index * parts : (index + 1) * parts])
        return joined + group.to_bytes(4, "big")

    # ---- hits

    def _full_hit(self, request, groups, limit, align):
        size, hit = self.sizes[groups[0]], 0
        while hit < limit // size and all(
            self.block_pool.find(self._key(request, group, hit)) is not None for group in groups
        ):
            hit += 1
        if self.use_eagle and hit > 0:
            hit -= 1
        while hit * size % align:
            hit -= 1
        return [[self.block_pool.find(self._key(request, group, at)) for at in range(hit)] for group in groups]

    def _window_hit(self, request, groups, limit, align):
        size = self.sizes[groups[0]]
        wanted = -(-(self.windows[groups[0]] - 1) // size) + (1 if self.use_eagle else 0)

        def there(at):
            return all(self.block_pool.find(self._key(request, group, at)) is not None for group in groups)

        # Every end that is allowed, the latest first: the row that stops there must fill the window or begin at 0.
        first = last = 0
        for end in range(limit // size, 0, -1):
            if end * size % align or not there(end - 1):
                continue
            start = end
            while start > 0 and there(start - 1) and end - start < max(wanted, 1):
                start -= 1
            if end - start >= max(wanted, 1) or start == 0:
                first, last = start, end
                break
        if self.use_eagle and last > 0:
            last -= 1
            while last * size % align:
                last -= 1
        table = lambda group: [  # noqa: E731
            0 if at < first else self.block_pool.find(self._key(request, group, at)) for at in range(last)
        ]
        return [table(group) for group in groups]

    def _hits(self, request):
        alike = {}
        for group, shape in enumerate(zip(self.windows, self.sizes)):
            alike.setdefault(shape, []).append(group)
        order = sorted(alike, key=lambda shape: shape[0] is not None)
        align = lcm(*self.sizes)
        tables, limit = [[] for _ in self.sizes], request.num_tokens - 1
        full = None
        while True:
            start = limit
            for window, size in order:
                groups = alike[window, size]
                if window is None and full is not None:
                    limit -= limit % size
                    continue
                find = self._full_hit if window is None else self._window_hit
                hits = find(request, groups, limit, align)
                full = hits if window is None else full
                limit = len(hits[0]) * size
                for group, hit in zip(groups, hits):
                    tables[group] = hit
            if limit >= start or len(order) == 1 or (len(order) == 2 and order[0][0] is None):
                break
        for group, size in enumerate(self.sizes):
            tables[group] = tables[group][: limit // size]
        return tables, limit

    def get_computed_blocks(self, request):
        if not self.enable_caching or request.skip_reading_prefix_cache:
            return self.empty_kv_cache_blocks, 0
        tables, length = self._hits(request)
        return self._blocks(tables), length

    # ---- allocation

    def _skipped(self, group, computed):
        window = self.windows[group]
        return 0 if window is None else max(0, computed - window + 1)

    def remove_skipped_blocks(self, request_id, computed):
        for group, size in enumerate(self.sizes):
            table = self.tables[group].get(request_id, [])
            for index in reversed(range(min(self._skipped(group, computed) // size, len(table)))):
                self.block_pool.release(table[index])
                table[index] = 0

    def _missing(self, request, hits, computed, need):
        """Free blocks that must be there: new ones, and hits that would leave the free list."""
        total = 0
        for group, size in enumerate(self.sizes):
            have = len(self.tables[group].get(request.request_id, []))
            hit = hits[group]
            skipped = 0 if request.request_id in self.cached[group] else self._skipped(group, computed) // size
            total += max(-(-need // size) - max(skipped, have + len(hit)), 0)
            total += sum(block in self.block_pool.free for block in hit[max(skipped - have, 0) :])
        return total

    def _ids(self, blocks):
        return [[]] * len(self.sizes) if blocks is None else blocks.get_block_ids()

    def can_fit_full_sequence(self, request, new_tokens=0, new_computed_blocks=None, external=0, encoder=0):
        computed = min(request.num_computed_tokens + new_tokens + external, self.max_model_len)
        need = min(request.num_tokens, self.max_model_len)
        return self._missing(request, self._ids(new_computed_blocks), computed, need) <= len(self.block_pool.free)

    def allocate_slots(
        self,
        request,
        num_new_tokens,
        num_new_computed_tokens=0,
        new_computed_blocks=None,
        num_lookahead_tokens=0,
        num_external_computed_tokens=0,
        delay_cache_blocks=False,
    ):
        if num_new_tokens == 0 and num_external_computed_tokens == 0:
            raise ValueError("nothing to allocate")
        pool, request_id = self.block_pool, request.request_id
        local = request.num_computed_tokens + num_new_computed_tokens
        both = local + num_external_computed_tokens
        total = min(both, self.max_model_len)
        need = min(total + num_new_tokens + num_lookahead_tokens, self.max_model_len)
        self.remove_skipped_blocks(request_id, total)
        hits = self._ids(new_computed_blocks)
        if self._missing(request, hits, both, need) > len(pool.free):
            return None
        given = new_computed_blocks is not None and new_computed_blocks is not self.empty_kv_cache_blocks
        if given or num_external_computed_tokens > 0:
            self._begin(request_id, hits, both, num_external_computed_tokens)
        added = []
        for group, size in enumerate(self.sizes):
            table = self.tables[group].setdefault(request_id, [])
            added.append([pool.take() for _ in range(max(-(-need // size) - len(table), 0))])
            table.extend(added[-1])
        if self.enable_caching and not delay_cache_blocks:
            self.cache_blocks(request, min(total + num_new_tokens, request.num_tokens))
        return self._blocks(added)

    def _begin(self, request_id, hits, both, external):
        starts = [group for group in range(len(self.sizes)) if request_id not in self.cached[group]]
        for group in starts:
            skipped = self._skipped(group, both) // self.sizes[group]
            kept = list(hits[group][skipped:])
            for block in kept:
                self.block_pool.touch(block)
            self.tables[group][request_id] = [0] * skipped + kept
            self.cached[group][request_id] = skipped + len(kept)
        for group in starts:
            skipped_tokens = self._skipped(group, both)
            brought = external
            if skipped_tokens // self.sizes[group] > 0:
                brought = min(both - skipped_tokens, external)
            table = self.tables[group][request_id]
            while brought > 0 and len(table) < -(-both // self.sizes[group]):
                table.append(self.block_pool.take())

    def cache_blocks(self, request, tokens):
        if not self.enable_caching:
            return
        for group, size in enumerate(self.sizes):
            done = self.cached[group].get(request.request_id, 0)
            for index in range(done, tokens // size):
                self.block_pool.enter(self.tables[group][request.request_id][index], self._key(request, group, index))
            if tokens // size > done:
                self.cached[group][request.request_id] = tokens // size

    # ---- the rest

    def free(self, request):
        for group in range(len(self.sizes)):
            for block in reversed(self.tables[group].pop(request.request_id, [])):
                self.block_pool.release(block)
            self.cached[group].pop(request.request_id, None)

    def evict_blocks(self, block_ids):
        for block in block_ids:
            self.block_pool.forget(block)

    def reset_prefix_cache(self):
        if len(self.block_pool.free) != self.usable:
            return False
        for block in range(self.usable + 1):
            self.block_pool.forget(block)
        return True

    def get_num_common_prefix_blocks(self, request_id):
        common = []
        for group, window in enumerate(self.windows):
            tables, count = self.tables[group], 0
            if window is None and self.enable_caching:
                for block in tables.get(request_id, []):
                    if self.block_pool.refs[block] != len(tables):
                        break
                    count += 1
            common.append(count)
        return common

    def get_blocks(self, request_id):
        return self._blocks([table.get(request_id, []) for table in self.tables])

    def get_block_ids(self, request_id):
        return self.get_blocks(request_id).get_block_ids()

    def new_step_starts(self):
        pass
