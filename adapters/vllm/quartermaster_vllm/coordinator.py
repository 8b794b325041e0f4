"""The cache groups of a model side by side over one pool: which group a spec makes, and hits that every group has."""

from array import array
from math import lcm

from .block_pool import BlockPool
from .groups import ChunkGroup, CacheGroup, CrossGroup, SinkGroup, WindowGroup
from .hashes import cdiv
from .keyed_pool import NONE
from .retention import interval_of
from .state_groups import AlignedStateGroup, StateGroup
from .versions import Version

# A spec is known by the name of its class or of one it derives from, so that vLLM's and any like them will do.
_GROUPS = {
    "SinkFullAttentionSpec": SinkGroup,
    "FullAttentionSpec": CacheGroup,
    "SlidingWindowSpec": WindowGroup,
    "ChunkedLocalAttentionSpec": ChunkGroup,
    "MambaSpec": StateGroup,
    "CrossAttentionSpec": CrossGroup,
}


def group_class(spec):
    """The class of the group that a spec asks for."""
    for base in type(spec).__mro__:
        found = _GROUPS.get(base.__name__)
        if found is StateGroup and getattr(spec, "mamba_cache_mode", "none") == "align":
            return AlignedStateGroup
        if found is not None:
            return found
    raise ValueError(f"a cache group of {type(spec).__name__}; known: {', '.join(_GROUPS)}")


