"""KVCacheManager: the surface and the decisions of vLLM v1's class of that name, one call into the core for a decision."""

from array import array

from .cache_blocks import KVCacheBlocks, tables_of
from .coordinator import KVCacheCoordinator
from .full_attention import allocate_full
from .groups import CacheGroup, CrossGroup
from .hashes import cdiv
from .interop import BlockStored, PrefixCacheStats, fields_of, logger, spec_kind
from .state_groups import AlignedStateGroup, StateGroup
from .versions import Version


def _status_of(request):
    return getattr(getattr(request, "status", None), "name", None)


# Names of the statuses of requests that are being let in: for them a watermark counts.
_BEING_ADMITTED = ("WAITING", "PREEMPTED")


class KVCacheManager:
    """
    Takes vLLM's KVCacheConfig, or anything with `num_blocks` and `kv_cache_groups` of `kv_cache_spec`s. The parameters
    behind `metrics_collector` are those of later vLLM: `watermark`, the share of the blocks that stays free when a request
    is let in beside others; `scheduler_block_size`, of which every hit is a multiple; `max_in_flight_tokens`, first called
    `max_num_batched_tokens`, which limits the blocks that `full_sequence_must_fit` asks for in groups of windows and chunks;
    and `retention_interval`, which vLLM takes from VLLM_PREFIX_CACHE_RETENTION_INTERVAL (retention.py).
    """

    # Whose decisions are followed, where the parameter `version` does not say it; `install` sets it to those of the vLLM there.
    version = Version.APRIL_2026

    def __init__(
        self,
        kv_cache_config,
        max_model_len,
        hash_block_size,
        enable_caching=True,
        use_eagle=False,
        log_stats=False,
        enable_kv_cache_events=False,
        dcp_world_size=1,
        pcp_world_size=1,
        metrics_collector=None,
        watermark=0.0,
        scheduler_block_size=None,
        max_in_flight_tokens=None,
        max_num_batched_tokens=None,
        retention_interval=None,
        version=None,
    ):
        assert watermark >= 0.0, f"watermark is {watermark!r}"
        if version is not None:
            self.version = version
        self.watermark_blocks = int(watermark * kv_cache_config.num_blocks)
        self.max_model_len = max_model_len
        self.enable_caching = enable_caching
        self.use_eagle = use_eagle
        self.log_stats = log_stats
        self.metrics_collector = metrics_collector
        self.prefix_cache_stats = PrefixCacheStats() if log_stats else None
        self.coordinator = KVCacheCoordinator(
            kv_cache_config,
            max_model_len,
            use_eagle,
            enable_caching,
            enable_kv_cache_events,
            dcp_world_size,
            pcp_world_size,
            hash_block_size,
            metrics_collector,
            scheduler_block_size,
            self.version,
            max_num_batched_tokens if max_in_flight_tokens is None else max_in_flight_tokens,
            retention_interval,
        )
        self._groups = self.coordinator.single_type_managers
        self.num_kv_cache_groups = len(self._groups)
        self.block_pool = self.coordinator.block_pool
        self.kv_cache_config = kv_cache_config
        self._kinds = None
        if self.version >= Version.JUNE_2026 and "kv_cache_spec_kind" in fields_of(BlockStored):
            self._kinds = [spec_kind(group.kv_cache_spec) for group in kv_cache_config.kv_cache_groups]
        # The one group of a model with full attention alone: its requests never give blocks up while they run.
        self._only = self._groups[0] if len(self._groups) == 1 and type(self._groups[0]) is CacheGroup else None
        self._july = self.version >= Version.JULY_2026
        # Whether what a running request lacks follows from its tokens alone.
        self._simple = not any(isinstance(group, AlignedStateGroup) for group in self._groups)
        self._no_ids = tuple(array("I") for _ in self._groups)
        self.empty_kv_cache_blocks = KVCacheBlocks(() for _ in self._groups)

    @property
    def usage(self):
        """Share of the blocks in use, 0 to 1."""
        return self.block_pool.get_usage()

    def make_prefix_cache_stats(self):
        """The statistics since the last call; None unless they are logged."""
        if not self.log_stats:
            return None
        stats, self.prefix_cache_stats = self.prefix_cache_stats, PrefixCacheStats()
        return stats

    def _of_ids(self, tables):
        return KVCacheBlocks.of_ids(self.block_pool, tables) if any(tables) else self.empty_kv_cache_blocks

    def create_kv_cache_blocks(self, blocks):
        return KVCacheBlocks(blocks) if any(blocks) else self.empty_kv_cache_blocks

    def prefix_cache_lookup_enabled(self, request):
        """Whether a request's prefix may be looked up."""
        return self.enable_caching and not request.skip_reading_prefix_cache

    def record_prefix_cache_stats(self, request, num_hits):
        """Counts one look-up, if it was one."""
        if self.log_stats and self.prefix_cache_lookup_enabled(request):
            self.prefix_cache_stats.record(
                num_tokens=request.num_tokens, num_hits=num_hits, preempted=request.num_preemptions > 0
            )

    def get_computed_blocks(self, request):
        """
        (cached blocks of the request's longest cached prefix, its tokens); never with the last token. Since July 2026 a third
        value: tokens of a longer prefix that some group has and another lacks, or 0.
        """
        july = self._july
        if not self.enable_caching or request.skip_reading_prefix_cache:
            return (self.empty_kv_cache_blocks, 0, 0) if july else (self.empty_kv_cache_blocks, 0)
        tables, length, longest = self.coordinator.find_hit(request.block_hashes, request.num_tokens - 1)
        if july:
            return self._of_ids(tables), length, longest if longest > length else 0
        if self.log_stats:
            self.record_prefix_cache_stats(request, length)
        return self._of_ids(tables), length

    def get_computed_blocks_for_connector(self, request):
        """
        As get_computed_blocks with its third value, for a connector that brings state whatever is cached: what full attention
        has counts, unless another group has more. A fourth value: whether a group has less than that.
        """
        groups = self._groups
        full = next((at for at, group in enumerate(groups) if group.is_full), None)
        if full is None or len(groups) == 1 or not any(hasattr(group, "num_speculative_blocks") for group in groups):
            return (*self.get_computed_blocks(request), False)
        if not self.prefix_cache_lookup_enabled(request):
            return self.empty_kv_cache_blocks, 0, 0, False
        tables, lengths = self.coordinator.find_hit_per_group(request.block_hashes, request.num_tokens - 1)
        if max(lengths) > lengths[full]:
            return (*self.get_computed_blocks(request), False)
        return self._of_ids(tables), lengths[full], 0, min(lengths) < lengths[full]

    def _plans(self, request_id, hits, local, external, need, need_main, encoder, adopts, at_once=False):
        plans = []
        for group, hit in zip(self._groups, hits):
            tokens = group.held_at_once(need) if at_once else need
            plan = group.plan(request_id, hit, local, external, tokens, need_main, encoder, adopts)
            if plan is None:
                return None
            plans.append(plan)
        return plans

    def _fits(self, plans, spared=0):
        """Whether there is room for the plans, and `spared` blocks are free behind them."""
        hits = array("I")
        for plan in plans:
            hits.extend(plan.hits)
        return self.block_pool.keyed.fits(hits, max(sum(plan.wanted for plan in plans), 0) + spared)

    def can_fit_full_sequence(
        self,
        request,
        num_new_computed_tokens=0,
        new_computed_blocks=None,
        num_external_computed_tokens=0,
        num_encoder_tokens=0,
    ):
        """Whether the whole sequence would find room now, not only its first chunk."""
        return self._whole_fits(
            request, num_new_computed_tokens, new_computed_blocks, num_external_computed_tokens, num_encoder_tokens
        )

    def _whole_fits(
        self,
        request,
        num_new_computed_tokens,
        new_computed_blocks,
        num_external_computed_tokens,
        num_encoder_tokens,
        spared=0,
        at_once=False,
    ):
        local = request.num_computed_tokens + num_new_computed_tokens
        total = min(local + num_external_computed_tokens, self.max_model_len)
        need = min(request.num_tokens, self.max_model_len)
        hits = self._no_ids if new_computed_blocks is None else tables_of(new_computed_blocks)
        if self._only is not None:
            have = len(hits[0]) + len(self._only.tables.get(request.request_id, ()))
            return self.block_pool.keyed.fits(hits[0], max(cdiv(need, self._only.block_size) - have, 0) + spared)
        plans = self._plans(request.request_id, hits, total, 0, need, need, num_encoder_tokens, True, at_once)
        return plans is not None and self._fits(plans, spared)

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
        """
        Room for `num_new_tokens` tokens (drafts among them) and `num_lookahead_tokens` more, behind the computed ones: the
        request's own, `num_new_computed_tokens` in `new_computed_blocks`, and `num_external_computed_tokens` that a
        connector brings. Returns the blocks added, or None when there is no room: then nothing has changed but that
        blocks which no attention reads any more have been given back.

        Full blocks are cached, unless `delay_cache_blocks`; tokens beyond `request.num_tokens`, that is drafts, are not.

        Of later vLLM: `full_sequence_must_fit` refuses what `can_fit_full_sequence` would; `reserved_blocks` stay free, and
        so does the watermark for a request that is let in, unless nothing else runs in this step (`has_scheduled_reqs`).
        """
        if num_new_tokens == 0 and num_external_computed_tokens == 0:
            raise ValueError("num_new_tokens is 0 and there are no external computed tokens")
        request_id = request.request_id
        adopts = num_external_computed_tokens > 0 or (
            new_computed_blocks is not None and new_computed_blocks is not self.empty_kv_cache_blocks
        )
        local = request.num_computed_tokens + num_new_computed_tokens
        spared = reserved_blocks
        if self.watermark_blocks and has_scheduled_reqs and _status_of(request) in _BEING_ADMITTED:
            spared += self.watermark_blocks
        if full_sequence_must_fit and not self._whole_fits(
            request,
            num_new_computed_tokens,
            new_computed_blocks,
            num_external_computed_tokens,
            num_encoder_tokens,
            spared - reserved_blocks,
            at_once=True,
        ):
            return None
        if self._only is not None and not spared:
            hits = tables_of(new_computed_blocks)[0] if adopts and new_computed_blocks is not None else ()
            return allocate_full(
                self,
                request,
                hits,
                adopts,
                local,
                num_external_computed_tokens,
                num_new_tokens,
                num_lookahead_tokens,
                delay_cache_blocks,
            )
        total = min(local + num_external_computed_tokens, self.max_model_len)
        need_main = total + num_new_tokens
        need = min(need_main + num_lookahead_tokens, self.max_model_len)
        # With steps in flight, what they still read stays.
        self.coordinator.remove_skipped_blocks(request_id, max(0, total - getattr(request, "num_in_flight_tokens", 0)))

        if self._simple and not adopts and not spared:
            added = self._go_on(request_id, need, need_main, num_encoder_tokens)
        else:
            hits = tables_of(new_computed_blocks) if adopts and new_computed_blocks is not None else self._no_ids
            added = self._begin(
                request_id,
                hits,
                local,
                num_external_computed_tokens,
                need,
                need_main,
                num_encoder_tokens,
                adopts,
                spared,
            )
        if added is None:
            return None
        if self.enable_caching and not delay_cache_blocks:
            self.coordinator.cache_blocks(request, min(total + num_new_tokens, request.num_tokens))
        return self._of_ids(added)

    def _go_on(self, request_id, need, need_main, encoder):
        """What is new in each table of a request without new hits, or None."""
        counts = [group.missing(request_id, need, need_main, encoder) for group in self._groups]
        count = sum(counts)
        ids = self.block_pool.take((), count) if count else self._no_ids[0]
        if ids is None:
            return None
        added, at = [], 0
        for group, of_group in zip(self._groups, counts):
            added.append(group.extend(request_id, None, ids[at : at + of_group]))
            at += of_group
        return added

    def _begin(self, request_id, hits, local, external, need, need_main, encoder, adopts, spared):
        """As _go_on for any request: what the groups plan is carried out."""
        plans = self._plans(request_id, hits, local, external, need, need_main, encoder, adopts)
        if plans is None or (spared and not self._fits(plans, spared)):
            return None
        return self._carry_out(request_id, plans)

    def _carry_out(self, request_id, plans):
        """Takes what the plans ask for in one call, and hands it out: what is new in each table, or None."""
        wanted = sum(plan.wanted for plan in plans)
        count = sum(plan.external + plan.fresh for plan in plans)
        if wanted != count and not self._fits(plans):
            return None
        touch = plans[0].kept if len(plans) == 1 else array("I")
        if len(plans) > 1:
            for plan in plans:
                touch.extend(plan.kept)
        ids = self.block_pool.take(touch, count) if count or touch else touch
        if ids is None:
            return None
        at = 0
        for group, plan in zip(self._groups, plans):
            if plan.adopts:
                group.begin(request_id, plan, ids[at : at + plan.external])
                at += plan.external
        added = []
        for group, plan in zip(self._groups, plans):
            added.append(group.extend(request_id, plan, ids[at : at + plan.fresh]))
            at += plan.fresh
        return added

    def free(self, request):
        """Gives the request's blocks back, the tail first, so that it is evicted first."""
        self.coordinator.free(request.request_id)

    def pop_blocks_for_free(self, request):
        """Forgets the request; its blocks, in order, for `block_pool.free_blocks` to take from the last one on, later."""
        return self.coordinator.pop_blocks_for_free(request.request_id)

    def remove_skipped_blocks(self, request_id, total_computed_tokens, num_prompt_tokens=None):
        """Gives back the blocks that no attention reads once so many tokens are computed."""
        self.coordinator.remove_skipped_blocks(request_id, total_computed_tokens)

    def evict_blocks(self, block_ids):
        """Takes the hashes of these blocks away."""
        self.block_pool.evict_blocks(block_ids)

    def reset_prefix_cache(self):
        """Takes all hashes away; False, and nothing done, while blocks are in use."""
        if not self.block_pool.reset_prefix_cache():
            return False
        if self.log_stats:
            self.prefix_cache_stats.reset = True
        return True

    def get_num_common_prefix_blocks(self, running_request_id):
        """For each group, leading blocks of a request that all requests with blocks hold."""
        return self.coordinator.get_num_common_prefix_blocks(running_request_id)

    def take_events(self):
        """The pool's events since the last call."""
        events = self.block_pool.take_events()
        if self._kinds is not None:
            for event in events:
                if isinstance(event, BlockStored) and event.group_idx is not None:
                    self._name_kind(event)
        return events

    def _name_kind(self, event):
        if not 0 <= event.group_idx < len(self._kinds):
            logger.warning("Group index `%s` not in KV cache metadata", event.group_idx)
            return
        event.kv_cache_spec_kind, event.kv_cache_spec_sliding_window = self._kinds[event.group_idx]

    def get_blocks(self, request_id):
        return self._of_ids([group.tables.get(request_id, none) for group, none in zip(self._groups, self._no_ids)])

    def get_block_ids(self, request_id):
        return tuple(group.tables[request_id].tolist() if request_id in group.tables else [] for group in self._groups)

    def get_block_ids_for_computed_tokens(self, request_id, num_computed_tokens):
        """As get_block_ids, of attention's groups the blocks of so many tokens alone."""
        cut = []
        for group, ids in zip(self._groups, self.get_block_ids(request_id)):
            attends = not isinstance(group, (StateGroup, CrossGroup))
            cut.append(ids[: cdiv(num_computed_tokens, group.kv_cache_spec.block_size)] if attends else ids)
        return tuple(cut)

    def cache_blocks(self, request, num_computed_tokens):
        """Caches the request's full blocks up to so many tokens."""
        if not self.enable_caching:
            return
        if self._only is not None:
            self._only.cache_blocks(request, num_computed_tokens)
        else:
            self.coordinator.cache_blocks(request, num_computed_tokens)

    def take_new_block_ids(self):
        """Blocks of full attention taken since the last call, for a host that zeroes them."""
        ids = self._groups[0].take_new_block_ids() if self._groups else []
        for group in self._groups[1:]:
            ids += group.take_new_block_ids()
        return ids

    def new_step_starts(self):
        """A scheduler's step begins."""
        self.coordinator.new_step_starts()
