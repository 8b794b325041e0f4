"""Requests as a cache manager sees them, specs without vLLM, and a random life for both."""

import enum
import hashlib
import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FullAttentionSpec:
    block_size: int


@dataclass(frozen=True)
class MLAAttentionSpec(FullAttentionSpec):
    pass


@dataclass(frozen=True)
class SinkFullAttentionSpec(FullAttentionSpec):
    sink_len: int


@dataclass(frozen=True)
class SlidingWindowSpec:
    block_size: int
    sliding_window: int


@dataclass(frozen=True)
class ChunkedLocalAttentionSpec:
    block_size: int
    attention_chunk_size: int


@dataclass(frozen=True)
class MambaSpec:
    block_size: int
    num_speculative_blocks: int = 0
    mamba_cache_mode: str = "all"


@dataclass(frozen=True)
class CrossAttentionSpec:
    block_size: int


@dataclass
class Group:
    kv_cache_spec: object


@dataclass
class Config:
    num_blocks: int
    kv_cache_groups: list = field(default_factory=list)


def config_with(blocks, specs):
    return Config(blocks, [Group(spec) for spec in specs])


def config_of(blocks, sizes, windows):
    """Full attention where the window is None."""
    return config_with(
        blocks,
        [
            FullAttentionSpec(size) if window is None else SlidingWindowSpec(size, window)
            for size, window in zip(sizes, windows)
        ],
    )


class Status(enum.Enum):
    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2


@dataclass(frozen=True)
class Lora:
    adapter_id: int
    lora_name: str

    @property
    def name(self):
        return self.lora_name


@dataclass(frozen=True)
class Position:
    offset: int
    length: int


@dataclass(frozen=True)
class Item:
    """A multimodal input: what stands at its place are placeholders, equal for all of them."""

    identifier: str
    mm_position: Position


class Request:
    """Tokens, and the chained hashes of their full blocks of `hash_size` tokens, which go by adapter, items and salt as well."""

    def __init__(self, request_id, tokens, hash_size, salt=None, lora=None, items=()):
        self.request_id = request_id
        self.all_token_ids = list(tokens)
        self.hash_size, self.cache_salt = hash_size, salt
        self.lora_request, self.mm_features = lora, list(items) or None
        self.block_hashes = []
        self.num_computed_tokens = self.num_preemptions = self.num_in_flight_tokens = 0
        self.encoder_tokens = self.shared_prefix_boundary = 0
        self.num_prompt_tokens = len(self.all_token_ids)
        self.skip_reading_prefix_cache = False
        self.status = Status.WAITING
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
            root = repr((self.cache_salt, self.lora_request)).encode()
            parent = self.block_hashes[-1] if self.block_hashes else root
            items = [item for item in self.mm_features or () if item.mm_position.offset < at + size]
            block = repr((self.all_token_ids[at : at + size], items)).encode()
            self.block_hashes.append(hashlib.sha256(parent + block).digest())


@dataclass
class Habits:
    """What a random life does besides."""

    # Drafts may be rejected, and the last block of a hit is left out.
    eagle: bool = False
    # Tokens computed elsewhere.
    connector: bool = True
    longest: int = 200
    # Prompts end in chunks of so many tokens, and every step has the same number of drafts: what "align" asks for.
    aligned: int = 0
    drafts: int = 0
    # Encoder tokens of some requests.
    encoder: bool = False
    # Adapters and multimodal items.
    marked: bool = False
    # Reserved blocks, whole sequences that must fit, steps in flight, blocks freed later: later vLLM.
    later: bool = False
    # The manager tells events, and keeps statistics.
    tells: bool = False


