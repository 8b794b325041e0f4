/** Prints the figures of one host as a line of JSON: node run.js [--quick] [--everything], deno run --allow-read run.js ... */
import process from "node:process";
import { measureAnchors } from "./cases.js";

console.log(
  JSON.stringify(
    await measureAnchors(process.argv.includes("--quick"), process.argv.includes("--everything")),
  ),
);
