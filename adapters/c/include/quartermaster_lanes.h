/*
 * quartermaster, sequences that drop tokens: what is known of each cached token by layer and KV head, compaction of what stays,
 * requests that use it, and the arithmetic that eviction policies share. Errors, memory and ownership: quartermaster.h. The ideas, the
 * records, their papers: docs/abi.md, "Lanes" and "Selection". A table of blocks for each layer (folded arenas) is not here.
 *
 *   qm_lanes_open, qm_lanes_append       as the sequence gets its tokens
 *   qm_lane_view                         positions, and planes that your policy keeps its scores in
 *   qm_lanes_plan                        which slots stay; nothing has changed yet
 *   qm_lanes_moves, until 0              K and V to move, in order: your engine does
 *   qm_lanes_commit or qm_lanes_rollback
 *
 * A sequence is lossy from its first commit on: qm_sequence_length counts tokens seen, qm_sequence_slots the slots of its longest
 * lane; nothing of it is found by others any more, and it cannot be shortened.
 */
#ifndef QUARTERMASTER_LANES_H
#define QUARTERMASTER_LANES_H

#include "quartermaster.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "None", "all" or "never", wherever a slot, a count or a position is asked for. */
#define QM_NONE UINT32_MAX

/* ---- lanes ---------------------------------------------------------------------------------------------------------- */

typedef uint32_t qm_lane_arena;

/* What is kept of a slot beside its token's position. */
enum { QM_PLANE_SCORE = 1, QM_PLANE_LAST_IMPORTANT = 2, QM_PLANE_INTERVAL = 4, QM_PLANE_AUX = 8 };

typedef struct qm_lane_options {
  uint32_t layers, kv_heads; /* together at most 65,536 lanes */
  uint32_t capacity;         /* slots of a lane, 1 to 2^24: the longest prompt, and what a policy keeps */
  uint32_t planes;           /* bits of the enum above; 4 bytes a slot each */
  uint32_t sequences;        /* that have lanes at a time, 1 to 65,536; 0: 16 */
  uint32_t move_capacity;    /* moves that qm_lanes_moves hands out at a time, 1 to 2^20; 0: 4096 */
} qm_lane_options;

/* For sequences of a cache. QM_INVALID_ARGUMENT, QM_OUT_OF_MEMORY. */
QM_API int qm_lane_arena_create(qm_core* core, qm_cache cache, const qm_lane_options* options, qm_lane_arena* arena);
QM_API qm_lane_arena qm_lane_arena_at(qm_core* core, uint32_t position);

/* As qm_sequence_open, of a sequence that is lossy from the start: nothing of it will be found by others. */
QM_API int qm_sequence_open_lossy(qm_core* core, qm_cache cache, uint32_t name_space, const uint32_t* tokens,
                                  uint32_t count);

/* Empty lanes for an open sequence without any: append what it has already. by_slot: not 0 where keys are rotated by their slot, not
 * by their token's position; moves then say how far they turn, and no slot is taken in place. Returns a handle > 0.
 * QM_OUT_OF_SEQUENCES, QM_UNKNOWN_SEQUENCE, QM_LOSSY_SEQUENCE for one that has dropped tokens, QM_INVALID_ARGUMENT for one with lanes. */
QM_API int qm_lanes_open(qm_core* core, qm_lane_arena arena, uint32_t sequence, int by_slot);
/* In a restored core: the handle of the lanes in place `index`, QM_NOT_FOUND where there are none. */
QM_API int qm_lanes_at(qm_core* core, qm_lane_arena arena, uint32_t index);
/* Enters `count` tokens with zeroed planes, the first into a lane's hole where it has one. QM_TOO_LONG: a lane would pass the
 * capacity. QM_INVALID_ARGUMENT for lanes that are not open, QM_COMPACTION_PENDING while theirs is planned; as all that follow. */
