/*
 * quartermaster_host: the CPU forward pass of a decoder model over a paged KV cache, as a plain C library.
 *
 * Purpose   Runs the batches that the quartermaster core plans: Llama, Mistral and Qwen2 decoders, weights
 *           used in place from memory-mapped safetensors files, K and V in blocks of a pool that the model
 *           owns.
 * KV layout kv[block][layer][K, V][kv_head][block_size][head_dim], so that a block is one run of bytes. A
 *           slot is block * block_size + offset.
 * Promise   The bits computed for a token depend on the token, its position and what it attends to, and on
 *           nothing else: not on the rest of the batch, the chunking of a prompt, the block size or the
 *           number of threads.
 * Errors    Functions return QMH_OK or a negative status; qmh_last_error() then has a sentence. A refused
 *           call has changed nothing. Nothing is thrown across this boundary.
 * Threads   Distinct models are independent. A model runs one batch at a time: a second call gets QMH_BUSY.
 *           The single kernels run on the calling thread.
 * Ownership Every pointer passed in stays the caller's and is read during the call only, unless stated
 *           otherwise.
 */
#ifndef QUARTERMASTER_HOST_H
#define QUARTERMASTER_HOST_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define QMH_API __attribute__((visibility("default")))
#else
#define QMH_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define QMH_ABI_VERSION 3
#define QMH_NONE 0xffffffffu

typedef enum qmh_status {
  QMH_OK = 0,
  QMH_INVALID_ARGUMENT = -1, /* an argument is outside its range */
  QMH_OUT_OF_MEMORY = -2,
  QMH_BAD_BATCH = -3,      /* a count, id or offset of the batch is outside its limits */
  QMH_BAD_TENSOR = -4,     /* a tensor does not fit its file, its type or the model */
  QMH_MISSING_TENSOR = -5, /* the model needs a tensor that was not given */
  QMH_UNSUPPORTED = -6,    /* the machine or this library cannot do that */
  QMH_IO = -7,             /* a file could not be opened or mapped */
  QMH_BUSY = -8            /* the model is running a batch */
} qmh_status;

typedef enum qmh_isa { QMH_AUTO, QMH_PORTABLE, QMH_AVX2, QMH_AVX512, QMH_REFERENCE } qmh_isa;
typedef enum qmh_dtype { QMH_F32, QMH_F16, QMH_BF16 } qmh_dtype;
typedef enum qmh_rope_layout { QMH_HALF, QMH_INTERLEAVED } qmh_rope_layout;
typedef enum qmh_rope_scaling { QMH_SCALING_NONE, QMH_SCALING_LINEAR, QMH_SCALING_LLAMA3 } qmh_rope_scaling;

/* Rotary positions, as in RoFormer (arXiv 2104.09864); factors as in Hugging Face configurations. */
typedef struct qmh_rope {
  double theta;
  qmh_rope_layout layout;
  qmh_rope_scaling scaling;
  double factor;          /* linear, llama3 */
  double low_freq_factor; /* llama3 */
  double high_freq_factor;
  double original_max_positions;
} qmh_rope;

typedef struct qmh_kv_shape {
  uint32_t blocks, layers, kv_heads, head_dim, block_size;
  qmh_dtype type;
} qmh_kv_shape;

/* How a layer keeps its tokens when not all layers do so alike. Layers of a group lie side by side in its pages, in their
 * order; pages are as large as the largest group needs. */
typedef struct qmh_layer_place {
  uint32_t group;      /* 0, 1, ...: which tables of a batch are the layer's */
  uint32_t window;     /* tokens a token sees, itself included; 0: all */
  uint32_t block_size; /* tokens a page; the same for all layers of a group, kv.block_size in group 0 */
} qmh_layer_place;

typedef struct qmh_config {
  uint32_t hidden, heads, intermediate, vocab; /* heads: a multiple of kv.kv_heads */
  qmh_kv_shape kv;                             /* layers and head_dim (even, <= 512) of the model too */
  qmh_rope rope;
  float rms_eps;
  int attention_bias;      /* q, k and v projections have a bias */
  int tied_embeddings;     /* the embedding table is the output projection */
  uint32_t sliding_window; /* tokens a token sees, itself included; 0: all */
  uint32_t max_sequence_tokens;
  uint32_t threads; /* 0: number of cores, at most 8 */
  qmh_isa isa;
  const qmh_layer_place* places; /* [kv.layers]; NULL: all in group 0, with sliding_window */
} qmh_config;

/* A weight in a file, named as in Hugging Face files, row-major [out, in]. */
typedef struct qmh_tensor {
  const char* name;
  uint32_t file; /* index into the list of files */
  qmh_dtype type;
  uint64_t offset; /* bytes from the start of the file, a multiple of the element size */
  uint64_t bytes;
  uint32_t rank; /* 1 or 2 */
  uint64_t shape[2];
} qmh_tensor;

