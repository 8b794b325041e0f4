/** Does a chunk that reads the nearest prompts' chunks keep a scene's looks, against windows and full history? */
import { CONTEXTS, identityExperiment } from "../sim/blockvid.js";
import type { Report } from "./measure.js";

export const title = "identity of scenes over 20 chunks by what a chunk reads: distance, misses, drift";

export async function run(report: Report): Promise<void> {
  for (const scenes of [1, 3, 5]) {
    for (const policy of CONTEXTS) {
      const { distance, misses, drift } = identityExperiment(policy, scenes, {
        seeds: report.quick ? 4 : 40,
      });
      const subject = policy === "semantic" ? "quartermaster" : policy;
      report.measured(`${scenes} scenes`, subject, "distance", distance, "ratio");
      report.measured(`${scenes} scenes`, subject, "misses", misses, "ratio");
      report.measured(`${scenes} scenes`, subject, "vde", drift, "ratio");
    }
  }
  report.note("a statistical model of a generator, no video; the semantic bank is ours");
}
