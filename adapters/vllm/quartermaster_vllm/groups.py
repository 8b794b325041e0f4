"""
What one cache group knows of each request: which blocks it has, and which of them its attention still reads.

A group decides and counts; it never calls the pool to allocate. The manager asks every group for a Plan, lets the pool
do the sum of them in one call, and hands the ids back. Ids are array('I'); 0 is the null block.
"""

from array import array
from collections.abc import MutableMapping

from .hashes import cdiv
from .retention import window_tails
from .versions import Version

NULL = 0


class Plan:
    """What a group would have of the pool for one allocation."""

    __slots__ = ("wanted", "hits", "padding", "kept", "external", "fresh", "adopts", "length")

    def __init__(self, wanted, hits, padding, kept, external, fresh, adopts, length=0):
        # Blocks that must be free beside `hits` for the allocation to be let in.
        self.wanted = wanted
        self.hits = hits
        # The request's table so far, when it begins here (`adopts`): null blocks, then these cached blocks.
        self.padding = padding
        self.kept = kept
        self.adopts = adopts
        # Blocks to take: for tokens computed elsewhere, and for tokens to be computed.
        self.external = external
        self.fresh = fresh
        # Entries of the table in the end, where that does not follow from the others.
        self.length = length


class BlockTables(MutableMapping):
    """A group's block tables as lists of blocks, made when they are looked at."""

    def __init__(self, group):
        self._group = group

    def __getitem__(self, request_id):
        blocks = self._group.block_pool.blocks
        return [blocks[block] for block in self._group.tables.get(request_id, ())]

    def __contains__(self, request_id):
        return request_id in self._group.tables

    def get(self, request_id, default=None):
        return self[request_id] if request_id in self._group.tables else default

    def __setitem__(self, request_id, blocks):
        self._group.tables[request_id] = array("I", [block.block_id for block in blocks])

    def __delitem__(self, request_id):
        del self._group.tables[request_id]

    def __iter__(self):
        return iter(self._group.tables)

    def __len__(self):
        return len(self._group.tables)


