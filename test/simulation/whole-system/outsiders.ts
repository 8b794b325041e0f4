/** Sequences beside the scheduler's, on the same cache: opened, grown, forked, cut and closed by a host of its own. */
import assert from "node:assert/strict";
import type { PromptMarks, SequenceId } from "../../../bindings/main.js";
import type { Random } from "../../support/random.js";
import { contentOfNothing } from "./answers.js";
import { contentAt } from "./marks.js";
import type { Systems } from "./systems.js";
import type { VirtualMachine } from "./virtual-machine.js";

interface Outsider {
  readonly sequence: SequenceId;
  readonly namespace: number;
  readonly marks: PromptMarks;
  readonly tokens: number[];
  readonly contents: number[];
}

interface Prompt {
  readonly tokens: number[];
  readonly namespace: number;
  readonly marks: PromptMarks;
}

export class Outsiders {
  readonly open: Outsider[] = [];
  /** Prompt tokens that they looked up, and found cached. */
  queriedTokens = 0;
  hitTokens = 0;

  /** Blocks that tenants may count on whatever others do; none without quotas. */
  floors: readonly number[] = [];
  quotaRefusals = 0;

  constructor(
    readonly systems: Systems,
    readonly machine: VirtualMachine,
    readonly vocabSize: number,
  ) {}

  get sequences(): SequenceId[] {
    return this.open.map(({ sequence }) => sequence);
  }

  act(random: Random, prompt: () => Prompt): void {
    const outsider = this.open.length > 0 ? random.pick(this.open) : undefined;
    if (outsider) this.#read(outsider);
    switch (random.below(outsider ? 6 : 1)) {
      case 0:
        this.#openOne(prompt());
        break;
      case 1:
      case 2:
        this.#grow(random, outsider!);
        break;
      case 3: {
        const sequence = this.systems.tryCall(({ cache }) => cache.fork(outsider!.sequence));
        if (typeof sequence === "string") assert.equal(sequence, "OUT_OF_SEQUENCES");
        else
          this.open.push({
            ...outsider!,
            sequence,
            tokens: [...outsider!.tokens],
            contents: [...outsider!.contents],
          });
        break;
      }
      case 4: {
        const length = random.below(outsider!.tokens.length + 1);
        const left = this.systems.call(({ cache }) => cache.truncate(outsider!.sequence, length));
        assert.ok(left <= length && (left === length || this.machine.groups.length > 1));
        outsider!.tokens.length = outsider!.contents.length = left;
        break;
      }
      default:
        this.close(outsider!);
    }
  }

  close(outsider: Outsider): void {
    this.systems.call(({ cache }) => cache.close(outsider.sequence));
    this.open.splice(this.open.indexOf(outsider), 1);
  }

  #openOne({ tokens, namespace, marks }: Prompt): void {
    const sequence = this.systems.tryCall(({ cache }) => cache.open({ tokens, namespace, ...marks }));
    if (typeof sequence === "string") {
      assert.ok(["OUT_OF_SEQUENCES", "OUT_OF_SCOPES"].includes(sequence), sequence);
      return;
    }
    const found = this.systems.call(({ cache }) => cache.length(sequence));
    this.queriedTokens += tokens.length;
    this.hitTokens += found;
    const outsider: Outsider = { sequence, namespace, marks, tokens: [], contents: [] };
    this.#extend(outsider, tokens.slice(0, found));
    this.open.push(outsider);
    this.#read(outsider);
  }

  #grow(random: Random, outsider: Outsider): void {
    const { systems, machine } = this;
    const { sequence } = outsider;
    const count = 1 + random.below(9);
    const before = systems.main.cache.available;
    const used = this.floors.map((_, tenant) => systems.main.cache.account(tenant).used);
    const added = systems.tryCall(({ cache }) => cache.reserve(sequence, count));
    this.floors.forEach((floor, tenant) => {
      const left = systems.main.cache.account(tenant).used;
      assert.ok(
        tenant === 0 || left >= Math.min(used[tenant], floor),
        `tenant ${tenant} is pushed below its floor: ${used[tenant]}, then ${left} of ${floor}`,
      );
    });
    if (typeof added === "string") {
      assert.ok(["OUT_OF_BLOCKS", "TOO_LONG", "QUOTA_EXCEEDED", "OUT_OF_SEQUENCES"].includes(added), added);
      this.quotaRefusals += Number(added === "QUOTA_EXCEEDED");
      assert.equal(systems.main.cache.available, before, "a refusal takes nothing");
      return;
    }
    if (random.below(5) === 0) {
      // The copy that it may need was not made: it gets its shared block back, and asks again some other time.
      systems.call(({ cache }) => cache.revertCopies());
      return;
    }
    machine.transfer(systems.main.cache.copies());
    systems.call(({ cache }) => cache.settleCopies());
    const from = outsider.tokens.length;
    const tokens = Array.from({ length: random.below(count + 1) }, () => random.below(this.vocabSize));
    this.#extend(outsider, tokens);
    this.#tables(sequence).forEach((table, group) =>
      machine.write(table, outsider.contents, from, outsider.tokens.length, group),
    );
    systems.call(({ cache }) => cache.append(sequence, tokens));
    this.#read(outsider);
  }

  #extend({ namespace, marks, tokens, contents }: Outsider, more: number[]): void {
    for (const token of more) {
      const content = contents.at(-1) ?? contentOfNothing(namespace);
      contents.push(contentAt(content, token, contents.length, marks));
      tokens.push(token);
    }
  }

  #read({ sequence, contents }: Outsider): void {
    this.#tables(sequence).forEach((table, group) =>
      this.machine.expect(table, contents, contents.length, `outsider ${sequence}`, group),
    );
  }

  /** In the cache's own tables, and in those of each group. */
  #tables(sequence: SequenceId): Uint32Array[] {
    const { cache } = this.systems.main;
    return this.machine.groups.map((_, group) =>
      group === 0 ? cache.blockTable(sequence) : cache.groupTable(sequence, group),
    );
  }
}
