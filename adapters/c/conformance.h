/* What the parts of the conformance program share: a call, its answer, and the structures under test. */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include <quartermaster.h>

#include <string.h>

enum { MAX_LISTS = 4, MAX_NAME = 32, MAX_LIST = 4096 };

/* [operation, numbers..., lists...]: lists follow the numbers in every operation that has both. */
typedef struct {
  char operation[MAX_NAME];
  double numbers[16];
  int number_count;
  uint32_t lists[MAX_LISTS][MAX_LIST];
  uint32_t list_lengths[MAX_LISTS];
  int list_count;
} call;

static inline uint32_t u(const call* c, int i) { return (uint32_t)c->numbers[i]; }
static inline int is(const call* c, const char* operation) { return strcmp(c->operation, operation) == 0; }

/* The program ends: the script cannot be run. */
void fail(const char* what);
/* Add to the answer of the call. */
void put(double value);
void put_words(const uint32_t* words, uint32_t count);
/* A status or a count, then so many records of `size` words. */
void put_records(int found, const uint32_t* words, uint32_t size);

/* Of the script that is being run; made by its calls. */
extern qm_core* core;
extern qm_cache cache;
extern qm_scheduler scheduler;

/* Answer a call if it is one of theirs, and say whether it was. */
int answer_cache_add_ons(const call* c);
int answer_scheduler_add_ons(const call* c);
int answer_keyed_pool(const call* c);
int answer_virtual_memory(const call* c);
int answer_lanes(const call* c);
int answer_selection(const call* c);
/* The structures of theirs in a restored core. */
void find_pools(void);
void find_lanes(void);

#endif