class RandomLife:
    """
    Arrivals with shared prefixes and salts, chunked prefill, decoding with drafts, preemption, aborts, connectors with
    and without delay, evictions and resets, and what `habits` say, all from one seed, through whatever manager it is given.
    """

    def __init__(self, manager, seed, hash_size, habits=Habits()):
        self.manager, self.random = manager, random.Random(seed)
        self.hash_size, self.habits, self.longest = hash_size, habits, habits.longest
        self.prefixes = [[self.random.randrange(50) for _ in range(self.longest)] for _ in range(4)]
        self.waiting, self.running, self.receiving = [], [], []
        self.count = 0
        self.seen = dict.fromkeys(
            ("hits", "refused", "drafts", "external", "delayed", "preempted", "resets", "encoder", "new ids")
            + ("stored", "removed", "cleared", "extras", "lora", "queries", "preempted queries", "popped", "reset seen")
            + ("boundaries", "diverged"),
            0,
        )

    def step(self):
        draw = self.random.random()
        # Several requests share a step: a state that one of them caches is not there for the others yet.
        if self.random.random() < 0.5:
            self.manager.new_step_starts()
        if self.random.random() < 0.1:
            self._look()
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
        lora, items = None, []
        if self.habits.marked:
            lora = self.random.choice([None, None, Lora(1, "one"), Lora(2, "two")])
            at = self.random.randrange(30)
            while at < len(tokens) and self.random.random() < 0.6:
                items.append(Item(self.random.choice("xyz"), Position(at, 1 + self.random.randrange(40))))
                at += items[-1].mm_position.length + self.random.randrange(20)
        self.count += 1
        request = Request(f"r{self.count}", tokens, self.hash_size, salt, lora, items)
        if self.habits.encoder and self.random.random() < 0.7:
            request.encoder_tokens = 1 + self.random.randrange(60)
        request.skip_reading_prefix_cache = self.random.random() < 0.05
        self.waiting.append(request)

    def _chunk(self, request, computed, most):
        """New tokens of a prompt's chunk; 0: none in this step."""
        new, size = min(most, 1 + self.random.randrange(64)), self.habits.aligned
        if size == 0:
            return new
        last = request.num_tokens - request.num_tokens % size
        if computed + new < last:
            return new // size * size
        return last - computed if computed < last < computed + new else new

    def _later(self):
        """Arguments of later vLLM."""
        if not self.habits.later:
            return {}
        return {
            "full_sequence_must_fit": self.random.random() < 0.3,
            "reserved_blocks": self.random.choice([0, 0, self.random.randrange(6)]),
            "has_scheduled_reqs": self.random.random() < 0.7,
        }

    def _admit(self):
        request, manager = self.waiting[0], self.manager
        blocks, hit, *boundary = manager.get_computed_blocks(request)
        if boundary:
            request.shared_prefix_boundary = boundary[0]
            self.seen["boundaries"] += boundary[0] > 0
            manager.record_prefix_cache_stats(request, hit)
            if self.random.random() < 0.5:
                self.seen["diverged"] += manager.get_computed_blocks_for_connector(request)[-1]
        self.seen["hits"] += hit > 0
        encoder = request.encoder_tokens
        if self.random.random() < 0.3 and not manager.can_fit_full_sequence(request, hit, blocks, 0, encoder):
            return
        external = 0
        missing = request.num_tokens - hit
        if self.habits.connector and self.random.random() < 0.2 and missing > 1:
            external = self.random.randrange(1, missing)
            if self.habits.aligned:
                external -= external % self.habits.aligned
        delayed = external > 0 and self.random.random() < 0.5
        new = 0 if delayed else self._chunk(request, hit + external, missing - external)
        if new == 0 and not delayed:
            return
        given = manager.allocate_slots(
            request,
            new,
            hit,
            blocks,
            num_lookahead_tokens=self.random.randrange(4) if self.habits.eagle else 0,
            num_external_computed_tokens=external,
            delay_cache_blocks=delayed,
            num_encoder_tokens=encoder,
            **self._later(),
        )
        if given is None:
            self.seen["refused"] += 1
            if self.running and self.random.random() < 0.5:
                self._end(self.running[-1], preempt=True)
            return
        self.waiting.pop(0)
        request.status = Status.RUNNING
        request.num_computed_tokens = hit + external + new
        self.seen["external"] += external > 0
        self.seen["delayed"] += delayed
        self.seen["encoder"] += encoder > 0
        (self.receiving if delayed else self.running).append(request)

    def _received(self, request):
        self.receiving.remove(request)
        self.manager.cache_blocks(request, request.num_computed_tokens)
        self.running.append(request)

    def _advance(self, request):
        drafts = self.habits.drafts
        if not self.habits.aligned:
            drafts = self.random.randrange(4) if self.random.random() < 0.4 else 0
        missing = request.num_tokens - request.num_computed_tokens
        decoding = missing <= 1
        if missing == 0:
            request.append([self.random.randrange(50)])
            missing = 1
        new = 1 + drafts if decoding else self._chunk(request, request.num_computed_tokens, missing)
        if new == 0:
            return
        # Of the steps before, some tokens may be in flight: what they read stays.
        if self.habits.later:
            request.num_in_flight_tokens = self.random.randrange(1 + min(20, request.num_computed_tokens))
        lookahead, later = self.random.randrange(3), self._later()
        if self.manager.allocate_slots(request, new, num_lookahead_tokens=lookahead, **later) is None:
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

    def _release(self, request):
        if self.habits.later and self.random.random() < 0.3:
            self.seen["popped"] += 1
            self.manager.free_popped(request)
        else:
            self.manager.free(request)

    def _end(self, request, preempt):
        self.running.remove(request)
        self._release(request)
        if preempt:
            self.seen["preempted"] += 1
            request.status = Status.PREEMPTED
            request.num_computed_tokens = request.num_in_flight_tokens = 0
            request.num_preemptions += 1
            self.waiting.insert(0, request)

    def _look(self):
        """What a scheduler asks for beside its decisions."""
        self.seen["new ids"] += len(self.manager.take_new_block_ids())
        if not self.habits.tells:
            return
        stats = self.manager.make_prefix_cache_stats()
        self.seen["queries"] += stats.queries
        self.seen["preempted queries"] += stats.preempted_queries
        self.seen["reset seen"] += stats.reset
        for event in self.manager.take_events():
            kind = type(event).__name__
            self.seen[{"BlockStored": "stored", "BlockRemoved": "removed"}.get(kind, "cleared")] += 1
            if kind == "BlockStored":
                self.seen["extras"] += any(key is not None for key in event.extra_keys or ())
                self.seen["lora"] += event.lora_name is not None and event.lora_id is not None

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
