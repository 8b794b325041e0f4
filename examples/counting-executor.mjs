// An executor of one's own, the smallest that needs its KV cache: it keeps each token in the slot that the plan names and
// answers with the last token of the row plus one, read back through the block table.
export class CountingExecutor {
  constructor({ blocks, blockSize, vocabSize }) {
    this.shape = { blocks, blockSize, vocabSize };
    this.kv = new Uint32Array(blocks * blockSize);
  }

  describe() {
    const { blocks, blockSize, vocabSize } = this.shape;
    return {
      backend: "counting",
      layers: 1,
      kvHeads: 1,
      headDim: 1,
      blockBytes: 4 * blockSize,
      blocks,
      blockSize,
      vocabSize,
      maxSequenceTokens: 4096,
    };
  }

  async run(plan) {
    const { blockSize, vocabSize } = this.shape;
    for (let i = 0; i < plan.transferCount; i++) {
      const [, , source, , target, tokens] = plan.transfers.subarray(i * 8, i * 8 + 8);
      this.kv.copyWithin(target * blockSize, source * blockSize, source * blockSize + tokens);
    }
    plan.tokens.forEach((token, i) => (this.kv[plan.slots[i]] = token));
    const tokens = [];
    for (let row = 0; row < plan.rows; row++) {
      if (plan.phases[row] === 0) continue;
      const last = plan.computedBefore[row] + plan.newTokens[row] - 1;
      const block = plan.tables[plan.tableStart[row] + Math.floor(last / blockSize)];
      tokens.push((this.kv[block * blockSize + (last % blockSize)] + 1) % vocabSize);
    }
    return { tokens: Uint32Array.from(tokens) };
  }

  async close() {}
}
