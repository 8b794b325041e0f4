/* Page sets of quartermaster.h. */
#include "core_calls.h"

int qm_page_set_create(qm_core* core, qm_order order, uint32_t slots, uint32_t pages, uint32_t history,
                       qm_page_set* set) {
  double bytes = 0;
  if (core == NULL || set == NULL) return QM_INVALID_ARGUMENT;
  QM_CALL(core, bytes, w2c_qm_pageSetBytes(instance, (uint32_t)order, slots, pages, history));
  int status = qm_make_room(core, bytes);
  if (status == QM_OK)
    QM_CALL(core, status, (int)w2c_qm_pageSetCreate(instance, (uint32_t)order, slots, pages, history, 0));
  return status < 0 ? status : qm_last_region(core, set);
}

int qm_page_set_request(qm_core* core, qm_page_set set, uint32_t page, uint32_t advice) {
  REQUIRE(core, QM_PAGE_SET, set);
  RESULT(core, w2c_qm_pageSetRequest(instance, set, page, advice));
}

int qm_page_set_slot(qm_core* core, qm_page_set set, uint32_t page) {
  REQUIRE(core, QM_PAGE_SET, set);
  RESULT(core, w2c_qm_pageSetSlot(instance, set, page));
}
