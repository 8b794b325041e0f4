/**
 * Rewrites an optimized module into fewer bytes that run the same. Binaryen leaves conditions as the compiler wrote
 * them; here they become jumps, and long constants are kept once:
 *
 *   if (a && b) x                      if (a) if (b) x                  3 bytes a term, not 6
 *   if (a || b) return FAILED          br_if $failed a, br_if $failed b 2 bytes a term, not 6, and one `return FAILED`
 *   f64.const 1                        f64.convert_i32_s i32.const 1    3 bytes, not 9; folded by every engine
 *   i64.const <10 bytes>, often        global.get of a constant global  2 bytes
 *
 * Evaluation order, branches and traps stay as they are. Works on the module's text, as a tree of lists.
 */

import { armsOf, bodyAt, isList, parse, print, resultOf, size, sizeOfAll } from "./wasm-tree.mjs";

// --- Conditions

const OPPOSITE = new Map();
for (const type of ["i32", "i64"]) {
  for (const [one, other] of [
    ["eq", "ne"],
    ["lt_u", "ge_u"],
    ["lt_s", "ge_s"],
    ["gt_u", "le_u"],
    ["gt_s", "le_s"],
  ]) {
    OPPOSITE.set(`${type}.${one}`, `${type}.${other}`);
    OPPOSITE.set(`${type}.${other}`, `${type}.${one}`);
  }
}
OPPOSITE.set("f64.eq", "f64.ne");
OPPOSITE.set("f64.ne", "f64.eq");

/** A tree that is true when `node` is false. */
function not(node) {
  if (node[0] === "i32.eqz") return node[1];
  if (OPPOSITE.has(node[0])) return [OPPOSITE.get(node[0]), ...node.slice(1)];
  return ["i32.eqz", node];
}

const isConstant = (arm, value) => arm.length === 2 && arm[1][0] === "i32.const" && arm[1][1] === value;

/**
 * A condition as {kind, first, negated, middle, last}: `first` (negated or not), and if that decides nothing, the statements
 * `middle` and the value `last`. Null for a condition of one term.
 */
function split(node) {
  if (node[0] !== "if" || node[1]?.[0] !== "result" || node[1][1] !== "i32") return null;
  const [first, then, otherwise] = armsOf(node);
  const of = (kind, negated, arm) => ({
    kind,
    first: negated ? not(first) : first,
    middle: arm.slice(1, -1),
    last: arm[arm.length - 1],
  });
  if (isConstant(otherwise, "0")) return of("and", false, then);
  if (isConstant(then, "1")) return of("or", false, otherwise);
  if (isConstant(then, "0")) return of("and", true, otherwise);
  if (isConstant(otherwise, "1")) return of("or", true, then);
  return null;
}

/** The statements before a condition and the condition itself, negations pushed outwards. */
function unwrap(node, sense) {
  const before = [];
  for (;;) {
    if (node[0] === "i32.eqz") {
      node = node[1];
      sense = !sense;
    } else if (node[0] === "block" && isList(node[1]) && node[1][0] === "result") {
      before.push(...node.slice(2, -1));
      node = node[node.length - 1];
    } else return { before, node, sense };
  }
}

let labels = 0;
const freshLabel = () => `$jump${labels++}`;

/**
 * Replaces what leaves the block `label` with a value by what `leave(value, condition)` says, condition undefined where it
 * is left for certain. Null where a value is used both ways.
 */
function replaceExits(nodes, label, leave) {
  const visit = (node) => {
    const out = [];
    for (const part of node) {
      if (!isList(part)) out.push(part);
      else if (part[0] === "br" && part[1] === label) out.push(...leave(visit([part[2]])[0]));
      else if (part[0] === "drop" && part[1][0] === "br_if" && part[1][1] === label) {
        const [value, condition] = visit(part[1].slice(2));
        out.push(...leave(value, condition));
      } else {
        const done = visit(part);
        if ((done[0] === "br_if" || done[0] === "br_table") && done.includes(label)) used = true;
        out.push(done);
      }
    }
    return out;
  };
  let used = false;
  const done = visit(nodes);
  return used ? null : done;
}

/** Label, statements and value of a block with a value, or null. */
function valuedBlock(node) {
  if (node[0] !== "block" || isList(node[1]) || node[2]?.[0] !== "result") return null;
  return { label: node[1], statements: node.slice(3, -1), value: node[node.length - 1] };
}

