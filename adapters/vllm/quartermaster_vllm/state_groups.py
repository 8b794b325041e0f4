"""Recurrent state (Mamba and linear attention): only the state after the last token is read."""

from array import array

from .groups import NULL, Plan, _PartGroup
from .hashes import cdiv
from .retention import state_ends
from .versions import Version


class StateGroup(_PartGroup):
    """A block for the state at the end of each block of tokens, and `num_speculative_blocks` more for drafts."""

    def __init__(self, spec, *rest):
        super().__init__(spec, *rest)
        self.num_speculative_blocks = getattr(spec, "num_speculative_blocks", 0)
        # Hashes cached in this step: the state behind them is not computed yet.
        self.cached_blocks_this_step = set()

    def get_num_skipped_tokens(self, num_computed_tokens):
        return num_computed_tokens - 1

    def _settled(self, computed):
        """Computed tokens of which none can be rejected: drafts may be among the others, as if all of them were."""
        return computed if self.version >= Version.JULY_2026 else max(0, computed - self.num_speculative_blocks)

    def leave_window(self, request_id, computed):
        return super().leave_window(request_id, self._settled(computed))

    def slots_needed(self, need, need_main, encoder):
        return need + self.block_size * self.num_speculative_blocks

    def _fresh_hit(self, hit):
        """Whether a hit ends in a state that another request of this step has yet to compute."""
        if not hit or not self.cached_blocks_this_step:
            return False
        key = self.block_pool.keyed.key(hit[-1])
        return key is not None and key[0] in self.cached_blocks_this_step

    def plan(self, request_id, hit, local, external, need, need_main, encoder, adopts):
        if self._fresh_hit(hit):
            return None
        return super().plan(request_id, hit, local, external, need, need_main, encoder, adopts)

    def reachable(self, request, first, last):
        return state_ends(request, first, last, self.block_size, self.hit_unit, self.retention_interval)

    def cache_blocks(self, request, num_tokens):
        cached = super().cache_blocks(request, num_tokens)
        if cached is not None:
            first, ids = cached
            new = self.block_pool.hashes_of(request.block_hashes, self.block_size)[first : first + len(ids)]
            self.cached_blocks_this_step.update(block_hash for block, block_hash in zip(ids, new) if block != NULL)
        return cached

    def new_step_starts(self):
        self.cached_blocks_this_step.clear()

    def match(self, lookup, use_eagle, align):
        """The last cached state; what is before it is not needed."""
        return lookup.tables(*lookup.last_row(1, align, 1))


class AlignedStateGroup(StateGroup):
    """
    mamba_cache_mode "align": a request holds the running state and the drafts' blocks; the state moves on to a new block
    when a step ends in one, and what it leaves stays only at the ends of steps.
    """

    def __init__(self, spec, *rest):
        super().__init__(spec, *rest)
        # Index of the block with the state of the step before.
        self.last_state_block_idx = {}
        self._started = set()

    def leave_window(self, request_id, computed):
        left = array("I", super().leave_window(request_id, computed))
        last = self.last_state_block_idx.get(request_id)
        if last is not None and last < cdiv(self._settled(computed), self.block_size) - 1:
            table = self.tables[request_id]
            if table[last] != NULL:
                left.append(table[last])
                table[last] = NULL
        return left

    def slots_needed(self, need, need_main, encoder):
        # Lookahead tokens would break the alignment, and drafts have no such layers.
        return need_main + self.block_size * self.num_speculative_blocks

    def plan(self, request_id, hit, local, external, need, need_main, encoder, adopts):
        if self._fresh_hit(hit):
            return None
        drafts = self.num_speculative_blocks
        required = cdiv(need_main, self.block_size) + drafts
        have = len(self.tables.get(request_id, ()))
        started = request_id in self._started
        wanted = required - len(hit) - have
        if wanted > 0:
            wanted = 1 if started else 1 + drafts
        base = super().plan(request_id, hit, local, external, need, need_main, encoder, adopts)
        length = have + base.padding + len(base.kept) + base.external
        fresh = 0
        if required > length:
            keep = required - drafts - 1
            reused = max(min(length, keep) - (length - drafts), 0) if started else 0
            fresh = required - max(length, keep) - reused
        return Plan(wanted, hit, base.padding, base.kept, base.external, fresh, base.adopts, required)

    def extend(self, request_id, plan, ids):
        table = self.tables.setdefault(request_id, array("I"))
        before, drafts = len(table), self.num_speculative_blocks
        if plan.length == before or (plan.length < before and self.version >= Version.JULY_2026):
            return array("I")
        assert plan.length > before, f"{request_id} needs {plan.length} blocks of state and has {before}"
        keep = plan.length - drafts - 1
        if request_id in self._started:
            self.last_state_block_idx[request_id] = before - 1 - drafts
        elif before > 0:
            self.last_state_block_idx[request_id] = before - 1
        table.extend([NULL] * max(keep - before, 0))
        if request_id in self._started:
            # The drafts' blocks of the step before go on as drafts' blocks of this one.
            for index in range(before - drafts, min(before, keep)):
                table.append(table[index])
                table[index] = NULL
        table.extend(ids)
        self._started.add(request_id)
        return table[before:]

    def pop_table(self, request_id):
        self._started.discard(request_id)
        self.last_state_block_idx.pop(request_id, None)
        return super().pop_table(request_id)