/* A row with lanes or statistics (bindings/statistics.ts). Down to outputs: index of the first element in
 * qmh_lanes.words, or QMH_NONE. In bitmaps the bits of new tokens are set. */
typedef struct qmh_lane_row {
  uint32_t lengths;      /* [layers * kv_heads] slots held before the new tokens */
  uint32_t write_slots;  /* [layers * kv_heads] slot of the only new token; QMH_NONE: append */
  uint32_t live, keep;   /* [layers * kv_heads][bitmap_words] slots seen; slots kept for OUTPUT_ERROR */
  uint32_t window_heads; /* [layers][ceil(heads / 32)] bitmaps of the heads whose WINDOW rows are written */
  /* [layers][8] indices in qmh_lanes.floats, or QMH_NONE: LAST_ROW, WINDOW, COLSUM, moments, entropy (f64),
   * PROBE_MAX, KEYS, OUTPUT_ERROR (two f64: squared norms of the change and of the output). f64 at even ones;
   * all but LAST_ROW, WINDOW and KEYS are added to. */
  uint32_t outputs;
  uint32_t stride, bitmap_words, window, probe; /* window, probe: last queries, at most the new tokens */
  uint32_t row;    /* row of the batch, ascending */
  uint32_t slices; /* [layers][2] where in words a layer's table of slices starts, and its entries, for its slots in place of
                    * the row's table: slice b * layers + l is layer l of block b. QMH_NONE: the row's table */
} qmh_lane_row;

typedef struct qmh_lanes {
  const qmh_lane_row* rows;
  const uint32_t* words;
  float* floats; /* a multiple of 8 bytes */
  size_t row_count, word_count, float_count;
} qmh_lanes;

/* Where the rows of a batch keep their tokens in group 1, 2, ...; as the fields of qmh_batch. Entries of a table before
 * what a window still sees are not read. */
typedef struct qmh_group_tables {
  const uint32_t *slots, *table_start, *table_count, *tables;
  size_t table_words;
} qmh_group_tables;

/* Rows of a batch in structure-of-arrays form, as a StepPlan of the core has them (docs/abi.md). */
typedef struct qmh_batch {
  uint32_t rows, total_tokens, sampling_rows, transfer_count;
  const uint32_t* phases;     /* [rows] 0 prefill chunk, 1 decode, 2 last chunk; 1 and 2 sample a token */
  const uint32_t* new_tokens; /* [rows] >= 1 */
  const uint32_t* computed_before; /* [rows] position of the row's first new token */
  const uint32_t* token_start;     /* [rows + 1] */
  const uint32_t* tokens;          /* [total_tokens] */
  const uint32_t* slots;           /* [total_tokens] where K and V of each new token go */
  const uint32_t* table_start;     /* [rows] index into tables */
  const uint32_t* table_count;     /* [rows] */
  const uint32_t* tables;          /* [table_words] block ids */
  size_t table_words;
  const uint32_t* transfers; /* [transfer_count][8] op 0 (copy; in group g, 256 g), tier 0, source, tier 0, target,
                              * tokens, mark, 0; ops 1 to 3 (swaps and waits) are somebody else's (quartermaster_copy.h) */
  const qmh_lanes* lanes; /* NULL: every row is plain. Slots of the rows in it are not used. */
  const qmh_group_tables* groups; /* [groups of the model beside group 0] */
  uint32_t group_count;
} qmh_batch;

/* How to pick a row's token; the words of one record, 48 bytes. */
typedef struct qmh_sampling {
  float temperature;        /* >= 0; 0: largest logit, ties to the smaller id */
  uint32_t top_k;           /* 0: off */
  float top_p;              /* (0, 1]; 1: off */
  float min_p;              /* [0, 1]; 0: off */
  float repetition_penalty; /* > 0; 1: off */
  uint32_t seed_low, seed_high;
  uint32_t position; /* index of the draw */
  uint32_t history_start, history_count;
  uint32_t reserved[2];
} qmh_sampling;

typedef struct qmh_model qmh_model;

QMH_API uint32_t qmh_abi_version(void);
/* The calling thread's last refusal, one sentence; valid until its next call. */
QMH_API const char* qmh_last_error(void);
/* "OUT_OF_MEMORY" for QMH_OUT_OF_MEMORY, and so on. Static. */
QMH_API const char* qmh_status_name(int status);
/* 1 if this machine can run the instruction set. */
QMH_API int qmh_isa_available(qmh_isa isa);
/* "avx2" for QMH_AVX2, and so on. Static. */
QMH_API const char* qmh_isa_name(qmh_isa isa);

/* Maps the files and takes the KV pool. *model is the caller's, to be given to qmh_model_free. The files must
 * not be truncated while the model lives. */
QMH_API int qmh_model_create(const qmh_config* config, const char* const* files, uint32_t file_count,
                             const qmh_tensor* tensors, uint32_t tensor_count, qmh_model** model);
