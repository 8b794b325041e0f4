"""
The rules of vLLM v1's cache manager for one cache group, in plain Python: which blocks a prompt hits, which tokens are still
read, how many blocks are missing. One class a kind of attention, from the rule in its docstring; lists, no core, no batching.
"""


def blocks_of(tokens, size):
    return -(-tokens // size)


class FullGroup:
    """Every token is read: a hit is any run of cached blocks from the start."""

    full = True
    reports_new_blocks = True
    # Rules of June 2026 and later; and computed tokens are settled ones, July (model_later.py).
    later = settled = False
    # Whether an allocation with external tokens may take more blocks than `missing` says.
    may_take_more = False

    def __init__(self, spec, pool, number):
        self.spec, self.size, self.pool, self.number = spec, spec.block_size, pool, number
        # Of each request: its block ids, 0 where none is read any more; and how many of them need no caching.
        self.tables, self.cached = {}, {}
        self.new = []

    def take(self):
        block = self.pool.take()
        if self.reports_new_blocks:
            self.new.append(block)
        return block

    # ---- hits: `there(at)` says whether block `at` is cached in every group of this spec. None: no block is needed

    def hit(self, there, limit, align, eagle):
        count = 0
        while count < limit // self.size and there(count):
            count += 1
        count -= 1 if eagle and count > 0 else 0
        while count * self.size % align:
            count -= 1
        return list(range(count))

    # ---- what is still read

    def skipped(self, computed):
        return 0

    def leave(self, request_id, computed):
        table = self.tables.get(request_id, [])
        for index in reversed(range(min(self.skipped(computed) // self.size, len(table)))):
            if table[index] == 0:
                break
            self.pool.release(table[index])
            table[index] = 0

    # ---- allocation

    def needed(self, need, need_main, encoder):
        """Tokens that need a slot."""
        return need

    def missing(self, request_id, hit, computed, need, need_main, encoder):
        """Free blocks that must be there: new ones, and hits that would leave the free list."""
        need = self.needed(need, need_main, encoder)
        have = len(self.tables.get(request_id, []))
        skipped = 0 if request_id in self.cached else max(self.skipped(computed), 0) // self.size
        fresh = max(blocks_of(need, self.size) - max(skipped, have + len(hit)), 0)
        return fresh + sum(block in self.pool.free for block in hit[max(skipped - have, 0) :])

    def adopt(self, request_id, hit, computed):
        """A request begins with hits."""
        skipped = max(self.skipped(computed), 0) // self.size
        kept = list(hit[skipped:])
        for block in kept:
            self.pool.touch(block)
        self.tables[request_id] = [0] * skipped + kept
        self.cached[request_id] = skipped + len(kept)

    def receive(self, request_id, computed, external):
        """Blocks for tokens computed elsewhere, as far as they are read."""
        skipped = max(self.skipped(computed), 0)
        if skipped // self.size > 0:
            external = min(computed - skipped, external)
        table = self.tables[request_id]
        while external > 0 and len(table) < blocks_of(computed, self.size):
            table.append(self.take())

    def extend(self, request_id, need, need_main, encoder):
        table = self.tables.setdefault(request_id, [])
        before = len(table)
        while len(table) < blocks_of(self.needed(need, need_main, encoder), self.size):
            table.append(self.take())
        return table[before:]

    # ---- caching

    def cache(self, request, tokens, key, keeps=lambda index: True):
        """
        Gives full blocks their keys, those that `keeps` says; returns (first and last full index, indices of those), or None
        when nothing was full.
        """
        done, full = self.cached.get(request.request_id, 0), tokens // self.size
        if full <= done:
            return None
        entered = []
        for index in range(done, full):
            block = self.tables[request.request_id][index]
            if block != 0 and keeps(index):
                self.pool.enter(block, key(index))
                entered.append(index)
        self.cached[request.request_id] = full
        return done, full, entered

    def pop(self, request_id):
        self.cached.pop(request_id, None)
        return self.tables.pop(request_id, [])

    def common(self, request_id):
        count = 0
        for block in self.tables.get(request_id, []):
            if self.pool.refs[block] != len(self.tables):
                break
            count += 1
        return count

    def step_starts(self):
        pass


class OtherFullGroup(FullGroup):
    """MLA: as full attention, but its new blocks are not reported for zeroing."""

    reports_new_blocks = False


class SinkGroup(OtherFullGroup):
    """The first free blocks are the sinks' for ever."""

    def __init__(self, spec, pool, number):
        super().__init__(spec, pool, number)
        for _ in range(spec.sink_len // spec.block_size):
            pool.free.pop(next(iter(pool.free)))


class PartGroup(FullGroup):
    full = False
    reports_new_blocks = False

    def common(self, request_id):
        return 0


class WindowGroup(PartGroup):
    """The next token reads the last `sliding_window` tokens, itself among them."""

    def hit(self, there, limit, align, eagle):
        size = self.size
        wanted = blocks_of(self.spec.sliding_window - 1, size) + (1 if eagle else 0)
        # Every end that is allowed, the latest first: the row that stops there must fill the window or begin at 0. Later the
        # block that is left out for eagle is behind the end.
        first = last = 0
        for end in range(limit // size, 0, -1):
            if (end - (1 if eagle and self.later else 0)) * size % align or not there(end - 1):
                continue
            start = end
            while start > 0 and there(start - 1) and end - start < max(wanted, 1):
                start -= 1
            if end - start >= max(wanted, 1) or start == 0:
                first, last = start, end
                # A row that does not fill the window is cut to whole places before eagle's block is left out.
                while end - start < max(wanted, 1) and last * size % align:
                    last -= 1
                break
        if eagle and last > 0:
            last -= 1
            while last * size % align:
                last -= 1
        return [None if at < first else at for at in range(last)]

    def skipped(self, computed):
        return max(0, computed - self.spec.sliding_window + 1)


class ChunkGroup(PartGroup):
    """The next token reads its own chunk: what is before it counts as hit, whatever is cached."""

    def hit(self, there, limit, align, eagle):
        chunk = self.spec.attention_chunk_size
        first = end = limit // chunk * chunk // self.size
        while end < limit // self.size and there(end):
            end += 1
        return [None if at < first else at for at in range(end)]

    def skipped(self, computed):
        return computed - computed % self.spec.attention_chunk_size


class StateGroup(PartGroup):
    """
    Recurrent state: only that behind the last token is read. Blocks for drafts beside it; a state that another request has
    cached in this very step is not computed yet, so that a hit on it waits for the next step.
    """

    def __init__(self, spec, pool, number):
        super().__init__(spec, pool, number)
        self.drafts = spec.num_speculative_blocks
        self.fresh = set()

    def hit(self, there, limit, align, eagle):
        for at in reversed(range(limit // self.size)):
            if there(at) and (at + 1) * self.size % align == 0:
                return [None] * at + [at]
        return []

    def skipped(self, computed):
        return computed - 1

    def leave(self, request_id, computed):
        # As if every draft among the computed tokens were rejected.
        super().leave(request_id, computed if self.settled else max(0, computed - self.drafts))

    def needed(self, need, need_main, encoder):
        return need + self.drafts * self.size

    def missing(self, request_id, hit, computed, need, need_main, encoder):
        if hit and self.pool.keys[hit[-1]] in self.fresh:
            return float("inf")
        return super().missing(request_id, hit, computed, need, need_main, encoder)

    def cache(self, request, tokens, key, keeps=lambda index: True):
        entered = super().cache(request, tokens, key, keeps)
        if entered is not None:
            self.fresh.update(key(index) for index in entered[2])
        return entered

    def step_starts(self):
        self.fresh.clear()


class AlignedStateGroup(StateGroup):
    """
    "align": one block with the running state, and one a draft, at the end of the table; all before them are null but the states
    at the ends of steps. A step that needs a longer table moves the drafts' blocks on and takes one block more.

    `missing` is vLLM's count, in which the block with the state of external tokens is not.
    """

    may_take_more = True

    def __init__(self, spec, pool, number):
        super().__init__(spec, pool, number)
        self.started, self.before_last = set(), {}

    def leave(self, request_id, computed):
        super().leave(request_id, computed)
        last = self.before_last.get(request_id)
        computed = computed if self.settled else max(0, computed - self.drafts)
        if last is not None and last < blocks_of(computed, self.size) - 1:
            table = self.tables[request_id]
            self.pool.release(table[last])
            table[last] = 0

    def missing(self, request_id, hit, computed, need, need_main, encoder):
        if hit and self.pool.keys[hit[-1]] in self.fresh:
            return float("inf")
        length = blocks_of(need_main, self.size) + self.drafts
        fresh = length - len(hit) - len(self.tables.get(request_id, []))
        if fresh > 0:
            fresh = 1 if request_id in self.started else 1 + self.drafts
        return fresh + sum(block in self.pool.free for block in hit)

    def extend(self, request_id, need, need_main, encoder):
        table = self.tables.setdefault(request_id, [])
        before, length = len(table), blocks_of(need_main, self.size) + self.drafts
        if length == before or (length < before and self.settled):
            return []
        assert length > before
        running = length - 1 - self.drafts
        moved = []
        if request_id in self.started:
            self.before_last[request_id] = before - 1 - self.drafts
        elif before > 0:
            self.before_last[request_id] = before - 1
        table.extend([0] * (running - before))
        if request_id in self.started:
            for index in range(before - self.drafts, min(before, running)):
                moved.append(table[index])
                table[index] = 0
        table.extend(moved)
        while len(table) < length:
            table.append(self.take())
        self.started.add(request_id)
        return table[before:]

    def pop(self, request_id):
        self.started.discard(request_id)
        self.before_last.pop(request_id, None)
        return super().pop(request_id)


class CrossGroup(PartGroup):
    """Cross-attention: blocks for the encoder's tokens, once; never a hit, and caching is off."""

    def needed(self, need, need_main, encoder):
        return encoder

    def missing(self, request_id, hit, computed, need, need_main, encoder):
        return super().missing(request_id, [], 0, need, need_main, encoder)

    def adopt(self, request_id, hit, computed):
        assert not hit

    def receive(self, request_id, computed, external):
        pass


GROUPS = {
    "FullAttentionSpec": FullGroup,
    "MLAAttentionSpec": OtherFullGroup,
    "SinkFullAttentionSpec": SinkGroup,
    "SlidingWindowSpec": WindowGroup,
    "ChunkedLocalAttentionSpec": ChunkGroup,
    "MambaSpec": StateGroup,
    "CrossAttentionSpec": CrossGroup,
}


def group_of(spec, pool, number):
    if getattr(spec, "mamba_cache_mode", None) == "align":
        return AlignedStateGroup(spec, pool, number)
    return GROUPS[type(spec).__name__](spec, pool, number)
