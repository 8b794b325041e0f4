/**
 * Moves what several functions say alike into functions of its own: whole instruction trees that differ in nothing but
 * the names of their locals. A call costs what the time is worth only where nobody waits for it, so the caller says
 * which functions may be shortened like this; the others stay as they are.
 *
 * A tree can be moved when it is left by nothing but its end, and when what it writes no one else reads.
 */
import { armsOf, bodyAt, isList, print, size } from "./wasm-tree.mjs";

/** Bytes of a call and its function index, of an argument, and of a function around its body. */
const CALL = 3;
const ARGUMENT = 2;
const FUNCTION = 5;
const LOCALS = 3;
/** Trees that save less than this in all stay. */
const WORTH = 6;
const LEAST_TREE = 5;
const LARGEST_TREE = 600;
const MOST_ROUNDS = 20;
/** Depths at which a tree is cut off, the rest being arguments. */
const DEPTHS = [Infinity, 0, 1, 2, 3, 4, 5, 6];

const LOCAL_OPERATIONS = new Set(["local.get", "local.set", "local.tee"]);
const JUMPS = new Set(["br", "br_if", "br_table"]);
const VALUELESS = /^(local\.set|global\.set|drop|nop|memory\.(copy|fill)|.*\.store\d*.*)$/;
const COMPARISON = /^[if]\d+\.(eqz|eq|ne|lt|gt|le|ge)(_[su])?$/;
const PURE = /^(local\.get|global\.get|select|[if]\d+\.(?!.*(atomic|store|div|rem|trunc))[a-z]\w*)$/;
/** A tree that has one of these stays where it is. */
const FIXED = /^(return|unreachable|memory\.(grow|size)|call_indirect|v128\..*|[if]\d+x\d+\..*)$/;

/** Type of a tree's value, "" for none, null where it is not known. */
function typeOf(node, scope) {
  const [head] = node;
  if (head === "local.get" || head === "local.tee") return scope.types.get(node[1]);
  if (head === "call") return scope.results.get(node[1]) ?? null;
  if (head === "if" || head === "block" || head === "loop") {
    const result = node.find((part) => isList(part) && part[0] === "result");
    if (result !== undefined) return result[1];
    return head === "if" && armsOf(node)[2] === undefined ? "" : endsOf(node) ? null : "";
  }
  if (head === "select") return typeOf(node.filter(isList)[0], scope);
  if (VALUELESS.test(head)) return "";
  if (COMPARISON.test(head)) return "i32";
  const type = /^([if](?:32|64))\./.exec(head);
  return type === null ? null : type[1];
}

/** Whether a block without a value ends in a jump: its type is not known then. */
function endsOf(node) {
  const last = node[node.length - 1];
  if (!isList(last)) return false;
  if (JUMPS.has(last[0]) && last[0] !== "br_if") return true;
  return ["block", "loop", "if", "then", "else"].includes(last[0]) && endsOf(last);
}

/** How often each local is named in a list of trees. */
function countLocals(nodes, counts = new Map()) {
  for (const node of nodes) {
    if (!isList(node)) continue;
    if (LOCAL_OPERATIONS.has(node[0])) counts.set(node[1], (counts.get(node[1]) ?? 0) + 1);
    countLocals(node, counts);
  }
  return counts;
}

/** A tree without effects: it may be computed a little earlier. */
function isPure(node) {
  if (!PURE.test(node[0])) return false;
  return node.every((part) => !isList(part) || isPure(part));
}

/**
 * What a tree is down to a depth, but for the names of its locals and labels: {key, params, locals, holes, bytes}, locals in
 * the order of first mention. What lies deeper and has no effects is a hole, filled by an argument. Null when the tree
 * cannot be moved.
 */
function shapeOf(tree, depth, scope, counts) {
  const names = new Map();
  const mentions = new Map();
  const writes = new Set();
  const readFirst = new Set();
  const labels = [];
  const holes = [];
  let bytes = size(tree);
  let certain = true;
  let movable = true;
  const nameOf = (local) => {
    if (!names.has(local)) names.set(local, `$${names.size}:${scope.types.get(local)}`);
    mentions.set(local, (mentions.get(local) ?? 0) + 1);
    return names.get(local);
  };
  const visit = (node, left) => {
    const [head] = node;
    if (FIXED.test(head)) movable = false;
    if (JUMPS.has(head) && node.some((part) => part[0] === "$" && !labels.includes(part))) movable = false;
    if (!movable) return "";
    if (left < 0 && !head.endsWith(".const") && isPure(node)) {
      const type = typeOf(node, scope);
      if (type !== null && type !== undefined && type !== "") {
        holes.push(node);
        bytes -= size(node);
        return `#${holes.length}:${type}`;
      }
    }
    if (LOCAL_OPERATIONS.has(head)) {
      const [, local] = node;
      const inner = node.slice(2).map((part) => visit(part, left - 1));
      if (head !== "local.get" && certain && !readFirst.has(local)) writes.add(local);
      else if (!writes.has(local)) readFirst.add(local);
      if (head !== "local.get" && !writes.has(local)) movable = false;
      return `(${head} ${nameOf(local)} ${inner.join(" ")})`;
    }
    if ((head === "block" || head === "loop") && !isList(node[1])) labels.push(node[1]);
    const before = certain;
    const parts = [head];
    for (const part of node.slice(1)) {
      if (isList(part)) {
        if (part[0] === "then" || part[0] === "else") certain = false;
        parts.push(visit(part, left - 1));
      } else parts.push(labels.includes(part) ? `@${labels.indexOf(part)}` : part);
    }
    if (head === "if") certain = before;
    if (JUMPS.has(head)) certain = false;
    return `(${parts.join(" ")})`;
  };
  const key = visit(tree, depth);
  if (!movable) return null;
  for (const local of countLocals(holes).keys()) if (writes.has(local)) return null;
  for (const local of writes)
    if (readFirst.has(local) || mentions.get(local) !== counts.get(local)) return null;
  const locals = [...names.keys()];
  return {
    key,
    params: locals.filter((local) => !writes.has(local)),
    locals: locals.filter((local) => writes.has(local)),
    holes,
    bytes,
  };
}