QM_API int qm_lanes_append(qm_core* core, qm_lane_arena arena, uint32_t lanes, uint32_t count);
/* Empties the lanes for a sequence that is computed anew; as qm_lanes_open. */
QM_API int qm_lanes_reset(qm_core* core, qm_lane_arena arena, uint32_t lanes, uint32_t sequence);
/* Lanes for qm_sequence_fork's sequence, with all that is known. Both must plan with counts NULL before their next token. Returns a
 * handle; QM_OUT_OF_SEQUENCES, QM_INVALID_ARGUMENT for a sequence that is no such fork, or has gone on. */
QM_API int qm_lanes_fork(qm_core* core, qm_lane_arena arena, uint32_t lanes, uint32_t sequence);
QM_API int qm_lanes_close(qm_core* core, qm_lane_arena arena, uint32_t lanes);

typedef struct qm_lane {
  uint32_t length;           /* slots; planes are undefined from it on */
  uint32_t hole;             /* slot that the next token takes; QM_NONE: it is appended */
  uint32_t evicted;          /* tokens dropped so far */
  uint32_t stride;           /* words from this lane's planes to those of the layer's next head */
  const uint32_t* positions; /* [length] of the tokens in their sequence, ascending but where a hole was taken */
  float* score;              /* planes, [length], yours to write; NULL without their bit */
  uint32_t* last_important;
  uint32_t* interval;
  float* aux;
} qm_lane;
/* Pointers last until the lanes are closed; what they point to moves with each commit. QM_INVALID_ARGUMENT for a layer or head that
 * there is not. */
QM_API int qm_lane_view(qm_core* core, qm_lane_arena arena, uint32_t lanes, uint32_t layer, uint32_t kv_head,
                        qm_lane* lane);

typedef struct qm_lane_keep {
  const uint32_t* counts;     /* [layers * kv_heads] slots that stay, 1 to the lane's length; QM_NONE: all. NULL: all of every lane */
  const uint32_t* slots;      /* [sum of the counts that are not QM_NONE] the slots, ascending, lane behind lane */
  const uint32_t* victims;    /* [layers * kv_heads] in lanes that keep all: a slot whose place the next token takes, or QM_NONE */
  const uint32_t* successors; /* [layers * kv_heads] a slot that moves to the victim's first, or QM_NONE. Both may be NULL: none */
  uint32_t private_from;      /* blocks that hold slots from it on become the sequence's own; QM_NONE: those that are written */
} qm_lane_keep;
/* Plans what stays. One plan of a cache's sequences at a time. QM_INVALID_ARGUMENT for a wrong answer or lanes that have not seen what
 * their sequence has, QM_OUT_OF_BLOCKS when shared blocks must be replaced and there are none, QM_COMPACTION_PENDING,
 * QM_COPIES_PENDING. */
QM_API int qm_lanes_plan(qm_core* core, qm_lane_arena arena, uint32_t lanes, const qm_lane_keep* keep);

typedef struct qm_lanes_planned {
  uint32_t blocks_before, blocks_after; /* of the sequence's table */
  uint32_t fresh;                       /* blocks of the latter that take the place of shared ones */
} qm_lanes_planned;
/* QM_NOT_FOUND when nothing is planned. */
QM_API int qm_lanes_get_planned(qm_core* core, qm_lane_arena arena, qm_lanes_planned* planned);

/* K and V of `slots` slots in a row, of one layer and head. turn: 0, or where keys are rotated by their slot twice the positions that
 * they go back by. */
typedef struct qm_move {
  uint32_t layer, kv_head, from_block, from_offset, to_block, to_offset, slots, turn;
} qm_move;
/* The next moves of the plan, to be made in order; *moves lasts until the next call with lanes. Returns how many; 0: there are no
 * more. */
