/**
 * Puts a call of `env.yieldPoint(address)` in front of every access to shared memory, after its operands have
 * been evaluated: before its operands, a store of an expression that itself loads would hide the race between
 * the two. Then makes the module suspendable at these calls (Binaryen's Asyncify).
 */
import binaryen from "binaryen";

type Expression = string | Expression[];

export interface InstrumentOptions {
  /** Plain loads and stores as well as atomic ones: for readers that validate instead of locking. */
  plain?: boolean;
  /** Exports that are called; what only others need is left out. Default: all. */
  keep?: readonly string[];
}

/** A finished module of a threads build, ready for LogicalThreads. */
export function instrument(bytes: Uint8Array, options: InstrumentOptions = {}): Uint8Array<ArrayBuffer> {
  const source = binaryen.readBinary(bytes);
  if (options.keep) keepOnly(source, options.keep);
  const text = source.emitText();
  source.dispose();
  const woven = binaryen.parseText(withYieldPoints(text, options.plain ?? false));
  woven.setFeatures(binaryen.Features.All);
  binaryen.setPassArgument("asyncify-imports", "env.yieldPoint,env.park");
  binaryen.setOptimizeLevel(1);
  woven.runPasses(["simplify-locals", "asyncify"]);
  const result = woven.emitBinary();
  woven.dispose();
  return new Uint8Array(result);
}

function keepOnly(module: binaryen.Module, names: readonly string[]): void {
  const exported = Array.from({ length: module.getNumExports() }, (_, i) =>
    binaryen.getExportInfo(module.getExportByIndex(i)),
  );
  for (const { name, kind } of exported)
    if (kind === binaryen.ExternalFunction && !names.includes(name)) module.removeExport(name);
  module.runPasses(["remove-unused-module-elements"]);
}

/** The module's text with the calls in it. */
export function withYieldPoints(text: string, plain: boolean): string {
  const [module] = parse(text) as [Expression[]];
  const body: Expression[] = [];
  for (const field of module.slice(1)) {
    body.push(Array.isArray(field) && field[0] === "func" ? weaveFunction(field, plain) : field);
  }
  const declaration = ["import", '"env"', '"yieldPoint"', ["func", "$yieldPoint", ["param", "i32"]]];
  // Imports come before everything that is defined; types before imports.
  const types = body.filter((field) => Array.isArray(field) && field[0] === "type");
  const others = body.filter((field) => !(Array.isArray(field) && field[0] === "type"));
  return print(["module", ...types, declaration, ...others]);
}

const ACCESS =
  /^(i32|i64)\.atomic\.(load|store|rmw)(\d+)?(?:\.(\w+?)(?:_u)?|_u)?$|^(i32|i64|f32|f64|v128)\.(load|store)(\d+)?(?:_[su])?$/;

/** Operand types and result type of an access, or undefined for any other instruction. */
function accessShape(name: string, plain: boolean): { operands: string[]; result?: string } | undefined {
  const match = ACCESS.exec(name);
  if (!match) return undefined;
  const atomic = match[1] !== undefined;
  if (!atomic && !plain) return undefined;
  const type = match[1] ?? match[5];
  const kind = match[2] ?? match[6];
  if (kind === "load") return { operands: ["i32"], result: type };
  if (kind === "store") return { operands: ["i32", type] };
  return { operands: match[4] === "cmpxchg" ? ["i32", type, type] : ["i32", type], result: type };
}

function weaveFunction(func: Expression[], plain: boolean): Expression[] {
  const locals: Expression[] = [];
  const weave = (expression: Expression): Expression => {
    if (!Array.isArray(expression)) return expression;
    const inner = expression.map(weave);
    const shape = typeof inner[0] === "string" ? accessShape(inner[0], plain) : undefined;
    if (!shape) return inner;
    const immediates = inner.slice(1).filter((part) => !Array.isArray(part));
    const operands = inner.slice(1).filter((part) => Array.isArray(part));
    const names = shape.operands.map((type) => {
      const name = `$yield${locals.length}`;
      locals.push(["local", name, type]);
      return name;
    });
    const offset = immediates.find((part) => (part as string).startsWith("offset=")) as string | undefined;
    return [
      "block",
      ...(shape.result ? [["result", shape.result]] : []),
      ...operands.map((operand, i) => ["local.set", names[i], operand]),
      ["call", "$yieldPoint", ["i32.add", ["local.get", names[0]], ["i32.const", offset?.slice(7) ?? "0"]]],
      [inner[0], ...immediates, ...names.map((name) => ["local.get", name])],
    ];
  };
  const woven = func.map(weave);
  let at = 1;
  while (at < woven.length && isHeader(woven[at])) at += 1;
  return [...woven.slice(0, at), ...locals, ...woven.slice(at)];
}

function isHeader(part: Expression): boolean {
  return (
    !Array.isArray(part) ||
    ["export", "import", "type", "param", "result", "local"].includes(part[0] as string)
  );
}

/** S-expressions of WebAssembly text, comments dropped. */
function parse(text: string): Expression[] {
  const stack: Expression[][] = [[]];
  const token = /\(;[\s\S]*?;\)|;;[^\n]*|"(?:[^"\\]|\\.)*"|[()]|[^\s()]+/g;
  for (const [word] of text.matchAll(token)) {
    if (word.startsWith(";;") || word.startsWith("(;")) continue;
    if (word === "(") stack.push([]);
    else if (word === ")") {
      const done = stack.pop()!;
      stack[stack.length - 1].push(done);
    } else stack[stack.length - 1].push(word);
  }
  return stack[0];
}

function print(expression: Expression): string {
  return Array.isArray(expression) ? `(${expression.map(print).join(" ")})\n` : expression;
}
