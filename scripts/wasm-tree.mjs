/** A module's text as a tree of lists, and what its parts weigh. */

/** Text to a tree: a list for each pair of parentheses, a string for each word. */
export function parse(text) {
  const stack = [[]];
  const clean = text.replace(/"(?:[^"\\]|\\.)*"|;;[^\n]*|\(;[\s\S]*?;\)/g, (part) =>
    part[0] === '"' ? part : "",
  );
  for (const [word] of clean.matchAll(/\(|\)|"(?:[^"\\]|\\.)*"|[^\s()]+/g)) {
    if (word === "(") stack.push([]);
    else if (word === ")") {
      const done = stack.pop();
      stack[stack.length - 1].push(done);
    } else stack[stack.length - 1].push(word);
  }
  return stack[0][0];
}

export const print = (node) => (typeof node === "string" ? node : `(${node.map(print).join(" ")})`);

export const isList = (node) => typeof node !== "string";
const DECLARATIONS = new Set(["export", "type", "param", "result", "local"]);
/** Where a function's body begins. */
export const bodyAt = (func) =>
  func.findIndex((part, i) => i > 1 && isList(part) && !DECLARATIONS.has(part[0]));
export const resultOf = (func) => func.find((part) => isList(part) && part[0] === "result")?.[1];

function signedBytes(text) {
  let value = BigInt(text);
  let bytes = 1;
  for (; value < -64n || value >= 64n; value >>= 7n) bytes += 1;
  return bytes;
}

/** Bytes of a tree's instructions, but for what every choice leaves the same. */
export function size(node) {
  let bytes = 0;
  for (const part of node) if (isList(part)) bytes += size(part);
  switch (node[0]) {
    case "block":
      return bytes + (isList(node[1]) || !node[1]?.startsWith("$") ? 0 : 3);
    case "loop":
    case "if":
      return bytes + 3;
    case "else":
      return bytes + 1;
    case "then":
    case "result":
      return bytes;
    case "i32.const":
    case "i64.const":
      return bytes + 1 + signedBytes(node[1]);
    case "f64.const":
      return 9;
    case "f32.const":
      return 5;
    default:
      return bytes + 1 + Math.min(node.filter((part) => !isList(part)).length - 1, 2);
  }
}

export const sizeOfAll = (nodes) => nodes.reduce((bytes, node) => bytes + size(node), 0);

/** Arms of an `if`: [condition, then, else or undefined]. */
export function armsOf(node) {
  const then = node.findIndex((part) => isList(part) && part[0] === "then");
  return [node[then - 1], node[then], node[then + 1]];
}
