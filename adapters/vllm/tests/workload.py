"""Requests as a cache manager sees them, specs without vLLM, and a random life for both."""

import enum
import hashlib
import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FullAttentionSpec:
    block_size: int


@dataclass(frozen=True)
class SlidingWindowSpec:
    block_size: int
    sliding_window: int


@dataclass
class Group:
    kv_cache_spec: object


@dataclass
class Config:
    num_blocks: int
    kv_cache_groups: list = field(default_factory=list)


def config_of(blocks, sizes, windows):
    specs = [
        FullAttentionSpec(size) if window is None else SlidingWindowSpec(size, window)
        for size, window in zip(sizes, windows)
    ]
    return Config(blocks, [Group(spec) for spec in specs])


class Status(enum.Enum):
    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2


class Request:
    """Tokens, and the chained hashes of their full blocks of `hash_size` tokens."""

    mm_features = lora_request = None

    def __init__(self, request_id, tokens, hash_size, salt=None):
        self.request_id = request_id
        self.all_token_ids = list(tokens)
        self.hash_size, self.cache_salt = hash_size, salt
        self.block_hashes = []
        self.num_computed_tokens = self.num_preemptions = 0
        self.skip_reading_prefix_cache = False
        self._hash()

    @property
    def num_tokens(self):
        return len(self.all_token_ids)

    def append(self, tokens):
        self.all_token_ids.extend(tokens)
        self._hash()

    def _hash(self):
        size = self.hash_size
        while (len(self.block_hashes) + 1) * size <= self.num_tokens:
            at = len(self.block_hashes) * size
            parent = self.block_hashes[-1] if self.block_hashes else repr(self.cache_salt).encode()
            block = repr(self.all_token_ids[at : at + size]).encode()
            self.block_hashes.append(hashlib.sha256(parent + block).digest())


class RandomLife:
    """
    Arrivals with shared prefixes and salts, chunked prefill, decoding with drafts, preemption, aborts, connectors with
    and without delay (if there is a `connector`), evictions and resets, all from one seed, through whatever manager it is
    given.
    """

    def __init__(self, manager, seed, hash_size, eagle=False, longest=200, connector=True):
        self.manager, self.random = manager, random.Random(seed)
        self.hash_size, self.eagle, self.longest, self.connector = hash_size, eagle, longest, connector
        self.prefixes = [[self.random.randrange(50) for _ in range(longest)] for _ in range(4)]
        self.waiting, self.running, self.receiving = [], [], []
        self.count = 0
        self.seen = dict.fromkeys(("hits", "refused", "drafts", "external", "delayed", "preempted", "resets"), 0)

    def step(self):
        draw = self.random.random()
        self.manager.new_step_starts()
        if draw < 0.25 or not (self.waiting or self.running or self.receiving):
            self._arrive()
        elif draw < 0.45 and self.waiting:
            self._admit()
        elif draw < 0.85 and self.running:
            self._advance(self.random.choice(self.running))
        elif draw < 0.93 and self.running:
            self._end(self.random.choice(self.running), preempt=self.random.random() < 0.3)
        elif draw < 0.95 and self.receiving:
            self._received(self.random.choice(self.receiving))
        else:
            self._odd_job()

    def _arrive(self):
        prefix = self.random.choice(self.prefixes)
        shared = self.random.randrange(len(prefix))
        own = [self.random.randrange(50) for _ in range(1 + self.random.randrange(40))]
        tokens = (prefix[:shared] + own)[: self.longest]
        salt = self.random.choice([None, None, None, "a", "b"])
        self.count += 1
        request = Request(f"r{self.count}", tokens, self.hash_size, salt)
        request.skip_reading_prefix_cache = self.random.random() < 0.05
        self.waiting.append(request)

    def _admit(self):
        request, manager = self.waiting[0], self.manager
        blocks, hit = manager.get_computed_blocks(request)
        self.seen["hits"] += hit > 0
        if self.random.random() < 0.3 and not manager.can_fit_full_sequence(request, hit, blocks):
            return
        external = 0
        missing = request.num_tokens - hit
        if self.connector and self.random.random() < 0.2 and missing > 1:
            external = self.random.randrange(1, missing)
        delayed = external > 0 and self.random.random() < 0.5
        new = 0 if delayed else min(missing - external, 1 + self.random.randrange(64))
        lookahead = self.random.randrange(4) if self.eagle else 0
        given = manager.allocate_slots(
            request,
            new,
            hit,
            blocks,
            num_lookahead_tokens=lookahead,
            num_external_computed_tokens=external,
            delay_cache_blocks=delayed,
        )
        if given is None:
            self.seen["refused"] += 1
            if self.running and self.random.random() < 0.5:
                self._end(self.running[-1], preempt=True)
            return
        self.waiting.pop(0)
        request.num_computed_tokens = hit + external + new
        self.seen["external"] += external > 0
        self.seen["delayed"] += delayed
        (self.receiving if delayed else self.running).append(request)

    def _received(self, request):
        self.receiving.remove(request)
        self.manager.cache_blocks(request, request.num_computed_tokens)
        self.running.append(request)

    def _advance(self, request):
        drafts = self.random.randrange(4) if self.random.random() < 0.4 else 0
        missing = request.num_tokens - request.num_computed_tokens
        decoding = missing <= 1
        if missing == 0:
            request.append([self.random.randrange(50)])
            missing = 1
        new = 1 + drafts if decoding else min(missing, 1 + self.random.randrange(64))
        if self.manager.allocate_slots(request, new, num_lookahead_tokens=self.random.randrange(3)) is None:
            self.seen["refused"] += 1
            self._end(self.running[-1], preempt=True)
            return
        accepted = new - self.random.randrange(drafts + 1) if decoding else new
        self.seen["drafts"] += decoding and drafts > 0
        request.num_computed_tokens += accepted
        while request.num_tokens < request.num_computed_tokens + (1 if decoding else 0):
            request.append([self.random.randrange(50)])
        if request.num_tokens >= self.longest + 60:
            self._end(request, preempt=False)

    def _end(self, request, preempt):
        self.running.remove(request)
        self.manager.free(request)
        if preempt:
            self.seen["preempted"] += 1
            request.num_computed_tokens = 0
            request.num_preemptions += 1
            self.waiting.insert(0, request)

    def _odd_job(self):
        manager, draw = self.manager, self.random.randrange(6)
        if draw == 0:
            manager.evict_blocks({self.random.randrange(1, len(manager.block_pool.blocks)) for _ in range(2)})
        elif draw == 1:
            self.seen["resets"] += manager.reset_prefix_cache()
        elif draw == 2 and self.running:
            manager.get_num_common_prefix_blocks(self.random.choice(self.running).request_id)
        elif draw == 3 and self.running:
            manager.get_block_ids(self.random.choice(self.running).request_id)
            manager.get_blocks(self.random.choice(self.running).request_id)
        elif draw == 4 and self.running:
            request = self.random.choice(self.running)
            manager.remove_skipped_blocks(request.request_id, request.num_computed_tokens)
        elif self.waiting and self.random.random() < 0.5:
            # Aborted before it was ever let in.
            manager.free(self.waiting.pop())
        elif self.random.random() < 0.6:
            while self.receiving:
                self._received(self.receiving[-1])
            while self.running:
                self._end(self.running[-1], preempt=False)
            if self.random.random() < 0.7:
                self.seen["resets"] += manager.reset_prefix_cache()
