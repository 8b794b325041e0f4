/** Policies by name. */
import { invalidArgument, QuartermasterError } from "../errors.js";
import { OptionReader, parsePolicy, type PolicyOptions, type PolicySpec } from "./options.js";
import type { EvictionPolicy } from "./policy.js";
import { adaKv } from "./policies/ada-kv.js";
import { CakePolicy } from "./policies/cake.js";
import { compresskv } from "./policies/compresskv.js";
import { ElasticCachePolicy } from "./policies/elastic-cache.js";
import { epicache } from "./policies/epicache.js";
import { FullPolicy } from "./policies/full.js";
import { H2OPolicy } from "./policies/h2o.js";
import { keydiff } from "./policies/keydiff.js";
import { knorm } from "./policies/knorm.js";
import { LastImportantPolicy } from "./policies/last-important.js";
import { LazyEvictionPolicy } from "./policies/lazy-eviction.js";
import { MPCachePolicy } from "./policies/mpcache.js";
import { observedAttention } from "./policies/observed-attention.js";
import { pyramidkv } from "./policies/pyramidkv.js";
import { RandomPolicy } from "./policies/random.js";
import { snapkv } from "./policies/snapkv.js";
import { StreamingPolicy } from "./policies/streaming-llm.js";
import { TovaPolicy } from "./policies/tova.js";
import type { Selection } from "./select.js";

type Maker = (read: OptionReader, selection: Selection) => EvictionPolicy;

const streaming: Maker = (read, selection) => new StreamingPolicy(read, selection);

const MAKERS = {
  full: (read, selection) => new FullPolicy(read, selection),
  random: (read, selection) => new RandomPolicy(read, selection),
  local: streaming,
  "streaming-llm": streaming,
  snapkv,
  pyramidkv,
  tova: (read, selection) => new TovaPolicy(read, selection),
  keydiff,
  knorm,
  "ada-kv": adaKv,
  "observed-attention": observedAttention,
  "last-important": (read, selection) => new LastImportantPolicy(read, selection),
  h2o: (read, selection) => new H2OPolicy(read, selection),
  "lazy-eviction": (read, selection) => new LazyEvictionPolicy(read, selection),
  cake: (read, selection) => new CakePolicy(read, selection),
  compresskv,
  epicache,
  mpcache: (read, selection) => new MPCachePolicy(read, selection),
  "elastic-cache": (read, selection) => new ElasticCachePolicy(read, selection),
} satisfies Record<string, Maker>;

export type EvictionPolicyName = keyof typeof MAKERS;

/** Methods that decide about more than the tokens of one sequence, and what they are to be asked through instead. */
const APART: Readonly<Record<string, string>> = {
  blockvid:
    "it chooses among chunks of a video by their prompts: BlockDiffusionSession makes them, ChunkSelector reads them",
};

/** Names that `createPolicy` knows. */
export const EVICTION_POLICIES = Object.keys(MAKERS) as EvictionPolicyName[];

/**
 * A policy for one sequence. Options are those of the policy's file; most take `budget` (slots a lane) or `ratio` (of the
 * prompt). Throws INVALID_ARGUMENT naming the option for an unknown name, an unknown option, or a value out of range, and
 * UNSUPPORTED for a method that is no policy of one sequence, saying which class it is.
 *
 * @param selection may serve any number of policies, one call at a time; its capacity is at least the slots of the lanes
 * of a layer
 */
export function createPolicy(
  selection: Selection,
  name: EvictionPolicyName | (string & {}),
  options: PolicyOptions = {},
): EvictionPolicy {
  if (Object.hasOwn(APART, name))
    throw new QuartermasterError("UNSUPPORTED", `${name} is no policy of one sequence: ${APART[name]}`, {
      argument: "policy",
      value: name,
    });
  if (!Object.hasOwn(MAKERS, name)) throw invalidArgument("policy", name, EVICTION_POLICIES.join(", "));
  return MAKERS[name as EvictionPolicyName](new OptionReader(name, options), selection);
}

/** Like createPolicy, from `h2o:heavy=64,recent=64`. */
export function policyFromText(selection: Selection, text: string): EvictionPolicy {
  const { name, options }: PolicySpec = parsePolicy(text);
  return createPolicy(selection, name, options);
}
