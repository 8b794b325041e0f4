// The C header and library serve a plain C program: no Node, no C++ in sight.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const library = join(root, "build/native/cmake/libquartermaster_host.a");
const compiler = ["cc", "gcc", "clang"].find((name) => spawnSync(name, ["--version"]).status === 0);

const PROGRAM = `
#include <quartermaster_host.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  const float x[2] = {1, 2}, weight[6] = {1, 0, 0, 1, 3, 4};
  float y[3];
  qmh_config config;
  qmh_model *model = NULL;
  if (qmh_abi_version() != QMH_ABI_VERSION || sizeof(qmh_sampling) != 48) return 1;
  if (qmh_matmul(QMH_AUTO, x, weight, QMH_F32, NULL, 1, 2, 3, y) != QMH_OK) return 2;
  memset(&config, 0, sizeof config);
  const int status = qmh_model_create(&config, NULL, 0, NULL, 0, &model);
  printf("%g %g %g\\n%s: %s\\n", y[0], y[1], y[2], qmh_status_name(status), qmh_last_error());
  return model != NULL;
}
`;

const skip = !existsSync(library)
  ? "the C library was not built"
  : compiler
    ? false
    : "no C compiler was found";

test("a C program links, multiplies and is refused politely", { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), "quartermaster-c-"));
  try {
    const source = join(folder, "main.c");
    const program = join(folder, "main");
    writeFileSync(source, PROGRAM);
    const strict = [
      "-std=c99",
      "-Wall",
      "-Wextra",
      "-Werror",
      "-pedantic",
      `-I${join(root, "native-host/include")}`,
    ];
    const runtime = process.platform === "darwin" ? ["-lc++"] : ["-lstdc++", "-lm", "-lpthread"];
    const built = spawnSync(compiler!, [...strict, source, library, ...runtime, "-o", program], {
      encoding: "utf8",
    });
    assert.equal(built.status, 0, built.stderr);
    const ran = spawnSync(program, { encoding: "utf8" });
    assert.equal(ran.status, 0, ran.stderr);
    assert.equal(ran.stdout, "1 2 11\nINVALID_ARGUMENT: layers is 0; allowed: 1 to 1024\n");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