class CacheGroup:
    """A group whose attention reads every token: full attention."""

    # Whether a hit of the first blocks alone is a hit as well.
    is_full = True
    # Most blocks that a request holds at a time, whatever its length; None: it holds them all.
    most_blocks = None
    # Whether the last block of a hit is left out: a draft head needs its hidden states.
    use_eagle = False
    # Tokens of which every hit is a multiple, and those between the places that are kept (retention.py).
    hit_unit = retention_interval = None

    def __init__(self, spec, block_pool, enable_caching, group_id, world_size=1, version=Version.APRIL_2026):
        self.version = version
        self.kv_cache_spec = spec
        self.block_size = spec.block_size * world_size
        self.block_pool = block_pool
        self.enable_caching = enable_caching
        self.kv_cache_group_id = group_id
        self.tables = {}
        self.req_to_blocks = BlockTables(self)
        self.num_cached_block = {}
        self.new_block_ids = []
        reporting = ("FullAttentionSpec", "TQFullAttentionSpec")
        if version >= Version.JUNE_2026:
            reporting += ("MLAAttentionSpec", "HiddenStateCacheSpec")
        self.reports_new = type(spec).__name__ in reporting

    # ---- which tokens are still read

    def get_num_skipped_tokens(self, num_computed_tokens):
        """Leading tokens that attention no longer reads once so many are computed."""
        return 0

    def leave_window(self, request_id, computed):
        """Replaces blocks that are no longer read by the null block; their ids, the last first."""
        skipped = self.get_num_skipped_tokens(computed)
        if skipped <= 0:
            return ()
        table = self.tables.get(request_id)
        if not table:
            return ()
        left = array("I")
        for index in range(min(skipped // self.block_size, len(table)) - 1, -1, -1):
            if table[index] == NULL:
                break
            left.append(table[index])
            table[index] = NULL
        return left

    # ---- allocation

    def slots_needed(self, need, need_main, encoder):
        """Tokens that need a slot in this group, of all tokens, those of the main model and those of the encoder."""
        return need

    def held_at_once(self, tokens):
        """Of so many tokens those that have blocks at one time."""
        return tokens if self.most_blocks is None else min(tokens, self.most_blocks * self.block_size)

    def missing(self, request_id, need, need_main, encoder):
        """Blocks that a request without new hits lacks."""
        need = self.slots_needed(need, need_main, encoder)
        return max(cdiv(need, self.block_size) - len(self.tables.get(request_id, ())), 0)

    def plan(self, request_id, hit, local, external, need, need_main, encoder, adopts):
        """A Plan, or None when the allocation has to wait for the next step."""
        need = self.slots_needed(need, need_main, encoder)
        size = self.block_size
        have = len(self.tables.get(request_id, ()))
        if request_id in self.num_cached_block or not adopts:
            assert not hit, "a running request has no new cached blocks"
            fresh = max(cdiv(need, size) - have, 0)
            return Plan(fresh, hit, 0, hit, 0, fresh, False)
        total = local + external
        skipped = max(self.get_num_skipped_tokens(total) // size, 0)
        kept = hit[max(skipped - have, 0) :]
        length = max(skipped, have + len(hit))
        if skipped > 0:
            external = min(total - self.get_num_skipped_tokens(total), external)
        ahead = max(cdiv(total, size) - length, 0) if external > 0 else 0
        fresh = max(cdiv(need, size) - length - ahead, 0)
        return Plan(max(cdiv(need, size) - length, 0), kept, skipped, kept, ahead, fresh, True)

    def begin(self, request_id, plan, ids):
        """The request starts with cached blocks, and `ids` for tokens computed elsewhere."""
        assert not self.tables.get(request_id), f"{request_id} has blocks already"
        table = array("I", bytes(4 * plan.padding))
        table.extend(plan.kept)
        self.num_cached_block[request_id] = len(table)
        table.extend(ids)
        self.tables[request_id] = table
        self._report(ids)

    def extend(self, request_id, plan, ids):
        """The request gets `ids`; returns what is new in its table."""
        table = self.tables.get(request_id)
        if table is None:
            table = self.tables[request_id] = array("I")
        table.extend(ids)
        self._report(ids)
        return ids

    def _report(self, ids):
        if self.reports_new:
            self.new_block_ids.extend(ids)
            if len(self.new_block_ids) > 16 * self.block_pool.num_gpu_blocks:
                # Nobody takes them: each once.
                self.new_block_ids = list(dict.fromkeys(self.new_block_ids))

    def take_new_block_ids(self):
        ids, self.new_block_ids = self.new_block_ids, []
        return ids

    # ---- caching

    def reachable(self, request, first, last):
        """Whether a hit can have a use for each of the blocks first to last - 1; None: for all of them."""
        return None

    def cache_blocks(self, request, num_tokens):
        """Caches the blocks that are full once `num_tokens` tokens are. Returns (first, their ids; NULL: not cached), or None."""
        request_id = request.request_id
        first = self.num_cached_block.get(request_id, 0)
        last = num_tokens // self.block_size
        if first >= last:
            return None
        ids = self.tables[request_id][first:last]
        mask = self.reachable(request, first, last)
        if mask is not None:
            ids = array("I", [block if useful else NULL for block, useful in zip(ids, mask)])
        self.block_pool.cache(request, ids, first, last, self.block_size, self.kv_cache_group_id)
        self.num_cached_block[request_id] = last
        return first, ids

    def pop_table(self, request_id):
        """Forgets a request; its blocks in order of eviction, the tail first."""
        self.num_cached_block.pop(request_id, None)
        table = self.tables.pop(request_id, None)
        return table[::-1] if table else ()

    def get_num_common_prefix_blocks(self, request_id):
        """Leading blocks that every request with blocks holds."""
        references = self.block_pool.keyed.references
        holders, common = len(self.tables), 0
        for block in self.tables.get(request_id, ()):
            if references[block] != holders:
                break
            common += 1
        return common

    def new_step_starts(self):
        pass

    # ---- prefix hits

    def match(self, lookup, use_eagle, align):
        """
        Blocks of the longest cached prefix of at most `lookup.limit` blocks, whose length is a multiple of `align`
        blocks. With `use_eagle` the last one is dropped: the draft head needs its hidden states. Returns a list of ids
        for each group of `lookup`.
        """
        hits = lookup.prefix()
        if use_eagle and hits[0]:
            hits = [hit[:-1] for hit in hits]
        return _aligned(hits, align)


def _aligned(hits, align):
    length = len(hits[0])
    return [hit[: length - length % align] for hit in hits] if length % align else hits


class SinkGroup(CacheGroup):
    """Full attention whose first tokens, the sinks, have blocks of their own that are never freed."""

    def __init__(self, spec, *rest):
        super().__init__(spec, *rest)
        assert spec.sink_len and spec.sink_len % self.block_size == 0, f"sink_len is {spec.sink_len!r}"
        self.sink_blocks = self.block_pool.free_block_queue.popleft_n(spec.sink_len // self.block_size)


class _PartGroup(CacheGroup):
    is_full = False

    def get_num_common_prefix_blocks(self, request_id):
        return 0


class WindowGroup(_PartGroup):
    """Sliding window: the next token reads the last `sliding_window` tokens, itself among them."""

    def __init__(self, spec, *rest):
        super().__init__(spec, *rest)
        self.sliding_window = spec.sliding_window

    def get_num_skipped_tokens(self, num_computed_tokens):
        return max(0, num_computed_tokens - self.sliding_window + 1)

    def reachable(self, request, first, last):
        size, unit = self.block_size, self.hit_unit
        july = self.version >= Version.JULY_2026
        if self.version < Version.JUNE_2026 or (unit <= size and not july):
            return None
        eagle = self.use_eagle and july
        return window_tails(request, first, last, size, self.sliding_window, unit, eagle, self.retention_interval)

    def match(self, lookup, use_eagle, align):
        """The last place where enough cached blocks in a row fill the window; else the cached blocks at the start."""
        wanted = cdiv(self.sliding_window - 1, self.block_size) + (1 if use_eagle else 0)
        # The place where the hit ends is before the block that is left out; first it was taken to be behind.
        behind = 0 if use_eagle and self.version >= Version.JUNE_2026 else 1
        index, row = lookup.last_row(max(wanted, 1), align, behind)
        hits = lookup.tables(index, row)
        if row < wanted or row == 0:
            hits = _aligned(hits, align)
        if use_eagle and hits[0]:
            hits = _aligned([hit[:-1] for hit in hits], align)
        return hits


class ChunkGroup(_PartGroup):
    """Chunked local attention: the next token reads the tokens of its own chunk."""

    def __init__(self, spec, *rest):
        super().__init__(spec, *rest)
        self.attention_chunk_size = spec.attention_chunk_size

    def get_num_skipped_tokens(self, num_computed_tokens):
        return num_computed_tokens // self.attention_chunk_size * self.attention_chunk_size

    def match(self, lookup, use_eagle, align):
        assert not use_eagle, "eagle and chunked local attention do not go together"
        assert align == 1, "chunked local attention needs groups of one block size"
        chunk = self.attention_chunk_size
        start = lookup.max_length // chunk * chunk // self.block_size
        row = 0
        while start + row < lookup.limit and lookup.found(start + row):
            row += 1
        return lookup.tables(start, row)


class CrossGroup(CacheGroup):
    """Cross-attention: blocks for the encoder's tokens, taken once, never shared."""

    is_full = False

    def slots_needed(self, need, need_main, encoder):
        return encoder

    def plan(self, request_id, hit, local, external, need, need_main, encoder, adopts):
        assert not hit, "cross-attention has no cached blocks"
        return super().plan(request_id, hit, 0, 0, need, need_main, encoder, False)

    def cache_blocks(self, request, num_tokens):
        raise ValueError("blocks of cross-attention are not cached")

    def get_num_common_prefix_blocks(self, request_id):
        return 0

    def match(self, lookup, use_eagle, align):
        raise NotImplementedError("blocks of cross-attention are not cached")
