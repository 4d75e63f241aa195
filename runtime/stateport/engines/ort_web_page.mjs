// SPDX-License-Identifier: Apache-2.0
// The page behind the engine `ort-web`: it runs one model with the npm package `stateport`.
//
// Requests come through a socket from the server in Python, and answers go back, in frames of
// `npm_calls.mjs`. The page ends with its browser.

import { answer, failure, frame, readRequest } from "./npm_calls.mjs";

const address = new URL("calls", location.href);
address.protocol = "ws:";
const socket = new WebSocket(address);
socket.binaryType = "arraybuffer";
const opened = new Promise((open) => socket.addEventListener("open", open));

/** Sends an answer; the next request. */
async function next(body) {
  await opened;
  const message = new Promise((come) => socket.addEventListener("message", come, { once: true }));
  socket.send(body);
  const { data: content } = await message;
  let at = 0;
  // Copied, so that the memory is aligned for numbers of any size.
  return readRequest(async (count) => content.slice(at, (at += count)));
}

async function main() {
  const { model: name, threads, weights } = await (await fetch("settings.json")).json();
  const [, browser] = /Chrome\/(\d+)/.exec(navigator.userAgent) ?? [];
  const where = browser ? `Chromium ${browser}` : navigator.userAgent;
  const stateport = await import("stateport");
  if (name === null) {
    const { env } = await import("onnxruntime-web/wasm");
    await next(frame({ version: `onnxruntime-web ${env.versions.web}, ${where}` }));
    return;
  }

  const beside = weights.map(([path, data]) => ({ path, data }));
  const session = beside.length ? { session: { externalData: beside } } : {};
  const model = await stateport.load(new URL(name, location.href), { engine: "web", threads, ...session });
  let request = await next(frame({ version: `${model.engineVersion}, ${where}` }));
  for (;;) request = await next(await answer(stateport, model, request));
}

main().catch((error) => next(failure(error)));
