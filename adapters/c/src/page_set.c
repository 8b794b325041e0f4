/* Page sets of quartermaster.h. */
#include "core_calls.h"

static int create(qm_core* core, qm_order order, uint32_t slots, uint32_t pages, uint32_t history, uint32_t eager,
                  qm_page_set* set) {
  double bytes = 0;
  if (core == NULL || set == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, bytes, w2c_qm_pageSetBytes(instance, (uint32_t)order, slots, pages, history));
  int status = qm_make_room(core, bytes);
  if (status == QM_OK)
    QM_CALL(core, status, (int)w2c_qm_pageSetCreate(instance, (uint32_t)order, slots, pages, history, eager));
  return status < 0 ? status : qm_last_region(core, set);
}

int qm_page_set_create(qm_core* core, qm_order order, uint32_t slots, uint32_t pages, uint32_t history,
                       qm_page_set* set) {
  return create(core, order, slots, pages, history, 0, set);
}

int qm_page_set_create_eager(qm_core* core, qm_order order, uint32_t slots, uint32_t pages, uint32_t history,
                             qm_page_set* set) {
  return create(core, order, slots, pages, history, 1, set);
}

int qm_page_set_request(qm_core* core, qm_page_set set, uint32_t page, uint32_t advice) {
  REQUIRE(core, QM_PAGE_SET, set);
  RESULT(core, w2c_qm_pageSetRequest(instance, set, page, advice));
}

int qm_page_set_slot(qm_core* core, qm_page_set set, uint32_t page) {
  REQUIRE(core, QM_PAGE_SET, set);
  RESULT(core, w2c_qm_pageSetSlot(instance, set, page));
}

static int shape_of(qm_core* core, qm_page_set set, qm_page_set_figures* figures) {
  double requests = 0, faults = 0;
  QM_CALL(core, figures->slots, w2c_qm_pageSetSlots(instance, set));
  QM_CALL(core, figures->pages, w2c_qm_pageSetPages(instance, set));
  QM_CALL(core, requests, w2c_qm_pageSetRequests(instance, set));
  QM_CALL(core, faults, w2c_qm_pageSetFaults(instance, set));
  figures->requests = (uint64_t)requests;
  figures->faults = (uint64_t)faults;
  return QM_OK;
}

int qm_page_set_get_figures(qm_core* core, qm_page_set set, qm_page_set_figures* figures) {
  REQUIRE(core, QM_PAGE_SET, set);
  qm_page_set_figures found;
  if (figures == NULL) return QM_INVALID_ARGUMENT;
  const int status = shape_of(core, set, &found);
  if (status == QM_OK) *figures = found;
  return status;
}

enum { LAST_ADVICE = 2 };

/* Pages and their advice go through the core's scratch, as many at a time as fit there; all of them are checked before. */
int qm_page_set_run(qm_core* core, qm_page_set set, const uint32_t* pages, const uint8_t* advice, uint32_t count) {
  REQUIRE(core, QM_PAGE_SET, set);
  const uint32_t batch = QM_SCRATCH_BYTES / (sizeof *pages + sizeof *advice), bits = core->scratch + 4 * batch;
  qm_page_set_figures shape;
  int faults = 0;
  const int status = shape_of(core, set, &shape);
  if (status != QM_OK) return status;
  if (count > INT32_MAX || (pages == NULL && count > 0)) return QM_INVALID_ARGUMENT;
  for (uint32_t i = 0; i < count; i++)
    if (pages[i] >= shape.pages || (advice != NULL && advice[i] > LAST_ADVICE)) return QM_INVALID_ARGUMENT;
  for (uint32_t from = 0; from < count; from += batch) {
    const uint32_t some = least(batch, count - from);
    int found = 0;
    memcpy(at(core, core->scratch), pages + from, 4ull * some);
    if (advice != NULL) memcpy(at(core, bits), advice + from, some);
    QM_CALL(core, found, (int)w2c_qm_pageSetRun(instance, set, core->scratch, advice == NULL ? 0 : bits, some));
    if (found < 0) return found;
    faults += found;
  }
  return faults;
}

int qm_page_set_clear(qm_core* core, qm_page_set set, uint32_t seed) {
  REQUIRE(core, QM_PAGE_SET, set);
  RESULT(core, (w2c_qm_pageSetClear(instance, set, seed), QM_OK));
}
