/** The checker itself: it finds the races that are there, and passes what is right. */
import assert from "node:assert/strict";
import { test } from "node:test";
import binaryen from "binaryen";
import { instrument } from "./atomics-instrumentation.js";
import { isLinearizable } from "./histories.js";
import type { Call } from "./logical-threads.js";
import { Checker, type Scenario } from "./schedules.js";

function assemble(functions: string): Uint8Array<ArrayBuffer> {
  const module = binaryen.parseText(
    `(module (import "env" "memory" (memory 1 65536 shared)) (import "env" "park" (func $park (param i32 i32 f64))) ${functions})`,
  );
  module.setFeatures(binaryen.Features.All);
  const bytes = module.emitBinary();
  module.dispose();
  return instrument(bytes);
}

const COUNTERS = assemble(`
  (func (export "lossy") (i32.atomic.store (i32.const 64)
    (i32.add (i32.atomic.load (i32.const 64)) (i32.const 1))))
  (func (export "exact") (local $seen i32)
    (loop $again
      (local.set $seen (i32.atomic.load (i32.const 64)))
      (br_if $again (i32.ne (local.get $seen)
        (i32.atomic.rmw.cmpxchg (i32.const 64) (local.get $seen) (i32.add (local.get $seen) (i32.const 1)))))))
  (func (export "added") (drop (i32.atomic.rmw.add (i32.const 64) (i32.const 1))))`);

const NOTHING = (): void => {};

function counting(call: string, threads: number): Scenario {
  return {
    setup: NOTHING,
    threads: Array.from({ length: threads }, () => [{ name: call, args: [] }]),
    check: ({ memory }) => assert.equal(new Uint32Array(memory.buffer)[16], threads),
  };
}

test("a load and a store lose an update; the failing schedule replays", () => {
  const checker = new Checker(COUNTERS, counting("lossy", 2));
  let message = "";
  assert.throws(
    () => checker.explore({ preemptions: 1 }),
    (error: Error) => ((message = error.message), /^schedule "/.test(message)),
  );
  const schedule = /^schedule "([^"]*)"/.exec(message)![1];
  assert.throws(() => checker.replay(schedule), /schedule/);
  checker.replay("");
});

test("a compare-and-swap counter passes every schedule", () => {
  for (const [threads, preemptions] of [
    [2, 8],
    [3, 3],
  ]) {
    const { schedules, exhausted } = new Checker(COUNTERS, counting("exact", threads)).explore({
      preemptions,
    });
    assert.ok(exhausted);
    assert.ok(schedules > 10);
  }
});

test("all orders of single accesses are tried, each once", () => {
  // Two threads of three accesses each: C(6, 3) orders.
  const call: Call = { name: "added", args: [] };
  const orders = new Set<string>();
  const scenario: Scenario = {
    setup: NOTHING,
    threads: [
      [call, call, call],
      [call, call, call],
    ],
    check: ({ events }) => void orders.add(events.map(({ thread }) => thread).join("")),
  };
  assert.deepEqual(new Checker(COUNTERS, scenario).explore({ preemptions: 99 }).exhausted, true);
  assert.equal(orders.size, 20);
});

const STACK = assemble(`
  (func $push (export "push") (param $at i32) (local $top i32)
    (loop $again
      (local.set $top (i32.atomic.load (i32.const 64)))
      (i32.atomic.store (local.get $at) (local.get $top))
      (br_if $again (i32.ne (local.get $top)
        (i32.atomic.rmw.cmpxchg (i32.const 64) (local.get $top) (local.get $at))))))
  (func $pop (export "pop") (result i32) (local $top i32)
    (loop $again
      (local.set $top (i32.atomic.load (i32.const 64)))
      (if (i32.eqz (local.get $top)) (then (return (i32.const 0))))
      (br_if $again (i32.ne (local.get $top)
        (i32.atomic.rmw.cmpxchg (i32.const 64) (local.get $top) (i32.atomic.load (local.get $top))))))
    (local.get $top))
  (func (export "popTwoPushFirst") (local $first i32)
    (local.set $first (call $pop)) (drop (call $pop)) (call $push (local.get $first)))`);

test("a stack without a change count is fooled by a node that comes back", () => {
  const scenario: Scenario = {
    // The top is 128, below it 192.
    setup: (_, memory) => {
      const words = new Uint32Array(memory.buffer);
      words[16] = 128;
      words[32] = 192;
    },
    threads: [[{ name: "pop", args: [] }], [{ name: "popTwoPushFirst", args: [] }]],
    // 192 was popped for good, so it is never the top again.
    check: ({ memory }) => assert.notEqual(new Uint32Array(memory.buffer)[16], 192),
  };
  assert.throws(() => new Checker(STACK, scenario).explore({ preemptions: 2 }), /schedule/);
});

const LOCKS = assemble(`
  (func $lock (param $at i32)
    (loop $again
      (if (i32.atomic.rmw.cmpxchg (local.get $at) (i32.const 0) (i32.const 1))
        (then (call $park (local.get $at) (i32.const 1) (f64.const 1)) (br $again)))))
  (func (export "both") (param $first i32) (param $second i32)
    (call $lock (local.get $first)) (call $lock (local.get $second))
    (i32.atomic.store (local.get $first) (i32.const 0)) (i32.atomic.store (local.get $second) (i32.const 0)))`);

test("locks taken in opposite orders deadlock; in one order they do not", () => {
  const scenario = (second: readonly number[]): Scenario => ({
    setup: NOTHING,
    threads: [[{ name: "both", args: [64, 128] }], [{ name: "both", args: second }]],
    check: NOTHING,
  });
  assert.throws(() => new Checker(LOCKS, scenario([128, 64])).explore({ preemptions: 1 }), /deadlock/);
  assert.ok(new Checker(LOCKS, scenario([64, 128])).explore({ preemptions: 3 }).exhausted);
});

test("linearizability of short histories", () => {
  const operation = (argument: string, result: number, start: number, end: number) => ({
    argument,
    result,
    start,
    end,
  });
  const apply = (state: number, argument: string): { state: number; result: number } =>
    argument === "read" ? { state, result: state } : { state: state + 1, result: state };
  const check = (history: ReturnType<typeof operation>[]): boolean =>
    isLinearizable(history, 0, apply, String);
  assert.ok(check([operation("add", 0, 0, 3), operation("read", 1, 1, 2)]), "overlapping: either order");
  assert.ok(
    !check([operation("add", 0, 0, 1), operation("read", 0, 2, 3)]),
    "a read must see what came before",
  );
  assert.ok(!check([operation("add", 0, 0, 3), operation("add", 0, 1, 2)]), "both cannot have been first");
});
