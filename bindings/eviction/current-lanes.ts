/** Lanes of a served request as its policy and its executor see them. */
import type { LaneView, SequenceLanes } from "./policy.js";

/** What a policy knows as its lanes, wherever they are at the moment. */
export class CurrentLanes implements SequenceLanes {
  constructor(public now: SequenceLanes) {}

  get layers(): number {
    return this.now.layers;
  }

  get kvHeads(): number {
    return this.now.kvHeads;
  }

  get capacity(): number {
    return this.now.capacity;
  }

  get seen(): number {
    return this.now.seen;
  }

  get blockSize(): number | undefined {
    return this.now.blockSize;
  }

  lane(layer: number, kvHead: number): LaneView {
    return this.now.lane(layer, kvHead);
  }
}

/** What the slots of each lane weigh, as logits. Copies. */
export function biases(lanes: SequenceLanes): Float32Array[] {
  return Array.from({ length: lanes.layers * lanes.kvHeads }, (_, i) => {
    const { aux, length } = lanes.lane(Math.floor(i / lanes.kvHeads), i % lanes.kvHeads);
    return aux!.slice(0, length);
  });
}