QM_API int qm_lanes_moves(qm_core* core, qm_lane_arena arena, const qm_move** moves);
/* The moves have been made: what was planned is so. QM_NOT_FOUND when the plan is gone because its sequence was closed. */
QM_API int qm_lanes_commit(qm_core* core, qm_lane_arena arena);
/* Nothing was dropped. If moves have been made already the table is right and the content is not: they are in place. */
QM_API int qm_lanes_rollback(qm_core* core, qm_lane_arena arena);

typedef struct qm_lane_figures {
  uint32_t open;           /* sequences with lanes */
  uint64_t evicted, moved; /* tokens dropped, slots moved, summed over lanes since creation */
} qm_lane_figures;
QM_API int qm_lane_arena_figures(qm_core* core, qm_lane_arena arena, qm_lane_figures* figures);

enum { QM_SHARE_PREFIX = 1, QM_KEEP_SEQUENCE = 2 };
/* Of a request with peak_slots that has not been admitted yet: what its sequence begins with. QM_SHARE_PREFIX: the longest cached
 * prefix, published until the first drop (last_chunk tokens at the prompt's end are computed in any case). QM_KEEP_SEQUENCE: it outlives
 * the request if that finishes, and is yours. sequence: one of yours, shorter than the prompt, to go on with; 0: none.
 * prefill_blocks: blocks that suffice for the prompt if one step takes it whole and drops between layers; 0: it is not so.
 * QM_UNKNOWN_REQUEST, QM_UNKNOWN_SEQUENCE, QM_SEQUENCE_OWNED, QM_INVALID_ARGUMENT. */
QM_API int qm_request_lanes(qm_core* core, qm_scheduler scheduler, uint32_t request, uint32_t flags, uint32_t sequence,
                            uint32_t prefill_blocks);

/* ---- selection -------------------------------------------------------------------------------------------------------- */

/* Room for choosing among scores. Arrays of yours are copied in; pointers that qm_lane_view or qm_selection_view have given are used
 * where they are. Every build decides alike, bit for bit. */
typedef uint32_t qm_selection;
/* capacity: scores in one call, 1 to 2^26, rounded up to a multiple of 32. floats: of statistics in one call, 0 to 2^28. */
QM_API int qm_selection_create(qm_core* core, uint32_t capacity, uint32_t floats, qm_selection* selection);
QM_API qm_selection qm_selection_at(qm_core* core, uint32_t position);

typedef struct qm_selection_room {
  uint32_t capacity, floats;
  float* scores;          /* [capacity] a plane of your own */
  float* rows;            /* [floats] for statistics that need no copy */
  const uint32_t* bitmap; /* of the last qm_select_topk: ceil(stride / 32) words a lane, bit i of word w is slot 32 w + i */
  uint32_t nans;          /* NaN scores met since creation */
} qm_selection_room;
QM_API int qm_selection_view(qm_core* core, qm_selection selection, qm_selection_room* room);

typedef struct qm_scores {
  const float* scores;       /* [lanes][stride]; NaN counts as -infinity. One of the two */
  const uint32_t* stamps;    /* [lanes][stride] */
  const uint32_t* ties;      /* [lanes][stride] of equal scores the larger one stays; NULL: none */
  const uint32_t* positions; /* [lanes][stride] original positions, then the larger one stays; NULL: the slot itself */
  const uint32_t* lengths;   /* [lanes] slots of each, 0 to stride */
  uint32_t lanes, stride;    /* lanes: 1 to capacity / 4; lanes * stride: at most the capacity */
  uint32_t minimum;          /* slots that each lane keeps at least, or all it has */
  uint32_t sinks;            /* positions below it stay */
  uint32_t recent_from;      /* positions from it on stay; QM_NONE: none */
} qm_scores;
/* The k slots that stay of lanes that compete; all when there are fewer. *slots: ascending, lane behind lane; *counts, [lanes]: of each.
 * Both last until the next call. Returns how many. QM_INVALID_ARGUMENT, when more than k are protected too. */
