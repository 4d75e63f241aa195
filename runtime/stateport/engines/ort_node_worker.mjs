// SPDX-License-Identifier: Apache-2.0
// The process behind the engine `ort-node`: it runs one model with the npm package `stateport`.
//
// Requests come on stdin, and answers go to stdout, in frames of `npm_calls.mjs`. The process ends
// when its stdin does.

import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

import { answer, failure, frame, readRequest } from "./npm_calls.mjs";

const [folder, path, threads] = process.argv.slice(2);
const send = process.stdout.write.bind(process.stdout);
// Libraries print, and stdout is for frames.
process.stdout.write = process.stderr.write.bind(process.stderr);
for (const name of ["log", "info", "debug"]) console[name] = console.error;

/** What came and is not yet read, and who waits for more. */
const received = { parts: [], size: 0, more: undefined, ended: false };
process.stdin.on("data", (part) => {
  received.parts.push(part);
  received.size += part.length;
  received.more?.();
});
process.stdin.on("end", () => {
  received.ended = true;
  received.more?.();
});

/** The next bytes, in memory of their own; undefined where stdin has ended. */
async function bytes(count) {
  while (received.size < count) {
    if (received.ended) return undefined;
    await new Promise((more) => {
      received.more = more;
    });
  }
  const all = Buffer.concat(received.parts);
  received.parts = count < all.length ? [all.subarray(count)] : [];
  received.size = all.length - count;
  // Copied, so that the memory is aligned for numbers of any size.
  return new Uint8Array(all.subarray(0, count)).buffer;
}

async function main() {
  if (Number.parseInt(process.versions.node) < 20) {
    send(frame({ error: process.version, code: "OldNode" }));
    return;
  }
  const require = createRequire(`${resolve(folder)}/`);
  const stateport = await import(pathToFileURL(require.resolve("stateport")));
  if (path === undefined) {
    const { version } = require("onnxruntime-node/package.json");
    send(frame({ version: `onnxruntime-node ${version}, Node ${process.versions.node}` }));
    return;
  }

  const model = await stateport.load(path, { engine: "node", threads: Number(threads) });
  send(frame({ version: `${model.engineVersion}, Node ${process.versions.node}` }));
  for (let next = await readRequest(bytes); next; next = await readRequest(bytes)) {
    send(await answer(stateport, model, next));
  }
  await model.dispose();
}

main().catch((error) => send(failure(error)));
