// Packs the package, installs the tarball in an empty folder and uses it there, without the repository.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = mkdtempSync(join(tmpdir(), "quartermaster-package-"));
const npm = (args, cwd) =>
  execFileSync("npm", args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

const USE = `
import assert from "node:assert/strict";
import { Core } from "quartermaster";
import { createCore } from "quartermaster/loader";
import { loadAddon, openModel } from "quartermaster/native-host";
const core = await Core.create();
const cache = core.kvCache({ blocks: 8 });
cache.close(cache.open({ tokens: [1, 2, 3] }));
core.validate();
await createCore();
const model = await openModel(new URL("./node_modules/quartermaster/native-host/models/tiny-retrieval", import.meta.url).pathname, { blocks: 8 });
assert.equal(model.tokenizer.decode(model.tokenizer.encode("ab12")), "ab12");
const addon = loadAddon();
console.log("installed package works; backend " + model.executor.describe().backend + ("reason" in addon ? " (" + addon.reason + ")" : ""));
`;

const TYPES = `
import { Core, type KvCache } from "quartermaster";
import { openModel } from "quartermaster/native-host";
export const cache: KvCache = (await Core.create()).kvCache({ blocks: 8 });
export const text: string = (await openModel("x", { blocks: 1 })).tokenizer.decode([1]);
`;

try {
  // The scripts have run already: packing must not build again.
  const [{ filename, size, entryCount }] = JSON.parse(
    npm(["pack", "--json", "--ignore-scripts", "--pack-destination", folder], root),
  );
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name: "user", private: true, type: "module" }),
  );
  npm(["install", "--no-audit", "--no-fund", "--foreground-scripts", join(folder, filename)], folder);
  writeFileSync(join(folder, "use.mjs"), USE);
  process.stdout.write(execFileSync(process.execPath, ["use.mjs"], { cwd: folder, encoding: "utf8" }));
  process.stdout.write(
    execFileSync(join(folder, "node_modules/.bin/quartermaster"), ["run", "--json"], {
      cwd: folder,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }),
  );
  // The C library, built from what is packed as docs/embedding-c.md says.
  symlinkSync(join(root, "node_modules", "wabt"), join(folder, "node_modules", "wabt"));
  const installed = join(folder, "c");
  const build = ["node_modules/quartermaster/scripts/build-c.mjs", "--only", "scalar", "--prefix", installed];
  process.stdout.write(execFileSync(process.execPath, build, { cwd: folder, encoding: "utf8" }));
  for (const file of [
    "include/quartermaster.h",
    "include/quartermaster_lanes.h",
    "lib/pkgconfig/quartermaster.pc",
  ])
    if (!existsSync(join(installed, file))) throw new Error(`${file} was not installed from the package`);
  writeFileSync(join(folder, "types.ts"), TYPES);
  const options = [
    "--noEmit",
    "--strict",
    "--target",
    "es2022",
    "--module",
    "nodenext",
    "--types",
    "",
    "--skipLibCheck",
    "types.ts",
  ];
  execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), ...options], {
    cwd: folder,
    stdio: "inherit",
  });
  console.log(`${filename}: ${entryCount} files, ${(size / 1024).toFixed(0)} KiB; its types check`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
