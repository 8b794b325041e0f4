/** What generators of conformance scripts have in hand: a host whose answers are recorded, and random tokens. */
import type { Random } from "../support/random.js";
import { ConformanceHost } from "./host.js";
import type { Answer, Call, Step } from "./script.js";

/** Records what a host answers. */
export class Recorder {
  readonly steps: Step[] = [];
  readonly host = new ConformanceHost();

  constructor(readonly random: Random) {}

  async call(...call: Call): Promise<Answer> {
    const answer = await this.host.answer(call);
    this.steps.push([call, answer]);
    return answer;
  }
}

export type Generator = (recorder: Recorder) => Promise<void>;

/** Token ids that repeat enough for prefixes to be shared. */
export function tokens(random: Random, most: number): number[] {
  return Array.from({ length: random.below(most + 1) }, (_, i) => i % 3 || random.below(12) % 3);
}