/* REQUIRES: no batch in flight. NULL is allowed. */
QMH_API void qmh_model_free(qmh_model* model);
QMH_API qmh_isa qmh_model_isa(const qmh_model* model);
QMH_API uint32_t qmh_model_threads(const qmh_model* model);
QMH_API uint64_t qmh_model_weight_bytes(const qmh_model* model);
/* The KV pool, the model's own; *bytes is its size. Do not touch it while a batch is in flight. */
QMH_API void* qmh_model_kv(const qmh_model* model, uint64_t* bytes);
/* Runs transfers with mark 0, the rows, transfers with mark 1. The batch's arrays must not change meanwhile.
 * sampling: [sampling_rows]; history: token ids; tokens_out: [sampling_rows]; logits_out:
 * [sampling_rows][vocab], or NULL. */
QMH_API int qmh_forward(qmh_model* model, const qmh_batch* batch, const qmh_sampling* sampling,
                        const uint32_t* history, size_t history_count, uint32_t* tokens_out,
                        float* logits_out);
/* The same, stopping between layers: transfers with mark 0 and the embeddings, each layer in turn, the samples and
 * transfers with mark 1. In between K and V of the layers computed so far may be moved and merged, and slices of layers to
 * come written; the other arrays must not change, and stay, until the batch has ended or been abandoned. A layer whose
 * slices are refused may be tried again. */
QMH_API int qmh_layers_begin(qmh_model* model, const qmh_batch* batch, const qmh_sampling* sampling,
                             const uint32_t* history, size_t history_count, uint32_t* tokens_out,
                             float* logits_out);
QMH_API int qmh_layers_next(qmh_model* model);
QMH_API int qmh_layers_end(qmh_model* model);
QMH_API int qmh_layers_abandon(qmh_model* model);
/* Copies the first `tokens` tokens of block `source` to block `target`, all layers and heads. */
QMH_API int qmh_copy_block(qmh_model* model, uint32_t source, uint32_t target, uint32_t tokens);
/* K and V within lanes, records as Executor.move and Executor.merge have them (bindings/executor.ts). */
QMH_API int qmh_move(qmh_model* model, const uint32_t* moves, size_t words);
QMH_API int qmh_merge(qmh_model* model, const uint32_t* merges, size_t words);

/* Single kernels. They trust their arguments; `out` is written, everything else is read. */
QMH_API int qmh_embed(qmh_isa isa, const void* table, qmh_dtype type, uint32_t width, const uint32_t* tokens,
                      uint32_t count, float* out);
QMH_API int qmh_rmsnorm(qmh_isa isa, const float* x, const void* weight, qmh_dtype type, uint32_t rows,
                        uint32_t width, float eps, float* out);
/* out[t][o] = sum over k of x[t][k] * weight[o][k], plus bias[o] unless bias is NULL (bias in the weight's
 * type). */
QMH_API int qmh_matmul(qmh_isa isa, const float* x, const void* weight, qmh_dtype type, const void* bias,
                       uint32_t tokens, uint32_t inputs, uint32_t outputs, float* out);
/* Rotates x, [count][heads][head_dim], in place. */
QMH_API int qmh_rope_apply(qmh_isa isa, float* x, const uint32_t* positions, uint32_t count, uint32_t heads,
                           uint32_t head_dim, const qmh_rope* rope);
/* Writes k and v, [count][kv_heads][head_dim], to their slots of `layer`. */
QMH_API int qmh_kv_write(qmh_isa isa, void* kv, const qmh_kv_shape* shape, uint32_t layer,
                         const uint32_t* slots, uint32_t count, const float* k, const float* v);
/* Causal attention of `count` queries [count][heads][head_dim] at first_position, first_position + 1, ... */
QMH_API int qmh_attention(qmh_isa isa, const void* kv, const qmh_kv_shape* shape, uint32_t layer,
                          const uint32_t* table, uint32_t first_position, uint32_t count, uint32_t heads,
                          uint32_t window, const float* q, float* out);
/* Attention of the `count` new tokens of one row with lanes. Checks its record. */
QMH_API int qmh_attention_lanes(qmh_isa isa, const void* kv, const qmh_kv_shape* shape, uint32_t layer,
                                const uint32_t* table, uint32_t table_count, const qmh_lanes* lanes,
                                uint32_t count, uint32_t heads, const float* q, float* out);
/* gate = gate / (1 + exp(-gate)) * up, in place. */
QMH_API int qmh_swiglu(qmh_isa isa, float* gate, const float* up, size_t count);
QMH_API int qmh_sample(const float* logits, uint32_t vocab, const qmh_sampling* sampling,
                       const uint32_t* history, size_t history_count, uint32_t* token);
/* Operations a second (a multiply-add is two) of one thread on registers alone. */
QMH_API int qmh_peak_flops(qmh_isa isa, double* flops);

#ifdef __cplusplus
}
#endif

#endif /* QUARTERMASTER_HOST_H */
