// SPDX-License-Identifier: Apache-2.0
// The contest in Node: MODEL.onnx LOAD, where LOAD is JSON; the result is JSON on stdout.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { contest } from "./contest.mjs";

const [path, load] = process.argv.slice(2);
const root = new URL("../../javascript/", import.meta.url);
const stateport = await import(new URL("dist/index.js", root));
const ort = createRequire(root)("onnxruntime-node");
const result = await contest({ ort, stateport }, readFileSync(path), JSON.parse(load));
process.stdout.write(JSON.stringify(result));
