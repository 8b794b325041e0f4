/** Projects that use the installed C library: found by CMake, static and shared, and by pkg-config. Built by npm run build:c. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { root } from "../support/package-root.js";

const examples = join(root, "examples", "c");
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };

type Result = { readonly status: number | null; readonly output: string };

function run(command: string, args: readonly string[], environment: Record<string, string> = {}): Result {
  const env = { ...process.env, ...environment };
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8", env });
  return { status, output: `${stdout}${stderr}` };
}

function succeeds(
  command: string,
  args: readonly string[],
  environment: Record<string, string> = {},
): string {
  const { status, output } = run(command, args, environment);
  assert.equal(status, 0, `${command} ${args.join(" ")}: ${output}`);
  return output;
}

/** Runs a test in a folder of its own. */
function inFolder(body: (folder: string) => void): () => void {
  return () => {
    const folder = mkdtempSync(join(tmpdir(), "quartermaster-consumer-"));
    try {
      body(folder);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  };
}

/** What the dynamic linker would load. */
const loaded = (program: string): string => succeeds("ldd", [program]);

for (const variant of ["scalar", "simd"]) {
  const installed = join(root, "build", "c", variant, "installed");
  const skip = existsSync(join(installed, "conformance"))
    ? false
    : `${variant} was not built: npm run build:c`;
  const found = `-DCMAKE_PREFIX_PATH=${installed}`;
  const pkgConfig = { PKG_CONFIG_PATH: join(installed, "lib", "pkgconfig") };

  for (const shared of [false, true]) {
    const kind = shared ? "shared" : "static";
    test(
      `examples/c is a project that finds the ${kind} library (${variant}) with CMake`,
      { skip },
      inFolder((folder) => {
        succeeds("cmake", [
          "-S",
          examples,
          "-B",
          folder,
          found,
          `-DBUILD_SHARED_LIBS=${shared ? "ON" : "OFF"}`,
        ]);
        succeeds("cmake", ["--build", folder]);
        const program = join(folder, "scheduler_loop");
        assert.match(succeeds(program, []), /^10 of 10 requests finished/);
        assert.equal(/libquartermaster\.so/.test(loaded(program)), shared);
      }),
    );
  }

  test(
    `each library (${variant}) has a target of its own, and one project may use both names`,
    { skip },
    inFolder((folder) => {
      const lines = ["cmake_minimum_required(VERSION 3.16)", "project(consumer LANGUAGES C)"];
      lines.push(
        "find_package(quartermaster CONFIG REQUIRED)",
        "find_package(quartermaster CONFIG REQUIRED)",
      );
      for (const kind of ["static", "shared"]) {
        lines.push(`add_executable(${kind} ${join(examples, "speculation.c")})`);
        lines.push(`target_link_libraries(${kind} PRIVATE quartermaster::${kind})`);
      }
      writeFileSync(join(folder, "CMakeLists.txt"), lines.join("\n"));
      succeeds("cmake", ["-S", folder, "-B", join(folder, "build"), found]);
      succeeds("cmake", ["--build", join(folder, "build")]);
      for (const kind of ["static", "shared"]) {
        const program = join(folder, "build", kind);
        assert.match(succeeds(program, []), /64 tokens in 64 steps/);
        assert.equal(/libquartermaster\.so/.test(loaded(program)), kind === "shared");
      }
    }),
  );

  test(
    `CMake refuses another minor or major version than the installed one (${variant})`,
    { skip },
    inFolder((folder) => {
      const [major, minor] = version.split(".").map(Number);
      const project = (wanted: string): Result => {
        const lines = ["cmake_minimum_required(VERSION 3.16)", "project(consumer LANGUAGES NONE)"];
        lines.push(
          `find_package(quartermaster ${wanted} CONFIG REQUIRED)`,
          'message(STATUS "is ${quartermaster_VERSION}")',
        );
        writeFileSync(join(folder, "CMakeLists.txt"), lines.join("\n"));
        return run("cmake", ["-S", folder, "-B", join(folder, `build-${wanted}`), found]);
      };
      const right = project(`${major}.${minor}`);
      assert.equal(right.status, 0, right.output);
      assert.ok(right.output.includes(`is ${version}`), "the version of the npm package");
      for (const wrong of [`${major}.${minor + 1}`, `${major + 1}.0`]) {
        const { status, output } = project(wrong);
        assert.notEqual(status, 0);
        assert.match(output, /compatible with requested\s+version/);
      }
    }),
  );

  const noPkgConfig = run("pkg-config", ["--version"]).status === 0 ? false : "pkg-config is not there";
  test(
    `a program is compiled with what pkg-config says of the library (${variant})`,
    { skip: skip || noPkgConfig },
    inFolder((folder) => {
      assert.equal(succeeds("pkg-config", ["--modversion", "quartermaster"], pkgConfig).trim(), version);
      const flags = succeeds("pkg-config", ["--cflags", "--libs", "quartermaster"], pkgConfig)
        .trim()
        .split(/\s+/);
      const program = join(folder, "speculation");
      succeeds("cc", ["-Wall", "-Werror", join(examples, "speculation.c"), "-o", program, ...flags]);
      const output = succeeds(program, [], { LD_LIBRARY_PATH: join(installed, "lib") });
      assert.match(output, /64 tokens in 64 steps/);
    }),
  );

  const noCxx = run("c++", ["--version"]).status === 0 ? false : "c++ is not there";
  test(
    `the headers (${variant}) are for C++, too, and their functions are found`,
    { skip: skip || noCxx },
    inFolder((folder) => {
      const source = join(folder, "engine.cpp");
      writeFileSync(
        source,
        "#include <quartermaster_lanes.h>\nint main() { return qm_abi_version() == 3 ? 0 : 1; }\n",
      );
      const library = join(installed, "lib", "libquartermaster.a");
      const include = `-I${join(installed, "include")}`;
      succeeds("c++", [
        "-Wall",
        "-Werror",
        "-pedantic",
        source,
        include,
        library,
        "-lm",
        "-o",
        join(folder, "engine"),
      ]);
      succeeds(join(folder, "engine"), []);
    }),
  );
}