/** A condition that is a block with exits, as jumps: the block without a value. Null where that cannot be. */
function jumpFromBlock({ label, statements, value }, target, when) {
  const leave = (result, condition) => {
    if (result[0] !== "i32.const")
      return condition === undefined
        ? [...jumpIf(result, target, when), ["br", label]]
        : [["unreachable", label]];
    const to = (result[1] !== "0") === when ? target : label;
    return condition === undefined ? [["br", to]] : jumpIf(condition, to, true);
  };
  const dynamic = /\(unreachable \$/;
  const done = replaceExits(statements, label, leave);
  if (done === null || done.some((part) => dynamic.test(print(part)))) return null;
  const end = value[0] === "br" || value[0] === "unreachable" ? [value] : jumpIf(value, target, when);
  return ["block", label, ...done, ...end];
}

/** Statements that jump to `label` when the condition is `sense`, and go on otherwise. */
function jumpIf(condition, label, when) {
  const { before, node, sense } = unwrap(condition, when);
  const block = valuedBlock(node);
  const jumps = block === null ? null : jumpFromBlock(block, label, sense);
  if (jumps !== null) return [...before, jumps];
  const terms = split(node);
  if (terms === null) return [...before, ["br_if", label, sense ? node : not(node)]];
  const { kind, first, middle, last } = terms;
  const second = [...middle, ...jumpIf(last, label, sense)];
  const decides = (kind === "or") === sense;
  return [
    ...before,
    ...(decides ? [...jumpIf(first, label, sense), ...second] : ifThen(first, second, sense)),
  ];
}

/** Statements that run `body` when the condition is `when`: what is shortest. */
function ifThen(condition, body, when = true) {
  const { before, node, sense } = unwrap(condition, when);
  const terms = split(node);
  const whole = ["if", sense ? node : not(node), ["then", ...body]];
  if (terms === null && valuedBlock(node) === null) return [...before, whole];
  if (terms !== null && (terms.kind === "and") === sense) {
    const { first, middle, last } = terms;
    return [...before, ...ifThen(first, [...middle, ...ifThen(last, body, sense)], sense)];
  }
  const skip = freshLabel();
  const choices = [[whole], [["block", skip, ...jumpIf(node, skip, !sense), ...body]]];
  if (terms !== null) {
    const enter = freshLabel();
    const { first, middle, last } = terms;
    choices.push([
      [
        "block",
        skip,
        ["block", enter, ...jumpIf(first, enter, sense), ...middle, ...jumpIf(last, skip, !sense)],
        ...body,
      ],
    ]);
  }
  return [...before, ...choices.reduce((best, tried) => (sizeOfAll(tried) < sizeOfAll(best) ? tried : best))];
}

/** Rewrites the statements of a list in place of themselves, innermost first. */
function rewriteConditions(node) {
  const out = [];
  for (const part of node) {
    if (!isList(part)) {
      out.push(part);
      continue;
    }
    const done = rewriteConditions(part);
    const statement = ["block", "loop", "then", "else", "func"].includes(node[0]);
    const arms = done[0] === "if" ? armsOf(done) : null;
    if (statement && arms !== null && arms[2] === undefined) out.push(...ifThen(arms[0], arms[1].slice(1)));
    else if (statement && done[0] === "br_if" && done.length === 3)
      out.push(...jumpIf(done[2], done[1], true));
    else out.push(done);
  }
  return out;
}

// --- Returns of the same constant

/** Ends a function in returns: of a block with exits, of both arms of an `if`. */
function openEnd(body) {
  const last = body[body.length - 1];
  const block = valuedBlock(last);
  if (block !== null) {
    const leave = (value, condition) => {
      const back = ["return", value];
      return [condition === undefined ? back : ["if", condition, ["then", back]]];
    };
    const done = replaceExits([...block.statements, block.value], block.label, leave);
    return done === null ? body : openEnd([...body.slice(0, -1), ...done]);
  }
  if (last[0] === "block" && last[1]?.[0] === "result")
    return openEnd([...body.slice(0, -1), ...last.slice(2)]);
  if (last[0] === "if" && last[1]?.[0] === "result" && split(last) === null) {
    const [condition, then, otherwise] = armsOf(last);
    const first = openEnd(then.slice(1));
    first[first.length - 1] = returning(first[first.length - 1]);
    return openEnd([...body.slice(0, -1), ["if", condition, ["then", ...first]], ...otherwise.slice(1)]);
  }
  return body;
}

const ENDS = new Set(["return", "unreachable", "br"]);
const returning = (node) => (ENDS.has(node[0]) ? node : ["return", node]);

/** The constant that an `if` without else returns and does nothing else, or null. */
function returned(node) {
  if (node[0] !== "if") return null;
  const [, then, otherwise] = armsOf(node);
  if (otherwise !== undefined || then.length !== 2) return null;
  const [back] = then.slice(1);
  if (back[0] !== "return" || back.length !== 2) return null;
  return /^[if]\d+\.const$/.test(back[1][0]) ? print(back[1]) : null;
}

function countReturns(node, counts) {
  for (const part of node) {
    if (!isList(part)) continue;
    const key = returned(part);
    if (key !== null) counts.set(key, (counts.get(key) ?? 0) + 1);
    countReturns(part, counts);
  }
}

/** Statements of a function's end: `value` is returned, `false` by a jump where a label for it exists. */
function endWith(value, labelOf) {
  const label = labelOf.get("(i32.const 0)");
  const terms = label === undefined ? null : split(value);
  if (terms === null || terms.kind !== "and") return [["return", value]];
  return [...jumpIf(terms.first, label, false), ...terms.middle, ...endWith(terms.last, labelOf)];
}

function replaceReturns(node, labelOf) {
  const out = [];
  for (const part of node) {
    if (!isList(part)) {
      out.push(part);
      continue;
    }
    const key = returned(part);
    const label = key === null ? undefined : labelOf.get(key);
    if (label !== undefined) {
      out.push(...jumpIf(replaceReturns([armsOf(part)[0]], labelOf)[0], label, true));
      continue;
    }
    const done = replaceReturns(part, labelOf);
    const target =
      done[0] === "return" && done.length === 2 && isList(done[1]) ? labelOf.get(print(done[1])) : undefined;
    out.push(target === undefined ? done : ["br", target]);
  }
  return out;
}

/** Gives each constant that a function returns from several places one place to return it from. */
function shareReturns(func) {
  if (resultOf(func) === undefined) return func;
  const at = bodyAt(func);
  if (at < 0) return func;
  const head = func.slice(0, at);
  const body = openEnd(func.slice(at));
  const counts = new Map();
  countReturns(body, counts);
  let best = func;
  const shared = [...counts].filter(([, count]) => count > 1).sort((a, b) => a[1] - b[1]);
  // Each constant by itself, the most frequent outermost: it is kept where that makes the function shorter.
  let kept = [];
  for (const entry of shared) {
    const tried = withShared(head, body, [...kept, entry]);
    if (sizeOfAll(tried.slice(at)) < sizeOfAll(best.slice(at))) {
      best = tried;
      kept = [...kept, entry];
    }
  }
  return best;
}

function withShared(head, body, shared) {
  const labelOf = new Map(shared.map(([key]) => [key, freshLabel()]));
  const last = body[body.length - 1];
  let statements = replaceReturns(body.slice(0, -1), labelOf);
  const lastKey = print(last);
  const order = [...labelOf];
  // What the body ends with anyway is returned by falling out of its block, which is then the innermost.
  const own = order.findIndex(([key]) => key === lastKey);
  if (own >= 0) order.unshift(...order.splice(own, 1));
  else if (ENDS.has(last[0])) statements.push(...replaceReturns([last], labelOf));
  else statements.push(...endWith(replaceReturns([last], labelOf)[0], labelOf));
  order.forEach(([key, label], i) => {
    const value = parse(key);
    const outermost = i === order.length - 1;
    statements = [["block", label, ...statements], outermost ? value : ["return", value]];
  });
  return [...head, ...statements];
}

// --- Constants

const ONE_BYTE = 64;

function shortenFloats(node) {
  return node.map((part) => {
    if (!isList(part)) return part;
    if (part[0] !== "f64.const") return shortenFloats(part);
    const value = Number(part[1]);
    const short = Number.isInteger(value) && value >= -ONE_BYTE && value < ONE_BYTE && !Object.is(value, -0);
    return short ? ["f64.convert_i32_s", ["i32.const", String(value)]] : part;
  });
}

function poolConstants(module) {
  const counts = new Map();
  const count = (node) => {
    for (const part of node) {
      if (!isList(part)) continue;
      if (part[0] === "i64.const" || part[0] === "f64.const") {
        const key = print(part);
        counts.set(key, (counts.get(key) ?? 0) + 1);
      } else count(part);
    }
  };
  for (const part of module) if (isList(part) && part[0] === "func") count(part);
  const names = new Map();
  for (const [key, uses] of counts) {
    const bytes = size(parse(key));
    // A global costs its type, its mutability, the constant and an end.
    if (uses * (bytes - 2) > bytes + 3) names.set(key, `$constant${names.size}`);
  }
  const replace = (node) =>
    node.map((part) => {
      if (!isList(part)) return part;
      const name = names.get(print(part));
      return name === undefined ? replace(part) : ["global.get", name];
    });
  const globals = [...names].map(([key, name]) => ["global", name, key.slice(1, 4), parse(key)]);
  const at = module.findIndex((part) => isList(part) && part[0] === "func");
  const out = module.map((part) => (isList(part) && part[0] === "func" ? replace(part) : part));
  out.splice(at, 0, ...globals);
  return out;
}

/** The module's text with the same meaning in fewer bytes. */
export function shrink(text) {
  let module = parse(text).map((part) => {
    if (!isList(part) || part[0] !== "func") return part;
    return shortenFloats(rewriteConditions(shareReturns(part)));
  });
  module = poolConstants(module);
  return print(module);
}
