/**
 * The whole system from one seed: the shipped scheduler and cache under random arrivals, lengths, priorities, deadlines,
 * aborts, failures of the machine, refused allocations and snapshots, with quotas, cache groups, a host tier whose transfers end
 * late or fail, an archive whose blocks go missing or are damaged, in memory or in a disk tier that crashes, marks, pins, runs
 * of blocks, conversations, and priorities that change, every invariant checked after every step.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import { type Build, type CoreOptions, QuartermasterError } from "../../../bindings/main.js";
import { long } from "../../support/long.js";
import { CANARIES, canaryModule } from "./canaries.js";
import { replayWorld, SimulationError, simulate } from "./simulate.js";

const SEED = Number(process.env.QUARTERMASTER_SEED ?? 20_261);
const STEPS = long ? 1_000_000 : 100_000;
/** Within which a mistake must show. */
const CANARY_STEPS = 120_000;

const world = process.env.QUARTERMASTER_WORLD;
if (world !== undefined) {
  test(`world ${world}`, () => replayWorld(world));
} else {
  test(`${STEPS.toLocaleString("en")} random steps of the whole system keep every invariant, and nobody starves`, async (t) => {
    const tally = await simulate({ seed: SEED, steps: STEPS });
    t.diagnostic(JSON.stringify(tally));
    for (const [what, count] of Object.entries(tally)) assert.ok(count > 0, `${what} has happened`);
  });

  test("one seed, one history: the same plans in every run and in every build", async () => {
    const history = async (build: Build): Promise<string> => {
      const hash = createHash("sha256");
      const onPlan = (digest: string): void => void hash.update(digest);
      const tally = await simulate({ seed: SEED, steps: 4000, build, onPlan });
      return `${hash.digest("hex")} after ${tally.rows} rows`;
    };
    const first = await history("core");
    for (const build of ["core", "core-scalar", "core-threads", "debug"] as const)
      assert.equal(await history(build), first, build);
  });

  describe("canaries", async () => {
    const module = await canaryModule();
    /** Cores with the n-th mistake, 0: with none. */
    const core = (number: number): CoreOptions => ({
      module,
      instantiate: (module, imports) => {
        const { exports } = new WebAssembly.Instance(module, imports);
        (exports.setCanary as (number: number) => void)(number);
        return Promise.resolve(exports as never);
      },
    });

    test("with every mistake switched off nothing is found", async () => {
      await simulate({ seed: SEED, steps: 4000, core: core(0) });
    });
    Object.keys(CANARIES).forEach((mistake, i) =>
      test(`caught: ${mistake}`, async (t) => {
        const failure = simulate({ seed: SEED, steps: CANARY_STEPS, core: core(i + 1), shrink: false });
        await assert.rejects(failure, (error) => {
          assert.ok(error instanceof SimulationError, String(error));
          const { cause } = error;
          assert.ok(
            cause instanceof assert.AssertionError || cause instanceof QuartermasterError,
            String(cause),
          );
          t.diagnostic(`world ${error.world}, step ${error.steps.length}: ${error.message.split("\n")[0]}`);
          return true;
        });
      }),
    );

    test("caught: a host that records what its archive's checksums say is damaged", async () => {
      const failure = simulate({ seed: SEED, steps: CANARY_STEPS, believesDamage: true, shrink: false });
      await assert.rejects(failure, /the archive reads something else/);
    });

    test("caught: a disk that has lost a file in a crash", async () => {
      const failure = simulate({ seed: SEED, steps: CANARY_STEPS, losesFiles: true, shrink: false });
      await assert.rejects(failure, /what was stored is there after a crash/);
    });

    test("a failure says how to run it again, with the steps that are enough", async () => {
      const error = await simulate({ seed: SEED, steps: CANARY_STEPS, core: core(1) }).then(
        () => assert.fail("the canary lives"),
        (error: unknown) => error as SimulationError,
      );
      assert.ok(error.steps.length <= 6, `${error.steps.length} of ${error.lived} steps`);
      const [, text] = /QUARTERMASTER_WORLD=(\S+)/.exec(error.message)!;
      await assert.rejects(replayWorld(text, core(1)), { name: "Error" });
      await replayWorld(text, core(0));
    });
  });
}
