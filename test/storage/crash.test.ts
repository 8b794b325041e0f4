/**
 * Crashes of the disk tier: files cut off or damaged at every byte, and a process that is killed while it writes. What is
 * found again was stored, with the contents that were stored.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { DiskTier } from "../../native-host/storage/disk-tier.js";
import { long } from "../support/long.js";
import { root } from "../support/package-root.js";

const base = mkdtempSync(join(tmpdir(), "disk-crash-"));
after(() => rmSync(base, { recursive: true, force: true }));

const keyOf = (name: string | number): Buffer => createHash("sha256").update(`key ${name}`).digest();
const payloadOf = (name: number): Buffer => Buffer.alloc(10 + (name % 7), keyOf(`payload ${name}`));
const COUNT = 4;

interface Image {
  readonly files: ReadonlyMap<string, Buffer>;
}

function imageOf(path: string): Image {
  return { files: new Map(readdirSync(path).map((name) => [name, readFileSync(join(path, name))])) };
}

/** Writes an image with one file changed to a fresh directory, opens it and checks what is found. */
async function survives(image: Image, name: string, bytes: Buffer, what: string): Promise<number> {
  const path = join(base, "victim");
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path);
  for (const [file, content] of image.files) writeFileSync(join(path, file), file === name ? bytes : content);
  rmSync(join(path, "lock"), { force: true });
  const tier = await DiskTier.open(path, { capacityBytes: 2 ** 20, fsync: "never" });
  let found = 0;
  for (let i = 0; i < COUNT; i++) {
    const block = await tier.get(keyOf(i));
    if (block === undefined) continue;
    assert.deepEqual(block.payload, payloadOf(i), `${what}: contents of ${i}`);
    assert.deepEqual(block.parent, i % 2 === 0 ? undefined : keyOf(i - 1), `${what}: parent of ${i}`);
    found += 1;
  }
  assert.equal(tier.stat().blocks, found, `${what}: a key that nobody stored`);
  // It goes on: what is stored now is found.
  await tier.put(keyOf("new"), payloadOf(0));
  assert.deepEqual((await tier.get(keyOf("new")))!.payload, payloadOf(0), what);
  await tier.close();
  return found;
}

/** Four blocks in two prefixes, and a checkpoint after `checkpointAfter` of them. */
async function build(name: string, checkpointAfter: number): Promise<Image> {
  const path = join(base, name);
  const tier = await DiskTier.open(path, { capacityBytes: 2 ** 20, fsync: "never" });
  for (let i = 0; i < COUNT; i++) {
    await tier.put(keyOf(i), payloadOf(i), i % 2 === 0 ? {} : { parent: keyOf(i - 1) });
    if (i + 1 === checkpointAfter) await tier.checkpoint();
  }
  const image = imageOf(path);
  await tier.close();
  return image;
}

for (const checkpointAfter of [0, 3]) {
  const of = checkpointAfter === 0 ? "without a checkpoint" : "with a checkpoint in the middle";

  test(`${of}: every length that a file can be cut to`, async () => {
    const image = await build(`cut-${checkpointAfter}`, checkpointAfter);
    for (const [name, bytes] of image.files) {
      if (name === "lock") continue;
      let last = 0;
      for (let length = 0; length <= bytes.length; length++) {
        const found = await survives(image, name, bytes.subarray(0, length), `${name} cut to ${length}`);
        if (name.startsWith("segment")) assert.ok(found >= last, "a longer file gives no fewer blocks");
        last = found;
      }
      assert.equal(last, COUNT, "whole again, all are found");
    }
  });

  test(`${of}: a bit turned over in every byte`, async () => {
    const image = await build(`flip-${checkpointAfter}`, checkpointAfter);
    for (const [name, bytes] of image.files) {
      if (name === "lock") continue;
      for (let at = 0; at < bytes.length; at++)
        for (const bit of long ? [0, 1, 2, 3, 4, 5, 6, 7] : [at % 8]) {
          const damaged = Buffer.from(bytes);
          damaged[at] ^= 1 << bit;
          const found = await survives(image, name, damaged, `${name}, bit ${bit} of byte ${at}`);
          if (name.startsWith("checkpoint")) assert.equal(found, COUNT, "the files are scanned instead");
          else assert.ok(found < COUNT, "the damage is seen");
        }
    }
  });
}

test("a file that was left half written beside a checkpoint, and one of noise, change nothing", async () => {
  const image = await build("beside", 3);
  const noise = createHash("sha512").update("noise").digest();
  for (const name of ["checkpoint-00000002.new", "checkpoint-00000009", "segment-00000007", "unknown"])
    assert.equal(
      await survives({ files: new Map([...image.files, [name, noise]]) }, name, noise, name),
      COUNT,
    );
});

test("a process killed while it stores under fsync always has lost nothing that it was told is stored", async () => {
  const path = join(base, "killed");
  const child = spawn(
    process.execPath,
    [
      "--input-type=module",
      "-e",
      `import { createHash } from "node:crypto";
       import { DiskTier } from ${JSON.stringify(pathToFileURL(join(root, "dist/native-host/storage/disk-tier.js")).href)};
       const tier = await DiskTier.open(${JSON.stringify(path)}, { capacityBytes: 2 ** 30, fsync: "always", segmentBytes: 16384, checkpointBytes: 20000 });
       for (let i = 0; ; i++) {
         const key = createHash("sha256").update("key " + i).digest();
         await tier.put(key, Buffer.alloc(500, key));
         process.stdout.write(i + "\\n");
       }`,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  // Until then its process is alive, and so is its lock.
  const ended = once(child, "exit");
  let told = "";
  for await (const chunk of child.stdout) {
    told += String(chunk);
    if (told.split("\n").length > 150) child.kill("SIGKILL");
  }
  await ended;
  const stored = told.trimEnd().split("\n").length;
  cpSync(path, join(base, "killed-copy"), { recursive: true });
  const tier = await DiskTier.open(path, { capacityBytes: 2 ** 30 });
  for (let i = 0; i < stored - 1; i++)
    assert.deepEqual(
      (await tier.get(keyOf(i)))?.payload,
      Buffer.alloc(500, keyOf(i)),
      `block ${i} of ${stored}`,
    );
  assert.ok(tier.stat().blocks <= stored + 2, "nothing was invented");
  assert.ok(tier.recovery.checkpoint! > 0);
  await tier.close();
});