function scopeOf(func, results) {
  const types = new Map();
  for (const part of func)
    if (isList(part) && (part[0] === "param" || part[0] === "local")) types.set(part[1], part[2]);
  return { types, results };
}

/** All trees of a function that could be moved, by shape. */
function collect(func, least, results, found) {
  const at = bodyAt(func);
  if (at < 0) return;
  const scope = scopeOf(func, results);
  const counts = countLocals(func.slice(at));
  let clock = 0;
  const visit = (node, parent, index) => {
    const enter = clock++;
    for (let i = 1; i < node.length; i++) if (isList(node[i])) visit(node[i], node, i);
    const bytes = size(node);
    if (bytes < least || ["then", "else", "result"].includes(node[0])) return;
    const type = typeOf(node, scope);
    if (type === null || type === undefined) return;
    const seen = new Set();
    for (const depth of DEPTHS) {
      const shape = shapeOf(node, depth, scope, counts);
      if (shape === null || seen.has(shape.key)) continue;
      seen.add(shape.key);
      if (shape.bytes < least || shape.bytes > LARGEST_TREE) continue;
      const key = `${type} ${shape.key}`;
      const place = { func, parent, index, node, enter, exit: clock, scope, ...shape };
      const group = found.get(key);
      if (group === undefined) found.set(key, { type, bytes: shape.bytes, places: [place] });
      else group.places.push(place);
    }
  };
  for (let i = at; i < func.length; i++) visit(func[i], func, i);
}

function saving({ bytes, places }) {
  const { params, locals, holes } = places[0];
  const each = bytes - CALL - ARGUMENT * params.length;
  return places.length * each - bytes - ARGUMENT * holes.length - FUNCTION - (locals.length > 0 ? LOCALS : 0);
}

/** A function of the tree at a place. */
function functionOf(name, { type, places: [{ scope, node, params, locals, holes }] }) {
  const copy = (part) => {
    if (!isList(part)) return part;
    const hole = holes.indexOf(part);
    return hole < 0 ? part.map(copy) : ["local.get", `$argument${hole}`];
  };
  return [
    "func",
    name,
    ...params.map((local) => ["param", local, scope.types.get(local)]),
    ...holes.map((hole, i) => ["param", `$argument${i}`, typeOf(hole, scope)]),
    ...(type === "" ? [] : [["result", type]]),
    ...locals.map((local) => ["local", local, scope.types.get(local)]),
    copy(node),
  ];
}

/** The module with the trees that the functions for which `may` holds share in functions of their own. */
export function outline(module, leastOf) {
  const results = new Map();
  for (const part of module) {
    if (!isList(part) || part[0] !== "func") continue;
    results.set(part[1], part.find((item) => isList(item) && item[0] === "result")?.[1] ?? "");
  }
  const shortened = module
    .filter((part) => isList(part) && part[0] === "func")
    .map((func) => ({ func, least: leastOf(func[1]) }));
  const added = [];
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const found = new Map();
    for (const { func, least } of shortened) collect(func, least, results, found);
    for (const func of added) collect(func, LEAST_TREE, results, found);
    const groups = [...found.values()].filter((group) => group.places.length > 1 && saving(group) >= WORTH);
    groups.sort((a, b) => saving(b) - saving(a));
    const taken = new Map();
    let moved = 0;
    for (const group of groups) {
      group.places = group.places.filter(({ func, enter, exit }) =>
        (taken.get(func) ?? []).every((other) => exit <= other.enter || enter >= other.exit),
      );
      if (group.places.length < 2 || saving(group) < WORTH) continue;
      const name = `$shared${added.length}`;
      const made = functionOf(name, group);
      results.set(name, group.type);
      for (const { func, parent, index, params, holes, enter, exit } of group.places) {
        parent[index] = ["call", name, ...params.map((local) => ["local.get", local]), ...holes];
        taken.set(func, [...(taken.get(func) ?? []), { enter, exit }]);
      }
      added.push(made);
      moved += 1;
    }
    if (moved === 0) break;
  }
  const last = module.findLastIndex((part) => isList(part) && part[0] === "func");
  return [...module.slice(0, last + 1), ...added, ...module.slice(last + 1)];
}
