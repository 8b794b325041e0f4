// The table of kernels: what a forward pass is made of, once for each instruction set.
//
// Purpose     One struct of function pointers, filled by kernels/reference (plain, slow, obviously right) and
//             by kernels/cpu (portable, AVX2, AVX-512), chosen once when a model is made.
// Invariant   Each output element is computed in an order of additions that depends on its own inputs and
//             absolute position alone; how many rows, outputs or queries a call covers never changes its
//             bits.
// Threading   Kernels keep no state; calls whose outputs do not overlap may run at the same time.
#ifndef QUARTERMASTER_KERNELS_KERNELS_H
#define QUARTERMASTER_KERNELS_KERNELS_H

#include "numbers.h"

namespace qm {

// A weight where it lies; data is null for an absent bias.
struct Weight {
  const void* data;
  NumberType type;
};

// The KV pool: kv[block][layer][K, V][kvHead][blockSize][headDim], blocks pageBytes apart. Groups of layers that
// share a pool see it in shapes of their own: the group's layers, in blocks of its size, as pages of one size.
struct KvShape {
  uint32_t blocks, layers, kvHeads, headDim, blockSize;
  NumberType type;
  size_t pageBytes;
};

enum KvPart : uint32_t { KV_K, KV_V };

static inline size_t kvHeadBytes(const KvShape& s) {
  return size_t{s.blockSize} * s.headDim * bytesOf(s.type);
}
static inline size_t kvLayerBytes(const KvShape& s) { return size_t{2} * s.kvHeads * kvHeadBytes(s); }
static inline size_t kvBlockBytes(const KvShape& s) { return s.pageBytes; }
// The shape with blocks as large as their layers.
static inline KvShape packed(KvShape s) {
  s.pageBytes = s.layers * kvLayerBytes(s);
  return s;
}
// The same bytes as blocks of one layer each: slice b * layers + l is layer l of block b. REQUIRES: packed.
static inline KvShape slicesOf(const KvShape& s) {
  return packed({s.blocks * s.layers, 1, s.kvHeads, s.headDim, s.blockSize, s.type, 0});
}

// Bytes from the start of the pool to the first token of one head's K or V in one block.
static inline size_t kvOffset(const KvShape& s, uint32_t block, uint32_t layer, KvPart part,
                              uint32_t kvHead) {
  return block * kvBlockBytes(s) + ((size_t{layer} * 2 + part) * s.kvHeads + kvHead) * kvHeadBytes(s);
}

// y[t][o] = x[t] . w[o] (+ bias[o]) (+ y[t][o] if accumulate), for every token t and outputs [outBegin,
// outEnd).
struct MatmulArgs {
  const float* x;  // [tokens], xStride floats apart
  size_t xStride;
  uint32_t tokens, inputs;
  Weight w;  // [outputs][inputs]
  Weight bias;
  uint32_t outBegin, outEnd;
  float* y;  // [tokens], yStride floats apart; indexed by the absolute output
  size_t yStride;
  bool accumulate;
};

// What to measure of a call's queries; null: nothing. Rows of the group's heads, `stride` floats apart,
// indexed by position; meanings in bindings/statistics.ts. All but lastRow and window are added to, query by
// query.
struct AttendMeasures {
  float* lastRow;   // [group], of the row's last query
  float* window;    // [group][windowRows], of its last windowRows queries
  float* colsum;    // [group]
  float* moments;   // [group][2]
  double* entropy;  // [group] sums of a ln(a + 1e-10) over positions before the window's own tokens
  float* probeMax;  // [1], over positions below `cached` alone
  size_t stride;
  uint64_t windowHeads;            // bit g: rows of head g are written to `window`
  uint32_t windowRows, probeRows;  // last queries of the row that are measured, and that are probes
  uint32_t queriesAfter;           // queries of the row behind the call's last one
  uint32_t cached;                 // positions before the row's new tokens
  float* weights;                  // attendWeights(...) floats of scratch
};

// Queries of one sequence that follow each other, against the K and V of one KV head. Where tokens were taken
// from the sequence, positions are places in its lane.
struct AttendArgs {
  const float* q;  // first query's first head of the group; headDim floats a head, qStride floats a token
  size_t qStride;
  float* out;
  size_t outStride;
  uint32_t queries, firstPosition;
  uint32_t group;   // query heads that share the KV head
  uint32_t window;  // tokens a query sees, itself included; 0: all before it
  const uint8_t* kv;
  KvShape shape;
  uint32_t layer, kvHead;
  const uint32_t* table;  // block ids of the sequence
  float* scratch;         // ATTEND_SCRATCH floats, 64-byte aligned
  // Bitmap of the positions that queries see, at least one each; null: all.
  const uint32_t* live = nullptr;
  const AttendMeasures* measures = nullptr;
};

constexpr uint32_t MAX_HEAD_DIM = 512;
constexpr uint32_t MAX_GROUP = 64;
// Positions are attended to in tiles [32 i, 32 i + 32): absolute, so that block and chunk borders do not
// matter.
constexpr uint32_t ATTEND_TILE = 32;
// Query heads (queries * group) that one call may hold, unless the group alone has more: at most, and in lanes.
constexpr uint32_t ATTEND_MOST_ROWS = 256;
constexpr uint32_t ATTEND_ROWS = 64;
constexpr size_t ATTEND_SCRATCH = size_t{2} * ATTEND_TILE * MAX_HEAD_DIM;

// Scratch that measuring `queryHeads` query heads takes when the last position is below `end`.
static inline size_t attendWeights(size_t queryHeads, size_t end) {
  const size_t tiles = end / ATTEND_TILE + 1;
  return tiles * (queryHeads * (ATTEND_TILE + 1) + 1);
}

struct Kernels {
  const char* name;
  void (*embed)(Weight table, uint32_t width, const uint32_t* tokens, uint32_t count, float* out);
  void (*rmsnorm)(const float* x, Weight weight, uint32_t rows, uint32_t width, float eps, float* out);
  void (*matmul)(const MatmulArgs& args);
  // cosSin: [position][headDim / 2] pairs (cos, sin).
  void (*rope)(float* x, size_t stride, const uint32_t* positions, uint32_t count, uint32_t heads,
               uint32_t headDim, const float* cosSin, bool interleaved);
  // Heads [headBegin, headEnd) of k and v: [count], stride floats apart, each [kvHeads][headDim].
  void (*kvWrite)(uint8_t* kv, const KvShape& shape, uint32_t layer, uint32_t headBegin, uint32_t headEnd,
                  const uint32_t* slots, uint32_t count, const float* k, const float* v, size_t stride);
  void (*attend)(const AttendArgs& args);
  void (*swiglu)(float* gate, const float* up, size_t count);
  // Runs some million multiply-adds on registers alone; returns how many operations that was.
  double (*burn)(float* sink);
};

// Null where the library was built without them.
const Kernels* referenceKernels();
const Kernels* portableKernels();
const Kernels* avx2Kernels();
const Kernels* avx512Kernels();

}  // namespace qm

#endif  // QUARTERMASTER_KERNELS_KERNELS_H
