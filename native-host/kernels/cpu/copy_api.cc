// The C boundary of block copies.
#include <quartermaster_copy.h>

#include "copy_engine.h"
#include "guarded.h"

struct qmh_copier : qm::CopyEngine {
  using qm::CopyEngine::CopyEngine;
};

using namespace qm;

int qmh_copier_create(const qmh_copier_config* config, qmh_copier** copier) {
  return guarded([&] {
    *copier = nullptr;
    *copier = new qmh_copier(*config);
  });
}

void qmh_copier_free(qmh_copier* copier) { delete copier; }

void* qmh_copier_host(const qmh_copier* copier) { return copier->host(); }

int qmh_copy_batch(qmh_copier* copier, const qmh_copy* copies, size_t count, qmh_copy_done done,
                   void* context) {
  return guarded([&] { copier->enqueue(copies, count, done, context); });
}
