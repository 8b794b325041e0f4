/** Entry of the core: everything exported here, and nothing else, is visible to a host. */
export * from "./exports/memory";
export * from "./exports/index";
export * from "./exports/views";
export * from "./exports/virtual-memory";
export * from "./exports/paging";
export * from "./exports/groups";
export * from "./exports/isolation";
export * from "./exports/pages";
export * from "./exports/keyed-pools";
export * from "./exports/scheduling";
export * from "./exports/selection";
export * from "./exports/lanes";
export * from "./exports/outside";
export * from "./exports/tiers";
export * from "./exports/runs";