QM_API int qm_select_topk(qm_core* core, qm_selection selection, const qm_scores* of, uint32_t k, const uint32_t** slots,
                          const uint32_t** counts);
/* The slot of the smallest score of one lane that is not protected, the smaller position on a tie. `ties` and `minimum` are not
 * read. QM_NOT_FOUND: there is none. */
QM_API int qm_select_argmin(qm_core* core, qm_selection selection, const qm_scores* of);

typedef enum qm_aggregate { QM_SUM = 0, QM_MEAN = 1, QM_MAX = 2 } qm_aggregate;
/* What the query heads of a layer measured. */
typedef struct qm_head_rows {
  const float* rows;       /* [heads][stride] probabilities, or sums of them */
  uint32_t heads, stride;  /* heads: the lanes times 1 to 65,536, which read a lane each; stride: 1 to 2^26 */
  const uint32_t* lengths; /* [lanes] slots of each, at most either stride */
  uint32_t lanes;          /* 1 to capacity / 4 */
  qm_aggregate aggregate;  /* how the heads of a lane become one value */
} qm_head_rows;
/* plane[lane][slot] += the aggregate of its heads. plane, [lanes][plane_stride], of qm_lane_view or qm_selection_view, as all planes
 * below. NaN and negative values count as 0, values above `limit` as `limit`, which is above 0. Returns how many were not right. */
QM_API int qm_select_accumulate(qm_core* core, qm_selection selection, float* plane, uint32_t plane_stride,
                                const qm_head_rows* rows, float limit);
/* Notes which slots are important at step `now`, their aggregate being at least `threshold`, in (0, 1]: the gap since last_important
 * raises interval, and last_important becomes `now`. Returns how many were. Source: "LazyEviction: Lagged KV Eviction with Attention
 * Pattern Observation for Efficient Long Reasoning" (arXiv 2506.15969). */
QM_API int qm_select_track(qm_core* core, qm_selection selection, uint32_t* last_important, uint32_t* interval,
                           uint32_t plane_stride, const qm_head_rows* rows, float threshold, uint32_t now);
/* Multiplies each lane whose largest value is above `limit` by `factor`. Returns how many lanes. */
QM_API int qm_select_scale_above(qm_core* core, qm_selection selection, float* plane, uint32_t plane_stride,
                                 const uint32_t* lengths, uint32_t lanes, float limit, float factor);
/* target[row][i] = average (maximum 0: zeros beyond the ends, the divisor always `kernel`) or maximum (1) of source[row] around i.
 * kernel: odd, 1 to 4095. source and target, [rows][stride], must not overlap; target is a plane. */
QM_API int qm_select_pool(qm_core* core, qm_selection selection, const float* source, float* target, uint32_t stride,
                          const uint32_t* lengths, uint32_t rows, uint32_t kernel, int maximum);

typedef enum qm_apportion_strategy {
  QM_LARGEST_REMAINDER = 0, QM_CAKE = 1, QM_ERROR_AWARE = 2, QM_FLOORS = 3, QM_PYRAMID = 4, QM_PYRAMID_STEPS = 5
} qm_apportion_strategy;
/* Splits `total`, 0 to 2^31 - 1, over `count` entries, 1 to 1024: minimum[i] <= out[i] <= maximum[i], and the sum is the total as far as
 * those allow (QM_FLOORS may pass it, QM_PYRAMID_STEPS fall short of it, as published). weights: finite, >= 0. minimum, maximum: 0 to
 * 2^31 - 1, as their sum of minima; NULL: 0, and no bound. beta: QM_PYRAMID's, finite, above 0: the last entry gets the mean / beta. */
QM_API int qm_apportion(qm_core* core, qm_apportion_strategy strategy, const double* weights, uint32_t count,
                        uint32_t total, const uint32_t* minimum, const uint32_t* maximum, double beta, uint32_t* out);

#ifdef __cplusplus
}
#endif

#endif /* QUARTERMASTER_LANES_H */
