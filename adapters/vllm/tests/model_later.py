"""
What later vLLM decides otherwise, in plain Python over the rules of model.py: what is cached and how long it is kept, which hits
the groups agree on with eagle, how much room a whole sequence needs.
"""

from model import ModelManager
from model_groups import ChunkGroup, StateGroup, WindowGroup, blocks_of

JUNE, JULY = 202606, 202607


class LaterModelManager(ModelManager):
    """`version`: JUNE or JULY. `eagle_groups`: numbers of groups that leave a hit's last block out; none: all, with `use_eagle`."""

    def __init__(
        self,
        blocks,
        specs,
        hash_size,
        max_model_len,
        version,
        max_in_flight_tokens=None,
        retention_interval=None,
        eagle_groups=(),
        **options,
    ):
        super().__init__(blocks, specs, hash_size, max_model_len, **options)
        self.version, self.in_flight, self.interval = version, max_in_flight_tokens, retention_interval
        flagged = {group.spec for group in self.groups if group.number in eagle_groups}
        for group in self.groups:
            group.later, group.settled = True, version >= JULY
            group.eagle = group.spec in flagged if flagged else self.use_eagle
            group.reports_new_blocks |= type(group.spec).__name__ == "MLAAttentionSpec"

    # ---- hits

    def _hash(self, request, group, index):
        if self.version < JULY:
            return super()._hash(request, group, index)
        return request.block_hashes[(index + 1) * group.size // self.hash_size - 1]

    def _agree(self, request):
        """(tables by group number, tokens that all groups have, most tokens that one has)."""
        alike, most = self._alike(), request.num_tokens - 1
        if len(alike) == 1:
            tables = self._hit(request, alike[0], most, alike[0][0].eagle)
            tokens = len(tables[0]) * alike[0][0].size
            return {group.number: table for group, table in zip(alike[0], tables)}, tokens, tokens
        tables, limit, longest, given_up = {}, most, 0, set()
        while True:
            start = limit
            for groups in alike:
                first = groups[0]
                if first.full and first.number in tables:
                    limit -= limit % first.size
                    continue
                # A block is given up once at a length: one more is looked at for it, so that the length can stay.
                gives_up = first.eagle and first.number not in given_up
                more = first.size if gives_up and not isinstance(first, StateGroup) else 0
                hits = self._hit(request, groups, min(limit + more, most), gives_up)
                found = len(hits[0]) * first.size
                if gives_up:
                    given_up.add(first.number)
                elif found < limit:
                    given_up.clear()
                limit, longest = found, max(longest, found)
                tables.update((group.number, hit) for group, hit in zip(groups, hits))
            if limit >= start or (len(alike) == 2 and alike[0][0].full):
                return tables, limit, longest

    def _hits(self, request):
        tables, limit, self.longest = self._agree(request)
        return [tables[group.number][: limit // group.size] for group in self.groups], limit

    def get_computed_blocks(self, request):
        if self.version < JULY:
            return super().get_computed_blocks(request)
        if not self.enable_caching or request.skip_reading_prefix_cache:
            return self.empty_kv_cache_blocks, 0, 0
        tables, length = self._hits(request)
        return self._blocks(tables), length, self.longest if self.longest > length else 0

    def record_prefix_cache_stats(self, request, hits):
        if self.enable_caching and not request.skip_reading_prefix_cache:
            self._count(request, hits)

    def get_computed_blocks_for_connector(self, request):
        full = [group for group in self.groups if group.full]
        if len(self.groups) > 1 and full and any(isinstance(group, StateGroup) for group in self.groups):
            if not self.enable_caching or request.skip_reading_prefix_cache:
                return self.empty_kv_cache_blocks, 0, 0, False
            tables = {}
            for groups in self._alike():
                hits = self._hit(request, groups, request.num_tokens - 1, groups[0].eagle)
                tables.update((group.number, hit) for group, hit in zip(groups, hits))
            lengths = [len(tables[group.number]) * group.size for group in self.groups]
            length = lengths[full[0].number]
            if max(lengths) == length:
                return self._blocks([tables[group.number] for group in self.groups]), length, 0, min(lengths) < length
        return (*self.get_computed_blocks(request), False)

    # ---- room for a whole sequence

    def _most(self, group):
        """Tokens that a request has blocks for at a time, when no more than so many are in flight."""
        if self.in_flight is None or not isinstance(group, (WindowGroup, ChunkGroup)):
            return float("inf")
        if isinstance(group, ChunkGroup):
            tokens = min(group.spec.attention_chunk_size + self.in_flight, self.max_model_len)
            return blocks_of(tokens, group.size) * group.size
        tokens = min(group.spec.sliding_window - 1 + self.in_flight, self.max_model_len)
        return (blocks_of(tokens, group.size) + 1) * group.size

    def _whole_missing(self, request, hits, computed, need, encoder):
        return sum(
            group.missing(request.request_id, hit, computed, min(need, self._most(group)), need, encoder)
            for group, hit in zip(self.groups, hits)
        )

    # ---- what is cached

    def _kept(self, group, request, index):
        """Whether a hit may read block `index`, for each place where one may end."""
        july = self.version >= JULY
        if isinstance(group, StateGroup):
            need, shift = 1, 0
            if self.interval is None:
                return True
        elif isinstance(group, WindowGroup):
            shift = 1 if group.eagle and july else 0
            need = blocks_of(group.spec.sliding_window - 1, group.size) + shift
            if self.align == group.size and not july:
                return True
        else:
            return True
        step = self.align if self.interval is None else self.interval
        places = []
        if step > 0 and need >= step // group.size:
            return True
        if step > 0:
            # The places around: the block is near the one before it or the one after.
            near = index * group.size // step * step
            places = [place for place in (near, near + step, near + 2 * step) if place > 0]
        if self.interval is not None:
            ends = [request.num_prompt_tokens - 1, request.shared_prefix_boundary]
            places += [end - end % self.align for end in ends if end > 0]
        return any(place // group.size + shift - need <= index < place // group.size + shift for place in places)

    def cache_blocks(self, request, tokens):
        if not self.enable_caching:
            return
        aligned = tokens - tokens % self.align if len(self.groups) > 1 else tokens
        for group in self.groups:
            behind = group.size if group.eagle and self.version >= JULY and aligned > 0 else 0
            cached = group.cache(
                request,
                min(tokens, aligned + behind),
                lambda index, group=group: self._key(request, group, index),
                lambda index, group=group: self._kept(group, request, index),
            )
            if cached is not None:
                self._tell_stored(request, group, *cached)