class Lookup:
    """The hashes of a request's blocks, looked up in all groups of one spec: a hit is one in each of them."""

    # Blocks that one call looks up when they are asked for from the end.
    CHUNK = 64

    def __init__(self, keyed, hashes, group_ids, block_size, max_length):
        self._keyed = keyed
        self._hashes = hashes
        self.group_ids = group_ids
        self.max_length = max_length
        self.limit = min(max_length // block_size, len(hashes))
        self._chunks = {}

    def prefix(self):
        """Leading blocks that are cached, for each group."""
        hits, limit = [], self.limit
        for group in self.group_ids:
            hits.append(self._keyed.find(group, self._hashes, limit))
            limit = len(hits[-1])
        return [hit[:limit] for hit in hits] if len(hits) > 1 else hits

    def _chunk(self, first):
        """For each group the blocks first to first + CHUNK - 1, NONE where one is not cached."""
        chunk = self._chunks.get(first)
        if chunk is None:
            hashes = self._hashes[first : min(first + self.CHUNK, self.limit)]
            chunk = self._chunks[first] = [self._keyed.find_all(group, hashes) for group in self.group_ids]
        return chunk

    def _found(self, first):
        """Blocks of the first group of a chunk, NONE where any group has none."""
        ids, *others = self._chunk(first)
        if not others:
            return ids
        return array("I", [block if NONE not in rest else NONE for block, *rest in zip(ids, *others)])

    def found(self, index):
        """Whether every group has block `index`."""
        at = index % self.CHUNK
        return all(ids[at] != NONE for ids in self._chunk(index - at))

    def last_row(self, length, align, behind):
        """
        (first index, blocks) of the last row of `length` found blocks, whose last index plus `behind` is a multiple of `align`.
        Where there is none: (0, blocks that are found at the start).
        """
        row = 0
        for first in range((self.limit - 1) // self.CHUNK * self.CHUNK, -1, -self.CHUNK):
            ids = self._found(first)
            if ids.count(NONE) == len(ids):
                row = 0
                continue
            for at in range(len(ids) - 1, -1, -1):
                if ids[at] == NONE:
                    row = 0
                elif row > 0 or (first + at + behind) % align == 0:
                    row += 1
                    if row >= length:
                        return first + at, row
        return 0, row

    def tables(self, start, count):
        """For each group `start` null blocks, and blocks `start` to `start + count` - 1, which have been found."""
        tables, size = [], self.CHUNK
        for position in range(len(self.group_ids)):
            table = array("I", bytes(4 * start))
            index, end = start, start + count
            while index < end:
                first = index - index % size
                table.extend(self._chunk(first)[position][index - first : end - first])
                index = first + size
            tables.append(table)
        return tables


class KVCacheCoordinator:
    """One group a cache group of the configuration, in its order, over one pool."""

    def __init__(
        self,
        kv_cache_config,
        max_model_len,
        use_eagle,
        enable_caching,
        enable_kv_cache_events,
        dcp_world_size,
        pcp_world_size,
        hash_block_size,
        metrics_collector=None,
        scheduler_block_size=None,
        version=Version.APRIL_2026,
        max_in_flight_tokens=None,
        retention_interval=None,
    ):
        self.version = version
        self.kv_cache_config = kv_cache_config
        self.max_model_len = max_model_len
        self.use_eagle = use_eagle
        self.enable_caching = enable_caching
        self.hash_block_size = hash_block_size
        self.scheduler_block_size = scheduler_block_size
        self.block_pool = BlockPool(
            kv_cache_config.num_blocks, enable_caching, hash_block_size, enable_kv_cache_events, metrics_collector
        )
        self.block_pool.chained_hashes = version >= Version.JULY_2026
        world_size = dcp_world_size * pcp_world_size
        self.single_type_managers = tuple(
            group_class(group.kv_cache_spec)(
                group.kv_cache_spec, self.block_pool, enable_caching, index, world_size, version
            )
            for index, group in enumerate(kv_cache_config.kv_cache_groups)
        )
        if version >= Version.JULY_2026 and not getattr(kv_cache_config, "needs_kv_cache_zeroing", True):
            # Nobody would ever take them.
            for group in self.single_type_managers:
                group.reports_new = False
        # Groups whose attention does not read every token.
        self._parts = [group for group in self.single_type_managers if not group.is_full]
        self._limit_admission(max_in_flight_tokens)
        if enable_caching:
            self._group_specs(world_size)
            self._say_what_is_kept(retention_interval)

    def _limit_admission(self, in_flight):
        """With so many tokens in flight, and no more, a request of a window or of chunks holds a limited number of blocks."""
        if in_flight is None:
            return
        for group in self.single_type_managers:
            size, longest = group.block_size, self.max_model_len
            if isinstance(group, WindowGroup):
                # One more: the window begins anywhere in its first block.
                group.most_blocks = cdiv(min(group.sliding_window - 1 + in_flight, longest), size) + 1
            elif isinstance(group, ChunkGroup):
                group.most_blocks = cdiv(min(group.attention_chunk_size + in_flight, longest), size)

    def _say_what_is_kept(self, retention_interval):
        interval = None
        if self.version >= Version.JULY_2026:
            specs = [group.kv_cache_spec for group in self.single_type_managers]
            interval = interval_of(retention_interval, self._align, specs)
        flagged = [False] * len(self.single_type_managers)
        if self.version >= Version.JUNE_2026:
            flagged = [getattr(group, "is_eagle_group", False) for group in self.kv_cache_config.kv_cache_groups]
        for _, members in self._alike:
            eagle = any(flagged[member.kv_cache_group_id] for member in members)
            for member in members:
                member.use_eagle = eagle or (self.use_eagle and not any(flagged))
                member.hit_unit, member.retention_interval = self._align, interval
        # The one group of a model with full attention alone, whose hits are whatever leading blocks are cached.
        only = self.single_type_managers[0]
        plain = len(self.single_type_managers) == 1 and type(only) is CacheGroup and not only.use_eagle
        self._plain = only if plain and self._align == only.block_size else None

    def _group_specs(self, world_size):
        """Groups of one spec are looked up together; full attention first, its hits bound the others'."""
        alike = []
        for group in self.single_type_managers:
            for spec, members in alike:
                if spec == group.kv_cache_spec:
                    members.append(group)
                    break
            else:
                alike.append((group.kv_cache_spec, [group]))
        alike.sort(key=lambda entry: not entry[1][0].is_full)
        self._alike = alike
        if len(self.single_type_managers) == 1:
            size = self.single_type_managers[0].block_size
            assert self.hash_block_size == size, f"hash_block_size {self.hash_block_size} for blocks of {size} tokens"
            self._align = self._hit_unit(size)
            return
        assert len(alike) > 1, "several cache groups need at least two different specs"
        assert world_size == 1, "context parallelism needs a single cache group"
        sizes = [group.block_size for group in self.single_type_managers]
        assert all(size % self.hash_block_size == 0 for size in sizes), (
            f"block sizes {sizes} are not multiples of hash_block_size {self.hash_block_size}"
        )
        self._align = self._hit_unit(lcm(*sizes))

    def _hit_unit(self, least):
        """Tokens of which every hit is a multiple."""
        unit = least if self.scheduler_block_size is None else self.scheduler_block_size
        assert unit % least == 0, f"scheduler_block_size {unit} is not a multiple of {least}"
        return unit

    def _match(self, members, block_hashes, max_length, use_eagle):
        first = members[0]
        lookup = Lookup(
            self.block_pool.keyed,
            self.block_pool.hashes_of(block_hashes, first.block_size)
            if len(self.single_type_managers) > 1
            else block_hashes,
            [member.kv_cache_group_id for member in members],
            first.block_size,
            max_length,
        )
        return first.match(lookup, use_eagle, self._align // first.block_size)

    def find_hit(self, block_hashes, max_length):
        """
        (ids for each group, tokens, most tokens that any group has) of the longest prefix of at most `max_length` tokens that
        every group has.
        """
        tables = [array("I")] * len(self.single_type_managers)
        if not self.enable_caching:
            return tables, 0, 0
        if self._plain is not None:
            size = self._plain.block_size
            hit = self.block_pool.keyed.find(0, block_hashes, min(max_length // size, len(block_hashes)))
            return [hit], len(hit) * size, len(hit) * size
        if len(self.single_type_managers) == 1:
            members = self._alike[0][1]
            tables = self._match(members, block_hashes, max_length, members[0].use_eagle)
            length = len(tables[0]) * members[0].block_size
            return tables, length, length
        full_first = self._alike[0][1][0].is_full
        # One full group and one other agree at once; a second look would drop a second block for eagle.
        once = len(self._alike) == 2 and full_first
        drops_once = self.version >= Version.JUNE_2026
        length, longest, first_look = max_length, 0, True
        # Groups that have given their block up for eagle at the length that is looked at.
        given_up = set()
        while True:
            candidate = length
            for number, (_, members) in enumerate(self._alike):
                size = members[0].block_size
                if members[0].is_full and not first_look:
                    # The first blocks of a hit are one as well.
                    candidate -= candidate % size
                    continue
                eagle, most = members[0].use_eagle, candidate
                if drops_once and eagle:
                    eagle = number not in given_up
                    # A state gives none up.
                    if eagle and not isinstance(members[0], StateGroup):
                        most = min(candidate + size, max_length)
                hits = self._match(members, block_hashes, most, eagle) if most >= size else [array("I")] * len(members)
                found = len(hits[0]) * size
                if drops_once and eagle:
                    given_up.add(number)
                elif found < candidate:
                    given_up.clear()
                candidate = found
                longest = max(longest, found)
                for member, hit in zip(members, hits):
                    tables[member.kv_cache_group_id] = hit
            if candidate >= length:
                break
            length, first_look = candidate, False
            if once:
                break
        for group in self.single_type_managers:
            if group.is_full:
                tables[group.kv_cache_group_id] = tables[group.kv_cache_group_id][: length // group.block_size]
        return tables, length, longest

    def find_hit_per_group(self, block_hashes, max_length):
        """(ids, tokens) for each group of the longest prefix that it has itself, whatever the others have."""
        count = len(self.single_type_managers)
        tables, lengths = [array("I")] * count, [0] * count
        for _, members in self._alike:
            hits = self._match(members, block_hashes, max_length, members[0].use_eagle)
            for member, hit in zip(members, hits):
                tables[member.kv_cache_group_id] = hit
                lengths[member.kv_cache_group_id] = len(hit) * member.block_size
        return tables, lengths

    # ---- vLLM's methods

    def find_longest_cache_hit(self, block_hashes, max_cache_hit_length):
        tables, length, longest = self.find_hit(block_hashes, max_cache_hit_length)
        found = self._block_lists(tables), length
        return (*found, longest - length) if self.version >= Version.JULY_2026 else found

    def find_longest_cache_hit_per_group(self, block_hashes, max_cache_hit_length):
        tables, lengths = self.find_hit_per_group(block_hashes, max_cache_hit_length)
        return self._block_lists(tables), tuple(lengths)

    def _block_lists(self, tables):
        blocks = self.block_pool.blocks
        return tuple([blocks[block] for block in table] for table in tables)

    def get_blocks(self, request_id):
        return tuple(group.req_to_blocks.get(request_id) or [] for group in self.single_type_managers)

    def cache_blocks(self, request, num_computed_tokens):
        if self.version < Version.JUNE_2026 or len(self.single_type_managers) == 1:
            for group in self.single_type_managers:
                group.cache_blocks(request, num_computed_tokens)
            return
        # Every hit is a multiple of the unit; eagle looks at the block behind it.
        aligned = num_computed_tokens - num_computed_tokens % self._align
        for group in self.single_type_managers:
            tokens = aligned
            if group.use_eagle and aligned > 0 and self.version >= Version.JULY_2026:
                tokens = min(num_computed_tokens, aligned + group.block_size)
            group.cache_blocks(request, tokens)

    def free(self, request_id):
        """Gives a request's blocks back, group by group, each from its tail."""
        ids = array("I")
        for group in self.single_type_managers:
            ids.extend(group.pop_table(request_id))
        self.block_pool.give_back(ids)

    def pop_blocks_for_free(self, request_id):
        """Forgets a request and returns its blocks, still held, in order."""
        blocks = self.block_pool.blocks
        return [blocks[block] for group in self.single_type_managers for block in group.pop_table(request_id)[::-1]]

    def remove_skipped_blocks(self, request_id, total_computed_tokens):
        """Gives back the blocks that no attention reads any more."""
        ids = None
        for group in self._parts:
            left = group.leave_window(request_id, total_computed_tokens)
            if left:
                ids = left if ids is None else ids + left
        if ids:
            self.block_pool.give_back(ids)

    def get_num_common_prefix_blocks(self, running_request_id):
        if not self.enable_caching:
            return [0] * len(self.single_type_managers)
        return [group.get_num_common_prefix_blocks(running_request_id) for group in self.single_type_managers]

    def new_step_starts(self):
        for group in self.single_type_managers:
            group.new_step_starts()
